"""
What the doors ask of the factory at work: its meters, what they say now, what calls took.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from tokenworks.factory.attribution.model import Step
from tokenworks.factory.energy.model import Fault, Reading
from tokenworks.factory.energy.validation import Meter, validate
from tokenworks.factory.errors import (
    MeterInvalidError,
    MeterNotFoundError,
    MeterSourceTakenError,
    ReadingsInvalidError,
    StepsInvalidError,
)
from tokenworks.factory.live.model import (
    MICRO,
    Interval,
    Lease,
    MeterTerms,
    SourceKind,
    SupplierMeter,
)
from tokenworks.factory.live.step_spool import Remark, StepsTaken
from tokenworks.factory.live.store import (
    EnergyGroup,
    FactoryStore,
    UnattributedEnergy,
    UnmeteredCalls,
)
from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import ConflictError
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.limits import FACTORY_READINGS_SENT_MAX, FACTORY_STEPS_SENT_MAX

FAULTS_SHOWN_MAX: Final = 50
CLOCK_AHEAD_MAX: Final = timedelta(minutes=5)
"""Readings further ahead of the hub's clock are refused: nothing could be said of that time yet."""

LEASE_S: Final = 10.0
"""So long after its last readings a meter is its reader's, who may only be slow."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def to_us(moment: datetime) -> int:
    """
    Return microseconds since 1970.
    """
    return (moment - _EPOCH) // timedelta(microseconds=1)


def from_us(at_us: int) -> datetime:
    """
    Return the moment of microseconds since 1970.
    """
    return _EPOCH + timedelta(microseconds=at_us)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """
    What a meter said of an interval that is not divided yet.
    """

    start_us: int
    end_us: int
    metered_uj: int
    covered_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveMeter:
    """
    One meter's last minutes.
    """

    meter: SupplierMeter
    intervals: Sequence[Interval]
    tail: Sequence[Tail]
    faults: Sequence[Fault]  # of the tail
    last_reading_us: int | None
    divided_until_us: int | None


class LiveFactory:
    """
    Keep meters and readings, and show what they said.
    """

    def __init__(self, store: FactoryStore, clock: Clock, ids: IdentifierSource) -> None:
        self.store = store
        self._clock = clock
        self._ids = ids

    async def add_meter(self, supplier_id: UUID, terms: MeterTerms, *, actor: str) -> SupplierMeter:
        """
        Add a supplier's meter; it is read from now on.

        Raises:
            MeterInvalidError: What it takes to read it is missing.
            MeterExistsError: The supplier has one in use.
            MeterSourceTakenError: Another supplier's meter reads the same.
        """
        _require_settings(terms)
        for other in await self.store.meters():
            if other.supplier_id != supplier_id and _reads_the_same(terms, other):
                message = (
                    f"The meter {other.terms.name!r} ({other.meter_id}) reads the same"
                    f" {terms.source}: its energy would be counted twice."
                )
                if terms.source.is_in_a_machine:
                    message += " If it is on another machine, name the host of both."
                raise MeterSourceTakenError(message, param="source")
        meter = SupplierMeter(
            meter_id=self._ids.mint(),
            supplier_id=supplier_id,
            terms=terms,
            actor=actor,
            created_at=self._clock.now(),
            retired_at=None,
        )
        await self.store.add_meter(meter)
        return meter

    async def get_meter(self, meter_id: UUID) -> SupplierMeter:
        """
        Return a meter, retired or not.

        Raises:
            MeterNotFoundError: There is none with this id.
        """
        found = await self.store.meters(meter_id=meter_id, with_retired=True)
        if not found:
            raise MeterNotFoundError(f"There is no power meter {meter_id}.")
        return found[0]

    async def retire_meter(self, meter_id: UUID) -> SupplierMeter:
        """
        End a meter's use; what it said is still divided. A repeat changes nothing.
        """
        meter = await self.get_meter(meter_id)
        if meter.retired_at is not None:
            return meter
        now = self._clock.now()
        await self.store.retire_meter(meter_id, now)
        return replace(meter, retired_at=now)

    async def release_meter(self, meter_id: UUID, *, holder: str | None = None) -> SupplierMeter:
        """
        Let anybody read a meter next; a repeat changes nothing.

        Args:
            meter_id: Of the meter.
            holder: Only where this one reads it; ``None``: whoever it is, on any machine.
        """
        await self.get_meter(meter_id)
        now = self._clock.now()
        await self.store.release_meter(meter_id, now, holder=holder, any_host=holder is None)
        return await self.get_meter(meter_id)

    async def take_readings(
        self,
        meter_id: UUID,
        readings: Sequence[Reading],
        *,
        counter_ranges_uj: Mapping[str, int] | None = None,
        reader: str = "push",
        lease_s: float = LEASE_S,
    ) -> int:
        """
        Keep what an engine's site sends, right or wrong: it is judged when it is divided.

        Args:
            meter_id: Of the meter.
            readings: In the order in which they were taken.
            counter_ranges_uj: How far counters count, by device.
            reader: Who sends; one at a time.
            lease_s: So long after these readings nobody else may send any.

        Raises:
            ReadingsInvalidError: Too many at once, or from the future.
            MeterReadByOtherError: Another one sends them.
            ConflictError: The meter is read by the hub itself, or is retired.
        """
        meter = await self.get_meter(meter_id)
        if meter.terms.source is not SourceKind.PUSH:
            message = f"The hub reads this meter itself ({meter.terms.source})."
            raise ConflictError(message, code="meter_is_read")
        if meter.retired_at is not None:
            raise ConflictError("The meter is retired.", code="meter_retired")
        if len(readings) > FACTORY_READINGS_SENT_MAX:
            message = f"At most {FACTORY_READINGS_SENT_MAX} readings are taken at once."
            raise ReadingsInvalidError(message)
        now = self._clock.now()
        latest_us = to_us(now + CLOCK_AHEAD_MAX)
        for row, reading in enumerate(readings, start=1):
            if reading.at_us > latest_us:
                message = f"row {row}, column time: is more than 5 minutes ahead of the hub"
                raise ReadingsInvalidError(message, param="time")
        await self.store.add_readings(
            meter_id,
            readings,
            ranges=counter_ranges_uj or {},
            received_at=now,
            reader=Lease(holder=reader, host="", lifetime=timedelta(seconds=lease_s)),
        )
        return len(readings)

    async def take_steps(
        self, meter_id: UUID, sent: Sequence[Step], *, refused: Sequence[Remark] = ()
    ) -> StepsTaken:
        """
        Keep steps of the engine behind a meter; each row that is not kept is named.

        Args:
            meter_id: Of the meter, of any source.
            sent: In the order in which they came.
            refused: Rows that could not be read.

        Raises:
            StepsInvalidError: No row could be kept, or there are too many.
            ConflictError: The meter is retired.
        """
        meter = await self.get_meter(meter_id)
        if meter.retired_at is not None:
            raise ConflictError("The meter is retired.", code="meter_retired")
        if len(sent) > FACTORY_STEPS_SENT_MAX:
            message = f"At most {FACTORY_STEPS_SENT_MAX} steps are taken at once."
            raise StepsInvalidError(message, param="steps")
        now = self._clock.now()
        taken = StepsTaken()
        if sent:
            latest_us = to_us(now + CLOCK_AHEAD_MAX)
            taken = await self.store.take_steps(
                meter_id, sent, latest_us=latest_us, received_at=now
            )
        taken.refused = sorted([*refused, *taken.refused], key=lambda one: one.row)
        if taken.refused and not taken.steps and not taken.repeated:
            first = taken.refused[0]
            message = f"row {first.row}, column {first.column}: {first.text}"
            rows = [
                {"row": one.row, "column": one.column, "text": one.text} for one in taken.refused
            ]
            raise StepsInvalidError(message, param=first.column, details={"refused": rows})
        return taken

    async def look(self, meter: SupplierMeter, minutes: int) -> LiveMeter:
        """
        Return a meter's last minutes: intervals that were divided, then what came since.
        """
        now_us = to_us(self._clock.now())
        since_us = now_us - minutes * 60 * MICRO
        step_us = meter.terms.interval_us
        intervals = await self.store.latest([meter.meter_id], since_us, now_us)
        divided_us = await self.store.divided_until(meter.meter_id)
        tail_us = since_us // step_us * step_us
        if divided_us is not None and divided_us > tail_us:
            tail_us = divided_us
        said = await self.measure(meter, tail_us, now_us)
        tail = [
            Tail(
                start_us=start_us,
                end_us=min(start_us + step_us, said.end_us),
                metered_uj=said.energy_uj(start_us, min(start_us + step_us, said.end_us)),
                covered_us=said.covered_us(start_us, min(start_us + step_us, said.end_us)),
            )
            for start_us in range(tail_us, said.end_us, step_us)
            if start_us + step_us > said.start_us
        ]
        span = await self.store.reading_span(meter.meter_id, since_us, now_us)
        return LiveMeter(
            meter=meter,
            intervals=intervals,
            tail=tail,
            faults=sorted(said.faults, key=lambda fault: -fault.start_us)[:FAULTS_SHOWN_MAX],
            last_reading_us=None if span is None else span[1],
            divided_until_us=divided_us,
        )

    async def measure(self, meter: SupplierMeter, start_us: int, end_us: int) -> Meter:
        """
        Return what a meter validly said of a time, with the readings just outside it.
        """
        margin_us = meter.terms.gap_max_us
        series, _ = await self.store.series(meter, start_us - margin_us, end_us + margin_us)
        return validate(series, meter.terms.rules)

    async def energy_groups(self, hours: int) -> list[EnergyGroup]:
        """
        Return the energy of the calls that ended in the last hours, the most first.
        """
        now = self._clock.now()
        return await self.store.energy_groups(now - timedelta(hours=hours), now)

    async def unmetered(self, hours: int) -> list[UnmeteredCalls]:
        """
        Return how many calls of the last hours have no energy, by supplier and reason.
        """
        now = self._clock.now()
        return await self.store.unmetered(now - timedelta(hours=hours), now)

    async def unattributed(self, hours: int) -> list[UnattributedEnergy]:
        """
        Return what no call used of what was metered in the last hours, by supplier.
        """
        now_us = to_us(self._clock.now())
        return await self.store.unattributed(now_us - hours * 3_600 * MICRO, now_us)


def _reads_the_same(terms: MeterTerms, other: SupplierMeter) -> bool:
    """
    Tell whether two meters would count the same joules.
    """
    mine, theirs = terms.settings, other.terms.settings
    if terms.source is not other.terms.source or terms.source is SourceKind.PUSH:
        return False
    if terms.source is SourceKind.DCGM:
        return mine.url == theirs.url
    their_host = theirs.host or (other.reader.host if other.reader else None)
    if mine.host is not None and their_host and mine.host != their_host:
        return False
    is_model = terms.source is SourceKind.MODEL
    return not is_model or (mine.port, mine.pid) == (theirs.port, theirs.pid)


def _require_settings(terms: MeterTerms) -> None:
    settings = terms.settings
    if terms.source is SourceKind.DCGM and settings.url is None:
        raise MeterInvalidError("A meter of the source dcgm needs the exporter's url.", param="url")
    if terms.source is SourceKind.MODEL:
        if (settings.port is None) == (settings.pid is None):
            message = "A meter of the source model needs the engine's port or its pid."
            raise MeterInvalidError(message, param="port")
        if settings.tdp_w is None:
            message = "A meter of the source model needs the CPU's tdp_w."
            raise MeterInvalidError(message, param="tdp_w")
    if terms.co2e_mg_per_kwh is not None and not (terms.co2e_source and terms.co2e_method):
        message = "A grid factor says who gives it (source) and what it stands for (method)."
        raise MeterInvalidError(message, param="grid")
    if terms.gap_max_us >= terms.interval_us:
        message = "The greatest gap is shorter than an interval."
        raise MeterInvalidError(message, param="gap_max_s")
