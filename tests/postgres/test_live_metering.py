"""
The worker's reading of meters: what fails is a gap, and nobody else waits for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from tokenworks.factory.energy.model import Quantity, Reading
from tokenworks.factory.errors import PowerSourceError
from tokenworks.factory.live.model import MeterTerms, SourceKind, SourceSettings, SupplierMeter
from tokenworks.factory.live.service import LiveFactory, to_us
from tokenworks.factory.live.store import FactoryStore
from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.postgres.pool import Pool
from tokenworks.worker.metering import Metering


class CountingSource:
    """
    A counter that goes up by a joule at each reading, and is away when it is told to.
    """

    def __init__(self, name: str, clock: FakeClock) -> None:
        self.name = name
        self.clock = clock
        self.joules = 0
        self.is_away = False

    def read(self) -> Sequence[Reading]:
        """
        Return the counter.
        """
        if self.is_away:
            raise PowerSourceError("The driver is gone.")
        self.joules += 1
        reading = Reading(
            device=self.name,
            at_us=to_us(self.clock.now()) + self.joules,
            quantity=Quantity.COUNTER,
            value=self.joules * 1_000_000,
        )
        return [reading]

    @property
    def counter_ranges_uj(self) -> Mapping[str, int]:
        """
        Return where it begins again.
        """
        return {self.name: 1 << 40}


async def add(
    factory: LiveFactory,
    number: int,
    *,
    source: SourceKind = SourceKind.RAPL,
    engine_url: str | None = None,
) -> SupplierMeter:
    """
    Add a meter of a supplier of its own.
    """
    settings = SourceSettings(engine_url=engine_url)
    terms = MeterTerms(name=f"m{number}", source=source, settings=settings)
    return await factory.add_meter(UUID(int=number), terms, actor="test")


async def test_each_meter_is_read_by_itself(
    pool: Pool, clock: FakeClock, ids: IdentifierSource
) -> None:
    """
    A source that fails costs its own readings and is opened again; what is pushed is not read;
    a retired meter is read no more; an engine's counters come beside the power.
    """
    store = FactoryStore(pool)
    await store.ensure_partitions(clock.now())
    factory = LiveFactory(store, clock, ids)
    good = await add(factory, 1)
    bad = await add(factory, 2)
    engine = await add(factory, 3, engine_url="http://engine/metrics")
    await add(factory, 4, source=SourceKind.PUSH)
    sources = {one.meter_id: CountingSource(one.terms.name, clock) for one in (good, bad, engine)}
    opened: list[str] = []

    def open_source(meter: SupplierMeter) -> CountingSource:
        opened.append(meter.terms.name)
        return sources[meter.meter_id]

    metering = Metering(
        store,
        open_source=open_source,
        read_counters=lambda url: {"prompt_tokens": len(url)},
        clock=clock,
    )

    async def tick(times: int = 1) -> None:
        for _ in range(times):
            await metering.tick()
            await metering.settle()

    await tick(2)
    sources[bad.meter_id].is_away = True
    await tick(2)
    sources[bad.meter_id].is_away = False
    await tick()

    async def count(meter: SupplierMeter) -> tuple[int, int]:
        at_us = to_us(clock.now())
        series, counters = await store.series(meter, at_us - 10**9, at_us + 10**9)
        return len(series.readings), len(counters)

    assert sorted(opened) == ["m1", "m2", "m2", "m2", "m3"]
    assert [await count(one) for one in (good, bad, engine)] == [(5, 0), (3, 0), (5, 5)]
    series, _ = await store.series(good, 0, 1 << 60)
    assert series.counter_ranges_uj == {"m1": 1 << 40}

    await factory.retire_meter(good.meter_id)
    metering._look_at_s = 0.0
    await tick()
    assert [await count(one) for one in (good, engine)] == [(5, 0), (6, 6)]
