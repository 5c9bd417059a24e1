"""
Read and write the schema ``factory``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from psycopg.types.json import Json

from tokenworks.factory.attribution.model import Step, StepPhase, Work
from tokenworks.factory.energy.model import PowerSeries, Quantity, Reading
from tokenworks.factory.errors import MeterExistsError, MeterReadByOtherError
from tokenworks.factory.live.model import (
    CallShare,
    GridMethod,
    Interval,
    Lease,
    MeterReader,
    MeterTerms,
    ShareMethod,
    SourceKind,
    SourceSettings,
    SupplierMeter,
    UnmeteredReason,
)
from tokenworks.factory.live.step_spool import StepsTaken, take
from tokenworks.foundation.limits import (
    FACTORY_READINGS_MAX,
    FACTORY_STEP_S_MAX,
    FACTORY_STEPS_MAX,
)
from tokenworks.postgres.pool import Connection, Pool
from tokenworks.postgres.queries import load

_QUERIES: Final = load("tokenworks.factory.live")
READINGS_KEEP_DAYS: Final = 7
TOKENS: Final = "tokens"
"""The quantity of a counter of the engine, which is no energy."""

SILENCE_US_MAX: Final = 6 * 3_600 * 1_000_000
"""After a longer silence what a counter counted meanwhile is not looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallTotal:
    """
    What a call got of all its intervals, and what was last signed of it.
    """

    call_id: UUID
    energy_uj: int
    prefill_uj: int
    decode_uj: int
    method: str
    is_whole: bool
    is_measured: bool
    start_us: int  # of the first interval it was in
    end_us: int  # of the last one
    metered_us: int  # of all of them together
    addenda: int  # so many were signed before
    signed_uj: int | None  # ``None``, here and below: nothing was signed yet
    signed_whole: bool | None
    context_uj: int
    residency_uj: int
    signed_method: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyGroup:
    """
    Calls of one supplier, buyer, model and method together, by their last addenda.
    """

    supplier_id: UUID
    organisation_id: UUID
    model: str
    method: str
    calls: int
    calls_not_whole: int
    input_tokens: int
    output_tokens: int
    energy_uj: int
    prefill_uj: int
    decode_uj: int
    co2e_ug: int | None
    electricity_quanta: int | None
    charge_quanta: int
    payable_quanta: int
    is_measured: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class UnattributedEnergy:
    """
    What a supplier's meter counted and no call used.
    """

    supplier_id: UUID
    energy_uj: int
    is_measured: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WithoutShare:
    """
    A call that ran in an interval and has no share of it.
    """

    call_id: UUID
    start_us: int
    is_interval: bool  # else there is none: nothing was metered then


@dataclass(frozen=True, slots=True, kw_only=True)
class UnmeteredCalls:
    """
    How many calls at a supplier have no energy, for one reason.
    """

    supplier_id: UUID
    reason: UnmeteredReason
    calls: int


class FactoryStore:
    """
    Meters, readings, intervals, shares and addenda.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def ensure_partitions(self, now: datetime) -> None:
        """
        Make what is needed for now and the coming day; drop readings that are too old.
        """
        await self._execute("ensure_partitions", {"now": now, "keep_days": READINGS_KEEP_DAYS})

    # ------------------------------------------------------------------ meters

    async def add_meter(self, meter: SupplierMeter) -> None:
        """
        Keep a new meter.

        Raises:
            MeterExistsError: The supplier has one in use.
        """
        terms = meter.terms
        rows = await self._fetch(
            "add_meter",
            {
                "meter_id": meter.meter_id,
                "supplier_id": meter.supplier_id,
                "name": terms.name,
                "source": terms.source.value,
                "settings": Json(asdict(terms.settings)),
                "interval_us": terms.interval_us,
                "gap_max_us": terms.gap_max_us,
                "power_max_uw": terms.power_max_uw,
                "devices": list(terms.devices),
                "boundary": terms.boundary,
                "price_nano_per_kwh": terms.price_nano_per_kwh,
                "co2e_mg_per_kwh": terms.co2e_mg_per_kwh,
                "co2e_source": terms.co2e_source,
                "co2e_method": terms.co2e_method and terms.co2e_method.value,
                "actor": meter.actor,
                "created_at": meter.created_at,
            },
        )
        if not rows:
            message = "The supplier has a power meter already; retire it first."
            raise MeterExistsError(message)

    async def meters(
        self,
        *,
        meter_id: UUID | None = None,
        supplier_id: UUID | None = None,
        with_retired: bool = False,
    ) -> list[SupplierMeter]:
        """
        Return meters, those in use first.
        """
        parameters = {
            "meter_id": meter_id,
            "supplier_id": supplier_id,
            "with_retired": with_retired,
        }
        return [_to_meter(row) for row in await self._fetch("meters", parameters)]

    async def retire_meter(self, meter_id: UUID, now: datetime) -> None:
        """
        End a meter's use; safe to repeat.
        """
        await self._execute("retire_meter", {"meter_id": meter_id, "now": now})

    # ------------------------------------------------------------------ readings

    async def add_readings(
        self,
        meter_id: UUID,
        readings: Sequence[Reading],
        *,
        ranges: Mapping[str, int],
        counters: Sequence[tuple[str, int, int]] = (),
        received_at: datetime,
        reader: Lease | None = None,
    ) -> None:
        """
        Keep readings in their order, right or wrong.

        Args:
            meter_id: Whose.
            readings: Of power or energy.
            ranges: How far counters of energy count, by device.
            counters: The engine's own: name, time, count in millionths.
            received_at: Now.
            reader: Who read them, and stays the reader; ``None``: not asked for.

        Raises:
            MeterReadByOtherError: Another one reads this meter; nothing is kept.
        """
        rows: list[tuple[int, str, str, int | None, int | None]] = [
            (one.at_us, one.device, one.quantity.value, one.value, ranges.get(one.device))
            for one in readings
        ]
        rows += [(at_us, name, TOKENS, value, None) for name, at_us, value in counters]
        if rows:
            columns = [list(column) for column in zip(*rows, strict=True)]
            names = ("at_us", "devices", "quantities", "values", "ranges")
            parameters = dict(zip(names, columns, strict=True))
            parameters |= {"meter_id": meter_id, "received_at": received_at}
            async with self._pool.connection() as connection, connection.transaction():
                if reader is not None:
                    # In one transaction: who lost the meter meanwhile writes nothing.
                    await self._lease(connection, meter_id, reader, received_at)
                await connection.execute(_QUERIES["add_readings"], parameters)

    async def release_meter(
        self, meter_id: UUID, now: datetime, *, holder: str | None = None, any_host: bool = False
    ) -> bool:
        """
        Let another one read a meter at once; tell whether somebody did.

        Args:
            meter_id: Of the meter.
            now: When.
            holder: Only where it is read by this one; ``None``: whoever it is.
            any_host: The next one may be on another machine.
        """
        parameters = {"meter_id": meter_id, "now": now, "holder": holder, "any_host": any_host}
        return bool(await self._fetch("release_meter", parameters))

    async def _lease(
        self, connection: Connection, meter_id: UUID, reader: Lease, now: datetime
    ) -> None:
        parameters = {
            "meter_id": meter_id,
            "holder": reader.holder,
            "host": reader.host,
            "now": now,
            "until": now + reader.lifetime,
            "gone": reader.gone,
            "is_in_a_machine": reader.is_in_a_machine,
        }
        cursor = await connection.execute(_QUERIES["lease_meter"], parameters)
        if await cursor.fetchone() is not None:
            return
        cursor = await connection.execute(_QUERIES["reader"], {"meter_id": meter_id})
        row = await cursor.fetchone()
        assert row is not None, "only a row that is there refuses"
        other = MeterReader(holder=row[0], host=row[1], leased_until=row[2])
        raise MeterReadByOtherError(other.tell(now))

    async def series(
        self, meter: SupplierMeter, since_us: int, until_us: int
    ) -> tuple[PowerSeries, list[Reading]]:
        """
        Return what a meter said of a time, and what its engine counted, as they came.

        Readings that are pushed may come late: those that came together are put in their place.
        """
        is_pushed = meter.terms.source is SourceKind.PUSH
        rows = await self._fetch(
            "readings",
            {
                "meter_id": meter.meter_id,
                "by_batch": is_pushed,
                "since_us": since_us,
                "until_us": until_us,
                "oldest_us": since_us - SILENCE_US_MAX,
                "limit": FACTORY_READINGS_MAX,
            },
        )
        readings: list[Reading] = []
        counters: list[Reading] = []
        ranges: dict[str, int] = {}
        came: dict[tuple[object, ...], datetime] = {}
        for at_us, device, quantity, value, counter_range, received_at in rows:
            # Sent again because no answer came: said once, and no fault of the meter.
            said = (at_us, device, quantity, value)
            if is_pushed and came.setdefault(said, received_at) != received_at:
                continue
            is_energy = quantity != TOKENS
            (readings if is_energy else counters).append(
                Reading(
                    device=device,
                    at_us=at_us,
                    quantity=Quantity(quantity) if is_energy else Quantity.COUNTER,
                    value=None if value is None else int(value),
                    column=quantity,
                )
            )
            if counter_range is not None:
                ranges[device] = counter_range
        return PowerSeries(readings=readings, counter_ranges_uj=ranges), counters

    async def reading_span(
        self, meter_id: UUID, since_us: int, until_us: int
    ) -> tuple[int, int] | None:
        """
        Return the first and the last time, by the meter's clock, of readings in a time.
        """
        parameters = {"meter_id": meter_id, "since_us": since_us, "until_us": until_us}
        ((first, last),) = await self._fetch("reading_span", parameters)
        return None if first is None or last is None else (first, last)

    async def late_readings(
        self, meter: SupplierMeter, *, since: datetime, quiet_since: datetime, before_us: int
    ) -> list[int]:
        """
        Return the starts of divided intervals that have got readings since, and no more now.
        """
        rows = await self._fetch(
            "late_readings",
            {
                "meter_id": meter.meter_id,
                "interval_us": meter.terms.interval_us,
                "since": since,
                "quiet_since": quiet_since,
                "before_us": before_us,
            },
        )
        return sorted(row[0] for row in rows)

    # ------------------------------------------------------------------ steps

    async def take_steps(
        self, meter_id: UUID, sent: Sequence[Step], *, latest_us: int, received_at: datetime
    ) -> StepsTaken:
        """
        Keep the steps that fit among those that are there, and say what became of each.
        """
        since_us = min(step.start_us for step in sent)
        until_us = max(step.end_us for step in sent)
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute(_QUERIES["lock_steps"], {"meter_id": meter_id})
            cursor = await connection.execute(
                _QUERIES["steps"], self._time_of_steps(meter_id, since_us - 1, until_us + 1)
            )
            known = [_to_step(row) for row in await cursor.fetchall()]
            taken = take(known, sent, latest_us=latest_us)
            if taken.steps:
                parameters = {
                    "meter_id": meter_id,
                    "received_at": received_at,
                    "names": [step.name for step in taken.steps],
                    "starts": [step.start_us for step in taken.steps],
                    "ends": [step.end_us for step in taken.steps],
                    "phases": [step.phase.value for step in taken.steps],
                    "works": [_to_work_text(step) for step in taken.steps],
                }
                await connection.execute(_QUERIES["add_steps"], parameters)
        return taken

    async def steps(self, meter_id: UUID, since_us: int, until_us: int) -> list[Step]:
        """
        Return the steps that touch a time, in their order.
        """
        parameters = self._time_of_steps(meter_id, since_us, until_us)
        return [_to_step(row) for row in await self._fetch("steps", parameters)]

    async def steps_until(self, meter_id: UUID, since_us: int, until_us: int) -> int | None:
        """
        Return the end of the last step that began in a time; ``None``: none did.
        """
        parameters = {"meter_id": meter_id, "since_us": since_us, "until_us": until_us}
        ((end_us,),) = await self._fetch("steps_until", parameters)
        return end_us

    async def late_steps(
        self, meter: SupplierMeter, *, since: datetime, quiet_since: datetime, before_us: int
    ) -> list[int]:
        """
        Return the starts of divided intervals that have got steps since, and no more now.
        """
        parameters = {
            "meter_id": meter.meter_id,
            "interval_us": meter.terms.interval_us,
            "since": since,
            "quiet_since": quiet_since,
            "before_us": before_us,
        }
        return [row[0] for row in await self._fetch("late_steps", parameters)]

    @staticmethod
    def _time_of_steps(meter_id: UUID, since_us: int, until_us: int) -> dict[str, object]:
        return {
            "meter_id": meter_id,
            "since_us": since_us,
            "until_us": until_us,
            "step_max_us": FACTORY_STEP_S_MAX * 1_000_000,
            "limit": FACTORY_STEPS_MAX,
        }

    # ------------------------------------------------------------------ intervals

    async def divided_until(self, meter_id: UUID) -> int | None:
        """
        Return the end of a meter's last divided interval.
        """
        ((end_us,),) = await self._fetch("posted_until", {"meter_id": meter_id})
        return end_us

    async def claim(self, interval: Interval, shares: Sequence[CallShare]) -> bool:
        """
        Keep a revision with its shares, all or nothing; tell whether it was new.
        """
        parameters = {
            name: getattr(interval, name)
            for name in Interval.__dataclass_fields__
            if name != "posted_at"
        }
        parameters["methods"] = list(interval.methods)
        parameters["faults"] = Json(list(interval.faults))
        async with self._pool.connection() as connection, connection.transaction():
            cursor = await connection.execute(_QUERIES["add_interval"], parameters)
            if await cursor.fetchone() is None:
                return False
            if shares:
                await connection.execute(
                    _QUERIES["add_shares"],
                    {
                        "interval_id": interval.interval_id,
                        "revision": interval.revision,
                        "call_ids": [share.call_id for share in shares],
                        "organisation_ids": [share.organisation_id for share in shares],
                        "energies": [share.energy_uj for share in shares],
                        "prefills": [share.prefill_uj for share in shares],
                        "decodes": [share.decode_uj for share in shares],
                        "contexts": [share.context_uj for share in shares],
                        "residencies": [share.residency_uj for share in shares],
                        "methods": [share.method.value for share in shares],
                        "wholes": [share.is_whole for share in shares],
                    },
                )
        return True

    async def to_post(self, limit: int) -> list[Interval]:
        """
        Return what was claimed and is not in the books yet.
        """
        return [
            _to_interval(row) for row in await self._fetch("intervals_to_post", {"limit": limit})
        ]

    async def mark_posted(self, interval: Interval, now: datetime) -> None:
        """
        Note that a revision is in the books.
        """
        await self._execute(
            "mark_posted",
            {"interval_id": interval.interval_id, "revision": interval.revision, "now": now},
        )

    async def latest(
        self, meter_ids: Sequence[UUID], since_us: int, until_us: int
    ) -> list[Interval]:
        """
        Return the last revision of each interval in a time, oldest first.
        """
        parameters = {"meter_ids": list(meter_ids), "since_us": since_us, "until_us": until_us}
        return [_to_interval(row) for row in await self._fetch("latest_intervals", parameters)]

    async def unattributed(self, since_us: int, until_us: int) -> list[UnattributedEnergy]:
        """
        Return what no call used of what was metered in a time, by supplier.
        """
        rows = await self._fetch("unattributed", {"since_us": since_us, "until_us": until_us})
        names = tuple(UnattributedEnergy.__dataclass_fields__)
        return [UnattributedEnergy(**dict(zip(names, row, strict=True))) for row in rows]

    async def revisions(self, interval_id: UUID) -> list[Interval]:
        """
        Return every revision of an interval, the first one first.
        """
        rows = await self._fetch("revisions", {"interval_id": interval_id})
        return [_to_interval(row) for row in rows]

    async def sums(self, interval_id: UUID, revision: int) -> dict[UUID, int]:
        """
        Return what each buyer's calls got in one revision.
        """
        parameters = {"interval_id": interval_id, "revision": revision}
        return dict(await self._fetch("sums_by_organisation", parameters))

    async def shares(self, interval_id: UUID, revision: int) -> list[CallShare]:
        """
        Return every call's share of one revision.
        """
        parameters = {"interval_id": interval_id, "revision": revision}
        return [
            CallShare(
                call_id=call_id,
                organisation_id=organisation_id,
                energy_uj=energy_uj,
                prefill_uj=prefill_uj,
                decode_uj=decode_uj,
                method=ShareMethod(method),
                is_whole=is_whole,
                context_uj=context_uj,
                residency_uj=residency_uj,
            )
            for (
                call_id,
                organisation_id,
                energy_uj,
                prefill_uj,
                decode_uj,
                method,
                is_whole,
                context_uj,
                residency_uj,
            ) in await self._fetch("shares_of_interval", parameters)
        ]

    # ------------------------------------------------------------------ addenda

    async def intervals_since(self, meter_id: UUID, since: datetime, oldest_us: int) -> list[UUID]:
        """
        Return the intervals of a meter that were divided since, of those not too old.
        """
        parameters = {"meter_id": meter_id, "since": since, "oldest_us": oldest_us}
        return [row[0] for row in await self._fetch("intervals_since", parameters)]

    async def last_computed_at(self, meter_id: UUID) -> datetime | None:
        """
        Return when a meter's newest interval was divided; ``None``: it has none.
        """
        ((computed_at,),) = await self._fetch("last_computed_at", {"meter_id": meter_id})
        return computed_at

    async def revisions_at(self, meter_id: UUID, starts: Sequence[int]) -> dict[int, int]:
        """
        Return the last revision of the intervals that begin at some moments.
        """
        parameters = {"meter_id": meter_id, "starts": list(starts)}
        return dict(await self._fetch("revisions_at", parameters)) if starts else {}

    async def following(self, meter_id: UUID, starts: Sequence[int]) -> list[int]:
        """
        Return the start of the next interval after each of some moments.
        """
        parameters = {"meter_id": meter_id, "starts": list(starts)}
        return [row[0] for row in await self._fetch("following", parameters)] if starts else []

    async def without_share(
        self,
        meter_id: UUID,
        ran: Sequence[tuple[UUID, int, datetime]],
        *,
        commit: timedelta,
    ) -> list[WithoutShare]:
        """
        Return which calls have no share of an interval they ran in, and where none is.

        Args:
            meter_id: Of the meter.
            ran: Calls, the starts of intervals, and when the call came into the books.
            commit: A call may become visible so long after that time.
        """
        if not ran:
            return []
        call_ids, starts, booked = (list(column) for column in zip(*ran, strict=True))
        parameters = {
            "meter_id": meter_id,
            "call_ids": call_ids,
            "starts": starts,
            "booked": booked,
            "commit": commit,
        }
        return [
            WithoutShare(call_id=call_id, start_us=start_us, is_interval=is_interval)
            for call_id, start_us, is_interval in await self._fetch("without_share", parameters)
        ]

    async def note_unmetered(
        self, meter_id: UUID, calls: Sequence[tuple[UUID, str, datetime]], *, now: datetime
    ) -> None:
        """
        Keep that calls get no energy, with the reason and when they came into the books.
        """
        call_ids, reasons, booked = (list(column) for column in zip(*calls, strict=True))
        parameters = {"call_ids": call_ids, "reasons": reasons, "booked": booked}
        await self._execute("note_unmetered", parameters | {"meter_id": meter_id, "now": now})

    async def unmetered(self, since: datetime, until: datetime) -> list[UnmeteredCalls]:
        """
        Return how many calls of a time have no energy, by supplier and reason.
        """
        return [
            UnmeteredCalls(supplier_id=supplier_id, reason=UnmeteredReason(reason), calls=calls)
            for supplier_id, reason, calls in await self._fetch(
                "unmetered", {"since": since, "until": until}
            )
        ]

    async def call_totals(
        self, interval_ids: Sequence[UUID], call_ids: Sequence[UUID] = ()
    ) -> list[CallTotal]:
        """
        Return what some calls, and those of some intervals, got altogether.
        """
        parameters = {"interval_ids": list(interval_ids), "call_ids": list(call_ids)}
        rows = await self._fetch("call_totals", parameters)
        return [
            CallTotal(
                call_id=row[0],
                energy_uj=row[1],
                prefill_uj=row[2],
                decode_uj=row[3],
                method="+".join(row[4] or [ShareMethod.OVERLAP.value]),
                is_whole=row[5],
                is_measured=row[6],
                start_us=row[7],
                end_us=row[8],
                metered_us=row[9],
                addenda=row[10],
                signed_uj=row[11],
                signed_whole=row[12],
                context_uj=row[13],
                residency_uj=row[14],
                signed_method=row[15],
            )
            for row in rows
        ]

    async def add_addenda(self, rows: Sequence[Mapping[str, object]]) -> None:
        """
        Keep signed addenda, all or none; those whose number is taken change nothing.
        """
        async with self._pool.connection() as connection, connection.transaction():
            await connection.cursor().executemany(_QUERIES["add_addendum"], rows)

    async def addenda(self, call_id: UUID) -> list[str]:
        """
        Return what was signed about a call, as compact JWS in their order.
        """
        return [row[0] for row in await self._fetch("addenda_of_call", {"call_id": call_id})]

    async def energy_groups(self, since: datetime, until: datetime) -> list[EnergyGroup]:
        """
        Return the energy of calls that ended in a time, the most first.
        """
        rows = await self._fetch("energy_by_call_group", {"since": since, "until": until})
        names = tuple(EnergyGroup.__dataclass_fields__)
        return [EnergyGroup(**dict(zip(names, row, strict=True))) for row in rows]

    # ------------------------------------------------------------------ below

    async def _execute(self, query: str, parameters: Mapping[str, Any]) -> None:
        async with self._pool.connection() as connection:
            await connection.execute(_QUERIES[query], parameters)

    async def _fetch(self, query: str, parameters: Mapping[str, Any]) -> list[Any]:
        async with self._pool.connection() as connection:
            return await (await connection.execute(_QUERIES[query], parameters)).fetchall()


def _to_meter(row: Sequence[Any]) -> SupplierMeter:
    (
        meter_id,
        supplier_id,
        name,
        source,
        settings,
        interval_us,
        gap_max_us,
        power_max_uw,
        devices,
        boundary,
        price_nano_per_kwh,
        co2e_mg_per_kwh,
        co2e_source,
        co2e_method,
        actor,
        created_at,
        retired_at,
        holder,
        host,
        leased_until,
    ) = row
    return SupplierMeter(
        meter_id=meter_id,
        supplier_id=supplier_id,
        terms=MeterTerms(
            name=name,
            source=SourceKind(source),
            settings=SourceSettings(**settings),
            interval_us=interval_us,
            gap_max_us=gap_max_us,
            power_max_uw=power_max_uw,
            devices=tuple(devices),
            boundary=boundary,
            price_nano_per_kwh=price_nano_per_kwh,
            co2e_mg_per_kwh=co2e_mg_per_kwh,
            co2e_source=co2e_source,
            co2e_method=None if co2e_method is None else GridMethod(co2e_method),
        ),
        actor=actor,
        created_at=created_at,
        retired_at=retired_at,
        reader=None
        if holder is None
        else MeterReader(holder=holder, host=host, leased_until=leased_until),
    )


def _to_work_text(step: Step) -> str:
    return json.dumps(
        [
            [one.call, one.prefill_tokens, one.decode_tokens, one.context_tokens]
            for one in step.work
        ],
        separators=(",", ":"),
    )


def _to_step(row: Sequence[Any]) -> Step:
    name, start_us, end_us, phase, work = row
    return Step(
        name=name,
        start_us=start_us,
        end_us=end_us,
        phase=StepPhase(phase),
        work=[
            Work(call=call, prefill_tokens=prefill, decode_tokens=decode, context_tokens=context)
            for call, prefill, decode, context in work
        ],
        row=0,
    )


def _to_interval(row: Sequence[Any]) -> Interval:
    return Interval(**dict(zip(Interval.__dataclass_fields__, row, strict=True)))
