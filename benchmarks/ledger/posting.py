"""
Checked posting in batches, against bare inserts of the same rows and against batches of one.

In short slices, in turn: posting, then the bare side with the rows that posting just wrote.
Each ratio is the median of the slices' ratios, so a neighbour who is busy for a while disturbs
both sides alike. What is measured of posting is all that the product does for it: the writer,
the content hashes, the packing, ``ledger.post_v2``, the commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.ledger.bare_insert import BareTables, Written
from benchmarks.ledger.server import Counters, Database, Server
from benchmarks.ledger.ways import require_done
from tokenworks.foundation.clock import SystemClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.limits import BATCH_OPERATIONS_MAX
from tokenworks.ledger.model import Posting, PostingKind, Transfer
from tokenworks.ledger.service import PLATFORM_ID, Ledger
from tokenworks.ledger.writer import Writer
from tokenworks.postgres.pool import open_pool

ACCOUNTS: Final = 1_000
DEPOSIT_QUANTA: Final = 10**15
LEGS: Final = 6
LISTS_AT_ONCE: Final = 40
"""Formed before the clock starts, then posted without a pause."""
WARM_UP_S: Final = 0.2
_SEED: Final = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class PostScenario:
    """
    One line of the table of postings.
    """

    name: str
    batch_size: int
    transfers: int
    """Of one entry, between bounded accounts chosen at random."""
    target_ratio: float | None = None

    @property
    def callers(self) -> int:
        """
        Return how many lists wait at a time: two, where they stay batches of their own.
        """
        return 2 if self.batch_size == BATCH_OPERATIONS_MAX else 1


SCENARIOS: Final = (
    PostScenario(name="post batch=1", batch_size=1, transfers=1),
    PostScenario(name="post batch=10", batch_size=10, transfers=1),
    PostScenario(name="post batch=100", batch_size=100, transfers=1),
    PostScenario(name="post batch=1000", batch_size=1_000, transfers=1, target_ratio=0.5),
    PostScenario(name="post batch=1000 6 legs", batch_size=1_000, transfers=LEGS),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slices:
    """
    How many slices, and how long posting posts in each.
    """

    count: int
    duration_s: float


@dataclass(slots=True)
class Side:
    """
    What one side did in one slice.
    """

    entries: int = 0
    took_s: float = 0.0
    python_s: float = 0.0
    postgres_s: float = 0.0
    wal_bytes: int = 0

    @property
    def rate_per_s(self) -> float:
        """
        Return entries a second.
        """
        return self.entries / self.took_s

    async def time(self, work: Callable[[], Awaitable[object]], *, entries: int) -> None:
        """
        Do and count one batch.
        """
        begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
        await work()
        self.took_s += time.perf_counter() - begun_s
        self.python_s += time.process_time() - begun_cpu_s
        self.entries += entries


@dataclass(slots=True, kw_only=True)
class Bench:
    """
    A ledger with funded accounts beside its bare copy.
    """

    server: Server
    writer: Writer
    ids: IdentifierSource
    accounts: Sequence[int]
    bare: BareTables
    updating: BareTables
    """As ``bare``, with the updates of accounts and lane."""
    in_turn: BareTables
    """As ``bare``, by a program that packs, waits for the commit, and packs again."""
    random: random.Random = field(default_factory=lambda: random.Random(_SEED))

    def postings(self, scenario: PostScenario) -> list[Posting]:
        """
        Form the entries of one batch.
        """
        return [
            Posting(
                kind=PostingKind.POST,
                fact_id=self.ids.mint(),
                transfers=tuple(self._transfer() for _ in range(scenario.transfers)),
            )
            for _ in range(scenario.batch_size)
        ]

    def _transfer(self) -> Transfer:
        debit, credit = self.random.sample(self.accounts, 2)
        return Transfer(debit=debit, credit=credit, quanta=self.random.randint(1, 10**6))

    async def post(self, lists: Sequence[Sequence[Posting]], *, callers: int) -> None:
        """
        Post lists, each a batch: a list of the largest size is neither divided nor joined.
        """
        waiting = iter(lists)

        async def call() -> None:
            for postings in waiting:
                for outcome in await self.writer.post_all(postings):
                    require_done(outcome)

        await asyncio.gather(*(call() for _ in range(callers)))

    async def slice(self, scenario: PostScenario, duration_s: float) -> list[Side]:
        """
        Post for a while, then write the same rows barely, without and with updates.
        """
        lane, posted = self.writer.lane, Side()
        last_batch = await self.bare.last_batch(lane)
        batches = self.writer.batches
        before = self.server.counters()
        while posted.took_s < duration_s:
            lists = [self.postings(scenario) for _ in range(LISTS_AT_ONCE)]
            await posted.time(
                lambda given=lists: self.post(given, callers=scenario.callers),
                entries=sum(map(len, lists)),
            )
        self._count(posted, before)
        written = await self.bare.written(lane=lane, after_batch=last_batch)
        assert len(written) == self.writer.batches - batches, "one batch, one commit"
        assert {len(w.entries[0]) for w in written} == {scenario.batch_size}, "batches are whole"
        is_ahead = scenario.callers > 1
        return [
            posted,
            await self._write_barely(written, self.bare, is_ahead=is_ahead),
            await self._write_barely(written, self.updating, is_ahead=is_ahead),
            await self._write_barely(written, self.in_turn, is_ahead=False),
        ]

    async def _write_barely(
        self, written: Sequence[Written], tables: BareTables, *, is_ahead: bool
    ) -> Side:
        side = Side()
        before = self.server.counters()
        for first in range(0, len(written), LISTS_AT_ONCE):
            batches = written[first : first + LISTS_AT_ONCE]
            await side.time(
                lambda some=batches: tables.insert(some, is_ahead=is_ahead),
                entries=sum(len(batch.entries[0]) for batch in batches),
            )
        self._count(side, before)
        return side

    def _count(self, side: Side, before: Counters) -> None:
        spent = self.server.counters() - before
        side.postgres_s, side.wal_bytes = spent.cpu_s, spent.wal_bytes


@contextlib.asynccontextmanager
async def open_bench(server: Server, database: Database) -> AsyncGenerator[Bench]:
    """
    Open a ledger on a database, fund its accounts, and copy its tables.
    """
    clock = SystemClock()
    ids = IdentifierSource(clock)
    async with contextlib.AsyncExitStack() as stack:
        pool = await open_pool(database.dsn_posting, name="bench", size_max=4)
        stack.push_async_callback(pool.close)
        writer = Writer(database.dsn_posting, clock=clock, holder="bench")
        await writer.start()
        stack.push_async_callback(writer.close)
        ledger = Ledger(writer, pool, clock=clock, ids=ids)
        await ledger.prepare()
        accounts = [await ledger.account(ids.mint(), "cash") for _ in range(ACCOUNTS)]
        bank = await ledger.account(PLATFORM_ID, "safeguarded")
        for account in accounts:
            deposit = Transfer(debit=bank, credit=account, quanta=DEPOSIT_QUANTA)
            require_done(
                await writer.post(
                    Posting(kind=PostingKind.POST, fact_id=ids.mint(), transfers=(deposit,))
                )
            )
        tables = [
            await BareTables.make(database.dsn_owner, schema=schema, with_updates=with_updates)
            for schema, with_updates in (("bare", False), ("updating", True), ("in_turn", False))
        ]
        for table in tables:
            stack.push_async_callback(table.close)
        bare, updating, in_turn = tables
        yield Bench(
            server=server,
            writer=writer,
            ids=ids,
            accounts=accounts,
            bare=bare,
            updating=updating,
            in_turn=in_turn,
        )


async def measure(
    scenario: PostScenario, server: Server, database: Database, slices: Slices
) -> dict[str, Any]:
    """
    Return the figures of one scenario on a database of its own.
    """
    async with open_bench(server, database) as bench:
        await bench.slice(scenario, WARM_UP_S)
        rounds = [await bench.slice(scenario, slices.duration_s) for _ in range(slices.count)]
    return summarise(scenario, rounds)


def summarise(scenario: PostScenario, rounds: Sequence[Sequence[Side]]) -> dict[str, Any]:
    """
    Return medians over the slices; ratios are medians of the slices' ratios.
    """
    median = statistics.median
    figures: dict[str, Any] = {
        "entries": sum(sides[0].entries for sides in rounds),
        "bytes_of_wal_per_entry": round(median(s[0].wal_bytes / s[0].entries for s in rounds), 1),
    }
    for index, name in enumerate(("post", "bare", "updating", "in_turn")):
        sides = [round_[index] for round_ in rounds]
        rate = median(side.rate_per_s for side in sides)
        entries = sum(side.entries for side in sides)
        figures |= {
            f"{name}_entries_per_s": round(rate, 1),
            f"{name}_transfers_per_s": round(rate * scenario.transfers, 1),
            f"{name}_python_us": round(sum(s.python_s for s in sides) / entries * 1e6, 2),
            f"{name}_postgres_us": round(sum(s.postgres_s for s in sides) / entries * 1e6, 2),
        }
    ratios = ((1, "ratio_to_bare"), (2, "ratio_to_updating"), (3, "ratio_to_in_turn"))
    for index, name in ratios:
        figures[name] = round(median(r[0].rate_per_s / r[index].rate_per_s for r in rounds), 3)
    return figures
