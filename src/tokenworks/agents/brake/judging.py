"""
Judge payments in batches: one short transaction for all that wait in this process.

Whoever comes first begins at once; those who come meanwhile form the next batch. What was
captured is learned behind the answer, so it waits a moment for a payment to judge and goes with
it. A batch locks the profiles of its agents, in the order of their ids, reads, judges (pure) and
writes; so two processes that see the same agent take turns, and no waiting payment holds a
connection.

The commit does not wait for the disk when nothing but allowed payments was counted: what a
crash could lose is the last moments of statistics, which only ever raise scrutiny. A hold or a
denial is on the disk before it is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import psycopg
import structlog
from psycopg_pool import PoolTimeout

from tokenworks.agents.brake import profile_store
from tokenworks.agents.brake.batch import Batch, Waiting
from tokenworks.agents.brake.errors import BrakeUnavailableError
from tokenworks.agents.brake.model import Decision, Subject
from tokenworks.agents.brake.profile import tree_of
from tokenworks.agents.brake.rule_book import RuleBook
from tokenworks.agents.brake.rules import Budget
from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import TokenworksError
from tokenworks.postgres.pool import Pool

BATCH_MAX: Final = 64
WAITING_MAX: Final = 10_000
LEARNING_DELAY_S: Final = 0.01
"""How long a capture waits at most to be learned along with the next judgement."""

_log = structlog.get_logger("tokenworks.brake")


class Judging:
    """
    Gather payments and judge them together.
    """

    def __init__(self, pool: Pool, clock: Clock, *, mark_key: bytes) -> None:
        self._pool = pool
        self._clock = clock
        self._mark_key = mark_key
        self.book = RuleBook()
        self._waiting: list[Waiting] = []
        self._running: asyncio.Task[None] | None = None
        self._is_judging = asyncio.Event()

    async def judge(self, subject: Subject, budgets: Sequence[Budget]) -> Decision:
        """
        Judge one payment.

        Raises:
            BrakeUnavailableError: It cannot be judged, so it is not allowed.
            ReviewDigestMismatchError: It was judged before with another payload.
        """
        decision = await self._submit(Waiting(subject=subject, budgets=budgets, done=_new_future()))
        assert decision is not None, "a judgement has an answer"
        return decision

    async def record(self, subject: Subject, captured_quanta: int) -> None:
        """
        Learn from one payment that was captured; a repeat changes nothing.

        Raises:
            BrakeUnavailableError: Nothing was learned; the payment stands.
        """
        await self._submit(
            Waiting(subject=subject, captured_quanta=captured_quanta, done=_new_future())
        )

    async def _submit(self, waiting: Waiting) -> Decision | None:
        if len(self._waiting) >= WAITING_MAX:
            message = "Too many payments wait to be judged."
            raise BrakeUnavailableError(message, retry_after_s=1.0)
        self._waiting.append(waiting)
        if waiting.captured_quanta is None:
            self._is_judging.set()
        if self._running is None or self._running.done():
            # Its own task: a caller who gives up must not end everybody's batch.
            self._running = asyncio.create_task(self._work())
        return await waiting.done

    async def _work(self) -> None:
        while self._waiting:
            if all(waiting.captured_quanta is not None for waiting in self._waiting):
                await self._await_judgement()
            batch = self._waiting[:BATCH_MAX]
            del self._waiting[:BATCH_MAX]
            try:
                answers = await self._run(batch)
            except (psycopg.Error, PoolTimeout, OSError, TokenworksError) as error:
                _log.warning("payments_not_judged", count=len(batch), error=type(error).__name__)
                message = "Payments cannot be judged right now."
                answers = [BrakeUnavailableError(message, retry_after_s=1.0)] * len(batch)
            except BaseException:
                _fail(batch + self._waiting)
                self._waiting.clear()
                raise
            for waiting, answer in zip(batch, answers, strict=True):
                if waiting.done.done():
                    continue  # who asked has gone
                if isinstance(answer, TokenworksError):
                    waiting.done.set_exception(answer)
                else:
                    waiting.done.set_result(answer)

    async def _await_judgement(self) -> None:
        """
        Let what is only to be learned wait for a payment to judge, and share its transaction.
        """
        self._is_judging.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEARNING_DELAY_S):
                await self._is_judging.wait()

    async def _run(self, batch: Sequence[Waiting]) -> list[Decision | TokenworksError | None]:
        now = self._clock.now()
        # Two round trips: the begin goes out with what is read, the commit with what is written.
        async with (
            self._pool.connection() as connection,
            connection.pipeline(),
            connection.transaction(),
        ):
            read = await profile_store.lock_and_read(
                connection,
                [waiting.subject for waiting in batch],
                judged=[w.subject for w in batch if w.captured_quanta is None],
                now=now,
            )
            await self.book.load(connection, read.versions)
            trees = {
                (tree_of(party_id), waiting.subject.currency)
                for waiting in batch
                if waiting.captured_quanta is None
                for party_id in self.book.trees(waiting.subject.rule_parties, read.versions)
            }
            if trees:
                locked = await profile_store.lock_trees(connection, trees, now=now)
                read = replace(read, profiles={**read.profiles, **locked})
            work = Batch(read, self.book, now, mark_key=self._mark_key)
            answers = [work.answer(waiting) for waiting in batch]
            await work.write(connection)
        return answers


def _fail(waiting: Sequence[Waiting]) -> None:
    for item in waiting:
        if not item.done.done():
            item.done.set_exception(BrakeUnavailableError("The payment was not judged."))


def _new_future() -> asyncio.Future[Decision | None]:
    return asyncio.get_running_loop().create_future()
