"""
What calls held whose process is gone is given back early, exactly once, and from nobody else.

Laws: a hold ends once, however void and late settle race; who lives, is stopped for a while or
cannot be reached with everybody else loses nothing; who was taken for gone and lives goes on.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Final
from uuid import UUID

import psycopg
import pytest
import structlog
from hypothesis import event, given, settings
from hypothesis import strategies as st

from tests.databases import OpenDatabase
from tests.simulation.books import USD_ID, Books, open_books
from tokenworks.foundation.clock import FakeClock, SystemClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.gateway.holding import CALL_META_PREFIX
from tokenworks.gateway.orphans import LOOKS_APART_S_MAX, SILENCE_S, Orphans
from tokenworks.ledger.batching.lane_connection import LEASE_LIFETIME_S
from tokenworks.ledger.leases import Leases
from tokenworks.ledger.model import Placement, Posting, PostingKind, Reservation, Transfer
from tokenworks.ledger.writer import Writer

META: Final = f'{CALL_META_PREFIX}"k"}}'
LOOK_S: Final = 2.0


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """
    Keep warnings that these tests cause out of their output.
    """
    with structlog.testing.capture_logs():
        yield


class World:
    """
    The worker's books, a gateway's writer, and a machine that says who runs.
    """

    def __init__(self, books: Books) -> None:
        self.books = books
        self.gateway = Writer(books.dsn, clock=books.clock, holder="gateway")
        self.gone: dict[str, bool] = {}
        """By holder; who is missing cannot be judged."""
        self.leases = Leases(books.pool, books.clock)
        self.orphans = self.watcher()

    def watcher(self) -> Orphans:
        """
        Return the job of a worker that has just begun.
        """
        return Orphans(
            self.leases,
            self.books.ledger,
            clock=self.books.clock,
            holder=self.books.writer.holder,
            is_gone=self.gone.get,
        )

    async def hold(self, writer: Writer, cash: int, *, meta: str = META, quanta: int = 10) -> UUID:
        """
        Hold a call's money through a process.
        """
        placement = self.placement(cash, meta=meta, quanta=quanta)
        outcome = await writer.place(placement)
        assert outcome.code == "ok"
        return placement.hold_id

    def placement(self, cash: int, *, meta: str = META, quanta: int = 10) -> Placement:
        """
        Form what a call holds.
        """
        reservation = Reservation(asset_id=USD_ID, quanta=quanta, account_id=cash)
        return self.books.placement(reservation, meta=meta)

    async def settle(self, writer: Writer, hold_id: UUID, cash: int, quanta: int = 7) -> str:
        """
        Charge a call through a process; return what came of it.
        """
        revenue = await self.books.platform("platform_revenue")
        transfer = Transfer(debit=cash, credit=revenue, quanta=quanta)
        posting = Posting(kind=PostingKind.CAPTURE, fact_id=hold_id, transfers=(transfer,))
        return (await writer.post(posting)).code

    async def states(self, *hold_ids: UUID) -> list[str]:
        """
        Return the states of holds, in their order.
        """
        holds = [await self.books.ledger.hold(hold_id) for hold_id in hold_ids]
        return [hold.state for hold in holds if hold is not None]

    async def watch(self, seconds: float, *, living: tuple[Writer, ...] = ()) -> int:
        """
        Let time pass and look as the worker does; who lives renews its lease.
        """
        given_back = 0
        for _ in range(int(seconds / LOOK_S)):
            self.books.clock.advance(timedelta(seconds=LOOK_S))
            for writer in living:
                await renew(writer, self.books.clock)
            given_back += await self.orphans.give_back()
        return given_back


async def renew(writer: Writer, clock: FakeClock) -> None:
    """
    Renew a writer's lease as its loop does, whose own time is the machine's.
    """
    await writer._connection.renew(until=clock.now() + timedelta(seconds=LEASE_LIFETIME_S))  # pyright: ignore[reportPrivateUsage] - see above


@pytest.fixture
async def world(dsn: str, clock: FakeClock, ids: IdentifierSource) -> AsyncIterator[World]:
    """
    Two processes on one database, which must be clean when the test is over.
    """
    async with open_books(dsn, clock, ids) as books:
        world = World(books)
        await world.gateway.start()
        yield world
        await world.gateway.close()
        await books.assert_clean()


async def test_process_that_is_gone_gives_its_calls_holds_back_at_once(world: World) -> None:
    """
    Neither payments' holds nor those of a process that lives are touched, and it is done once.
    """
    cash = await world.books.cash(await world.books.buyer(100))
    orphan = await world.hold(world.gateway, cash)
    payment = await world.hold(world.gateway, cash, meta='{"payment":"x"}')
    own = await world.hold(world.books.writer, cash)
    assert await world.orphans.give_back() == 0

    world.gone["gateway"] = True
    assert await world.orphans.give_back() == 1
    assert await world.orphans.give_back() == 0
    assert await world.states(orphan, payment, own) == ["voided", "open", "open"]
    assert await world.leases.ended() == []
    assert await world.leases.holders() == {world.books.writer.holder: True}
    record = await world.books.rows(
        "SELECT record::jsonb ->> 'meta' FROM ledger.entries WHERE fact_id = %s"
        " AND operation = 'void'",
        orphan,
    )
    assert record == [('{"reason": "process_gone"}',)]


async def test_late_settle_of_a_void_hold_is_refused_and_the_process_goes_on(world: World) -> None:
    """
    Taken for gone wrongly: what was given back is not charged, what it holds anew is its own.
    """
    cash = await world.books.cash(await world.books.buyer(100))
    orphan = await world.hold(world.gateway, cash)
    world.gone["gateway"] = True
    assert await world.orphans.give_back() == 1
    world.gone["gateway"] = False

    assert await world.settle(world.gateway, orphan, cash) == "hold_closed"
    fresh = await world.hold(world.gateway, cash)
    assert await world.orphans.give_back() == 0
    assert await world.settle(world.gateway, fresh, cash) == "ok"
    assert await world.states(orphan, fresh) == ["voided", "captured"]


async def test_holds_of_before_a_reconnection_are_found_too(world: World) -> None:
    """
    A process has one lease after the other; they end together.
    """
    cash = await world.books.cash(await world.books.buyer(100))
    before = await world.hold(world.gateway, cash)
    await world.gateway._connection.close()  # pyright: ignore[reportPrivateUsage] - as when the connection is lost
    after = await world.hold(world.gateway, cash)
    world.gone["gateway"] = True
    assert await world.orphans.give_back() == 2
    assert await world.states(before, after) == ["voided", "voided"]


async def test_lane_that_another_process_took_gives_back_the_first_ones_holds_only(
    world: World,
) -> None:
    """
    It is the epoch that says whose a hold is, not the lane.
    """
    cash = await world.books.cash(await world.books.buyer(100))
    orphan = await world.hold(world.gateway, cash)
    lane = world.gateway.lane
    await world.gateway.close()
    world.books.clock.advance(timedelta(seconds=1))
    heir = Writer(world.books.dsn, clock=world.books.clock, holder="heir")
    await heir.start()
    assert heir.lane == lane
    inherited = await world.hold(heir, cash)

    world.gone["gateway"] = True
    assert await world.orphans.give_back() == 1
    assert await world.states(orphan, inherited) == ["voided", "open"]
    assert await world.settle(heir, inherited, cash) == "ok"
    await heir.close()


# ---------------------------------------------------------------------- silence


async def test_silent_process_is_given_up_after_its_lease_and_a_while(world: World) -> None:
    """
    Where nobody can say whether it runs: not before, however often the worker looks.
    """
    cash = await world.books.cash(await world.books.buyer(100))
    orphan = await world.hold(world.gateway, cash)
    own = world.books.writer
    patience_s = LEASE_LIFETIME_S + SILENCE_S
    assert await world.watch(patience_s - LOOK_S, living=(own,)) == 0
    assert await world.states(orphan) == ["open"]
    assert await world.watch(3 * LOOK_S, living=(own,)) == 1
    assert await world.states(orphan) == ["voided"]


async def test_process_that_stood_still_for_ten_seconds_loses_nothing(world: World) -> None:
    """
    Nor for thirty, from the last sign of life that a running one gives.
    """
    cash = await world.books.cash(await world.books.buyer(100))
    own, gateway = world.books.writer, world.gateway
    for stopped_s in (10, 30, 10):
        hold = await world.hold(gateway, cash)
        assert await world.watch(10, living=(own, gateway)) == 0
        assert await world.watch(stopped_s, living=(own,)) == 0
        assert await world.watch(4, living=(own, gateway)) == 0
        assert await world.settle(gateway, hold, cash) == "ok"


async def test_who_runs_is_never_silent(world: World) -> None:
    """
    Where the machine says that a process runs, no lease is asked for.
    """
    cash = await world.books.cash(await world.books.buyer(100))
    hold = await world.hold(world.gateway, cash)
    world.gone["gateway"] = False
    assert await world.watch(120, living=(world.books.writer,)) == 0
    assert await world.settle(world.gateway, hold, cash) == "ok"


async def test_nobody_is_silent_while_the_worker_has_no_lease_itself(world: World) -> None:
    """
    A database that takes no writes takes nobody's: when it does again, time begins anew.
    """
    cash = await world.books.cash(await world.books.buyer(100))
    own, gateway = world.books.writer, world.gateway
    hold = await world.hold(gateway, cash)
    assert await world.watch(120) == 0
    assert await world.watch(SILENCE_S - 1, living=(own,)) == 0
    assert await world.watch(4, living=(own, gateway)) == 0
    assert await world.settle(gateway, hold, cash) == "ok"


async def test_nobody_is_silent_while_nobody_looks(world: World) -> None:
    """
    Everything stood still, the worker too; or it has just been started.
    """
    cash = await world.books.cash(await world.books.buyer(100))
    own, gateway = world.books.writer, world.gateway
    hold = await world.hold(gateway, cash)
    world.books.clock.advance(timedelta(seconds=100))
    await renew(own, world.books.clock)
    assert await world.orphans.give_back() == 0
    assert await world.watch(SILENCE_S - 4, living=(own,)) == 0
    world.books.clock.advance(timedelta(seconds=LOOKS_APART_S_MAX + 1))
    await renew(own, world.books.clock)
    assert await world.orphans.give_back() == 0
    world.orphans = world.watcher()
    assert await world.watch(SILENCE_S - 1, living=(own,)) == 0
    await renew(gateway, world.books.clock)
    assert await world.settle(gateway, hold, cash) == "ok"


async def test_batch_under_way_speaks_for_its_process(world: World) -> None:
    """
    While one waits (for a lock, for the standby) the leases do not end, and nobody waits for it.
    """
    cash = await world.books.cash(await world.books.buyer(100))
    hold = await world.hold(world.gateway, cash)
    async with await psycopg.AsyncConnection.connect(world.books.dsn) as batch:
        await batch.execute(
            "SELECT FROM ledger.lanes WHERE lane = %s FOR NO KEY UPDATE", (world.gateway.lane,)
        )
        assert await world.leases.end("gateway", is_gone=True) is False
        assert await world.leases.end("gateway", is_gone=False) is False
        await batch.rollback()
    assert await world.leases.end("gateway", is_gone=False) is False, "its lease runs"
    assert await world.settle(world.gateway, hold, cash) == "ok"


# ---------------------------------------------------------------------- races


@settings(max_examples=12)
@given(seed=st.integers(0, 2**32 - 1), holds=st.integers(8, 40))
def test_void_and_late_settle_race_and_end_each_hold_once(
    race_dsn: str, seed: int, holds: int
) -> None:
    """
    A process that is taken for gone in the middle of its work, two workers, real connections:
    each hold is charged or given back, never both, and who settled was told which.
    """
    asyncio.run(_race(random.Random(seed), holds, race_dsn))


async def _race(dice: random.Random, count: int, dsn: str) -> None:
    clock = FakeClock(SystemClock().now())
    async with open_books(dsn, clock, IdentifierSource(clock)) as books:
        world = World(books)
        await world.gateway.start()
        cash = await books.cash(await books.buyer(10 * count))
        hold_ids = [await world.hold(world.gateway, cash) for _ in range(count)]
        other = world.watcher()

        queue = deque(hold_ids)
        codes: dict[UUID, str] = {}
        left_when_given_up = dice.randrange(count + 1)
        is_given_up = asyncio.Event()

        async def settle_some() -> None:
            while queue:
                if len(queue) <= left_when_given_up:
                    is_given_up.set()
                hold_id = queue.popleft()
                codes[hold_id] = await world.settle(world.gateway, hold_id, cash)
            is_given_up.set()

        async def give_up() -> int:
            await is_given_up.wait()
            world.gone["gateway"] = True
            counts = [await job.give_back() for job in (world.orphans, other)]
            world.gone["gateway"] = False
            return sum(counts)

        given_back, *_ = await asyncio.gather(give_up(), *(settle_some() for _ in range(4)))
        again = await asyncio.gather(*(world.settle(world.gateway, h, cash) for h in hold_ids))

        states = await world.states(*hold_ids)
        event("mixed" if len(set(states)) == 2 else states[0])
        told = {"ok": "captured", "hold_closed": "voided"}
        assert [told[codes[hold_id]] for hold_id in hold_ids] == states
        assert again == ["replayed" if state == "captured" else "hold_closed" for state in states]
        assert given_back == states.count("voided")
        paid = 7 * states.count("captured")
        assert await books.counters(cash) == (0, paid, 10 * count)
        await world.gateway.close()
        await books.assert_clean()


@pytest.fixture(scope="module")
def race_dsn(open_database: OpenDatabase) -> Iterator[str]:
    """
    One database for all races.
    """
    with open_database() as dsn:
        yield dsn
