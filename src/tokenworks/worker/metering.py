"""
Read the meters that the hub reads itself, beside the worker's other jobs.

A reading that fails is a gap, and a gap is flagged: nothing is made up, and the source is opened
anew next time, because its process may have been started again.

Any number of workers may run: each meter is read by one of them, who says so in the database with
each reading. Another one takes over when that lease has run out, or its holder is gone for certain;
a meter that is in a machine (and not behind an exporter) is read by that machine's workers alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

import psycopg
import structlog
from psycopg_pool import PoolTimeout

from tokenworks.factory.errors import MeterReadByOtherError, PowerSourceError
from tokenworks.factory.live.model import Lease, SourceKind, SupplierMeter
from tokenworks.factory.live.service import LEASE_S, to_us
from tokenworks.factory.live.store import FactoryStore
from tokenworks.factory.ports import PowerSource
from tokenworks.foundation.clock import Clock

READ_EVERY_S: Final = 0.5
METERS_EVERY_S: Final = 2.0
READ_TIMEOUT_S: Final = 10.0

_log = structlog.get_logger("tokenworks.worker")

OpenSource = Callable[[SupplierMeter], PowerSource]
ReadCounters = Callable[[str], Mapping[str, int]]


@dataclass(slots=True, kw_only=True)
class _Open:
    """
    A meter, and its source while that can be read.
    """

    meter: SupplierMeter
    source: PowerSource | None = None
    reading: asyncio.Task[None] | None = None
    fault: str | None = None  # the last one, told once
    gone: str | None = None  # who read it and is gone for certain


class Metering:
    """
    Read every meter in its own turn; one that is slow keeps no other waiting.

    Args:
        store: Keeps readings and knows the meters.
        open_source: Opens a meter's source; blocks.
        read_counters: Reads an engine's counters at a URL; blocks.
        clock: When readings came.
        holder: What this process is called.
        host: What its machine is called.
        is_gone: Whether another holder runs no more; ``None``: cannot be told from here.
    """

    def __init__(
        self,
        store: FactoryStore,
        *,
        open_source: OpenSource,
        read_counters: ReadCounters,
        clock: Clock,
        holder: str = "worker",
        host: str = "",
        is_gone: Callable[[str], bool | None] = lambda _: None,
    ) -> None:
        self._store = store
        self._open_source = open_source
        self._read_counters = read_counters
        self._clock = clock
        self._holder = holder
        self._host = host
        self._is_gone = is_gone
        self._others: dict[UUID, str] = {}  # why a meter is not read here, told once
        self._open: dict[UUID, _Open] = {}
        self._look_at_s = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """
        Read until told to stop.
        """
        while not stop.is_set():
            try:
                await self.tick()
            except (psycopg.Error, PoolTimeout) as error:
                _log.warning("job_failed", job="read_meters", reason=str(error))
            try:
                await asyncio.wait_for(stop.wait(), READ_EVERY_S)
            except TimeoutError:
                continue
        for one in self._open.values():
            if one.reading is not None:
                one.reading.cancel()
        try:
            await self.release()
        except (psycopg.Error, PoolTimeout) as error:
            _log.warning("job_failed", job="release_meters", reason=str(error))

    async def release(self) -> None:
        """
        Let others read at once what this process read.
        """
        for meter_id in self._open:
            await self._store.release_meter(meter_id, self._clock.now(), holder=self._holder)

    async def tick(self) -> None:
        """
        Begin to read every meter that is not being read.
        """
        now_s = self._clock.monotonic_s()
        if now_s >= self._look_at_s:
            self._look_at_s = now_s + METERS_EVERY_S
            await self._look()
        for one in self._open.values():
            if one.reading is None or one.reading.done():
                one.reading = asyncio.create_task(self._read(one))

    async def settle(self) -> None:
        """
        Return when what was begun is kept.
        """
        begun = [one.reading for one in self._open.values() if one.reading is not None]
        await asyncio.gather(*begun)

    async def _look(self) -> None:
        meters = {
            meter.meter_id: meter
            for meter in await self._store.meters()
            if meter.terms.source is not SourceKind.PUSH
        }
        for meter_id in self._open.keys() - meters.keys():
            del self._open[meter_id]
        for meter_id, meter in meters.items():
            other = self._find_other(meter)
            if other is None:
                one = self._open.setdefault(meter_id, _Open(meter=meter))
                one.gone = self._find_gone(meter)
                self._others.pop(meter_id, None)
                continue
            self._open.pop(meter_id, None)
            if self._others.get(meter_id) != other:
                _log.info("meter_read_by_other", meter=meter.terms.name, reader=other)
            self._others[meter_id] = other

    def _find_other(self, meter: SupplierMeter) -> str | None:
        """
        Return who reads a meter instead of this process; ``None``: nobody does.
        """
        named, reader = meter.terms.settings.host, meter.reader
        if named is not None and named != self._host:
            return named
        if reader is None or reader.holder == self._holder:
            return None
        is_elsewhere = reader.host not in {"", self._host}
        if meter.terms.source.is_in_a_machine and is_elsewhere:
            return reader.host
        is_free = reader.leased_until <= self._clock.now() or self._find_gone(meter) is not None
        return None if is_free else reader.holder

    def _find_gone(self, meter: SupplierMeter) -> str | None:
        reader = meter.reader
        if reader is None or reader.holder == self._holder or not self._is_gone(reader.holder):
            return None
        return reader.holder

    async def _read(self, one: _Open) -> None:
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                await self._read_once(one)
        except MeterReadByOtherError as error:
            # Both looked at once and the other one was first: what was read is not kept.
            one.source = None
            _log.info("meter_read_by_other", meter=one.meter.terms.name, reader=error.message)
            self._look_at_s = 0.0
            return
        except (PowerSourceError, TimeoutError, psycopg.Error, PoolTimeout, OSError) as error:
            one.source = None
            fault = str(error) or type(error).__name__
            if fault != one.fault:
                _log.warning("meter_not_read", meter=one.meter.terms.name, reason=fault)
            one.fault = fault
            return
        if one.fault is not None:
            _log.info("meter_read_again", meter=one.meter.terms.name)
            one.fault = None

    async def _read_once(self, one: _Open) -> None:
        meter = one.meter
        source = one.source
        if source is None:
            source = one.source = await asyncio.to_thread(self._open_source, meter)
        readings = await asyncio.to_thread(source.read)
        now = self._clock.now()
        await self._store.add_readings(
            meter.meter_id,
            readings,
            ranges=source.counter_ranges_uj,
            received_at=now,
            reader=self._lease(one),
        )
        url = meter.terms.settings.engine_url
        if url is not None:
            # After the readings of power, so that an engine that does not answer costs none.
            counted = await asyncio.to_thread(self._read_counters, url)
            now = self._clock.now()
            counters = [(name, to_us(now), value) for name, value in counted.items()]
            await self._store.add_readings(
                meter.meter_id,
                (),
                ranges={},
                counters=counters,
                received_at=now,
                reader=self._lease(one),
            )

    def _lease(self, one: _Open) -> Lease:
        return Lease(
            holder=self._holder,
            host=self._host,
            lifetime=timedelta(seconds=LEASE_S),
            is_in_a_machine=one.meter.terms.source.is_in_a_machine,
            gone=one.gone,
        )
