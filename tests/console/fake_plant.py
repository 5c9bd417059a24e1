"""
The plant of the fake hub: meters, intervals, models and the value chain, as the real one says.

Nothing until ``fill`` adds a world; energy adds up in it as it does in the books.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import NAMESPACE_DNS, uuid5

Document = dict[str, Any]

MICRO = 1_000_000
INTERVAL_S = 10
NANO_PER_KWH = 120_000_000  # 0.12 USD
UJ_PER_KWH = 3_600_000 * MICRO


def moment(at: datetime) -> str:
    """
    Return a time as the hub writes it.
    """
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def dollars(nano: int) -> str:
    """
    Return an amount as the hub writes it.
    """
    return f"{nano / 10**9:.9f}".rstrip("0").rstrip(".") or "0"


@dataclass
class FakePlant:
    """
    What the fake hub knows of power and energy.
    """

    meters: list[Document] = field(default_factory=list)
    points: list[Document] = field(default_factory=list)
    faults: list[Document] = field(default_factory=list)
    models: list[Document] = field(default_factory=list)
    chain: Document = field(default_factory=dict)

    def add_meter(
        self,
        name: str = "demo",
        *,
        source: str = "model",
        supplier: str = "riverside",
        **other: object,
    ) -> None:
        """
        Add a meter that was read just now.
        """
        self.meters.append(
            {
                "meter_id": str(uuid5(NAMESPACE_DNS, name)),
                "name": name,
                "supplier": supplier,
                "supplier_id": str(uuid5(NAMESPACE_DNS, supplier)),
                "source": source,
                "is_measured": source != "model",
                "boundary": "CPU package",
                "interval_s": float(INTERVAL_S),
                "gap_max_s": 3.0,
                "power_max_w": 1_000.0,
                "devices": [],
                "url": None,
                "port": 8702,
                "pid": None,
                "tdp_w": 105,
                "engine_url": None,
                "host": None,
                "read_by": "4f1c",
                "read_until": moment(datetime.now(UTC) + timedelta(seconds=30)),
                "price_per_kwh": "0.12",
                "currency": "USD",
                "grid": None,
                "created_at": moment(datetime.now(UTC) - timedelta(hours=2)),
                "retired_at": None,
                "last_reading_at": moment(datetime.now(UTC)),
                "posted_until": None,
            }
            | other
        )

    def add_points(self, count: int = 88, *, is_measured: bool = False) -> None:
        """
        Add intervals up to now: the last two are not divided yet, and one was metered in part.
        """
        now = datetime.now(UTC)
        end = now.replace(second=now.second // INTERVAL_S * INTERVAL_S, microsecond=0)
        for index in range(count):
            start = end - timedelta(seconds=INTERVAL_S * (count - index))
            wave = (index * 37 + index * index * 11) % 97  # the same in each run
            is_divided = index < count - 2
            coverage = 0.45 if index == count // 3 else 1.0
            watts = 18.0 + wave * 0.9
            energy = round(watts * INTERVAL_S * coverage * MICRO)
            tokens = wave * 9 if wave > 12 else 0
            unused = energy - energy * tokens // (tokens + 60)
            self.points.append(
                {
                    "start": moment(start),
                    "end": moment(start + timedelta(seconds=INTERVAL_S)),
                    "watts": watts,
                    "energy_uj": str(energy),
                    "unattributed_uj": str(unused) if is_divided else None,
                    "coverage": coverage,
                    "calls": tokens // 100 if is_divided else None,
                    "input_tokens": tokens * 3 if is_divided else None,
                    "output_tokens": tokens if is_divided else None,
                    "output_tokens_per_s": tokens / INTERVAL_S if is_divided else None,
                    "joules_per_output_token": energy / MICRO / tokens
                    if is_divided and tokens
                    else None,
                    "methods": ["timings"] if is_divided and tokens else [],
                    "is_measured": is_measured,
                    "is_complete": True,
                    "is_posted": is_divided,
                }
            )

    def add_model(
        self,
        model: str,
        *,
        joules: int,
        calls: int = 40,
        is_measured: bool = False,
        **other: object,
    ) -> None:
        """
        Add what a model's calls took.
        """
        read, written = calls * 210, calls * 90
        energy = joules * MICRO
        cost = energy * NANO_PER_KWH // UJ_PER_KWH
        tokens = read + written
        charge = tokens * 1_400
        self.models.append(
            {
                "model": model,
                "calls": calls,
                "calls_not_whole": 0,
                "input_tokens": read,
                "output_tokens": written,
                "energy_uj": str(energy),
                "prefill_uj": str(energy // 4),
                "decode_uj": str(energy - energy // 4),
                "joules_per_token": joules / tokens,
                "joules_per_output_token": joules / written,
                "kwh_per_million_tokens": joules / 3.6 / tokens,
                "electricity_cost": dollars(cost),
                "electricity_cost_per_million": dollars(cost * MICRO // tokens),
                "charge": dollars(charge),
                "charge_per_million": dollars(1_400 * MICRO),
                "currency": "USD",
                "co2e_g": None,
                "methods": ["timings"],
                "is_measured": is_measured,
            }
            | other
        )

    def add_chain(
        self, *, supplier: str = "riverside", buyers: tuple[str, ...] = ("acme",)
    ) -> None:
        """
        Add the chain of the models there are; a fifth of the meter's energy is no call's.
        """
        used = sum(int(model["energy_uj"]) for model in self.models)
        unused = used // 4
        boxes: dict[str, list[Document]] = {}
        links: list[Document] = []

        def add(stage: str, label: str, energy: int, **other: object) -> str:
            box = f"{stage}:{label}"
            row = {"box": box, "label": label, "energy_uj": str(energy)}
            boxes.setdefault(stage, []).append(row | {"money": None, "tokens": None} | other)
            return box

        def link(source: str, target: str, energy: int) -> None:
            if energy:
                links.append({"source": source, "target": target, "energy_uj": str(energy)})

        cost = dollars(used * NANO_PER_KWH // UJ_PER_KWH)
        tokens = sum(model["input_tokens"] + model["output_tokens"] for model in self.models)
        meter = add("electricity", supplier, used + unused, money=cost)
        engine = add("compute", supplier, used, money="0.31", tokens=tokens)
        link(meter, add("compute", "unattributed", unused), unused)
        link(meter, engine, used)
        read = sum(int(model["prefill_uj"]) for model in self.models)
        phases = {"read": read, "written": used - read}
        parts = {phase: add("tokens", phase, energy) for phase, energy in phases.items()}
        for model in self.models:
            energy, first = int(model["energy_uj"]), int(model["prefill_uj"])
            box = add("model", model["model"], energy, tokens=tokens)
            link(engine, box, energy)
            link(box, parts["read"], first)
            link(box, parts["written"], energy - first)
        for phase, energy in phases.items():
            for index, buyer in enumerate(buyers):
                part = energy // len(buyers)
                part = energy - part * (len(buyers) - 1) if index == 0 else part
                links.append(
                    {
                        "source": parts[phase],
                        "target": f"applications:{buyer}",
                        "energy_uj": str(part),
                    }
                )
        for buyer in buyers:
            total = sum(
                int(e["energy_uj"]) for e in links if e["target"] == f"applications:{buyer}"
            )
            add("applications", buyer, total, money="0.44", tokens=tokens)
        money = {
            "electricity": (cost, "electricity of the calls"),
            "compute": ("0.31", "owed to suppliers"),
            "model": (None, ""),
            "tokens": ("0.44", "charged for tokens"),
            "applications": ("0.44", "paid by buyers"),
        }
        self.chain = {
            "stages": [
                {
                    "stage": stage,
                    "energy_uj": str(
                        used + unused if stage in {"electricity", "compute"} else used
                    ),
                    "money": amount,
                    "money_label": label,
                    "tokens": None if stage == "electricity" else tokens,
                    "boxes": boxes[stage],
                }
                for stage, (amount, label) in money.items()
            ],
            "links": links,
            "energy_uj": str(used + unused),
            "calls": sum(model["calls"] for model in self.models),
            "is_measured": all(model["is_measured"] for model in self.models),
            "methods": sorted({each for model in self.models for each in model["methods"]}),
        }

    def fill(self) -> None:
        """
        Add a plant at work.
        """
        self.add_meter()
        self.add_points()
        self.add_model("smollm2", joules=1_830, calls=212, calls_not_whole=3)
        self.add_model("qwen3-8b", joules=905, calls=31)
        self.add_chain(buyers=("acme", "northwind"))
        gap = datetime.now(UTC) - timedelta(minutes=10)
        self.faults.append(
            {
                "meter": "demo",
                "device": "model:8702",
                "kind": "gap",
                "start": moment(gap),
                "end": moment(gap + timedelta(seconds=5.5)),
                "text": "5.5 s without a reading; at most 3 s are bridged.",
            }
        )

    # ------------------------------------------------------------------ answers

    def live(self, minutes: int) -> Document:
        """
        Answer ``GET factory/live``.
        """
        return {
            "as_of": moment(datetime.now(UTC)),
            "minutes": minutes,
            "meters": self.meters,
            "points": self.points,
            "faults": self.faults,
        }

    def model_list(self, hours: int) -> Document:
        """
        Answer ``GET factory/models``.
        """
        items = sorted(self.models, key=lambda model: -int(model["energy_uj"]))
        frame = {"as_of": moment(datetime.now(UTC)), "hours": hours}
        return frame | {"items": items, "without_energy": []}

    def value_chain(self, hours: int) -> Document:
        """
        Answer ``GET factory/chain``.
        """
        empty: Document = {
            "energy_uj": "0",
            "calls": 0,
            "is_measured": True,
            "methods": [],
            "stages": [],
            "links": [],
        }
        frame = {"as_of": moment(datetime.now(UTC)), "hours": hours, "currency": "USD"}
        return frame | {"co2e_g": None} | (self.chain or empty)
