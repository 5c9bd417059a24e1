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
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec
import structlog

from tokenworks.factory.energy.model import MODEL_PREFIX, Reading
from tokenworks.factory.energy.validation import Meter, validate
from tokenworks.factory.errors import EnergyNotPostedError
from tokenworks.factory.live.dividing import count_between, divide, unplaced_between
from tokenworks.factory.live.model import (
    MICRO,
    EngineCounters,
    Interval,
    SupplierMeter,
    interval_id,
)
from tokenworks.factory.live.proving import EnergyProofs
from tokenworks.factory.live.service import to_us
from tokenworks.factory.live.store import FactoryStore
from tokenworks.factory.ports import EngineCalls
from tokenworks.foundation.clock import Clock
from tokenworks.foundation.limits import FACTORY_FAULTS_KEPT_MAX
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
"""What comes later than this for an interval is not looked for any more."""

LATE_EVERY_S: Final = 20.0
INTERVALS_PER_RUN_MAX: Final = 60
RETIRED_LOOK_BACK: Final = timedelta(days=1)
LATE_OVERLAP: Final = timedelta(seconds=30)
_COMMIT_US: Final = 5 * MICRO
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
        self._has_looked_back: set[UUID] = set()
        self._looked_for_late: dict[UUID, tuple[float, datetime]] = {}

    async def run(self) -> EnergyReport:
        """
        Do what is due for every meter; a repeat finds nothing to do.
        """
        await self._post_claimed()
        total = EnergyReport()
        retired_since = self._clock.now() - RETIRED_LOOK_BACK
        for meter in await self._store.meters(with_retired=True):
            if meter.retired_at is None or meter.retired_at > retired_since:
                done = await self._run_meter(meter)
                total = EnergyReport(
                    posted=total.posted + done.posted,
                    corrected=total.corrected + done.corrected,
                    signed=total.signed + done.signed,
                )
        if total.posted or total.signed:
            _log.info("energy_posted", intervals=total.posted, addenda=total.signed)
        return total

    async def _run_meter(self, meter: SupplierMeter) -> EnergyReport:
        divided = await self.divide_due(meter)
        corrected = await self._divide_late(meter)
        await self._post_claimed()
        touched = [interval_id(meter.meter_id, start_us) for start_us in (*divided, *corrected)]
        if meter.meter_id not in self._has_looked_back:
            # A process that died may have posted and not signed.
            since_us = to_us(self._clock.now() - LOOK_BACK)
            touched += await self._store.recent_intervals(meter.meter_id, since_us)
            self._has_looked_back.add(meter.meter_id)
        signed = 0
        if touched:
            signed = await self._proofs.prove(meter, touched, signer=self._signer)
        return EnergyReport(posted=len(divided), corrected=len(corrected), signed=signed)

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
            await self._claim(meter, start_us, revision=0)
            done.append(start_us)
            start_us = end_us
        return done

    async def _divide_late(self, meter: SupplierMeter) -> list[int]:
        """
        Divide anew what readings or calls came late for.
        """
        until_us = await self._store.divided_until(meter.meter_id)
        now, now_s = self._clock.now(), self._clock.monotonic_s()
        looked_s, ended_since = self._looked_for_late.get(
            meter.meter_id, (-LATE_EVERY_S, now - LOOK_BACK)
        )
        if until_us is None or now_s - looked_s < LATE_EVERY_S:
            return []
        self._looked_for_late[meter.meter_id] = now_s, now - LATE_OVERLAP
        late = set(
            await self._store.late_readings(
                meter,
                since=now - LOOK_BACK,
                # Not while more may come.
                quiet_since=now - timedelta(microseconds=meter.terms.interval_us),
                before_us=until_us,
            )
        )
        since_us = to_us(now - LOOK_BACK)
        intervals = await self._store.latest([meter.meter_id], since_us, until_us)
        if not intervals:
            return []
        calls = await self._calls.of_supplier(
            meter.supplier_id,
            intervals[0].start_us,
            intervals[-1].end_us,
            ended_since=ended_since,
        )
        revisions = {interval.start_us: interval.revision for interval in intervals}
        for interval in intervals:
            known_until = to_us(interval.computed_at) - _COMMIT_US
            suspects = {
                call.call_id
                for call in calls
                if to_us(call.ended_at) > known_until
                and call.start_us < interval.end_us
                and call.end_us > interval.start_us
            }
            if suspects:
                shares = await self._store.shares(interval.interval_id, interval.revision)
                if suspects - {share.call_id for share in shares}:
                    late.add(interval.start_us)
        # What fills a gap also changes the interval in which the gap ended.
        known = sorted(revisions)
        next_places = {bisect_right(known, start_us) for start_us in late}
        late |= {known[place] for place in next_places if place < len(known)}
        done = sorted(late)
        for start_us in done:
            await self._claim(meter, start_us, revision=revisions.get(start_us, -1) + 1)
        return done

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
                faults=_faults_of(said, start_us, end_us),
                computed_at=computed_at,
                posted_at=None,
            ),
            division.shares,
        )

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
