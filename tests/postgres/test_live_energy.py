"""
Energy of real calls through a hub: divided, posted once, signed, corrected by number.

The suppliers are the stub's (SIMULATED); calls, books, receipts and readings are real rows.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any, LiteralString
from uuid import UUID

import psycopg
import pytest
import pytest_asyncio

from tests.databases import OpenDatabase
from tests.postgres.gateway_rig import (
    Behaviour,
    Plant,
    Rig,
    completion,
    open_business,
    open_plant,
)
from tokenworks.factory.attribution.model import Step, StepPhase, Work
from tokenworks.factory.energy.model import Quantity, Reading
from tokenworks.factory.live.model import (
    MICRO,
    GridMethod,
    Interval,
    MeterTerms,
    SourceKind,
    SupplierMeter,
    interval_id,
)
from tokenworks.factory.live.posting import EnergyPosting, EnergyReport, shares_hash
from tokenworks.factory.live.proving import EnergyProofs, Proven
from tokenworks.factory.live.service import LiveFactory, to_us
from tokenworks.foundation.clock import FakeClock, SystemClock
from tokenworks.ledger.check import check_books
from tokenworks.receipts.files import verify_paths
from tokenworks.receipts.trust import TrustedKeys
from tokenworks.receipts.views import BUYER
from tokenworks.testing.supplier_behaviour import Content
from tokenworks.web.hub_api.rendering.factory import to_chain, to_models

pytestmark = pytest.mark.asyncio(loop_scope="module")

STEP_US = MICRO
NOW = datetime(2026, 1, 1, tzinfo=UTC)
LLAMA = {"prompt_n": 3, "prompt_ms": 0.4, "predicted_n": 7, "predicted_ms": 0.8}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plant(
    open_database: OpenDatabase, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Plant]:
    """
    A hub and its suppliers.
    """
    with open_database() as dsn:
        async with open_plant(dsn, tmp_path_factory.mktemp("hub")) as plant:
            yield plant


@pytest_asyncio.fixture(loop_scope="module")
async def rig(plant: Plant) -> AsyncGenerator[Rig]:
    """
    A business of the test's own.
    """
    async with open_business(plant) as rig:
        yield rig


class Site:
    """
    A supplier's meter, read by the test, and the job that a worker runs; two minutes later.
    """

    def __init__(self, rig: Rig, meter: SupplierMeter, clock: FakeClock) -> None:
        hub = rig.hub
        self.rig = rig
        self.meter = meter
        self.clock = clock
        self.store = hub.factory.store
        self.factory = LiveFactory(self.store, clock, hub.ids)
        self.proofs = EnergyProofs(self.store, hub.engine_calls, hub.keys, clock)
        self.start_us = to_us(SystemClock().now()) // STEP_US * STEP_US

    async def run(self) -> EnergyReport:
        """
        Do what the worker does, as a worker that has just begun.
        """
        return await (await self.posting()).run()

    async def posting(self) -> EnergyPosting:
        """
        Return the job of a worker that has just begun.
        """
        hub = self.rig.hub
        return EnergyPosting(
            self.store,
            calls=hub.engine_calls,
            ledger=hub.ledger,
            supply=hub.supply,
            proofs=self.proofs,
            signer=await hub.keys.ensure_lane_key(hub.writer.lane),
            clock=self.clock,
        )

    async def say(
        self, *said: tuple[float, int | None], quantity: Quantity = Quantity.POWER
    ) -> None:
        """
        Send readings: seconds since the start, and watts (or joules).
        """
        readings = [
            Reading(
                device="gpu0",
                at_us=self.start_us + round(at * MICRO),
                quantity=quantity,
                value=None if value is None else value * MICRO,
            )
            for at, value in said
        ]
        self.clock.advance(timedelta(seconds=1))
        await self.factory.take_readings(self.meter.meter_id, readings)
        self.clock.advance(timedelta(seconds=1))

    async def intervals(self) -> list[Interval]:
        """
        Return the last revision of every interval.
        """
        return await self.store.latest([self.meter.meter_id], 0, 1 << 62)

    async def energy(self, party_id: UUID, purpose: str) -> int:
        """
        Return the balance of one of the accounts of energy.
        """
        balances = await self.rig.hub.ledger.balances(party_id)
        return sum(b.balance for b in balances if (b.purpose, b.asset) == (purpose, "UJ"))

    async def audit(self) -> int:
        """
        Check that the books have exactly what the intervals say; return what was metered.
        """
        meters = await self.store.meters(supplier_id=self.meter.supplier_id, with_retired=True)
        intervals = await self.store.latest([meter.meter_id for meter in meters], 0, 1 << 62)
        supplier = await self.rig.hub.supply.get_supplier(self.meter.supplier_id)
        owner, buyer = supplier.party_id, self.rig.organisation.party_id
        metered = sum(interval.metered_uj for interval in intervals)
        rest = sum(interval.unattributed_uj for interval in intervals)
        assert await self.energy(owner, "energy_metered") == metered
        assert await self.energy(owner, "energy_unattributed") == rest
        used = 0
        for interval in intervals:
            shares = await self.store.shares(interval.interval_id, interval.revision)
            given = sum(share.energy_uj for share in shares)
            used += sum(share.energy_uj for share in shares if share.organisation_id == buyer)
            assert given + interval.unattributed_uj == interval.metered_uj
            entries = await self.rig.hub.ledger.entries_of(interval.interval_id)
            if entries and entries[-1].ordinal == interval.revision:
                said = shares_hash([(share.call_id, share.energy_uj) for share in shares])
                assert entries[-1].meta["shares_sha256"] == said
        assert await self.energy(buyer, "energy_used") == used
        report = await check_books(self.rig.dsn, clock=SystemClock())
        assert not report.problems, report.problems
        return sum(one.metered_uj for one in intervals if one.meter_id == self.meter.meter_id)


@pytest_asyncio.fixture(loop_scope="module")
async def site(rig: Rig) -> Site:
    """
    A meter of the first supplier.
    """
    clock = FakeClock(SystemClock().now() + timedelta(minutes=2))
    terms = MeterTerms(
        name="rack",
        source=SourceKind.PUSH,
        interval_us=STEP_US,
        gap_max_us=STEP_US // 2,
        boundary="gpu boards",
        price_nano_per_kwh=120_000_000,
        co2e_mg_per_kwh=400_000,
        co2e_source="made up for this test",
        co2e_method=GridMethod.LOCATION_BASED,
    )
    offer = rig.offers["north", "standard"]
    for old in await rig.hub.factory.store.meters(supplier_id=offer.supplier_id):
        # So long ago that the job does not look at it any more.
        await rig.hub.factory.store.retire_meter(old.meter_id, clock.now() - timedelta(days=30))
    meter = await rig.hub.factory.add_meter(offer.supplier_id, terms, actor="test")
    await _earlier_calls_are_over(rig)
    return Site(rig, meter, clock)


async def _earlier_calls_are_over(rig: Rig) -> None:
    # What is metered begins with a whole second; another test's calls shall not be in it.
    now = SystemClock().now()
    async with await psycopg.AsyncConnection.connect(rig.dsn, autocommit=True) as connection:
        cursor = await connection.execute(
            "SELECT 1 FROM gateway.calls WHERE ended_at BETWEEN date_trunc('second', %s) AND %s",
            (now, now),
        )
        if await cursor.fetchone() is not None:
            await asyncio.sleep(1.01 - now.microsecond / STEP_US)


def steady(watts: int, *, until_s: float = 20) -> list[tuple[float, int]]:
    """
    Return the same power every tenth of a second.
    """
    return [(tenth / 10, watts) for tenth in range(int(until_s * 10) + 1)]


def tampered(document: dict[str, Any]) -> dict[str, Any]:
    """
    Return an addendum that shows another energy than was signed.
    """
    changed = json.loads(json.dumps(document))
    changed["addendum"]["energy"]["energy_uj"] = "1"
    return changed


async def trusted(rig: Rig) -> TrustedKeys:
    """
    Return the hub's published keys.
    """
    return TrustedKeys.from_json(json.dumps(await rig.hub.keys.jwks()))


async def test_calls_get_what_the_meter_says_and_it_is_posted_once(
    rig: Rig, site: Site, tmp_path: Path
) -> None:
    """
    From calls and readings to books and proof; whoever runs it again changes nothing.
    """
    answers = [await rig.ask() for _ in range(3)]
    await rig.quiet()
    await site.say(*steady(100))
    first = await site.run()
    again = await site.run()
    both = await asyncio.gather(site.run(), site.run())

    calls = {UUID(answer.headers["x-tokenworks-call-id"]) for answer in answers}
    assert (first.posted, first.corrected, first.signed) == (21, 0, 3)
    assert [again, *both] == [EnergyReport()] * 3
    assert await site.audit() == 2_000 * MICRO
    documents: list[dict[str, object]] = []
    for call_id in sorted(calls):
        documents.append(await rig.hub.receipts.receipt_document(call_id, BUYER))
        (addendum,) = await site.proofs.documents(call_id)
        documents.append(addendum)
        energy: Any = addendum["addendum"]
        uj = int(energy["energy"]["energy_uj"])
        assert uj > 0
        assert energy["energy"]["method"] == "overlap"
        assert energy["energy"]["source"] == "measured"
        assert energy["energy"]["is_whole"]
        assert energy["supersedes"] is None
        assert energy["emissions"] == {
            "co2e_ug": str(uj * 400_000_000 // 3_600_000_000_000),
            "g_per_kwh": "400",
            "source": "made up for this test",
            "method": "location_based",
        }
    file = tmp_path / "receipts.json"
    file.write_text(json.dumps(documents), encoding="utf-8")
    found = verify_paths([file], await trusted(rig))
    assert all(one.ok for one in found), found
    assert [one.number for one in found] == [None, 1] * 3


async def test_what_an_addendum_must_not_pass_for(rig: Rig, site: Site, tmp_path: Path) -> None:
    """
    Another energy, another call's receipt, an addendum without its receipt.
    """
    calls = [UUID((await rig.ask()).headers["x-tokenworks-call-id"]) for _ in range(2)]
    await rig.quiet()
    await site.say(*steady(100))
    await site.run()
    receipts = [await rig.hub.receipts.receipt_document(call_id, BUYER) for call_id in calls]
    (one,), (two,) = [await site.proofs.documents(call_id) for call_id in calls]
    keys = await trusted(rig)

    def codes(*documents: object) -> list[list[str]]:
        file = tmp_path / "some.json"
        file.write_text(json.dumps(documents), encoding="utf-8")
        found = verify_paths([file], keys)
        return [[str(problem.code) for problem in (*row.problems, *row.notes)] for row in found]

    assert codes(tampered(one)) == [["field_differs"]]
    assert codes(one) == [["receipt_not_here"]]
    forged = json.loads(json.dumps(one)) | {"jws": two["jws"]}
    assert codes(forged) == [["field_differs"]]
    assert codes(one | {"note": "nobody signed this"}) == [["document_malformed"]]
    assert codes(receipts[0], one, two)[1:] == [[], ["receipt_not_here"]]
    broken = str(one["jws"])[:-4] + "AAAA"
    assert codes(one | {"jws": broken}) in ([["signature_wrong"]], [["jws_malformed"]])


async def test_timings_of_the_engine_are_used_and_stand_on_the_receipt(
    rig: Rig, site: Site
) -> None:
    """
    llama.cpp's phases tell prompt and answer apart; the client reads them as they came.
    """
    usage = completion(prompt_tokens=9, completion_tokens=7)
    await rig.add_odd_supplier(usage | {"timings": LLAMA})
    told = await rig.ask()
    call = await rig.call()
    assert call.receipt is not None
    assert call.receipt["attempt.1"]["timings"] == {
        "prompt_us": 400,
        "predicted_us": 800,
        "prompt_tokens": 3,
        "predicted_tokens": 7,
    }
    (attempt,) = await rig.hub.engine_calls.by_id(call.attempts[0].supplier_id, [call.call_id])
    assert attempt.timings is not None
    assert told.json()["timings"] == LLAMA, "the client reads what the engine said"


async def test_wrong_readings_are_flagged_and_nothing_is_made_up(rig: Rig, site: Site) -> None:
    """
    NaN, a gap, a duplicate, a contradiction, a clock that steps back and forth, a device that is
    missing at the end: the energy of the good time alone is posted, each fault is kept.
    """
    await site.say(
        *steady(100, until_s=1),
        (1.1, None),
        (1.2, 100),
        (1.2, 100),
        (1.3, 100),
        (1.3, 900),
        (1.4, 100),
        (0.2, 100),
        (1.5, 100),
        (2.9, 100),
        (3.0, 100),
        (3.1, 100),
    )
    await site.run()
    intervals = await site.intervals()

    kinds = {str(fault["kind"]) for interval in intervals for fault in interval.faults}
    assert kinds >= {
        "not_a_number",
        "duplicate",
        "contradiction",
        "time_backwards",
        "gap",
    }
    seconds = [interval.metered_uj / MICRO for interval in intervals]
    # From 1.0 to 1.2 is none, 1.2 to 1.3 contradicted, 1.4 to 1.5 holds a clock that stepped.
    assert seconds[0] == 100
    assert seconds[1] == 0
    assert seconds[2] == 10
    assert all(interval.covered_us < STEP_US for interval in intervals[1:])
    await site.audit()


async def test_counter_over_a_reset_and_a_silence(rig: Rig, site: Site) -> None:
    """
    A counter that was reset says nothing of that time; one that went on over a silence says how
    much, not when: it is nobody's.
    """
    await site.say(
        *((tenth / 10, tenth * 10) for tenth in range(11)),
        (1.1, 0),
        (1.2, 10),
        (1.3, 20),
        (3.5, 240),
        (3.6, 250),
        (3.7, 0),
        (3.8, 10),
        quantity=Quantity.COUNTER,
    )
    await site.run()
    intervals = await site.intervals()

    assert [interval.metered_uj // MICRO for interval in intervals] == [100, 20, 240]
    assert [interval.unplaced_uj // MICRO for interval in intervals] == [0, 0, 220]
    kinds = {str(fault["kind"]) for interval in intervals for fault in interval.faults}
    assert kinds >= {"counter_reset", "gap"}
    await site.audit()


async def test_late_readings_correct_by_number(rig: Rig, site: Site, tmp_path: Path) -> None:
    """
    What was sent late fills the gap: a new revision, an entry for the difference, the next
    addendum; the first one stays as it was signed.
    """
    answer = await rig.ask()
    await rig.quiet()
    call_id = UUID(answer.headers["x-tokenworks-call-id"])
    await site.say(*steady(100, until_s=0))
    await site.say((19.8, 100), (19.9, 100), (20.0, 100))
    await site.run()
    (before,) = await site.proofs.documents(call_id)
    metered = await site.audit()

    await site.say(*((tenth / 10, 200) for tenth in range(1, 198)))
    site.clock.advance(timedelta(seconds=5))
    corrected = await site.run()
    first, second = await site.proofs.documents(call_id)

    assert corrected.corrected > 0
    assert first == before
    one: Any = first["addendum"]
    two: Any = second["addendum"]
    assert (one["number"], two["number"], two["supersedes"]) == (1, 2, 1)
    assert not one["energy"]["is_whole"]
    assert two["energy"]["is_whole"]
    assert int(two["energy"]["energy_uj"]) > int(one["energy"]["energy_uj"])
    assert await site.audit() > metered
    assert await site.run() == EnergyReport()
    last = interval_id(site.meter.meter_id, site.start_us + 19 * STEP_US)
    entries = await rig.hub.ledger.entries_of(last)
    assert [entry.ordinal for entry in entries] == [0, 1]
    file = tmp_path / "both.json"
    receipt = await rig.hub.receipts.receipt_document(call_id, BUYER)
    file.write_text(json.dumps([receipt, first, second]), encoding="utf-8")
    found = verify_paths([file], await trusted(rig))
    assert all(row.ok for row in found)
    assert [[str(note.code) for note in row.notes] for row in found] == [
        [],
        ["addendum_superseded"],
        [],
    ]


async def test_call_that_ends_late_is_added_by_a_correction(rig: Rig, site: Site) -> None:
    """
    A call that was still open when its interval was divided takes its part afterwards.
    """
    await site.say(*steady(100))
    await site.run()
    unused = await site.audit()
    # In the hub's real time, so before the site's: as if its row had come after the division.
    site.clock.advance(timedelta(seconds=-110))
    later = FakeClock(SystemClock().now() + timedelta(minutes=3))
    answer = await rig.ask()
    await rig.quiet()
    call_id = UUID(answer.headers["x-tokenworks-call-id"])
    await _divided_before(rig, site)
    site.clock = later
    site.factory = LiveFactory(site.store, later, rig.hub.ids)
    corrected = await site.run()

    assert corrected.corrected >= 1
    assert corrected.signed == 1
    assert await site.audit() == unused
    (addendum,) = await site.proofs.documents(call_id)
    shown: Any = addendum["addendum"]
    assert int(shown["energy"]["energy_uj"]) > 0


async def _divided_before(rig: Rig, site: Site) -> None:
    """
    Date the divisions before the call: rows are never changed, so as their owner and by force.
    """
    async with await psycopg.AsyncConnection.connect(rig.dsn, autocommit=True) as connection:
        await connection.execute("SET session_replication_role = replica")
        await connection.execute(
            "UPDATE factory.intervals SET computed_at = computed_at - interval '3 minutes'"
            " WHERE meter_id = %s",
            (site.meter.meter_id,),
        )


async def test_claimed_interval_is_posted_by_the_next_process(rig: Rig, site: Site) -> None:
    """
    A process that died between rows and books left something to do, and no harm.
    """
    await site.say(*steady(100))
    posting = EnergyPosting(
        site.store,
        calls=rig.hub.engine_calls,
        ledger=rig.hub.ledger,
        supply=rig.hub.supply,
        proofs=site.proofs,
        signer=await rig.hub.keys.ensure_lane_key(rig.hub.writer.lane),
        clock=site.clock,
    )
    await posting.divide_due(site.meter)
    assert {interval.posted_at for interval in await site.intervals()} == {None}
    # One of them had reached the books already.
    claimed: Sequence[Interval] = await site.store.to_post(100)
    await posting.post(claimed[0])
    await _forget_posted(rig, claimed[0])

    await site.run()
    assert all(interval.posted_at for interval in await site.intervals())
    assert await site.audit() == 2_000 * MICRO


async def _forget_posted(rig: Rig, interval: Interval) -> None:
    async with await psycopg.AsyncConnection.connect(rig.dsn, autocommit=True) as connection:
        await connection.execute("SET session_replication_role = replica")
        await connection.execute(
            "UPDATE factory.intervals SET posted_at = NULL WHERE interval_id = %s",
            (interval.interval_id,),
        )


async def test_history_of_energy_does_not_change(rig: Rig, site: Site) -> None:
    """
    Neither an interval, nor a share, nor an addendum is edited or deleted.
    """
    await rig.ask()
    await rig.quiet()
    await site.say(*steady(100))
    await site.run()
    async with await psycopg.AsyncConnection.connect(rig.dsn, autocommit=True) as connection:
        for statement in (
            "UPDATE factory.intervals SET metered_uj = metered_uj + 1",
            "UPDATE factory.intervals SET posted_at = NULL",
            "DELETE FROM factory.intervals",
            "UPDATE factory.shares SET energy_uj = energy_uj + 1",
            "DELETE FROM factory.shares",
            "UPDATE factory.addenda SET energy_uj = 0",
            "DELETE FROM factory.addenda",
        ):
            with pytest.raises(psycopg.Error):
                await connection.execute(statement)


async def test_check_finds_a_share_that_was_changed(rig: Rig, site: Site) -> None:
    """
    The ledger has buyers only, and still a call's microjoule cannot move to another call.
    """
    for _ in range(2):
        await rig.ask()
    await rig.quiet()
    await site.say(*steady(100))
    await site.run()
    await site.audit()
    async with await psycopg.AsyncConnection.connect(rig.dsn, autocommit=True) as connection:
        await connection.execute("SET session_replication_role = replica")

        async def change(by_uj: int, *, also_rest: bool) -> None:
            cursor = await connection.execute(
                "UPDATE factory.shares SET energy_uj = energy_uj + %s"
                " WHERE (interval_id, call_id) = (SELECT interval_id, call_id FROM factory.shares"
                " JOIN factory.intervals USING (interval_id, revision)"
                " WHERE meter_id = %s AND energy_uj > 1 ORDER BY 1, 2 LIMIT 1)"
                " RETURNING interval_id",
                (by_uj, site.meter.meter_id),
            )
            ((interval,),) = await cursor.fetchall()
            if also_rest:
                await connection.execute(
                    "UPDATE factory.intervals SET unattributed_uj = unattributed_uj - %s"
                    " WHERE interval_id = %s",
                    (by_uj, interval),
                )

        async def found() -> set[str]:
            report = await check_books(rig.dsn, clock=SystemClock())
            assert {str(problem.code) for problem in report.problems} <= {"energy_differs"}
            return {problem.message for problem in report.problems}

        await change(1, also_rest=False)
        assert await found() == {"Its calls and its rest are not what was metered."}
        await change(-1, also_rest=False)
        assert await found() == set()
        await change(1, also_rest=True)
        changed = "Its calls' shares are not those that its entry was posted with."
        assert await found() == {changed}
        await change(-1, also_rest=True)
        assert await found() == set()


async def test_counters_of_an_engine_divide_its_phases(rig: Rig, site: Site) -> None:
    """
    VLLM's way: the engine counted, half of the tokens came from elsewhere; where its counters begin
    again, spans are used.
    """
    await rig.ask()
    await rig.quiet()
    await site.say(*steady(100))
    names = ("prompt_tokens", "generation_tokens", "prefill_seconds", "decode_seconds")
    for second in range(21):
        counted = 0 if second >= 10 else 1_000 + second
        counters = [
            (name, site.start_us + second * MICRO, counted * 1_000 * MICRO) for name in names
        ]
        await site.store.add_readings(
            site.meter.meter_id, (), ranges={}, counters=counters, received_at=site.clock.now()
        )
    await site.run()
    methods = {method for interval in await site.intervals() for method in interval.methods}

    assert methods <= {"vllm_metrics", "overlap"}
    assert "vllm_metrics" in methods
    await site.audit()


async def test_answer_without_a_token_has_its_energy(rig: Rig, site: Site) -> None:
    """
    Zero tokens cost nothing, and their joules are on the receipt all the same.
    """
    rig.first.set_behaviour(Behaviour(content=Content.EMPTY))
    try:
        answer = await rig.ask()
    finally:
        rig.first.set_behaviour(Behaviour())
    await rig.quiet()
    call = await rig.call()
    assert (call.charge_quanta, call.output_tokens) == (0, 0)
    await site.say(*steady(100))
    await site.run()
    (addendum,) = await site.proofs.documents(UUID(answer.headers["x-tokenworks-call-id"]))
    shown: Any = addendum["addendum"]
    assert int(shown["energy"]["energy_uj"]) > 0


async def test_what_is_sent_again_counts_once(rig: Rig, site: Site) -> None:
    """
    A sender that got no answer sends the same with more: no fault, no other energy.
    """
    await site.say(*steady(100, until_s=1))
    await site.say(*steady(100, until_s=2))
    await site.run()
    intervals = await site.intervals()

    assert [interval.metered_uj for interval in intervals[:2]] == [100 * MICRO, 100 * MICRO]
    assert not any(interval.faults for interval in intervals)
    await site.audit()


async def test_value_chain_has_as_much_at_each_stage(rig: Rig, site: Site) -> None:
    """
    What electricity gives, compute passes on, less what no call used; by model as much as by buyer.
    """
    answers = [await rig.ask() for _ in range(2)]
    await rig.quiet()
    await site.say(*steady(100))
    await site.run()
    groups = [
        group
        for group in await rig.hub.factory.energy_groups(1)
        if group.organisation_id == rig.organisation.party_id
    ]
    rest = await rig.hub.factory.unattributed(1)
    chain = to_chain(groups, rest, suppliers={}, buyers={}, currency="USD", hours=1, as_of=NOW)
    models = to_models(groups, currency="USD", hours=1, as_of=NOW)

    charged = sum(Decimal(answer.headers["x-tokenworks-charge"]) for answer in answers)
    assert Decimal(chain.stages[-1].money or 0) == charged
    for stage in chain.stages:
        assert sum(int(box.energy_uj) for box in stage.boxes) == int(stage.energy_uj)
    for stage, following in pairwise(chain.stages):
        names = {box.box: int(box.energy_uj) for box in stage.boxes}
        out = dict.fromkeys(names, 0)
        for link in chain.links:
            if link.source in out:
                out[link.source] += int(link.energy_uj)
        lost = {name for name in names if name.endswith(":unattributed")}
        assert {name: out[name] for name in names if name not in lost} == {
            name: energy for name, energy in names.items() if name not in lost
        }, following.stage
    (model,) = models.items
    assert (model.calls, model.calls_not_whole) == (2, 0)
    assert int(model.energy_uj) == int(chain.stages[2].energy_uj)
    assert model.electricity_cost is not None
    assert model.co2e_g is not None


async def _by_force(rig: Rig, statement: LiteralString, *parameters: object) -> None:
    """
    Change rows that are never changed, as their owner.
    """
    async with await psycopg.AsyncConnection.connect(rig.dsn, autocommit=True) as connection:
        await connection.execute("SET session_replication_role = replica")
        await connection.execute(statement, parameters)


async def test_call_booked_long_after_it_ended_gets_its_energy(rig: Rig, site: Site) -> None:
    """
    The settle waited forty minutes for a database: a correction by number, nothing dropped.
    """
    answer = await rig.ask()
    await rig.quiet()
    call_id = UUID(answer.headers["x-tokenworks-call-id"])
    hidden = UUID(int=call_id.int ^ 1)
    await _by_force(
        rig, "UPDATE gateway.calls SET supplier_id = %s WHERE call_id = %s", hidden, call_id
    )
    await site.say(*steady(100))
    await site.run()
    unused = (await site.intervals())[0].unattributed_uj
    assert await site.proofs.documents(call_id) == []

    site.clock.advance(timedelta(minutes=45))
    await _by_force(
        rig,
        "UPDATE gateway.calls SET supplier_id = %s, ended_at = ended_at + interval '40 minutes'"
        " WHERE call_id = %s",
        site.meter.supplier_id,
        call_id,
    )
    done = await site.run()

    assert (done.corrected, done.signed) == (1, 1)
    (addendum,) = await site.proofs.documents(call_id)
    shown: Any = addendum["addendum"]
    assert 0 < int(shown["energy"]["energy_uj"]) <= unused
    assert shown["energy"]["is_whole"]
    assert await site.store.unmetered(site.clock.now() - timedelta(hours=1), site.clock.now()) == []
    await site.audit()
    assert await site.run() == EnergyReport()


async def test_stream_of_half_an_hour_is_in_its_last_interval_too(rig: Rig, site: Site) -> None:
    """
    A call that began long before an interval runs in it all the same.
    """
    answer = await rig.ask()
    await rig.quiet()
    call_id = UUID(answer.headers["x-tokenworks-call-id"])
    minutes_us = 25 * 60 * MICRO
    await _by_force(
        rig,
        "UPDATE gateway.calls SET ended_at = ended_at + interval '25 minutes', receipt ="
        " jsonb_set(receipt::jsonb, '{attempt.1,duration_us}', %s::text::jsonb)"
        " WHERE call_id = %s",
        str(minutes_us),
        call_id,
    )
    site.clock.advance(timedelta(minutes=25))
    later = 24 * 60
    await site.say(*((at + later, watts) for at, watts in steady(100, until_s=5)))
    # Divided and not posted: to the books this is the future.
    await (await site.posting()).divide_due(site.meter)
    (first, *_) = [one for one in await site.intervals() if one.metered_uj]
    shares = await site.store.shares(first.interval_id, first.revision)
    await _by_force(rig, "DELETE FROM factory.intervals WHERE meter_id = %s", site.meter.meter_id)

    assert [share.call_id for share in shares] == [call_id]
    assert shares[0].energy_uj == first.metered_uj


async def test_call_that_nothing_metered_is_counted_with_the_reason(rig: Rig, site: Site) -> None:
    """
    Before the first reading there is no interval: the call is shown as not metered, until readings
    come and it has its joules.
    """
    answer = await rig.ask()
    await rig.quiet()
    call_id = UUID(answer.headers["x-tokenworks-call-id"])
    await site.say(*((at + 15, watts) for at, watts in steady(100, until_s=5)))
    await site.run()

    async def unmetered() -> list[tuple[UUID, str, int]]:
        now = site.clock.now()
        found = await site.store.unmetered(now - timedelta(hours=1), now)
        mine = [one for one in found if one.supplier_id == site.meter.supplier_id]
        return [(one.supplier_id, one.reason.value, one.calls) for one in mine]

    assert await unmetered() == [(site.meter.supplier_id, "not_metered", 1)]
    await site.say(*steady(100, until_s=14.9))
    site.clock.advance(timedelta(minutes=40))
    done = await site.run()

    assert done.corrected >= 14
    (addendum,) = await site.proofs.documents(call_id)
    shown: Any = addendum["addendum"]
    assert int(shown["energy"]["energy_uj"]) > 0
    assert await unmetered() == []
    await site.audit()


async def test_proof_that_failed_is_signed_next_time(
    rig: Rig, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The database was away between books and signature: the same process signs when it is back, and
    one that begins an hour later signs what a killed one left.
    """
    answer = await rig.ask()
    await rig.quiet()
    call_id = UUID(answer.headers["x-tokenworks-call-id"])
    await site.say(*steady(100))
    posting = await site.posting()
    prove = site.proofs.prove

    async def away(*_: object, **__: object) -> Proven:
        raise psycopg.OperationalError("the database is away")

    monkeypatch.setattr(site.proofs, "prove", away)
    await posting.run()
    assert all(interval.posted_at for interval in await site.intervals())
    assert await site.proofs.documents(call_id) == []
    monkeypatch.setattr(site.proofs, "prove", prove)
    assert (await posting.run()).signed == 1
    assert len(await site.proofs.documents(call_id)) == 1

    second = await rig.ask()
    await rig.quiet()
    site.start_us = to_us(SystemClock().now()) // STEP_US * STEP_US
    site.clock.advance(timedelta(minutes=1))
    await site.say(*((at - 1, watts) for at, watts in steady(100)))
    monkeypatch.setattr(site.proofs, "prove", away)
    await site.run()
    monkeypatch.setattr(site.proofs, "prove", prove)
    site.clock.advance(timedelta(hours=1))
    await site.run()
    late_id = UUID(second.headers["x-tokenworks-call-id"])
    assert len(await site.proofs.documents(late_id)) >= 1


def _steps(site: Site, *calls: UUID, until_s: float = 20) -> list[Step]:
    """
    Return a step every tenth of a second: the first call reads and writes, another one decodes, and
    a stranger is in the batch.
    """
    steps: list[Step] = []
    for tenth in range(int(until_s * 10)):
        work = [
            Work(
                call=str(call),
                prefill_tokens=(50 + 37 * tenth % 90) if number == 0 else 0,
                decode_tokens=number,
                context_tokens=tenth * 10,
            )
            for number, call in enumerate(calls)
        ]
        work.append(Work(call="stranger", prefill_tokens=0, decode_tokens=1, context_tokens=5))
        steps.append(
            Step(
                name=str(tenth),
                start_us=site.start_us + tenth * STEP_US // 10,
                end_us=site.start_us + (tenth + 1) * STEP_US // 10,
                phase=StepPhase.MIXED,
                work=work,
                row=tenth + 1,
            )
        )
    return steps


async def test_step_log_divides_by_phase_and_stands_on_the_addendum(
    rig: Rig, site: Site, tmp_path: Path
) -> None:
    """
    Steps replace the overlap share of their intervals, those that come late too; a stranger's part
    is nobody's here; what is sent again changes nothing.
    """
    answers = [await rig.ask() for _ in range(2)]
    await rig.quiet()
    calls = [UUID(answer.headers["x-tokenworks-call-id"]) for answer in answers]
    await site.say(*steady(100))
    steps = _steps(site, *calls)
    early, late = steps[:100], steps[100:]
    taken = await site.factory.take_steps(site.meter.meter_id, early)
    await site.run()
    first = await site.intervals()
    for number in (0, 1):
        (addendum,) = await site.proofs.documents(calls[number])
        shown: Any = addendum["addendum"]
        assert shown["energy"]["method"] == "step_phase_assumed", "ten windows are too few to fit"

    site.clock.advance(timedelta(seconds=1))
    again = await site.factory.take_steps(site.meter.meter_id, early)
    await site.factory.take_steps(site.meter.meter_id, late)
    site.clock.advance(timedelta(seconds=5))
    done = await site.run()
    second = await site.intervals()

    assert (len(taken.steps), taken.repeated, taken.refused) == (100, 0, [])
    assert (len(again.steps), again.repeated, again.refused) == (0, 100, [])
    assert [one.methods for one in first[:10]] == [["step_phase_assumed"]] * 10
    assert all("step_phase" not in "".join(one.methods) for one in first[10:])
    assert done.corrected == 10
    assert [one.revision for one in second] == [0] * 10 + [1] * 10 + [0]
    assert all(0 < one.unattributed_uj < one.metered_uj for one in second[:20])
    documents: list[dict[str, object]] = []
    for call_id in calls:
        documents.append(await rig.hub.receipts.receipt_document(call_id, BUYER))
        documents += await site.proofs.documents(call_id)
    for document in documents[2], documents[-1]:
        said: Any = document["addendum"]
        energy = said["energy"]
        assert said["number"] == 2
        parts = ("prefill_uj", "decode_uj", "context_uj", "residency_uj")
        assert sum(int(energy[part]) for part in parts) == int(energy["energy_uj"]) > 0
    file = tmp_path / "steps.json"
    file.write_text(json.dumps(documents), encoding="utf-8")
    found = verify_paths([file], await trusted(rig))
    assert all(one.ok for one in found), found
    assert await site.audit() == 2_000 * MICRO


async def test_step_log_without_our_ids_is_told_and_spans_are_used(rig: Rig, site: Site) -> None:
    """
    An engine that was not sent the call ids: energy goes by overlap, and the interval says why.
    """
    await rig.ask()
    await rig.quiet()
    await site.say(*steady(100))
    await site.factory.take_steps(site.meter.meter_id, _steps(site))
    await site.run()
    busy = [one for one in await site.intervals() if one.calls]

    assert {method for one in busy for method in one.methods} == {"overlap"}
    told = {str(fault["kind"]): str(fault["text"]) for one in busy for fault in one.faults}
    assert "--send-call-id" in told["steps_unknown"]
    await site.audit()
