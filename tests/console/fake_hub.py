"""
A small hub that answers what the console asks, as docs/internals/hub-api.md says.

It keeps calls in memory, splits their charges in whole nano-USD and signs their receipts
with a real key, so that what the console adds up and checks is true. It checks nothing of
its own: keys have fixed roles, and a test changes the world with its methods.
"""

from __future__ import annotations

import json
import uuid
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.console.fake_agents import FakeAgents
from tests.console.fake_plant import FakePlant

ADMIN_KEY = "tw_admin" + "A" * 38
BUYER_KEY = "tw_buyer" + "B" * 38
SUPPLIER_KEY = "tw_suppl" + "S" * 38

PRICES = {"input": 750, "cache_read": 75, "output": 3_000, "reasoning": 3_000}  # nano per token
TAX_PPM, RESELLER_PPM, RIGHTS_PPM = 60_000, 50_000, 30_000
SUPPLIER_PPM, POWER_PPM = 700_000, 180_000
NANO = 1_000_000_000

Document = dict[str, Any]


def money(nano: int) -> str:
    """
    Return an amount as the hub writes it: no needless zeros.
    """
    text = f"{nano / NANO:.9f}" if abs(nano) < 10**15 else str(nano // NANO)
    return text.rstrip("0").rstrip(".") or "0"


def moment(at: datetime) -> str:
    """
    Return a time as the hub writes it.
    """
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def party(name: str) -> Document:
    """
    Return a reference to a party; the same name has the same id.
    """
    return {"party_id": str(uuid.uuid5(uuid.NAMESPACE_DNS, name)), "name": name}


def _base64url(content: bytes) -> str:
    return urlsafe_b64encode(content).rstrip(b"=").decode()


@dataclass
class Sale:
    """
    One call with everything a hub knows about it.
    """

    call: Document
    detail: Document
    legs: list[Document]
    nano: dict[str, int]
    names: dict[str, str]


@dataclass
class FakeHub:
    """
    The state of the fake hub; tests change it while the console looks.
    """

    sales: dict[str, Sale] = field(default_factory=dict)
    revoked: set[str] = field(default_factory=set)
    forbidden: set[str] = field(default_factory=set)  # paths' last words
    held: set[str] = field(default_factory=set)  # parts of paths whose answers wait until they go
    is_unready: bool = False
    is_balanced: bool = True
    is_strange: bool = False
    requests: list[tuple[str, str]] = field(default_factory=list)  # (path, key)
    private: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    is_seal_broken: bool = False
    sequence: int = 0
    agents: FakeAgents = field(default_factory=FakeAgents)
    addenda: dict[str, list[Document]] = field(default_factory=dict)
    plant: FakePlant = field(default_factory=FakePlant)

    def reset(self) -> None:
        """
        Forget everything but the key.
        """
        fresh = FakeHub(private=self.private)
        self.__dict__.update(fresh.__dict__)

    # ------------------------------------------------------------------ what tests do

    def sell(
        self,
        *,
        model: str = "smollm2",
        tier: str = "standard",
        usage: dict[str, int] | None = None,
        ago_s: float = 0.0,
        buyer: str = "acme",
        team: str = "research",
        supplier: str = "riverside",
        status: str = "settled",
        is_stream: bool = True,
    ) -> str:
        """
        Add a call that ended ``ago_s`` seconds ago; returns its id.
        """
        usage = {"input": 812, "cache_read": 128, "output": 240} if usage is None else usage
        ended = datetime.now(UTC) - timedelta(seconds=ago_s)
        duration_ms = 180 + 9.1 * usage.get("output", 0)
        call_id = str(uuid.UUID(int=(int(ended.timestamp() * 1000) << 80) | uuid.uuid4().int >> 52))
        charge = sum(PRICES[axis] * count for axis, count in usage.items())
        is_settled = status == "settled"
        charge = charge if is_settled else 0
        nano = split(charge)
        names = {"buyer": buyer, "supplier": supplier}
        call = {
            "call_id": call_id,
            "status": status,
            "is_stream": is_stream,
            "model": model,
            "tier": tier,
            "party": party(team),
            "organisation": party(buyer),
            "team": party(team),
            "key": {"key_id": str(uuid.uuid4()), "prefix": "tw_9fKq2Lw", "label": "notebook"},
            "supplier": supplier if is_settled or status == "open" else None,
            "usage": usage if is_settled else None,
            "total_tokens": sum(usage.values()) if is_settled else 0,
            "is_estimate": False,
            "charge": money(charge) if status != "open" else None,
            "currency": "USD",
            "payable": money(nano["payable"]) if is_settled else None,
            "started_at": moment(ended - timedelta(milliseconds=duration_ms)),
            "ended_at": moment(ended) if status != "open" else None,
            "duration_ms": round(duration_ms, 1) if status != "open" else None,
            "first_token_ms": 163.4 if is_settled else None,
            "attempt_count": 2 if is_settled else 0,
            "error_code": {"refused": "insufficient_funds", "failed": "supplier_failed"}.get(
                status
            ),
        }
        self.sales[call_id] = Sale(
            call=call,
            detail=self._detail(call, usage, nano, supplier),
            legs=self._legs(nano, names, usage) if is_settled else [],
            nano=nano,
            names=names,
        )
        return call_id

    def sell_history(self, *, minutes: int = 5) -> None:
        """
        Fill the last minutes with believable calls of several buyers and suppliers.
        """
        buyers = [("acme", "research"), ("acme", "support-bot"), ("northwind", "agents")]
        suppliers = ["riverside", "hillcrest", "riverside"]
        for index in range(minutes * 12):
            # A cheap wave, the same in each run.
            wave = (index * 37 + index * index * 11) % 97
            buyer, team = buyers[(index * 7) % 3]
            usage = {
                "input": 180 + 11 * wave,
                "cache_read": 96 * (wave % 4),
                "output": 60 + 5 * wave,
            }
            if index % 5 == 0:
                usage["reasoning"] = 40 + wave
            self.sell(
                model="smollm2" if index % 4 else "qwen3-8b",
                tier=("standard", "premium", "standard")[index % 3],
                usage=usage,
                ago_s=minutes * 60 - index * 5 + (wave % 3) - 3,
                buyer=buyer,
                team=team,
                supplier=suppliers[index % 3],
            )

    # ------------------------------------------------------------------ what the hub knows

    def _detail(
        self, call: Document, usage: dict[str, int], nano: dict[str, int], supplier: str
    ) -> Document:
        is_settled = call["status"] == "settled"
        lines = [
            {
                "axis": axis,
                "count": count,
                "usd_per_million": money(PRICES[axis] * 1_000_000),
                "price_id": str(uuid.uuid4()),
            }
            for axis, count in usage.items()
        ]
        attempt = {
            "ordinal": 1,
            "supplier": "hillcrest",
            "offer_id": str(uuid.uuid4()),
            "status": "fault",
            "http_status": 503,
            "error_code": "supplier_busy",
            "started_at": call["started_at"],
            "duration_ms": 41.2,
            "payable": "0",
        }
        served = attempt | {
            "ordinal": 2,
            "supplier": supplier,
            "status": "served",
            "http_status": 200,
            "error_code": None,
            "duration_ms": call["duration_ms"],
            "payable": money(nano["payable"]),
        }
        return call | {
            "lines": lines if is_settled else [],
            "attempts": [attempt, served] if is_settled else [],
            "quoted": money(nano["charge"] * 3 + 12_288_000) if is_settled else None,
        }

    def _legs(
        self, nano: dict[str, int], names: dict[str, str], usage: dict[str, int]
    ) -> list[Document]:
        legs: list[Document] = []

        def transfer(
            amount: str, asset: str, debit: tuple[str, str], credit: tuple[str, str]
        ) -> None:
            for (owner, purpose), is_debit in ((debit, True), (credit, False)):
                legs.append(
                    {
                        "account_id": str(1_000 + hash((owner, purpose, asset)) % 8_000),
                        "party": party(owner),
                        "purpose": purpose,
                        "asset": asset,
                        "debit": amount if is_debit else "0",
                        "credit": "0" if is_debit else amount,
                    }
                )

        cash = (names["buyer"], "cash")
        transfer(money(nano["tax"]), "USD", cash, ("tax-authority", "tax_payable"))
        transfer(money(nano["reseller"]), "USD", cash, ("globe-resale", "reseller_payable"))
        transfer(money(nano["rights"]), "USD", cash, ("authors-guild", "rights_payable"))
        transfer(money(nano["platform"]), "USD", cash, ("platform", "platform_revenue"))
        purchases = ("platform", "purchases")
        transfer(money(nano["supplier"]), "USD", purchases, (names["supplier"], "supplier_payable"))
        transfer(money(nano["power"]), "USD", purchases, ("hydro-north", "power_payable"))
        transfer(
            money(nano["charge"]), "USD", ("platform", "own_funds"), ("platform", "safeguarded")
        )
        transfer(
            money(nano["charge"]),
            "LIMIT.USD",
            (names["buyer"], "limit_available"),
            ("platform", "limit_spent"),
        )
        transfer(
            str(sum(usage.values())),
            "LIMIT.TOK",
            (names["buyer"], "limit_available"),
            ("platform", "limit_spent"),
        )
        return legs

    def receipt(self, sale: Sale, *, is_admin: bool) -> Document:
        """
        Return a signed receipt in the reader's view.
        """
        call = sale.call
        fields: Document = {
            "view": "auditor" if is_admin else "buyer",
            "call_id": call["call_id"],
            "model": call["model"],
            "tier": call["tier"],
            "tier_floor": {
                "tokens_per_s_min": 50,
                "tokens_per_s": 109.9,
                "first_token_ms": 163,
                "first_token_ms_max": 5_000,
                "is_missed": False,
            },
            "usage": call["usage"],
            "charge": call["charge"],
            "currency": "USD",
            "tax": money(sale.nano["tax"]),
            "outcome": "completed",
            "energy": {"status": "pending"},
            "overrun": "0",
            "disclosures": ["WyJzYWx0IiwgIm1vZGVsIl0"],
        }
        if is_admin:
            fields["leg.1"] = {"kind": "tax", "amount": money(sale.nano["tax"])}
        return {"receipt": fields, "jws": self._sign(call)}

    def add_energy(self, call_id: str, energy_uj: int, *, is_whole: bool = True) -> None:
        """
        Say what a call took, as the next addendum of its receipt.
        """
        documents = self.addenda.setdefault(call_id, [])
        number = len(documents) + 1
        statement: Document = {
            "iss": "urn:ietf:params:oauth:jwk-thumbprint:sha-256:3mFq",
            "iat": int(datetime.now(UTC).timestamp()),
            "call_id": call_id,
            "lane": 1,
            "receipt": "6NRM7M2mm-8aYIGqX8DGH5uMDihmWwWobIWtmZpliXc",
            "number": number,
            "supersedes": number - 1 or None,
            "energy": {
                "energy_uj": str(energy_uj),
                "prefill_uj": "120000",
                "decode_uj": str(energy_uj - 120_000),
                "method": "timings",
                "source": "model",
                "boundary": "CPU package",
                "is_whole": is_whole,
            },
            "emissions": {
                "co2e_ug": str(energy_uj * 381_500 // 3_600_000_000),
                "g_per_kwh": "381.5",
                "source": "made up for this test",
                "method": "location_based",
            },
        }
        header = {"alg": "EdDSA", "kid": self.kid, "typ": "tokenworks-addendum+jws"}
        jws = self._sealed(header, statement)
        documents.append({"addendum": statement, "jws": jws, "certificate": "e30.e30.AA"})

    def _sealed(self, header: Document, payload: Document) -> str:
        signed = ".".join(_base64url(json.dumps(part).encode()) for part in (header, payload))
        signature = self.private.sign(signed.encode())
        if self.is_seal_broken:
            signature = bytes(reversed(signature))
        return f"{signed}.{_base64url(signature)}"

    def _sign(self, call: Document) -> str:
        order = sorted(self.sales, key=lambda each: self.sales[each].call["started_at"])
        sequence = 18_200 + order.index(call["call_id"])
        header = {"alg": "EdDSA", "kid": self.kid, "typ": "tokenworks-receipt+sd-jwt"}
        ended = datetime.fromisoformat(call["ended_at"])
        payload = {
            "iss": "urn:ietf:params:oauth:jwk-thumbprint:sha-256:3mFq",
            "iat": int(ended.timestamp()),
            "call_id": call["call_id"],
            "lane": 3,
            "seq": sequence,
            "prev": _base64url(uuid.uuid5(uuid.NAMESPACE_DNS, str(sequence)).bytes * 2),
        }
        return self._sealed(header, payload)

    @property
    def kid(self) -> str:
        """
        Return the name of the signing key.
        """
        return _base64url(self.private.public_key().public_bytes_raw())[:24]

    def jwks(self) -> Document:
        """
        Return the published keys.
        """
        public = _base64url(self.private.public_key().public_bytes_raw())
        return {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": public, "kid": self.kid}]}

    def newest(self) -> list[Sale]:
        """
        Return the calls, newest first.
        """
        return sorted(self.sales.values(), key=lambda sale: sale.call["started_at"], reverse=True)

    def flow(self, seconds: int) -> Document:
        """
        Return what flowed in the last seconds.
        """
        now = datetime.now(UTC)
        inside = [
            sale
            for sale in self.newest()
            if sale.call["ended_at"]
            and now - datetime.fromisoformat(sale.call["ended_at"]) <= timedelta(seconds=seconds)
        ]
        links: dict[tuple[str, str], int] = {}
        for sale in inside:
            for link, nano in flows_of(sale).items():
                links[link] = links.get(link, 0) + nano
        links = {link: nano for link, nano in sorted(links.items(), key=_rank) if nano > 0}
        nodes = dict.fromkeys(name for link in links for name in link)
        tokens = sum(sale.call["total_tokens"] for sale in inside)
        charge = sum(sale.nano["charge"] for sale in inside)
        return {
            "window_s": seconds,
            "as_of": moment(now),
            "currency": "USD",
            "calls": len(inside),
            "tokens": tokens,
            "charge": money(charge),
            "calls_per_s": len(inside) / seconds,
            "tokens_per_s": tokens / seconds,
            "charge_per_s": money(charge // seconds),
            "nodes": [
                {"id": name, "label": name.partition(":")[2] or LABELS[name], "kind": _kind(name)}
                for name in nodes
            ],
            "links": [
                {"source": source, "target": target, "amount": money(nano)}
                for (source, target), nano in links.items()
            ],
            "last_calls": [sale.call for sale in self.newest()[:20]],
        }


LABELS = {"sale": "sale", "tax": "tax", "platform": "platform"}
_ORDER = ["buyer", "sale", "tax", "reseller", "rights", "platform", "supplier", "power"]


def _kind(name: str) -> str:
    return name.partition(":")[0]


def _rank(item: tuple[tuple[str, str], int]) -> tuple[int, int, str, str]:
    (source, target), _ = item
    return _ORDER.index(_kind(source)), _ORDER.index(_kind(target)), source, target


def split(charge: int) -> dict[str, int]:
    """
    Divide a charge as a hub does: the platform keeps the remainder.
    """
    tax, reseller, rights = (
        charge * ppm // 1_000_000 for ppm in (TAX_PPM, RESELLER_PPM, RIGHTS_PPM)
    )
    payable = charge * SUPPLIER_PPM // 1_000_000
    power = payable * POWER_PPM // 1_000_000
    return {
        "charge": charge,
        "tax": tax,
        "reseller": reseller,
        "rights": rights,
        "platform": charge - tax - reseller - rights,
        "payable": payable,
        "power": power,
        "supplier": payable - power,
    }


def flows_of(sale: Sale) -> dict[tuple[str, str], int]:
    """
    Return a call's links from left to right.
    """
    nano, supplier = sale.nano, f"supplier:{sale.names['supplier']}"
    return {
        (f"buyer:{sale.names['buyer']}", "sale"): nano["charge"],
        ("sale", "tax"): nano["tax"],
        ("sale", "reseller:globe-resale"): nano["reseller"],
        ("sale", "rights:authors-guild"): nano["rights"],
        ("sale", "platform"): nano["platform"] - nano["payable"],
        ("sale", supplier): nano["payable"],
        (supplier, "power:hydro-north"): nano["power"],
    }
