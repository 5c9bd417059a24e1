"""
The worker's reading of meters: what fails is a gap, and nobody else waits for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from uuid import UUID

import pytest

from tokenworks.factory.energy.model import Quantity, Reading
from tokenworks.factory.errors import (
    MeterReadByOtherError,
    MeterSourceTakenError,
    PowerSourceError,
)
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
    source: SourceKind = SourceKind.MODEL,
    engine_url: str | None = None,
) -> SupplierMeter:
    """
    Add a meter of a supplier of its own.
    """
    settings = SourceSettings(engine_url=engine_url, pid=number, tdp_w=65)
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


class Workers:
    """
    Two workers with the same store, each with a source of its own for each meter.
    """

    def __init__(self, store: FactoryStore, clock: FakeClock, *, hosts: Sequence[str]) -> None:
        self.store = store
        self.clock = clock
        self.gone: set[str] = set()
        self.sources: list[dict[UUID, CountingSource]] = [{} for _ in hosts]
        self.metering = [
            Metering(
                store,
                open_source=lambda meter, number=number: self.open(number, meter),
                read_counters=lambda _: {},
                clock=clock,
                holder=f"worker {number}",
                host=host,
                is_gone=lambda holder: holder in self.gone,
            )
            for number, host in enumerate(hosts)
        ]

    def open(self, number: int, meter: SupplierMeter) -> CountingSource:
        """
        Return a worker's own view of a meter.
        """
        name = f"seen by {number}"
        return self.sources[number].setdefault(meter.meter_id, CountingSource(name, self.clock))

    async def tick(self, *numbers: int) -> None:
        """
        Let workers look and read, all at once where there are several.
        """
        self.clock.advance(timedelta(seconds=3))
        for number in numbers:
            await self.metering[number].tick()
        for number in numbers:
            await self.metering[number].settle()

    async def seen(self, meter: SupplierMeter) -> list[str]:
        """
        Return whose readings were kept, in their order.
        """
        series, _ = await self.store.series(meter, 0, 1 << 60)
        return [reading.device[-1] for reading in series.readings]


async def test_meter_is_read_by_one_worker_alone(
    pool: Pool, clock: FakeClock, ids: IdentifierSource
) -> None:
    """
    Two processes of one machine: one reads; the other one after the lease, at once where the first
    is gone for certain or has stopped, and a slow first one writes nothing then.
    """
    store = FactoryStore(pool)
    await store.ensure_partitions(clock.now())
    factory = LiveFactory(store, clock, ids)
    meter = await add(factory, 11)
    workers = Workers(store, clock, hosts=("here", "here"))

    await workers.tick(0, 1)
    await workers.tick(1, 0)
    first = (await workers.seen(meter))[0]
    assert await workers.seen(meter) == [first] * 2
    reader = (await factory.get_meter(meter.meter_id)).reader
    assert reader is not None
    assert (reader.holder, reader.host) == (f"worker {first}", "here")
    assert reader.leased_until > clock.now()

    mine, other = int(first), 1 - int(first)
    for _ in range(4):  # The first one is stopped, as a debugger would: its lease runs out.
        await workers.tick(other)
    assert set((await workers.seen(meter))[2:]) == {str(other)}
    count = len(await workers.seen(meter))
    await workers.metering[mine]._read(workers.metering[mine]._open[meter.meter_id])
    assert len(await workers.seen(meter)) == count

    workers.gone.add(f"worker {other}")
    await workers.tick(mine)
    assert (await workers.seen(meter))[count:] == [str(mine)]
    await workers.metering[mine].release()
    workers.gone.clear()
    await workers.tick(other)
    assert (await workers.seen(meter))[count:] == [str(mine), str(other)]


async def test_meter_in_a_machine_stays_with_it(
    pool: Pool, clock: FakeClock, ids: IdentifierSource
) -> None:
    """
    Another machine's RAPL is another meter, whoever's lease ran out; what is behind an exporter is
    the same from everywhere; a named host reads alone; ``release`` lets any machine read next.
    """
    store = FactoryStore(pool)
    await store.ensure_partitions(clock.now())
    factory = LiveFactory(store, clock, ids)
    workers = Workers(store, clock, hosts=("here", "there"))
    rapl = await add(factory, 21)
    exporter = await factory.add_meter(
        UUID(int=22),
        MeterTerms(
            name="m22", source=SourceKind.DCGM, settings=SourceSettings(url="http://x/metrics")
        ),
        actor="test",
    )
    named = await factory.add_meter(
        UUID(int=23),
        MeterTerms(name="m23", source=SourceKind.NVML, settings=SourceSettings(host="there")),
        actor="test",
    )

    await workers.tick(0)
    for _ in range(6):
        await workers.tick(1)
    assert await workers.seen(rapl) == ["0"]
    assert set((await workers.seen(exporter))[1:]) == {"1"}
    assert set(await workers.seen(named)) == {"1"}

    await factory.release_meter(rapl.meter_id)
    await workers.tick(1)
    assert await workers.seen(rapl) == ["0", "1"]


async def test_second_sender_is_refused_and_told_who_the_first_is(
    pool: Pool, clock: FakeClock, ids: IdentifierSource
) -> None:
    """
    Two sites that send the readings of one meter: the second one's are not kept, and it learns why.
    """
    store = FactoryStore(pool)
    await store.ensure_partitions(clock.now())
    factory = LiveFactory(store, clock, ids)
    meter = await add(factory, 31, source=SourceKind.PUSH)

    async def send(reader: str) -> int:
        reading = Reading(
            device=reader, at_us=to_us(clock.now()), quantity=Quantity.POWER, value=1_000_000
        )
        return await factory.take_readings(meter.meter_id, [reading], reader=reader, lease_s=60)

    assert await send("site a") == 1
    with pytest.raises(MeterReadByOtherError, match=r"site a reads this meter, until \d\d:"):
        await send("site b")
    clock.advance(timedelta(seconds=61))
    assert await send("site b") == 1
    with pytest.raises(MeterReadByOtherError, match="site b"):
        await send("site a")
    await factory.release_meter(meter.meter_id, holder="site b")
    assert await send("site a") == 1
    series, _ = await store.series(meter, 0, 1 << 60)
    assert [reading.device for reading in series.readings] == ["site a", "site b", "site a"]


async def test_same_joules_are_no_two_suppliers(
    pool: Pool, clock: FakeClock, ids: IdentifierSource
) -> None:
    """
    Two meters that read the same source would count each joule twice; another machine is another.
    """
    store = FactoryStore(pool)
    await store.ensure_partitions(clock.now())
    factory = LiveFactory(store, clock, ids)

    async def add_one(number: int, source: SourceKind, settings: SourceSettings) -> SupplierMeter:
        terms = MeterTerms(name="m", source=source, settings=settings)
        return await factory.add_meter(UUID(int=number), terms, actor="test")

    await add_one(41, SourceKind.RAPL, SourceSettings(host="a"))
    await add_one(42, SourceKind.DCGM, SourceSettings(url="http://one/metrics"))
    await add_one(43, SourceKind.MODEL, SourceSettings(port=8702, tdp_w=65))
    with pytest.raises(MeterSourceTakenError, match="counted twice"):
        await add_one(44, SourceKind.RAPL, SourceSettings())
    with pytest.raises(MeterSourceTakenError, match="counted twice"):
        await add_one(44, SourceKind.DCGM, SourceSettings(url="http://one/metrics"))
    with pytest.raises(MeterSourceTakenError, match="counted twice"):
        await add_one(44, SourceKind.MODEL, SourceSettings(port=8702, tdp_w=105))
    await add_one(44, SourceKind.RAPL, SourceSettings(host="b"))
    await add_one(45, SourceKind.DCGM, SourceSettings(url="http://two/metrics"))
    await add_one(46, SourceKind.MODEL, SourceSettings(port=8703, tdp_w=65))
