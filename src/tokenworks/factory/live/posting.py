"""
Bring metered energy into the books: interval by interval, each revision once.

Order, for each meter: what was claimed and not posted (a process died between the two); intervals
that are due; intervals that something came late for; then the proofs of the calls in them.

An interval is due when it is over, its calls have ended and its readings are there, or were waited
for long enough. A revision is claimed first (rows that nobody changes), then posted from those
rows under the interval's id with the revision as ordinal: whoever repeats it posts the same, and
the ledger answers as it did. After the first revision only the difference is posted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec
import psycopg
import structlog

from tokenworks.factory.energy.model import MODEL_PREFIX, Reading
from tokenworks.factory.energy.validation import Meter, validate
from tokenworks.factory.errors import EnergyNotPostedError
from tokenworks.factory.live import by_steps
from tokenworks.factory.live.dividing import count_between, divide, unplaced_between
from tokenworks.factory.live.model import (
    MICRO,
    CallShare,
    EngineCall,
    EngineCounters,
    Interval,
    SupplierMeter,
    UnmeteredReason,
    interval_id,
)
from tokenworks.factory.live.proving import EnergyProofs
from tokenworks.factory.live.service import to_us
from tokenworks.factory.live.store import READINGS_KEEP_DAYS, FactoryStore
from tokenworks.factory.ports import EngineCalls
from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import TokenworksError
from tokenworks.foundation.limits import FACTORY_FAULTS_KEPT_MAX, FACTORY_STEPS_MAX
from tokenworks.foundation.money import MICROJOULE
from tokenworks.ledger.model import Posting, PostingKind, Transfer
from tokenworks.ledger.service import Ledger
from tokenworks.receipts.signing import LaneSigner
from tokenworks.supply.service import Supply

SETTLE_US: Final = 2 * MICRO
"""After its end an interval waits so long, for calls and readings that are being written."""

READINGS_WAIT_US: Final = 30 * MICRO
"""So long it waits for a reading after its end; then it is divided with a gap."""

CALLS_WAIT_US: Final = 120 * MICRO
"""So long it waits for calls that are still open; longer ones come as a correction."""

LOOK_BACK: Final = timedelta(minutes=15)
"""A process that begins looks for what came late or was not signed so long before the last one."""

STEPS_LOOK_BACK_US: Final = 600 * MICRO
"""An engine that told no step for so long is not waited for."""

EXPERIENCE_US: Final = 120 * MICRO
"""So far back a process that begins looks for what the engine's phases cost."""

LATE_EVERY_S: Final = 20.0
INTERVALS_PER_RUN_MAX: Final = 60
RETIRED_LOOK_BACK: Final = timedelta(days=READINGS_KEEP_DAYS + 1)
LATE_OVERLAP: Final = timedelta(seconds=60)
COMMIT: Final = timedelta(seconds=5)
"""A call may become visible so long after the time that its row names."""

_log = structlog.get_logger("tokenworks.factory")


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyReport:
    """
    What one run did.
    """

    posted: int = 0
    corrected: int = 0
    signed: int = 0


@dataclass(slots=True, kw_only=True)
class _Work:
    """
    What is to be done for a meter yet.
    """

    since: datetime  # calls booked before it were looked at
    touched: set[UUID]  # intervals whose calls are to be signed
    waiting: set[UUID] = field(default_factory=set[UUID])  # calls that go on
    late: set[int] = field(default_factory=set[int])  # starts of intervals to be divided anew
    looked_s: float = -LATE_EVERY_S


@dataclass(frozen=True, slots=True, kw_only=True)
class _BySteps:
    """
    What an engine's steps say of an interval.
    """

    shares: Sequence[CallShare] | None = None  # ``None``: nothing, so spans are used
    faults: Sequence[Mapping[str, object]] = ()


class EnergyPosting:
    """
    Divide, post, correct and prove; safe to run by several processes at once.
    """

    def __init__(
        self,
        store: FactoryStore,
        *,
        calls: EngineCalls,
        ledger: Ledger,
        supply: Supply,
        proofs: EnergyProofs,
        signer: LaneSigner,
        clock: Clock,
    ) -> None:
        self._store = store
        self._calls = calls
        self._ledger = ledger
        self._supply = supply
        self._proofs = proofs
        self._signer = signer
        self._clock = clock
        self._work: dict[UUID, _Work] = {}
        self._experience: dict[UUID, by_steps.Experience] = {}

    async def run(self) -> EnergyReport:
        """
        Do what is due for every meter; a repeat finds nothing to do.
        """
        await self._post_claimed()
        total = EnergyReport()
        retired_since = self._clock.now() - RETIRED_LOOK_BACK
        for meter in await self._store.meters(with_retired=True):
            if meter.retired_at is None or meter.retired_at > retired_since:
                try:
                    done = await self._run_meter(meter)
                except (psycopg.Error, TokenworksError) as error:
                    # One meter keeps no other from the books; it is tried again next time.
                    _log.warning("energy_not_divided", meter=meter.terms.name, reason=str(error))
                    continue
                total = EnergyReport(
                    posted=total.posted + done.posted,
                    corrected=total.corrected + done.corrected,
                    signed=total.signed + done.signed,
                )
        if total.posted or total.signed:
            _log.info("energy_posted", intervals=total.posted, addenda=total.signed)
        return total

    async def _run_meter(self, meter: SupplierMeter) -> EnergyReport:
        work = self._work.get(meter.meter_id)
        if work is None:
            work = self._work[meter.meter_id] = await self._begin(meter)
        divided = await self.divide_due(meter)
        work.touched |= {interval_id(meter.meter_id, start_us) for start_us in divided}
        corrected = await self._divide_late(meter, work)
        work.touched |= {interval_id(meter.meter_id, start_us) for start_us in corrected}
        await self._post_claimed()
        signed = 0
        if work.touched or work.waiting:
            proven = await self._proofs.prove(
                meter, sorted(work.touched), call_ids=sorted(work.waiting), signer=self._signer
            )
            # Only now: what could not be signed is signed next time.
            work.touched, work.waiting = set(), set(proven.waiting)
            signed = proven.signed
        return EnergyReport(posted=len(divided), corrected=len(corrected), signed=signed)

    async def _begin(self, meter: SupplierMeter) -> _Work:
        """
        Look back to a while before the last division: its process may have died before it signed.
        """
        now = self._clock.now()
        last = await self._store.last_computed_at(meter.meter_id)
        since = min(now, last or now) - LOOK_BACK
        recent = await self._store.intervals_since(meter.meter_id, since, self._oldest_us(now))
        return _Work(since=since, touched=set(recent))

    def _oldest_us(self, now: datetime) -> int:
        """
        Return the time of which every reading is still there.
        """
        return to_us(now - timedelta(days=READINGS_KEEP_DAYS - 1))

    # ------------------------------------------------------------------ dividing

    async def divide_due(self, meter: SupplierMeter) -> list[int]:
        """
        Claim the intervals that are over and known, and return their starts.
        """
        step_us = meter.terms.interval_us
        now_us = to_us(self._clock.now())
        settled_us = now_us - SETTLE_US
        open_us = await self._calls.oldest_open_us()
        if open_us is not None and now_us - open_us < CALLS_WAIT_US:
            settled_us = min(settled_us, open_us)
        divided_until_us = await self._store.divided_until(meter.meter_id)
        start_us = divided_until_us
        if start_us is None:
            start_us = to_us(meter.created_at - LOOK_BACK) // step_us * step_us
        done: list[int] = []
        while len(done) < INTERVALS_PER_RUN_MAX:
            span = await self._store.reading_span(meter.meter_id, start_us, now_us)
            if span is None:
                break
            # A time without any reading is no interval: nothing was metered.
            start_us = max(start_us, span[0] // step_us * step_us)
            end_us = start_us + step_us
            if end_us > settled_us or (span[1] < end_us and now_us < end_us + READINGS_WAIT_US):
                break
            if now_us < end_us + READINGS_WAIT_US and await self._steps_are_due(meter, end_us):
                break
            await self._claim(meter, start_us, revision=0)
            done.append(start_us)
            start_us = end_us
        return done

    async def _divide_late(self, meter: SupplierMeter, work: _Work) -> list[int]:
        """
        Divide anew what readings or calls came late for, however late; note what cannot be.
        """
        until_us = await self._store.divided_until(meter.meter_id)
        now, now_s = self._clock.now(), self._clock.monotonic_s()
        if until_us is not None and now_s - work.looked_s >= LATE_EVERY_S:
            work.looked_s = now_s
            oldest_us = self._oldest_us(now)
            # Not while more may come.
            quiet = now - timedelta(microseconds=meter.terms.interval_us)
            late = await self._store.late_readings(
                meter, since=min(work.since, now - LOOK_BACK), quiet_since=quiet, before_us=until_us
            )
            # What fills a gap also changes the interval in which the gap ended.
            late += await self._store.following(meter.meter_id, late)
            late += await self._store.late_steps(
                meter, since=min(work.since, now - LOOK_BACK), quiet_since=quiet, before_us=until_us
            )
            late += await self._find_late_calls(meter, work.since, until_us, oldest_us)
            work.late |= {start_us for start_us in late if start_us >= oldest_us}
            work.since = now - LATE_OVERLAP
        done = sorted(work.late)[:INTERVALS_PER_RUN_MAX]
        revisions = await self._store.revisions_at(meter.meter_id, done)
        for start_us in done:
            await self._claim(meter, start_us, revision=revisions.get(start_us, -1) + 1)
        work.late -= set(done)
        return done

    async def _find_late_calls(
        self, meter: SupplierMeter, since: datetime, until_us: int, oldest_us: int
    ) -> list[int]:
        """
        Return the intervals that calls booked since have no share of.
        """
        calls = await self._calls.booked_since(meter.supplier_id, since)
        ran = [
            (call, start_us)
            for call in calls
            for start_us in _starts(call, meter, until_us=until_us)
        ]
        unknown = await self._store.without_share(
            meter.meter_id,
            [(call.call_id, start_us, call.ended_at) for call, start_us in ran],
            commit=COMMIT,
        )
        nowhere = {(one.call_id, one.start_us) for one in unknown if not one.is_interval}
        reasons = {
            one.call_id: UnmeteredReason.READINGS_GONE
            for one in unknown
            if one.is_interval and one.start_us < oldest_us
        }
        for call in calls:
            starts = _starts(call, meter, until_us=until_us)
            if starts and all((call.call_id, start_us) in nowhere for start_us in starts):
                reasons[call.call_id] = UnmeteredReason.NOT_METERED
        booked = {call.call_id: call.ended_at for call in calls if call.call_id in reasons}
        if reasons:
            _log.warning("calls_not_metered", meter=meter.terms.name, calls=len(reasons))
            await self._store.note_unmetered(
                meter.meter_id,
                [(one, reasons[one].value, booked[one]) for one in sorted(reasons)],
                now=self._clock.now(),
            )
        return [one.start_us for one in unknown if one.is_interval]

    async def _claim(self, meter: SupplierMeter, start_us: int, *, revision: int) -> None:
        end_us = start_us + meter.terms.interval_us
        margin_us = meter.terms.gap_max_us
        # Before anything is read: what comes after this moment came late.
        computed_at = self._clock.now()
        series, counted = await self._store.series(meter, start_us - margin_us, end_us + margin_us)
        said = validate(series, meter.terms.rules)
        calls = await self._calls.of_supplier(meter.supplier_id, start_us, end_us)
        division = divide(
            said,
            calls,
            start_us,
            end_us,
            counters=_engine_counters(counted, start_us, end_us),
            unplaced_uj=unplaced_between(series, meter.terms.rules, start_us, end_us),
        )
        told = await self._by_steps(meter, said, calls, start_us)
        if told.shares is not None:
            division = replace(division, shares=told.shares)
        await self._store.claim(
            Interval(
                interval_id=interval_id(meter.meter_id, start_us),
                revision=revision,
                meter_id=meter.meter_id,
                supplier_id=meter.supplier_id,
                start_us=start_us,
                end_us=end_us,
                metered_uj=division.metered_uj,
                unattributed_uj=division.unattributed_uj,
                unplaced_uj=division.unplaced_uj,
                covered_us=said.covered_us(start_us, end_us),
                methods=sorted({share.method.value for share in division.shares}),
                is_measured=not any(one.device.startswith(MODEL_PREFIX) for one in series.readings),
                calls=len(division.shares),
                input_tokens=division.input_tokens,
                output_tokens=division.output_tokens,
                faults=[*told.faults, *_faults_of(said, start_us, end_us)],
                computed_at=computed_at,
                posted_at=None,
            ),
            division.shares,
        )

    # ------------------------------------------------------------------ steps

    async def _steps_are_due(self, meter: SupplierMeter, end_us: int) -> bool:
        """
        Tell whether an engine that logs its steps has not told those until a moment yet.
        """
        until_us = await self._store.steps_until(
            meter.meter_id, end_us - STEPS_LOOK_BACK_US, to_us(self._clock.now())
        )
        return until_us is not None and until_us < end_us

    async def _by_steps(
        self, meter: SupplierMeter, said: Meter, calls: Sequence[EngineCall], start_us: int
    ) -> _BySteps:
        """
        Return the shares by the engine's steps in an interval, where it told any for these calls.
        """
        end_us = start_us + meter.terms.interval_us
        steps = await self._store.steps(meter.meter_id, start_us, end_us)
        if not steps:
            return _BySteps()
        if len(steps) >= FACTORY_STEPS_MAX:
            text = f"{FACTORY_STEPS_MAX} steps or more: divide shorter intervals"
            return _BySteps(faults=[_steps_fault("steps_too_many", start_us, end_us, text)])
        named = await self._calls.by_id(meter.supplier_id, by_steps.named_calls(steps))
        if calls and not named:
            text = "the steps name no call of this hub; is the supplier's --send-call-id on?"
            return _BySteps(faults=[_steps_fault("steps_unknown", start_us, end_us, text)])
        known = {call.call_id for call in calls}
        everyone = [*calls, *(call for call in named if call.call_id not in known)]
        experience = self._experience.get(meter.meter_id)
        if experience is None:
            experience = self._experience[meter.meter_id] = by_steps.Experience()
            before_us = start_us - EXPERIENCE_US
            series, _ = await self._store.series(meter, before_us, start_us)
            await self._learn(
                meter, experience, validate(series, meter.terms.rules), before_us, start_us
            )
        shares, silences = by_steps.divide_by_steps(
            said,
            steps,
            everyone,
            start_us,
            end_us,
            experience=experience,
            gap_max_us=meter.terms.gap_max_us,
        )
        text = "no step is told while calls ran: their part of it is not known"
        faults = [
            _steps_fault("steps_missing", begin, end, text)
            for begin, end in silences
            if any(call.start_us < end and call.end_us > begin for call in calls)
        ]
        return _BySteps(shares=shares, faults=faults)

    async def _learn(
        self,
        meter: SupplierMeter,
        experience: by_steps.Experience,
        said: Meter,
        start_us: int,
        end_us: int,
    ) -> None:
        """
        Look at what the engine did before this process began.
        """
        steps = await self._store.steps(meter.meter_id, start_us, end_us)
        if steps:
            calls = await self._calls.of_supplier(meter.supplier_id, start_us, end_us)
            pauses = by_steps.find_pauses(steps, calls, start_us, end_us)
            experience.learn(by_steps.gather(said, steps, start_us, end_us), pauses, said)

    # ------------------------------------------------------------------ posting

    async def _post_claimed(self) -> None:
        for interval in await self._store.to_post(INTERVALS_PER_RUN_MAX * 2):
            try:
                await self.post(interval)
            except EnergyNotPostedError as error:
                # One that the ledger refuses keeps no other from the books.
                _log.error("energy_not_posted", reason=error.message)

    async def post(self, interval: Interval) -> None:
        """
        Post one revision from its rows; a repeat is answered by the ledger as the first time.

        Raises:
            EnergyNotPostedError: The ledger refuses; the revision stays claimed.
        """
        transfers = await self._transfers(interval)
        if transfers:
            outcome = await self._ledger.post(
                Posting(
                    kind=PostingKind.POST,
                    fact_id=interval.interval_id,
                    ordinal=interval.revision,
                    transfers=transfers,
                    meta=await self._meta(interval),
                )
            )
            if not outcome.is_done:
                message = f"The energy of {interval.interval_id} is not posted: {outcome.code}."
                raise EnergyNotPostedError(message)
        await self._store.mark_posted(interval, self._clock.now())

    async def _transfers(self, interval: Interval) -> tuple[Transfer, ...]:
        now = await self._store.sums(interval.interval_id, interval.revision)
        before: dict[UUID, int] = {}
        unattributed_uj = interval.unattributed_uj
        if interval.revision:
            before = await self._store.sums(interval.interval_id, interval.revision - 1)
            unattributed_uj -= await self._unattributed_before(interval)
        owner = (await self._supply.get_supplier(interval.supplier_id)).party_id
        asset = MICROJOULE.code
        metered = await self._ledger.account(owner, "energy_metered", asset)
        moved = [
            (await self._ledger.account(party, "energy_used", asset), now.get(party, 0) - had)
            for party, had in sorted({**dict.fromkeys(now, 0), **before}.items())
        ]
        rest = await self._ledger.account(owner, "energy_unattributed", asset)
        return tuple(
            Transfer(debit=metered, credit=account, quanta=quanta)
            if quanta > 0
            else Transfer(debit=account, credit=metered, quanta=-quanta)
            for account, quanta in (*moved, (rest, unattributed_uj))
            if quanta
        )

    async def _unattributed_before(self, interval: Interval) -> int:
        revisions = await self._store.revisions(interval.interval_id)
        return revisions[interval.revision - 1].unattributed_uj

    async def _meta(self, interval: Interval) -> str:
        """
        Say what the entry is about, and commit to every call's share by its hash.
        """
        shares = await self._store.shares(interval.interval_id, interval.revision)
        meta = {
            "kind": "energy",
            "meter": str(interval.meter_id),
            "start": str(interval.start_us),
            "end": str(interval.end_us),
            "calls": len(shares),
            "shares_sha256": shares_hash([(one.call_id, one.energy_uj) for one in shares]),
        }
        return msgspec.json.encode(meta, order="sorted").decode()


def _steps_fault(kind: str, start_us: int, end_us: int, text: str) -> Mapping[str, object]:
    return {
        "kind": kind,
        "device": "step log",
        "start_us": start_us,
        "end_us": end_us,
        "text": text,
    }


def _starts(call: EngineCall, meter: SupplierMeter, *, until_us: int) -> range:
    """
    Return the starts of the intervals that a call ran in, as far as they are divided.
    """
    step_us = meter.terms.interval_us
    # A meter tells nothing of the time before it was added, however long a call had run then.
    first_us = max(call.start_us, to_us(meter.created_at - LOOK_BACK))
    end_us = min(call.end_us, until_us)
    return range(first_us // step_us * step_us, end_us, step_us)


def shares_hash(shares: Sequence[tuple[UUID, int]]) -> str:
    """
    Return the SHA-256 of calls and their microjoules, one line each in the order of their ids.
    """
    lines = "".join(f"{call_id} {energy_uj}\n" for call_id, energy_uj in sorted(shares))
    return hashlib.sha256(lines.encode()).hexdigest()


def _engine_counters(
    readings: Sequence[Reading], start_us: int, end_us: int
) -> EngineCounters | None:
    samples: dict[str, list[tuple[int, int]]] = {}
    for reading in readings:
        if reading.value is not None:
            samples.setdefault(reading.device, []).append((reading.at_us, reading.value))
    names = ("prompt_tokens", "generation_tokens", "prefill_seconds", "decode_seconds")
    found = {
        name: count_between(samples.get(name, ()), start_us, end_us)
        for name in (*names, "cached_tokens")
    }
    prompt, generation, prefill, decode = (found[name] for name in names)
    if prompt is None or generation is None or prefill is None or decode is None:
        return None
    return EngineCounters(
        prompt_tokens=max(0, prompt - (found["cached_tokens"] or 0)) // MICRO,
        generation_tokens=generation // MICRO,
        prefill_us=prefill,
        decode_us=decode,
    )


def _faults_of(said: Meter, start_us: int, end_us: int) -> Sequence[Mapping[str, object]]:
    return [
        {
            "kind": fault.kind.value,
            "device": fault.device,
            "start_us": fault.start_us,
            "end_us": fault.end_us,
            "text": fault.text,
        }
        for fault in said.faults
        if fault.start_us < end_us and fault.end_us >= start_us
    ][:FACTORY_FAULTS_KEPT_MAX]
