"""
The operations that wait for a batch, and the callers who wait for their answers.

Owns: both queues, how much of them the next batch takes, and when a caller stops waiting.
Does not own: what becomes of a batch; whoever takes one answers it (``answer_all``).
Invariants: two operations on one fact never share a batch; nothing is queued beyond
``BATCH_QUEUE_OPERATIONS_MAX`` of a sort, nor once the queue is closed; an answer is given
once; a placement whose caller went away is withdrawn until a batch takes it, a posting never is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar
from uuid import UUID

from tokenworks.foundation.limits import (
    BATCH_OPERATIONS_MAX,
    BATCH_QUEUE_OPERATIONS_MAX,
    BATCH_UNDIVIDED_OPERATIONS,
    LEDGER_ANSWER_TIMEOUT_S,
)
from tokenworks.ledger.errors import LedgerUnavailableError
from tokenworks.ledger.model import Outcome, Placement, Posting

OVERDUE_CHECK_S: Final = 0.25

Operation = TypeVar("Operation")


class _Answer(Protocol):
    """
    Where an outcome goes: a future, or one place of a list.
    """

    def done(self) -> bool: ...
    def set_result(self, outcome: Outcome, /) -> None: ...


class Answers:
    """
    The outcomes of many operations with one caller, in their order.
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

    answers: Answers
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
class Waiting(Generic[Operation]):
    """
    One queued operation and the caller who waits for it.
    """

    operation: Operation
    answer: _Answer
    is_answered: bool = False


class OperationQueue:
    """
    The queue of one writer.
    """

    def __init__(self) -> None:
        self._postings: deque[Waiting[Posting]] = deque()
        self._placements: deque[Waiting[Placement]] = deque()
        self._timed: deque[tuple[float, asyncio.Future[Outcome]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self.is_closed = False

    def __len__(self) -> int:
        return len(self._postings) + len(self._placements)

    # ------------------------------------------------------------------ callers come

    def add_placement(self, placement: Placement) -> asyncio.Future[Outcome]:
        """
        Queue a placement; the future fails after ``LEDGER_ANSWER_TIMEOUT_S``.

        Who cancels it before a batch takes the placement withdraws it.

        Raises:
            LedgerUnavailableError: The queue is full or closed.
        """
        return self._add(self._placements, placement, is_timed=True)

    def add_posting(self, posting: Posting, *, is_timed: bool) -> asyncio.Future[Outcome]:
        """
        Queue a posting; it goes on whether or not its caller waits.

        Args:
            posting: What is to be posted.
            is_timed: Whether the future fails after ``LEDGER_ANSWER_TIMEOUT_S``.

        Raises:
            LedgerUnavailableError: The queue is full or closed.
        """
        return self._add(self._postings, posting, is_timed=is_timed)

    def add_list(self, postings: Sequence[Posting]) -> Answers:
        """
        Queue the postings of one caller, all or none.

        Raises:
            LedgerUnavailableError: There is no room for all, or the queue is closed.
        """
        if self.is_closed or len(self._postings) + len(postings) > BATCH_QUEUE_OPERATIONS_MAX:
            raise _queue_is_full()
        answers = Answers(len(postings))
        self._postings.extend(
            Waiting(posting, _Place(answers, index)) for index, posting in enumerate(postings)
        )
        self._wake.set()
        return answers

    def close(self) -> None:
        """
        Take nothing more; what is queued stays.
        """
        self.is_closed = True
        self._wake.set()

    def _add(
        self, queue: deque[Waiting[Operation]], operation: Operation, *, is_timed: bool
    ) -> asyncio.Future[Outcome]:
        if self.is_closed or len(queue) >= BATCH_QUEUE_OPERATIONS_MAX:
            raise _queue_is_full()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Outcome] = loop.create_future()
        queue.append(Waiting(operation, answer))
        self._wake.set()
        if is_timed:
            # All wait equally long, so the longest waiting is always the first: one timer
            # for all callers instead of one for each.
            self._timed.append((loop.time() + LEDGER_ANSWER_TIMEOUT_S, answer))
            if self._timer is None:
                self._timer = loop.call_later(OVERDUE_CHECK_S, self._end_overdue)
        return answer

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

    # ------------------------------------------------------------------ batches are taken

    async def wait(self, timeout_s: float) -> None:
        """
        Return when something is queued, the queue is closed, or the time is over.
        """
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), timeout_s)

    @property
    def is_list_next(self) -> bool:
        """
        Return whether the posting that waits longest is one of a caller's list.
        """
        return bool(self._postings) and isinstance(self._postings[0].answer, _Place)

    def take_postings(self) -> list[Waiting[Posting]]:
        """
        Take the postings of the next batch.
        """
        size = self._postings_size()
        return _gather(self._postings, size, key=_fact_of_posting, is_withdrawable=False)

    def take_placements(self) -> list[Waiting[Placement]]:
        """
        Take the placements of the next batch; those whose callers went away are dropped.
        """
        return _gather(
            self._placements, BATCH_OPERATIONS_MAX, key=_fact_of_placement, is_withdrawable=True
        )

    def _postings_size(self) -> int:
        """
        Return how many postings the next batch takes: a quarter of all that waits.

        With all of them in one batch the callers would go in step: none could work while it
        commits, and nothing would commit while they work. So postings go little by little, and
        placements, on which first tokens wait, all at once. A few are not divided, since a
        batch has a price of its own; nor is the list of one caller, who could not work meanwhile.
        """
        if self.is_list_next:
            return BATCH_OPERATIONS_MAX
        return min(BATCH_OPERATIONS_MAX, max(BATCH_UNDIVIDED_OPERATIONS, len(self) // 4))


def answer_all(batch: Sequence[Waiting[Operation]], outcomes: Sequence[Outcome]) -> None:
    """
    Answer each operation of a batch, whether or not its caller still waits.
    """
    for waiting, outcome in zip(batch, outcomes, strict=True):
        waiting.is_answered = True
        if not waiting.answer.done():
            waiting.answer.set_result(outcome)


def _queue_is_full() -> LedgerUnavailableError:
    return LedgerUnavailableError("The ledger cannot take more operations now.", retry_after_s=1)


def _fact_of_posting(posting: Posting) -> UUID:
    return posting.fact_id


def _fact_of_placement(placement: Placement) -> UUID:
    return placement.hold_id


def _gather(
    queue: deque[Waiting[Operation]],
    size: int,
    *,
    key: Callable[[Operation], UUID],
    is_withdrawable: bool,
) -> list[Waiting[Operation]]:
    """
    Take the next batch; a second operation on the same fact waits for the next one.
    """
    batch: list[Waiting[Operation]] = []
    facts: set[UUID] = set()
    postponed: list[Waiting[Operation]] = []
    while queue and len(batch) < size:
        waiting = queue.popleft()
        if is_withdrawable and waiting.answer.done():
            continue  # its caller went away before anything was sent
        fact = key(waiting.operation)
        if fact in facts:
            postponed.append(waiting)
            continue
        facts.add(fact)
        batch.append(waiting)
    queue.extendleft(reversed(postponed))
    return batch
