"""
One hub on a fake clock, its business, its auditor, and what is going on in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

import psycopg
from psycopg import conninfo

from tests.simulation.books import fake_time
from tests.simulation.naive_ledger import NaiveLedger
from tests.simulation.simulator.auditor import Answered, Auditor, Move, Name, tally
from tests.simulation.simulator.failing_commits import FAILING_COMMITS
from tests.simulation.simulator.laws import BrokenLawError, Law
from tests.simulation.simulator.virtual_time import JumpingClock
from tests.simulation.simulator.world import World, open_world
from tokenworks.bootstrap.hub import Hub, open_hub
from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.errors import TokenworksError
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.gateway.holding import CallRules
from tokenworks.gateway.ports import UpstreamRequest
from tokenworks.ledger.check import check_books
from tokenworks.ledger.model import Placement, Posting
from tokenworks.settings import Settings
from tokenworks.testing.simulated_upstream import Script, SimulatedUpstream

if TYPE_CHECKING:
    from tests.simulation.simulator.calls import Call

BEGINS = datetime(2031, 3, 28, 12, tzinfo=UTC)
"""A few days before a month ends, and a clock changes in Europe."""
Model = TypeVar("Model")
Answer = TypeVar("Answer")
GRANTED_TOKENS = 48
HOLD_LIFETIME_S = 300


@dataclass
class Simulation:
    """
    A running simulation.
    """

    seed: int
    dsn: str
    clock: JumpingClock
    dice: Dice
    process: Process
    auditor: Auditor
    world: World = field(default_factory=World)
    upstream: SimulatedUpstream = field(init=False)
    calls: list[Call] = field(default_factory=list["Call"])
    """Every call that was tried, the oldest first."""
    expected: Counter[tuple[Name, Name]] = field(default_factory=Counter[tuple[Name, Name]])
    """What this step's operations should have moved, calls aside."""
    law: Law | None = None
    """Which law is broken when something else is moved in this step; ``None``: a fact's."""
    direct: set[UUID] = field(default_factory=set[UUID])
    """Facts that were sent to the ledger as they are; the naive ledger alone judges them."""
    placed: list[Placement] = field(default_factory=list[Placement])
    posted: list[Posting] = field(default_factory=list[Posting])
    answers: list[Answered] = field(default_factory=list[Answered])
    """What the ledger answered in this step."""
    sorted_answers: int = 0
    others: list[Move] = field(default_factory=list[Move])
    """What was moved in this step for something else than a call."""
    models: dict[type, object] = field(default_factory=dict[type, object])
    """What families of operations know of their own, by class."""
    main: asyncio.Task[object] | None = field(default_factory=asyncio.current_task)
    background: set[asyncio.Task[object]] = field(default_factory=set[asyncio.Task[object]])
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    # ------------------------------------------------------------------ the hub

    @property
    def hub(self) -> Hub:
        """
        Return the hub of the process that runs now.
        """
        assert self.process.hub is not None, "a process runs"
        return self.process.hub

    async def open_hub(self) -> None:
        """
        Start a process, with the auditor between it and the database.
        """
        self.upstream = SimulatedUpstream(self._direct, on_park=self.changed.set)
        before = asyncio.all_tasks()
        await self.process.start(self.upstream)
        self.auditor.attach(self.hub.writer)
        self.auditor.follow(self.hub.ledger)
        self.background |= asyncio.all_tasks() - before

    def _direct(self, request: UpstreamRequest) -> Script:
        task = asyncio.current_task()
        return next(call for call in self.calls if call.task is task).answer(request, self)

    async def crash(self) -> list[Call]:
        """
        Kill the process and start another one; return the calls that nobody will answer.
        """
        lost = [call for call in self.calls if call.task is not None and not call.is_over]
        await _drop([call.task for call in lost])
        for call in lost:
            call.is_judged = True
        await self.process.kill()
        await self.open_hub()
        return lost

    def model(self, kind: type[Model]) -> Model:
        """
        Return what a family of operations knows; empty at first.
        """
        found = self.models.setdefault(kind, kind())
        assert isinstance(found, kind), "kept under its class"
        return found

    async def ask(self, work: Awaitable[Answer]) -> tuple[Answer | None, str | None]:
        """
        Return an answer, or the code of its refusal.
        """
        try:
            return await work, None
        except TokenworksError as error:
            return None, error.code

    # ------------------------------------------------------------------ time

    async def advance(self, step: timedelta) -> None:
        """
        Let time pass at once, then let everything that was due happen.
        """
        self.clock.advance(step)
        await self.quiet()

    async def quiet(self) -> None:
        """
        Return when nothing runs any more but what waits for a supplier.
        """
        for _ in range(3):
            await asyncio.sleep(0)  # timers that are due start their tasks
        while True:
            waiting = {parked.task for parked in self.upstream.parked}
            others = asyncio.all_tasks() - self.background - waiting
            others -= {asyncio.current_task(), self.main}
            # Python 3.11 waits for an event with a time limit in a task of its own: the writer
            # does so when it has nothing to do.
            busy = {t for t in others if getattr(t.get_coro(), "__qualname__", "") != "Event.wait"}
            if not busy:
                return
            self.changed.clear()
            parking = asyncio.ensure_future(self.changed.wait())
            await asyncio.wait({*busy, parking}, return_when=asyncio.FIRST_COMPLETED)
            parking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await parking

    # ------------------------------------------------------------------ auditing

    def collect(self) -> None:
        """
        Sort what was moved and answered in this step: to its call, or to the step.

        Raises:
            BrokenLawError: An answer was wrong, or something else was moved than was meant.
        """
        self.collect_calls()
        self.answers.clear()
        self.sorted_answers = 0
        others, self.others = self.others, []
        moved, expected = tally(others), +self.expected
        self.expected.clear()
        law, self.law = self.law or Law.FACT_ONCE, None
        if moved != expected:
            message = f"moved {self._shown(moved)}, meant {self._shown(expected)}"
            raise BrokenLawError(law, message)

    def collect_calls(self) -> None:
        """
        Sort what was moved and answered so far to the calls it belongs to.

        Raises:
            BrokenLawError: An answer was wrong.
        """
        self.auditor.raise_breach()
        self.hear()
        by_id = {call.call_id: call for call in self.open_calls()}
        for move in self.auditor.take_moves():
            if move.fact in by_id:
                by_id[move.fact].moves.append(move)
            elif move.fact not in self.direct:
                self.others.append(move)
        for answered in self.answers[self.sorted_answers :]:
            call = by_id.get(_fact(answered))
            if call is not None:
                call.answers.append(answered)
        self.sorted_answers = len(self.answers)

    def open_calls(self) -> list[Call]:
        """
        Return the calls that may still be heard of.
        """
        return [call for call in self.calls if call.open is not None and not call.is_judged]

    def hear(self) -> list[Answered]:
        """
        Return what the ledger has answered since the last time in this step.
        """
        answered = self.auditor.take_answers()
        self.answers += answered
        return answered

    def expect(self, debit: Name, credit: Name, quanta: int) -> None:
        """
        Say what this step means to move.
        """
        if quanta:
            self.expected[debit, credit] += quanta

    def _shown(self, moves: Counter[tuple[Name, Name]]) -> str:
        lines = [
            f"{self.name(debit)} -> {self.name(credit)}: {quanta}"
            for (debit, credit), quanta in moves.items()
        ]
        return "; ".join(sorted(lines)) or "nothing"

    def name(self, name: Name) -> str:
        """
        Return an account's name for people.
        """
        return f"{self.world.label(name[0])}.{name[1]}.{name[2]}"

    async def audit(self, *, full: bool) -> None:
        """
        Compare all balances, holds and limits; with ``full`` check the books too.
        """
        self.auditor.raise_breach()
        await self._compare_accounts()
        await self._compare_holds()
        if full:
            report = await check_books(self.dsn, clock=self.clock)
            if not report.is_clean:
                raise BrokenLawError(Law.BOOKS, str([str(p) for p in report.problems[:3]]))

    async def _compare_accounts(self) -> None:
        await self.auditor.learn_accounts()
        cursor = await self.auditor.connection.execute(
            "SELECT account_id, debits_pending, debits_posted, credits_posted, no_overdraft, state "
            "FROM ledger.balances ORDER BY account_id"
        )
        rows = {int(row[0]): row[1:] for row in await cursor.fetchall()}
        for number, account in self.auditor.naive.accounts.items():
            row = rows.pop(number)
            found = tuple(int(value) for value in row[:3])
            naive = (account.pending, account.debits, account.credits)
            title = self.name(self.auditor.names[number])
            if found != naive:
                message = f"{title} ({number}): {found}, naively {naive}"
                is_window = self.auditor.names[number][1] == "limit_available"
                raise BrokenLawError(Law.WINDOW if is_window else Law.AVAILABLE, message)
            if row[4] != account.state:
                message = f"{title} ({number}): {row[4]}, naively {account.state}"
                raise BrokenLawError(Law.SPEND_PATH, message)
            if row[3] != account.is_bounded or account.is_short:
                raise BrokenLawError(Law.AVAILABLE, f"{title} ({number}): bounds are wrong")
        if rows:
            raise BrokenLawError(Law.AVAILABLE, f"accounts nobody opened: {sorted(rows)}")

    async def _compare_holds(self) -> None:
        cursor = await self.auditor.connection.execute(
            "SELECT hold_id, state, expires_at, part_accounts, part_held, part_captured "
            "FROM ledger.holds ORDER BY hold_id"
        )
        found = {row[0]: tuple(row[1:]) for row in await cursor.fetchall()}
        naive = {
            hold_id: (
                hold.state,
                hold.expires_at,
                list(hold.held),
                list(hold.held.values()),
                [hold.captured[account] for account in hold.held],
            )
            for hold_id, hold in self.auditor.naive.holds.items()
        }
        if found != naive:
            wrong = [i for i in found.keys() | naive.keys() if found.get(i) != naive.get(i)]
            first = min(wrong)
            message = f"hold {first}: {found.get(first)}, naively {naive.get(first)}"
            raise BrokenLawError(Law.HOLD_ONCE, message)


class Dice:
    """
    All chance in a simulation: each step has its own, so that others may be left out.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.random = Random(seed)

    def begin(self, step: int) -> Random:
        """
        Return the chance of one step.
        """
        self.random.seed(f"{self._seed}/{step}")
        return Random(f"{self._seed}/{step}/operation")

    def bytes(self, count: int) -> bytes:
        """
        Return seeded bytes for identifiers.
        """
        return self.random.randbytes(count)


def _fact(answered: Answered) -> UUID:
    wish = answered.wish
    return wish.hold_id if isinstance(wish, Placement) else wish.fact_id


@contextlib.asynccontextmanager
async def open_simulation(seed: int, dsn: str, clock: JumpingClock) -> AsyncGenerator[Simulation]:
    """
    Open a hub with its world on a fresh database, on a loop that runs on the same clock.
    """
    await fake_time(dsn)
    dice = Dice(seed)
    async with contextlib.AsyncExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="tw-simulation-"))
        connection = await stack.enter_async_context(
            await psycopg.AsyncConnection.connect(dsn, autocommit=True)
        )
        await connection.execute(FAILING_COMMITS)
        process = Process(
            data_dir=Path(directory), dsn=dsn, clock=clock, ids=IdentifierSource(clock, dice.bytes)
        )
        auditor = Auditor(clock=clock, connection=connection, naive=NaiveLedger(now=clock.now()))
        simulation = Simulation(
            seed=seed, dsn=dsn, clock=clock, dice=dice, process=process, auditor=auditor
        )
        stack.push_async_callback(process.kill)
        await simulation.open_hub()
        await auditor.learn_accounts()
        simulation.world = await open_world(simulation.hub, auditor, dice.begin(-1))
        try:
            yield simulation
        finally:
            await _drop([call.task for call in simulation.calls])


@dataclass
class Process:
    """
    The process that the hub runs in: it can be killed, and another one started.
    """

    data_dir: Path
    dsn: str
    clock: FakeClock
    ids: IdentifierSource
    hub: Hub | None = None
    _stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    async def start(self, upstream: SimulatedUpstream) -> Hub:
        """
        Open a hub as a new process does.
        """
        self._stack = contextlib.AsyncExitStack()
        self.hub = await self._stack.enter_async_context(
            open_hub(
                Settings(data_dir=self.data_dir),
                conninfo.make_conninfo(self.dsn, user="tokenworks_posting"),
                name="simulation",
                clock=self.clock,
                ids=self.ids,
                upstream=upstream,
            )
        )
        self.hub.gateway.holding.rules = CallRules(
            granted_output_tokens=GRANTED_TOKENS, hold_lifetime_s=HOLD_LIFETIME_S
        )
        return self.hub

    async def kill(self) -> None:
        """
        End without a word: the lane stays leased, what was queued is lost.
        """
        if self.hub is not None:
            # What is learned behind an answer would wait for a time that never comes.
            await _drop(list(self.hub.agents.payments._capturing._learning))
            writer, self.hub = self.hub.writer, None
            await _drop([writer._task])
            writer._task = None
            await writer._connection.close()
        await self._stack.aclose()


async def _drop(tasks: Iterable[asyncio.Task[None] | None]) -> None:
    """
    Drop what still runs, as a killed process would.
    """
    running = [task for task in tasks if task is not None and not task.done()]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


__all__ = ["Simulation", "open_simulation"]
