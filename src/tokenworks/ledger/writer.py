"""
Group commit: many callers, one durable transaction at a time.

Order of life of an operation: queued -> gathered into a batch (one event-loop turn, at most
``BATCH_OPERATIONS_MAX``; every placement that waits, but only some of the postings, so that
the callers of one batch work while another commits) -> decided and written by
``ledger.place_v2`` or ``ledger.post_v2`` in its own transaction -> answered, only after the
commit.
Postings go before placements, since they free what those need.

Owns: when the next batch is sent, and what is done when one fails. Does not own: the queue, the
lane and the batch itself (``ledger/batching/``).

What cannot be known is never guessed: when the connection dies during a batch its
outcome is unknown, so the writer connects again, takes its lane back (which fences the
old connection) and sends the same facts again; what was recorded comes back as
``replayed``. Two operations on one fact never share a batch.

Known limit: one writer has one connection and one batch in flight; more processes are
more writers, each with a lane of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import psycopg
import structlog
from psycopg import errors as postgres_errors

from tokenworks.foundation.clock import Clock
from tokenworks.ledger.batching.batches import ALARMS, TOGETHER_FROM, Batches
from tokenworks.ledger.batching.lane_connection import (
    LEASE_RENEWAL_S,
    LaneConnection,
    OutcomeUnknownError,
)
from tokenworks.ledger.batching.operation_queue import (
    Operation,
    OperationQueue,
    Waiting,
    answer_all,
)
from tokenworks.ledger.errors import LedgerUnavailableError
from tokenworks.ledger.model import Outcome, Placement, Posting, Refusal
from tokenworks.postgres.fence import Fence, ServerRefusedError

RECONNECT_DELAYS_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0)
RERUNS_MAX: Final = 8

_RERUN_WHOLE: Final = (
    postgres_errors.SerializationFailure,
    postgres_errors.DeadlockDetected,
)

_log = structlog.get_logger("tokenworks.ledger")


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
        self._connection = LaneConnection(dsn, clock=clock, holder=holder, fence=fence)
        self._batches = Batches(
            self._connection,
            clock=clock,
            rider=rider,
            together_from=together_from,
            on_send=self._gather_ahead,
        )
        self._queue = OperationQueue()
        self._ahead: list[Waiting[Posting]] = []  # taken from the queue before their turn
        self._task: asyncio.Task[None] | None = None
        self._on_failure: Callable[[], None] | None = None
        self.batches = 0
        self.operations = 0

    @property
    def lane(self) -> int:
        """
        Return the number of the lane this writer holds.
        """
        return self._connection.lane.number

    @property
    def holder(self) -> str:
        """
        Return what this process is called in its leases.
        """
        return self._connection.holder

    @property
    def is_connected(self) -> bool:
        """
        Return whether the last attempt to reach the database succeeded, and batches go on.
        """
        return self._connection.is_open and not (self._task is not None and self._task.done())

    async def start(self) -> None:
        """
        Connect, lease a lane and begin to commit.
        """
        await self._connection.open()
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
        self._queue.close()
        try:
            if self._task is not None:
                await self._task
        finally:
            await self._connection.give_back()

    async def place(self, placement: Placement) -> Outcome:
        """
        Place or extend a hold; answer once it is durable or refused.

        Raises:
            LedgerUnavailableError: The queue is full, or no answer came in time. A caller
                that stops waiting before the batch is formed withdraws its operation.
        """
        if (refusal := self._connection.refusal) is not None:
            # Nothing would come of waiting: an operator has to act.
            raise LedgerUnavailableError(refusal.message, code=refusal.code, retry_after_s=2)
        return await self._queue.add_placement(placement)

    async def post(self, posting: Posting, *, is_timed: bool = False) -> Outcome:
        """
        Post an entry or end a hold; answer once it is durable or refused.

        A caller that is cancelled, or stops waiting, does not withdraw its posting.

        Args:
            posting: What to post.
            is_timed: Whether to stop waiting after ``LEDGER_ANSWER_TIMEOUT_S``; the posting
                goes on in memory.

        Raises:
            LedgerUnavailableError: The queue is full, or no answer came in time.
        """
        return await self._queue.add_posting(posting, is_timed=is_timed)

    async def post_all(self, postings: Sequence[Posting]) -> list[Outcome]:
        """
        Post many at once, each all or nothing by itself; answer in their order.

        What ``post`` for each would do, at a third of its processor time.

        Raises:
            LedgerUnavailableError: The queue has no room for all; nothing was queued.
        """
        if not postings:
            return []
        answers = self._queue.add_list(postings)
        await answers.complete
        return [outcome for outcome in answers.outcomes if outcome is not None]

    # ------------------------------------------------------------------ the loop

    async def _run(self) -> None:
        answered = 0
        while True:
            waiting = len(self._ahead) + len(self._queue)
            if not waiting:
                if self._queue.is_closed:
                    return
                await self._queue.wait(LEASE_RENEWAL_S)
            if (waiting <= answered and not self._ahead) or not waiting:
                # One turn of the loop lets callers that are already awake join this batch. Where
                # more wait than were answered just now, the database need not stand still until
                # these have gone on: they do so while the next batch is committed.
                await asyncio.sleep(0)
            before = self.operations
            await self._commit_one_round()
            answered = self.operations - before

    async def _commit_one_round(self) -> None:
        if self._connection.is_renewal_due:
            await self._until_settled(self._connection.keep)
        postings, self._ahead = self._ahead or self._queue.take_postings(), []
        if postings:
            await self._until_settled(lambda: self._commit(postings, self._batches.post))
        if placements := self._queue.take_placements():
            await self._until_settled(lambda: self._commit(placements, self._batches.place))

    def _gather_ahead(self) -> None:
        """
        Take and pack the list that is to come next, while PostgreSQL works.
        """
        if self._ahead or not self._queue.is_list_next:
            return
        self._ahead = self._queue.take_postings()
        self._batches.pack_ahead([waiting.operation for waiting in self._ahead])

    # ------------------------------------------------------------------ when it fails

    async def _until_settled(self, work: Callable[[], Awaitable[None]]) -> None:
        """
        Do ``work`` until the database has said clearly what came of it.
        """
        delays = iter(RECONNECT_DELAYS_S)
        while True:
            try:
                if not self._connection.is_open:
                    await self._connection.open()
                await work()
            except (psycopg.OperationalError, OutcomeUnknownError, OSError) as error:
                if isinstance(error, _RERUN_WHOLE):
                    continue
                _log.warning("ledger_connection_lost", reason=type(error).__name__)
            except ServerRefusedError as error:
                _log.error("ledger_server_refused", code=error.code, reason=error.message)
            except psycopg.Error as error:
                # Never give up here: callers wait, and the next attempt may find a lane.
                _log.warning("ledger_batch_refused", sqlstate=error.sqlstate, reason=str(error))
            else:
                return
            await self._connection.close()
            delay_s = next(delays, RECONNECT_DELAYS_S[-1])
            await asyncio.sleep(delay_s)

    async def _commit(
        self,
        batch: Sequence[Waiting[Operation]],
        run: Callable[[Sequence[Operation]], Awaitable[list[Outcome]]],
    ) -> None:
        """
        Run a batch and answer it; on a constraint error its halves, until the offender is alone.

        When a batch is run again after a lost connection, what was answered already is left
        out: an operation that was refused to its caller must not succeed later.
        """
        batch = [waiting for waiting in batch if not waiting.is_answered]
        if not batch:
            return
        try:
            outcomes = await _rerun_on_contention(run, [waiting.operation for waiting in batch])
        except ALARMS as error:
            if self._connection.is_at_fault(error):
                raise
            _log.exception("ledger_constraint_alarm", operations=len(batch))
            if len(batch) == 1:
                answer_all(batch, [Outcome(code=Refusal.INTERNAL.value)])
                return
            middle = len(batch) // 2
            await self._commit(batch[:middle], run)
            await self._commit(batch[middle:], run)
            return
        self.batches += 1
        self.operations += len(batch)
        answer_all(batch, outcomes)


async def _rerun_on_contention(
    run: Callable[[Sequence[Operation]], Awaitable[list[Outcome]]],
    operations: Sequence[Operation],
) -> list[Outcome]:
    for _ in range(RERUNS_MAX):
        try:
            return await run(operations)
        except _RERUN_WHOLE:
            _log.info("ledger_batch_rerun", operations=len(operations))
    return await run(operations)
