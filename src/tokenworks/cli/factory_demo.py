"""
``tokenworks factory demo``: from the demo model's power to joules on receipts, with real calls.

The calls, their tokens, the books and the signatures are real. The power is a MODEL: the CPU time
of the process that runs the model, times its share of an assumed TDP; a virtual machine shows no
meter. Prices of electricity are the caller's, or an assumption that the output names.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_DOWN, Decimal
from pathlib import Path
from time import sleep as wait
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import httpx
import typer

from tokenworks.cli.client import (
    EXIT_COULD_NOT_RUN,
    EXIT_REFUSED,
    CommandError,
    DataOption,
    Document,
    HubClient,
    JsonOption,
    hub_session,
    read_demo,
)
from tokenworks.cli.long_work import LongWork
from tokenworks.cli.rendering import Output, column
from tokenworks.factory.live.model import JOULES_PER_KWH, MICRO
from tokenworks.foundation.clock import SystemClock
from tokenworks.receipts.addenda import check_addenda, verify_addendum
from tokenworks.receipts.trust import TrustedKeys
from tokenworks.receipts.verify import verify_receipt
from tokenworks.settings import load_settings

SUPPLIER: Final = "demo-factory"
METER: Final = "factory demo"
INTERVAL_S: Final = 2
GAP_MAX_S: Final = 1.9
TDP_W: Final = 65
PRICE_PER_KWH: Final = "0.12"
PATIENCE_S: Final = 90.0
POLL_S: Final = 0.25
CALL_TIMEOUT_S: Final = 120.0
BOUNDARY: Final = "CPU time of the model's process x its share of the TDP"
QUESTIONS: Final = (
    "What is water?",
    "Name three rivers and say where they end.",
    "Write one sentence about a power station at night.",
    "Explain to a child what a token is, in few words.",
)

_STEPS: Final = {
    "meter": "Reading the meter",
    "calls": "Calling the model through the gateway",
    "post": "Dividing, posting and signing",
}

TdpOption = Annotated[int, typer.Option(min=1, max=2_000, help="Of the whole CPU: an assumption.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """
    What was found of one call.
    """

    call: Document
    addendum: Document

    @property
    def energy_uj(self) -> int:
        """
        Return its microjoules.
        """
        return int(self.addendum["addendum"]["energy"]["energy_uj"])


def demo(
    calls: Annotated[int, typer.Option(min=1, max=10_000, help="So many calls.")] = 24,
    at_once: Annotated[int, typer.Option(min=1, max=64, help="So many at a time.")] = 4,
    max_tokens: Annotated[int, typer.Option(min=1, max=2_000, help="Of each answer.")] = 32,
    load: Annotated[
        Path | None,
        typer.Option(help="A program that makes the calls instead, such as examples/load.py."),
    ] = None,
    tdp_w: TdpOption = TDP_W,
    price_per_kwh: Annotated[
        str | None, typer.Option(help=f"Of electricity; else {PRICE_PER_KWH} is assumed.")
    ] = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Meter the demo's model while it answers, divide and post the energy, show what a token took.

    Needs a hub that was started with --demo. Its power is a MODEL, no measurement.
    """
    with hub_session(url=None, key=None, data=data, as_json=as_json) as hub:
        settings = load_settings({"data_dir": data})
        fields = read_demo(settings.data_dir / "demo.json")
        if not fields:
            message = f"{settings.data_dir} holds no demo.json."
            hint = "Start a hub with: tokenworks up --demo"
            raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN, hint=hint)
        with LongWork(hub.output, _STEPS) as work:
            work.begin("meter")
            meter = _ensure_meter(hub, tdp_w=tdp_w, price=price_per_kwh or PRICE_PER_KWH)
            since = SystemClock().now()
            _until(lambda: _is_read(hub, meter, since), "the meter is not read; is a worker up?")
            work.begin("calls")
            begun = SystemClock().now()
            if load is None:
                asyncio.run(_call(fields, calls, at_once, max_tokens, tell=work.advance))
            else:
                _run_loader(load, settings.data_dir / "demo.json", calls, at_once, max_tokens)
            work.begin("post")
            made = _calls_since(hub, begun)
            if not made:
                raise CommandError("No call was answered.", exit_code=EXIT_REFUSED)
            _until(lambda: len(_proofs(hub, made)) == len(made), "no energy was posted in time")
        result = _summarise(
            hub,
            meter,
            _proofs(hub, made),
            begun=begun,
            is_price_assumed=price_per_kwh is None,
        )
        if as_json:
            hub.output.document(result)
        else:
            _show(hub.output, result)
        if not result["is_conserved"] or not result["are_signatures_good"]:
            raise typer.Exit(EXIT_REFUSED)


# ------------------------------------------------------------------ the meter


def _ensure_meter(hub: HubClient, *, tdp_w: int, price: str) -> Document:
    address = urlsplit(str(hub.get(f"suppliers/{SUPPLIER}")["base_url"]))
    wanted: dict[str, Any] = {
        "name": METER,
        "source": "model",
        "port": address.port,
        "tdp_w": tdp_w,
        "price_per_kwh": str(Decimal(price).normalize()),
    }
    for meter in hub.get("factory/meters")["items"]:
        if meter["supplier"] != SUPPLIER:
            continue
        if all(meter[name] == value for name, value in wanted.items()):
            return meter
        if meter["name"] != METER:
            message = f"{SUPPLIER} has the meter {meter['name']!r}, which is not this demo's."
            raise CommandError(message, exit_code=EXIT_REFUSED)
        hub.post(f"factory/meters/{meter['meter_id']}/retire")
    more = {"interval_s": INTERVAL_S, "gap_max_s": GAP_MAX_S, "boundary": BOUNDARY}
    return hub.post("factory/meters", {"supplier": SUPPLIER, **wanted, **more})


def _is_read(hub: HubClient, meter: Document, since: datetime) -> bool:
    last = hub.get(f"factory/meters/{meter['meter_id']}")["last_reading_at"]
    return last is not None and datetime.fromisoformat(last) > since


def _until(is_done: Callable[[], bool], reason: str) -> None:
    clock = SystemClock()
    deadline_s = clock.monotonic_s() + PATIENCE_S
    while not is_done():
        if clock.monotonic_s() > deadline_s:
            message = f"Gave up after {PATIENCE_S:.0f} s: {reason}"
            raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN)
        wait(POLL_S)


# ------------------------------------------------------------------ the calls


async def _call(
    fields: Document, calls: int, at_once: int, max_tokens: int, *, tell: Callable[[int], None]
) -> None:
    turn = asyncio.Semaphore(at_once)
    done = 0
    headers = {"authorization": f"Bearer {fields['buyer_key']}"}
    async with httpx.AsyncClient(timeout=CALL_TIMEOUT_S, headers=headers) as client:

        async def one(number: int) -> None:
            nonlocal done
            question = f"{QUESTIONS[number % len(QUESTIONS)]} (number {number})"
            body = {
                "model": fields["model"],
                "messages": [{"role": "user", "content": question}],
                "max_tokens": max_tokens,
            }
            async with turn:
                answer = await client.post(f"{fields['base_url']}/chat/completions", json=body)
            answer.raise_for_status()
            done += 1
            tell(100 * done // calls)

        try:
            await asyncio.gather(*(one(number) for number in range(calls)))
        except httpx.HTTPError as error:
            message = f"A call failed: {error or type(error).__name__}"
            raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN) from error


def _run_loader(load: Path, demo_file: Path, calls: int, at_once: int, max_tokens: int) -> None:
    counts = {"--calls": calls, "--at-once": at_once, "--max-tokens": max_tokens}
    options = [word for name, count in counts.items() for word in (name, str(count))]
    ran = subprocess.run(
        [sys.executable, str(load), str(demo_file), *options], stdout=sys.stderr, check=False
    )
    if ran.returncode:
        message = f"{load} ended with {ran.returncode}."
        raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN)


def _calls_since(hub: HubClient, begun: datetime) -> list[Document]:
    since = begun.astimezone(UTC).isoformat()
    return hub.pages("calls", rows_max=10_000, supplier=SUPPLIER, status="settled", since=since)


def _proofs(hub: HubClient, calls: list[Document]) -> list[Proof]:
    found: list[Proof] = []
    for call in calls:
        addenda = hub.get(f"receipts/{call['call_id']}/addenda")["items"]
        if not addenda:
            return found
        found.append(Proof(call=call, addendum=addenda[-1]))
    return found


# ------------------------------------------------------------------ the result


def _summarise(
    hub: HubClient,
    meter: Document,
    proofs: list[Proof],
    *,
    begun: datetime,
    is_price_assumed: bool,
) -> Document:
    points = _points(hub, begun)
    metered_uj = sum(int(point["energy_uj"]) for point in points)
    unattributed_uj = sum(int(point["unattributed_uj"]) for point in points)
    calls_uj = sum(proof.energy_uj for proof in proofs)
    energies = [proof.addendum["addendum"]["energy"] for proof in proofs]
    output = sum(_tokens(proof.call, "output") for proof in proofs)
    tokens = sum(int(proof.call["total_tokens"]) for proof in proofs)
    charge = sum((Decimal(proof.call["charge"]) for proof in proofs), Decimal(0))
    kwh = Decimal(calls_uj) / (JOULES_PER_KWH * MICRO)
    cost = kwh * Decimal(meter["price_per_kwh"])
    return {
        "is_measured": meter["is_measured"],
        "power": f"MODEL: {meter['boundary']} ({meter['tdp_w']} W assumed)",
        "calls": len(proofs),
        "calls_not_whole": sum(not energy["is_whole"] for energy in energies),
        "input_tokens": tokens - output,
        "output_tokens": output,
        "metered_uj": str(metered_uj),
        "calls_uj": str(calls_uj),
        "unattributed_uj": str(unattributed_uj),
        "others_uj": str(metered_uj - unattributed_uj - calls_uj),
        "is_conserved": _is_conserved(hub),
        "prefill_uj": str(sum(int(energy["prefill_uj"]) for energy in energies)),
        "decode_uj": str(sum(int(energy["decode_uj"]) for energy in energies)),
        "methods": sorted({energy["method"] for energy in energies}),
        "joules_per_token": _rounded(Decimal(calls_uj) / MICRO / tokens),
        "joules_per_output_token": _rounded(Decimal(calls_uj) / MICRO / max(output, 1)),
        "kwh": _rounded(kwh, places=9),
        "kwh_per_million_tokens": _rounded(kwh * MICRO / tokens),
        "currency": meter["currency"],
        "price_per_kwh": meter["price_per_kwh"],
        "is_price_per_kwh_assumed": is_price_assumed,
        "electricity_per_million_tokens": _rounded(cost * MICRO / tokens),
        "charged_per_million_tokens": _rounded(charge * MICRO / tokens),
        "charged": str(charge),
        "are_signatures_good": _are_good(hub, proofs),
        "joules_by_call": [
            {
                "call_id": proof.call["call_id"],
                "joules": _rounded(Decimal(proof.energy_uj) / MICRO),
                "output_tokens": _tokens(proof.call, "output"),
                "method": proof.addendum["addendum"]["energy"]["method"],
            }
            for proof in proofs
        ],
    }


def _points(hub: HubClient, begun: datetime) -> list[Document]:
    """
    Return the posted intervals since just before the calls.
    """
    age = SystemClock().now() - begun
    minutes = age // timedelta(minutes=1) + 2
    shown = hub.get("factory/live", minutes=minutes, supplier=SUPPLIER)
    return [
        point
        for point in shown["points"]
        if point["is_posted"] and datetime.fromisoformat(point["end"]) > begun
    ]


def _is_conserved(hub: HubClient) -> bool:
    """
    Tell whether the books have as much energy used and not as there was metered, ever.
    """
    sums: dict[str, Decimal] = {}
    for row in hub.get("ledger/trial-balance")["rows"]:
        if row["asset"] == "UJ":
            sums[row["purpose"]] = sums.get(row["purpose"], Decimal(0)) + Decimal(row["balance"])
    spent = sums.get("energy_used", Decimal(0)) + sums.get("energy_unattributed", Decimal(0))
    return sums.get("energy_metered", Decimal(0)) == spent


def _are_good(hub: HubClient, proofs: list[Proof]) -> bool:
    """
    Check every receipt with its addendum as ``receipt verify`` does, by published keys alone.
    """
    keys = TrustedKeys.from_json(json.dumps(hub.published_keys()))
    found = [
        verified
        for proof in proofs
        for verified in (
            verify_receipt(hub.get(f"receipts/{proof.call['call_id']}"), keys),
            verify_addendum(proof.addendum, keys),
        )
    ]
    return all(one.ok for one in check_addenda(found))


def _tokens(call: Document, axis: str) -> int:
    usage: Document = call["usage"] or {}
    return int(usage.get(axis, 0))


def _rounded(value: Decimal, *, places: int = 6) -> str:
    return f"{value.quantize(Decimal(1).scaleb(-places), ROUND_DOWN):f}"


def _show(output: Output, result: Document) -> None:
    output.note(result["power"])
    output.record(
        result,
        (
            column("Calls"),
            column("Tokens read", "input_tokens"),
            column("Tokens written", "output_tokens"),
            column("J per token", "joules_per_token"),
            column("J per token written", "joules_per_output_token"),
            column("kWh", "kwh"),
            column("kWh per million tokens", "kwh_per_million_tokens"),
            column("Electricity per million tokens", "electricity_per_million_tokens"),
            column("Charged per million tokens", "charged_per_million_tokens"),
            column("Currency"),
            column("Divided by", "methods"),
        ),
    )
    joules = {
        name: f"{Decimal(result[f'{name}_uj']) / MICRO:.6f} J"
        for name in ("metered", "calls", "others", "unattributed")
    }
    others = f" + other calls {joules['others']}" if int(result["others_uj"]) else ""
    output.note(
        f"Meter {joules['metered']} = these calls {joules['calls']}{others}"
        f" + unattributed {joules['unattributed']}."
    )
    books = "balances" if result["is_conserved"] else "DOES NOT BALANCE"
    output.note(f"Posted to the energy ledger, which {books}, to the microjoule.")
    assumed = " (ASSUMED)" if result["is_price_per_kwh_assumed"] else ""
    output.note(f"Electricity at {result['price_per_kwh']} {result['currency']} a kWh{assumed}.")
    verdict = "good" if result["are_signatures_good"] else "NOT GOOD"
    output.note(f"{result['calls']} receipts and their addenda: signatures {verdict}.")
    output.note("The meter stays in use; tokenworks factory meter list shows it.")
