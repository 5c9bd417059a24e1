"""
Group commit: many callers, one durable transaction at a time.

Order of life of an operation: queued -> gathered into a batch (one event-loop turn, at most
``BATCH_OPERATIONS_MAX``; every placement that waits, but only some of the postings, so that
the callers of one batch work while another commits) -> decided and written by
``ledger.place_v2`` or ``ledger.post_v2`` in its own transaction -> answered, only after the
commit.
Postings go before placements, since they free what those need.

What cannot be known is never guessed: when the connection dies during a batch its
outcome is unknown, so the writer connects again, takes its lane back (which fences the
old connection) and sends the same facts again; what was recorded comes back as
``replayed``. Two operations on one fact never share a batch.

Known limit: one writer has one connection and one batch in flight; more processes are
more writers, each with a lane of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Generic, LiteralString, Protocol, TypeVar
from uuid import UUID

import psycopg
import structlog
from psycopg import errors as postgres_errors

from tokenworks.foundation.clock import Clock
from tokenworks.foundation.limits import (
    BATCH_OPERATIONS_MAX,
    BATCH_QUEUE_OPERATIONS_MAX,
    BATCH_UNDIVIDED_OPERATIONS,
    LEDGER_ANSWER_TIMEOUT_S,
)
from tokenworks.ledger.errors import LedgerUnavailableError
from tokenworks.ledger.model import (
    OK,
    Outcome,
    Part,
    Placement,
    Posting,
    Refusal,
)
from tokenworks.ledger.packing import Columns, accounts_of, plain_columns, post_columns
from tokenworks.postgres import arrays
from tokenworks.postgres.fence import Fence, ServerRefusedError
from tokenworks.postgres.pool import Connection, connect
from tokenworks.postgres.queries import load

QUERIES: Final = load("tokenworks.ledger")
LANES_MAX: Final = 1_024
LANE_ACCOUNTS_MAX: Final = 100_000
"""Accounts a writer remembers; with more it begins anew."""
LEASE_LIFETIME_S: Final = 30.0
LEASE_RENEWAL_S: Final = 8.0
OVERDUE_CHECK_S: Final = 0.25
RECONNECT_DELAYS_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0)
RERUNS_MAX: Final = 8
PLAIN_PAUSE_BATCHES: Final = 16
"""After a batch that was not plain, so many are not tried: those that come next are often alike."""
TOGETHER_FROM: Final = 32
"""Plain entries in a batch from which on the database decides them by sets: below it costs more."""

_RERUN_WHOLE: Final = (
    postgres_errors.SerializationFailure,
    postgres_errors.DeadlockDetected,
)
_ALARMS: Final = (
    psycopg.Error,
    struct.error,
    ArithmeticError,
    AttributeError,
    TypeError,
    ValueError,
)
"""
What a single malformed operation can cause, in the server or while it is packed; nothing of
the batch was done.
"""
_RECORDED: Final = re.compile(r"(entries|holds)_\d{4}_\d{2}_pkey")
_NOT_PLAIN: Final = "TW030"
_LANE_LOST: Final = "TW002"
_CLOCK_SKEWED: Final = "TW003"

Operation = TypeVar("Operation")

_log = structlog.get_logger("tokenworks.ledger")


@dataclass(frozen=True, slots=True)
class Lane:
    """
    A writer's lease: its number and the epoch in which it holds it.
    """

    number: int
    epoch: int


class _Answer(Protocol):
    """
    Where an outcome goes: a future, or one place of a list.
    """

    def done(self) -> bool: ...
    def set_result(self, outcome: Outcome, /) -> None: ...


class _Answers:
    """
    The outcomes of many operations with one caller.
    """

    def __init__(self, count: int) -> None:
        self.outcomes: list[Outcome | None] = [None] * count
        self.missing = count
        self.complete: asyncio.Future[None] = asyncio.get_running_loop().create_future()


@dataclass(slots=True)
class _Place:
    """
    One of many answers; written once, whether or not its caller still waits.
    """

    answers: _Answers
    index: int

    def done(self) -> bool:
        return self.answers.outcomes[self.index] is not None

    def set_result(self, outcome: Outcome, /) -> None:
        answers = self.answers
        answers.outcomes[self.index] = outcome
        answers.missing -= 1
        if not answers.missing and not answers.complete.done():
            answers.complete.set_result(None)


@dataclass(slots=True)
class _Waiting(Generic[Operation]):
    """
    One queued operation and the caller who waits for it.
    """

    operation: Operation
    answer: _Answer
    is_answered: bool = False
    is_recallable: bool = False

    @property
    def is_recalled(self) -> bool:
        """
        Return whether its caller has stopped waiting and wants it no more.
        """
        return self.is_recallable and not self.is_answered and self.answer.done()


class OutcomeUnknownError(Exception):
    """
    The connection said something else than a clean commit.
    """


class Writer:
    """
    The one way into ``place_v2`` and ``post_v2`` for a process.

    Args:
        dsn: Connection string of the posting role.
        clock: Ledger time never runs behind it.
        holder: Names this process in the lane's lease, e.g. ``host:pid:start``.
        rider: Name of the registered rider that gets the postings' ``rider_row``.
        fence: Asked at every connection; a server that was demoted is not written.
        together_from: See ``TOGETHER_FROM``; answers and records are the same.
    """

    def __init__(
        self,
        dsn: str,
        *,
        clock: Clock,
        holder: str,
        rider: str | None = None,
        fence: Fence | None = None,
        together_from: int = TOGETHER_FROM,
    ) -> None:
        self._dsn = dsn
        self._together_from = together_from
        self._fence = fence
        self._refusal: ServerRefusedError | None = None
        self._clock = clock
        self._holder = holder
        self._rider = rider
        self._connection: Connection | None = None
        self._lane: Lane | None = None
        self._lane_accounts: dict[int, int] = {}
        self._renew_at_s = 0.0
        self._postings: deque[_Waiting[Posting]] = deque()
        self._placements: deque[_Waiting[Placement]] = deque()
        self._ahead: list[_Waiting[Posting]] = []
        self._columns: Columns | None = None  # of what is ahead
        self._plain_pause = 0  # batches until a plain one is tried again
        self._timed: deque[tuple[float, asyncio.Future[Outcome]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_closing = False
        self._on_failure: Callable[[], None] | None = None
        self._notices = 0
        self.batches = 0
        self.operations = 0

    @property
    def lane(self) -> int:
        """
        Return the number of the lane this writer holds.
        """
        assert self._lane is not None, "the writer is started"
        return self._lane.number

    @property
    def holder(self) -> str:
        """
        Return what this process is called in its leases.
        """
        return self._holder

    @property
    def is_connected(self) -> bool:
        """
        Return whether the last attempt to reach the database succeeded, and batches go on.
        """
        return self._connection is not None and not (self._task is not None and self._task.done())

    async def start(self) -> None:
        """
        Connect, lease a lane and begin to commit.
        """
        await self._connect()
        self._task = asyncio.create_task(self._run(), name="ledger-writer")
        self._task.add_done_callback(self._note_end)

    def on_failure(self, call: Callable[[], None]) -> None:
        """
        Say what is to be done when a bug ends the loop: nothing is committed from then on.
        """
        self._on_failure = call

    def _note_end(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        # What was under way is not acknowledged; whoever asks later is refused in time.
        _log.critical("ledger_writer_failed", exc_info=error)
        if self._on_failure is not None:
            self._on_failure()

    async def close(self) -> None:
        """
        Commit what is queued, give the lane back and disconnect.
        """
        self._is_closing = True
        self._wake.set()
        try:
            if self._task is not None:
                await self._task
        finally:
            if self._connection is not None and self._lane is not None:
                with contextlib.suppress(psycopg.Error):
                    await self._renew(until=self._clock.now())
                await self._connection.close()
            self._connection = None

    async def place(self, placement: Placement) -> Outcome:
        """
        Place or extend a hold; answer once it is durable or refused.

        Raises:
            LedgerUnavailableError: The queue is full, or no answer came in time. A caller
                that stops waiting before the batch is formed withdraws its operation.
        """
        if self._refusal is not None:
            # Nothing would come of waiting: an operator has to act.
            raise LedgerUnavailableError(
                self._refusal.message, code=self._refusal.code, retry_after_s=2
            )
        return await self._enqueue(self._placements, placement, is_timed=True)

    async def post(
        self, posting: Posting, *, is_timed: bool = False, is_recallable: bool = False
    ) -> Outcome:
        """
        Post an entry or end a hold; answer once it is durable or refused.

        A caller that is cancelled, or stops waiting, does not withdraw its posting.

        Args:
            posting: What to post.
            is_timed: Whether to stop waiting after ``LEDGER_ANSWER_TIMEOUT_S``.
            is_recallable: Whether such a caller does, as far as it can: what was sent and not
                answered may be in the books, but is not sent again.

        Raises:
            LedgerUnavailableError: The queue is full, or no answer came in time.
        """
        return await self._enqueue(
            self._postings, posting, is_timed=is_timed, is_recallable=is_recallable
        )

    async def post_all(self, postings: Sequence[Posting]) -> list[Outcome]:
        """
        Post many at once; answer once each is durable or refused, in their order.

        What ``post`` for each would do, at a third of its processor time.

        Raises:
            LedgerUnavailableError: The queue has no room for all; nothing was queued.
        """
        if not postings:
            return []
        if self._is_closing or len(self._postings) + len(postings) > BATCH_QUEUE_OPERATIONS_MAX:
            raise _queue_is_full()
        answers = _Answers(len(postings))
        self._postings.extend(
            _Waiting(posting, _Place(answers, index)) for index, posting in enumerate(postings)
        )
        self._wake.set()
        await answers.complete
        return [outcome for outcome in answers.outcomes if outcome is not None]

    async def _enqueue(
        self,
        queue: deque[_Waiting[Operation]],
        operation: Operation,
        *,
        is_timed: bool,
        is_recallable: bool = False,
    ) -> Outcome:
        if self._is_closing or len(queue) >= BATCH_QUEUE_OPERATIONS_MAX:
            raise _queue_is_full()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Outcome] = loop.create_future()
        queue.append(_Waiting(operation, answer, is_recallable=is_recallable))
        self._wake.set()
        if is_timed:
            # All wait equally long, so the longest waiting is always the first: one timer
            # for all callers instead of one for each.
            self._timed.append((loop.time() + LEDGER_ANSWER_TIMEOUT_S, answer))
            if self._timer is None:
                self._timer = loop.call_later(OVERDUE_CHECK_S, self._end_overdue)
        return await answer

    def _end_overdue(self) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        timed = self._timed
        while timed and (timed[0][1].done() or timed[0][0] <= now_s):
            _, answer = timed.popleft()
            if not answer.done():
                message = "The ledger did not answer in time; nothing is acknowledged."
                answer.set_exception(LedgerUnavailableError(message, retry_after_s=2))
        self._timer = loop.call_later(OVERDUE_CHECK_S, self._end_overdue) if timed else None

    # ------------------------------------------------------------------ the loop

    async def _run(self) -> None:
        answered = 0
        while True:
            waiting = len(self._ahead) + len(self._postings) + len(self._placements)
            if not waiting:
                if self._is_closing:
                    return
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), LEASE_RENEWAL_S)
            if (waiting <= answered and not self._ahead) or not waiting:
                # One turn of the loop lets callers that are already awake join this batch. Where
                # more wait than were answered just now, the database need not stand still until
                # these have gone on: they do so while the next batch is committed.
                await asyncio.sleep(0)
            before = self.operations
            await self._commit_one_round()
            answered = self.operations - before

    async def _commit_one_round(self) -> None:
        if self._clock.monotonic_s() >= self._renew_at_s:
            await self._until_settled(self._renew_lease)
        batch, self._ahead = self._ahead or self._gather_postings(), []
        if batch:
            await self._until_settled(lambda: self._execute(batch, self._run_postings))
        if round_ := _gather(
            self._placements, BATCH_OPERATIONS_MAX, key=_fact_of_placement, is_withdrawable=True
        ):
            await self._until_settled(lambda: self._execute(round_, self._run_placements))

    def _gather_postings(self) -> list[_Waiting[Posting]]:
        size = self._postings_size()
        return _gather(self._postings, size, key=_fact_of_posting, is_withdrawable=False)

    def _is_list_next(self) -> bool:
        return bool(self._postings) and isinstance(self._postings[0].answer, _Place)

    def _postings_size(self) -> int:
        """
        Return how many postings the next batch takes: a quarter of all that waits.

        With all of them in one batch the callers would go in step: none could work while it
        commits, and nothing would commit while they work. So postings go little by little, and
        placements, on which first tokens wait, all at once. A few are not divided, since a
        batch has a price of its own; nor is the list of one caller, who could not work meanwhile.
        """
        if self._is_list_next():
            return BATCH_OPERATIONS_MAX
        waiting = len(self._postings) + len(self._placements)
        return min(BATCH_OPERATIONS_MAX, max(BATCH_UNDIVIDED_OPERATIONS, waiting // 4))

    async def _until_settled(self, work: Callable[[], Any]) -> None:
        """
        Do ``work`` until the database has said clearly what came of it.
        """
        delays = iter(RECONNECT_DELAYS_S)
        while True:
            try:
                if self._connection is None:
                    await self._connect()
                await work()
            except (psycopg.OperationalError, OutcomeUnknownError, OSError) as error:
                if isinstance(error, _RERUN_WHOLE):
                    continue
                _log.warning("ledger_connection_lost", reason=type(error).__name__)
            except ServerRefusedError as error:
                self._refusal = error
                _log.error("ledger_server_refused", code=error.code, reason=error.message)
            except psycopg.Error as error:
                # Never give up here: callers wait, and the next attempt may find a lane.
                _log.warning("ledger_batch_refused", sqlstate=error.sqlstate, reason=str(error))
            else:
                return
            await self._disconnect()
            delay_s = next(delays, RECONNECT_DELAYS_S[-1])
            await asyncio.sleep(delay_s)

    async def _execute(
        self,
        batch: Sequence[_Waiting[Operation]],
        run: Callable[[Sequence[Operation]], Any],
    ) -> None:
        """
        Run a batch; on a constraint error run its halves, until the offender is alone.

        When a batch is run again after a lost connection, what was answered already is left
        out: an operation that was refused to its caller must not succeed later.
        """
        batch = [w for w in batch if not w.is_answered and not w.is_recalled]
        if not batch:
            return
        try:
            outcomes = await self._rerun_on_contention(
                run, [waiting.operation for waiting in batch]
            )
        except _ALARMS as error:
            if self._is_about_the_connection(error):
                raise
            _log.exception("ledger_constraint_alarm", operations=len(batch))
            if len(batch) == 1:
                _answer(batch[0], Outcome(code=Refusal.INTERNAL.value))
                return
            middle = len(batch) // 2
            await self._execute(batch[:middle], run)
            await self._execute(batch[middle:], run)
            return
        self.batches += 1
        self.operations += len(batch)
        for waiting, outcome in zip(batch, outcomes, strict=True):
            _answer(waiting, outcome)

    def _is_about_the_connection(self, error: Exception) -> bool:
        if not isinstance(error, psycopg.Error):
            return False
        if self._connection is None or self._connection.closed:
            return True
        return isinstance(
            error, (psycopg.OperationalError, psycopg.InterfaceError)
        ) or error.sqlstate in {_LANE_LOST, _CLOCK_SKEWED}

    async def _rerun_on_contention(
        self,
        run: Callable[[Sequence[Operation]], Any],
        operations: Sequence[Operation],
    ) -> list[Outcome]:
        for _ in range(RERUNS_MAX):
            try:
                return await run(operations)
            except _RERUN_WHOLE:
                _log.info("ledger_batch_rerun", operations=len(operations))
        return await run(operations)

    # ------------------------------------------------------------------ the database

    async def _connect(self) -> None:
        connection = await connect(self._dsn, name="ledger writer", fence=self._fence)
        self._refusal = None
        arrays.register_arrays(connection)
        connection.prepare_threshold = 0
        connection.add_notice_handler(self._note_notice)
        self._connection = connection
        notices = self._notices
        now = self._clock.now()
        cursor = await connection.execute(
            QUERIES["lease_lane"],
            {
                "holder": self._holder,
                "now": now,
                "until": now + timedelta(seconds=LEASE_LIFETIME_S),
                "lanes_max": LANES_MAX,
            },
        )
        row = await cursor.fetchone()
        self._refuse_unconfirmed(notices)
        assert row is not None, "a lease is given or an error raised"
        lane = Lane(int(row[0]), int(row[1]))
        if self._lane is None or self._lane.number != lane.number:
            self._lane_accounts.clear()
        self._lane = lane
        self._renew_at_s = self._clock.monotonic_s() + LEASE_RENEWAL_S

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error, OSError):
                await connection.close()

    async def _renew_lease(self) -> None:
        until = self._clock.now() + timedelta(seconds=LEASE_LIFETIME_S)
        if not await self._renew(until=until):
            message = "the lane was lost"
            raise OutcomeUnknownError(message)
        self._renew_at_s = self._clock.monotonic_s() + LEASE_RENEWAL_S

    async def _renew(self, *, until: datetime) -> bool:
        assert self._connection is not None, "connected before any work"
        assert self._lane is not None, "leased before any work"
        cursor = await self._connection.execute(
            QUERIES["renew_lane"],
            {"lane": self._lane.number, "epoch": self._lane.epoch, "until": until},
        )
        row = await cursor.fetchone()
        return bool(row and row[0])

    def _note_notice(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        self._notices += 1
        _log.warning("ledger_notice", message=diagnostic.message_primary)

    async def _call(self, query: LiteralString, parameters: Sequence[Any]) -> list[Any]:
        """
        Run one function as one transaction; return only after its commit.

        In autocommit mode the statement's implicit commit happens before the server says
        it is ready, and the driver collects every result until then: an error at commit
        is raised here. A notice at that point (a standby that did not confirm) makes the
        outcome unknown.
        """
        assert self._connection is not None, "connected before any work"
        notices = self._notices
        try:
            async with self._connection.cursor(binary=True) as cursor:
                await cursor.execute(query, parameters, prepare=True)
                rows = await cursor.fetchall()
        except postgres_errors.UniqueViolation as error:
            if _RECORDED.fullmatch(error.diag.constraint_name or ""):
                # Another writer recorded one of these facts first: run again, it will be seen.
                raise postgres_errors.SerializationFailure(*error.args) from error
            raise
        self._refuse_unconfirmed(notices)
        return rows

    def _refuse_unconfirmed(self, notices: int) -> None:
        """
        Raise when a notice came with a commit.

        Facts that are sent again after an unknown outcome may be found recorded, and then
        nothing is written and nothing waited for. The lease before them is a commit that
        waits for the standby, and with it for all that came before: it must be clean.
        """
        if self._notices != notices:
            message = "a notice came with the commit"
            raise OutcomeUnknownError(message)

    async def _run_placements(self, batch: Sequence[Placement]) -> list[Outcome]:
        assert self._lane is not None, "leased before any work"
        paths = _places_of_paths(batch)
        reservations = [
            (position, item)
            for position, placement in enumerate(batch, start=1)
            for item in placement.reservations
        ]
        rows = await self._call(
            QUERIES["place"],
            (
                self._lane.number,
                self._lane.epoch,
                self._clock.now(),
                min(item.hold_id for item in batch),
                max(item.hold_id for item in batch),
                arrays.uuid_array([item.hold_id for item in batch]),
                arrays.text_array([item.operation for item in batch]),
                arrays.int4_array([item.extension for item in batch]),
                arrays.bytea_array([item.content for item in batch]),
                arrays.timestamp_array([item.deadline for item in batch]),
                arrays.timestamp_array([item.expires_at for item in batch]),
                arrays.text_array([item.fate.value for item in batch]),
                arrays.int8_array([item.payee_account for item in batch]),
                arrays.uuid_array([path_id for path_id, _ in paths]),
                arrays.int4_array([version for _, version in paths]),
                arrays.int4_array([paths.get((item.path_id, item.path_version)) for item in batch]),
                arrays.text_array([item.meta for item in batch]),
                arrays.int4_array([position for position, _ in reservations]),
                arrays.int2_array([item.asset_id for _, item in reservations]),
                arrays.int8_array([item.account_id for _, item in reservations]),
                arrays.int8_array([item.quanta for _, item in reservations]),
            ),
        )
        outcomes = [_from_row(row) for row in rows]
        self._learn_path_accounts(batch, outcomes)
        return outcomes

    async def _run_postings(self, batch: Sequence[Posting]) -> list[Outcome]:
        assert self._lane is not None, "leased before any work"
        columns = self._take_columns(batch)
        if columns is None:
            await self._learn_lanes(accounts_of(batch))
            columns = self._pack(batch)
        if columns.plain is not None:
            outcome = await self._post_plain(columns.plain)
            if outcome is not None:
                return [outcome] * len(batch)
            self._plain_pause = PLAIN_PAUSE_BATCHES
        rows = await self._call_ahead(
            QUERIES["post"],
            (
                self._lane.number,
                self._lane.epoch,
                self._clock.now(),
                *post_columns(batch, self._lane_accounts, self._rider),
                self._together_from,
            ),
        )
        return _in_order(rows, len(batch))

    async def _post_plain(self, columns: tuple[Any, ...]) -> Outcome | None:
        """
        Post a batch that seems to be plain; ``None``: it is not, and nothing was written.
        """
        assert self._lane is not None, "leased before any work"
        parameters = (self._lane.number, self._lane.epoch, self._clock.now(), *columns)
        try:
            rows = await self._call_ahead(QUERIES["post_plain"], parameters)
        except psycopg.Error as error:
            if error.sqlstate != _NOT_PLAIN:
                raise
            return None
        moment: datetime | None = rows[0][0]
        if moment is None:
            return None
        return Outcome(code=OK, recorded_at=moment, lane=self._lane.number)

    async def _call_ahead(self, query: LiteralString, parameters: Sequence[Any]) -> list[Any]:
        """
        Do as ``_call`` does; while PostgreSQL works, pack the list that is to come next.

        Before that the callers of the batch before have gone on, who may bring it.
        """
        asyncio.get_running_loop().call_soon(self._pack_ahead)
        return await self._call(query, parameters)

    def _pack_ahead(self) -> None:
        if self._ahead or not self._is_list_next():
            return
        self._ahead = self._gather_postings()
        operations = [waiting.operation for waiting in self._ahead]
        # A malformed operation is found again, and told apart, when its batch is run.
        with contextlib.suppress(*_ALARMS):
            if accounts_of(operations) <= self._lane_accounts.keys():
                self._columns = self._pack(operations)

    def _pack(self, batch: Sequence[Posting]) -> Columns:
        assert self._lane is not None, "leased before any work"
        is_tried = not self._plain_pause and len(batch) >= self._together_from
        plain = plain_columns(batch, self._lane_accounts) if is_tried else None
        self._plain_pause = max(0, self._plain_pause - 1)
        return Columns(operations=batch, lane=self._lane.number, plain=plain)

    def _take_columns(self, batch: Sequence[Posting]) -> Columns | None:
        columns, self._columns = self._columns, None
        assert self._lane is not None, "leased before any work"
        if columns is None or columns.lane != self._lane.number:
            return None
        return columns if columns.operations == batch else None

    def _learn_path_accounts(self, batch: Sequence[Placement], outcomes: Sequence[Outcome]) -> None:
        """
        Note that accounts along a path have no lanes: they are a party's cash, and windows.

        They are what the holds' captures debit; with many buyers to ask about them cost as much
        as to insert an entry.
        """
        for placement, outcome in zip(batch, outcomes, strict=True):
            is_new = outcome.code == OK and not placement.extension
            if is_new and all(item.account_id is None for item in placement.reservations):
                self._lane_accounts.update(
                    {part.account_id: part.account_id for part in outcome.parts}
                )

    async def _learn_lanes(self, account_ids: set[int]) -> None:
        """
        Find this lane's share of each account; an account without lanes stands for itself.
        """
        if len(self._lane_accounts) > LANE_ACCOUNTS_MAX:
            self._lane_accounts.clear()
        strangers = account_ids - self._lane_accounts.keys()
        if not strangers:
            return
        assert self._connection is not None, "connected before any work"
        assert self._lane is not None, "leased before any work"
        cursor = await self._connection.execute(
            QUERIES["are_laned"], {"account_ids": sorted(strangers)}
        )
        for account_id, is_laned in await cursor.fetchall():
            share = account_id
            if is_laned:
                cursor = await self._connection.execute(
                    QUERIES["lane_account"],
                    {
                        "account_id": account_id,
                        "lane": self._lane.number,
                        "now": self._clock.now(),
                    },
                )
                row = await cursor.fetchone()
                assert row is not None, "a laned account gets its share"
                share = int(row[0])
            self._lane_accounts[account_id] = share


def _queue_is_full() -> LedgerUnavailableError:
    return LedgerUnavailableError("The ledger cannot take more operations now.", retry_after_s=1)


def _fact_of_posting(posting: Posting) -> UUID:
    return posting.fact_id


def _fact_of_placement(placement: Placement) -> UUID:
    return placement.hold_id


def _places_of_paths(batch: Sequence[Placement]) -> dict[tuple[UUID | None, int | None], int]:
    # Each path is looked at once, however many calls are placed on it.
    named = (item for item in batch if item.path_id is not None)
    paths = dict.fromkeys((item.path_id, item.path_version) for item in named)
    return {path: place for place, path in enumerate(paths, start=1)}


def _gather(
    queue: deque[_Waiting[Operation]],
    size: int,
    *,
    key: Callable[[Operation], UUID],
    is_withdrawable: bool,
) -> list[_Waiting[Operation]]:
    """
    Take the next batch; a second operation on the same fact waits for the next one.
    """
    batch: list[_Waiting[Operation]] = []
    facts: set[UUID] = set()
    postponed: list[_Waiting[Operation]] = []
    while queue and len(batch) < size:
        waiting = queue.popleft()
        if waiting.is_recalled or (is_withdrawable and waiting.answer.done()):
            continue  # its caller went away before anything was sent
        fact = key(waiting.operation)
        if fact in facts:
            postponed.append(waiting)
            continue
        facts.add(fact)
        batch.append(waiting)
    queue.extendleft(reversed(postponed))
    return batch


def _answer(waiting: _Waiting[Operation], outcome: Outcome) -> None:
    waiting.is_answered = True
    if not waiting.answer.done():
        waiting.answer.set_result(outcome)


def _in_order(rows: Sequence[Sequence[Any]], count: int) -> list[Outcome]:
    # Position 0 answers all that have no row of their own.
    answers = {int(row[0]): _from_row(row) for row in rows}
    plain = answers.get(0)
    if plain is None:
        return [answers[position] for position in range(1, count + 1)]
    return [answers.get(position, plain) for position in range(1, count + 1)]


def _from_row(row: Sequence[Any]) -> Outcome:
    (
        _,
        code,
        recorded_at,
        expires_at,
        accounts,
        assets,
        amounts,
        refused_account,
        available,
        overrun,
        record,
        lane,
        receipt_sequence,
        receipt_previous,
    ) = row
    parts = tuple(map(Part, accounts, assets, amounts)) if accounts else ()
    return Outcome(
        code=code,
        recorded_at=recorded_at,
        expires_at=expires_at,
        parts=parts,
        refused_account=refused_account,
        available=None if available is None else int(available),
        overrun=overrun or 0,
        record=record,
        lane=lane,
        receipt_sequence=receipt_sequence,
        receipt_previous=receipt_previous,
    )
