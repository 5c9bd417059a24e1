"""
A business lives for months on a fake clock: operations, freezes, changed limits, lost lanes.

After every step the real books equal the naive ones. ``TOKENWORKS_LONG_TESTS=1`` for longer lives.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from tests.simulation.books import Books, open_books
from tests.simulation.twin import PlaceWish, PostWish, Twin, place_wishes, post_wishes
from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.ledger.model import PostingKind

IS_LONG = bool(os.environ.get("TOKENWORKS_LONG_TESTS"))
STATES = st.sampled_from(["active", "active", "frozen", "closed"])


class LedgerMachine(RuleBasedStateMachine):
    """
    Each run opens a business of its own in the one ledger of the test.
    """

    books: ClassVar[Books]
    runner: ClassVar[asyncio.Runner]

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 - whatever it returns
        return self.runner.run(work)

    @initialize()
    def open(self) -> None:
        """
        Open the business on both sides.
        """
        self.twin = Twin(self.books)
        self._run(self.twin.open())

    @rule(wishes=st.lists(place_wishes, min_size=1, max_size=6))
    def place(self, wishes: list[PlaceWish]) -> None:
        """
        Place or extend holds in one batch.
        """
        self._run(self.twin.place([self.twin.placement(wish) for wish in wishes]))

    @rule(wishes=st.lists(post_wishes, min_size=1, max_size=6))
    def post(self, wishes: list[PostWish]) -> None:
        """
        Post, capture, void and expire in one batch.
        """
        self._run(self.twin.post([self.twin.posting(wish) for wish in wishes]))

    @rule(minutes=st.sampled_from([0, 1, 15, 60 * 24, 60 * 24 * 20]))
    def wait(self, minutes: int) -> None:
        """
        Let time pass; now and then whole months.
        """
        self.books.clock.advance(timedelta(minutes=minutes))
        self._run(self.books.ledger.ensure_partitions())

    @rule()
    def expire(self) -> None:
        """
        Expire everything, due or not.
        """
        wishes = [
            PostWish(kind=PostingKind.EXPIRE, hold=index, transfers=())
            for index in range(len(self.twin.hold_ids))
        ]
        if wishes:
            self._run(self.twin.post([self.twin.posting(wish) for wish in wishes]))

    @rule(index=st.integers(0, 2), state=STATES)
    def stop_scope(self, index: int, state: str) -> None:
        """
        Freeze, close or thaw a node of the spend tree.
        """
        self._run(self.twin.stop_scope(index, state))

    @rule(index=st.integers(0, 11), state=STATES)
    def stop_account(self, index: int, state: str) -> None:
        """
        Freeze, close or thaw an account.
        """
        self._run(self.twin.set_account_state(index, state))

    @rule()
    def lose_lane(self) -> None:
        """
        Connect again: the lane comes back in a new epoch.
        """
        self._run(self._reconnect())

    async def _reconnect(self) -> None:
        await self.books.writer._connection.close()
        await self.books.writer._connection.open()

    @invariant()
    def books_are_the_same(self) -> None:
        """
        Counters and holds agree, and the laws hold.
        """
        if hasattr(self, "twin"):
            self._run(self.twin.assert_same())


@pytest.fixture
def machine(dsn: str, clock: FakeClock, ids: IdentifierSource) -> Iterator[type[LedgerMachine]]:
    """
    The machine's class, bound to a fresh ledger and an event loop of its own.
    """
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        LedgerMachine.runner = runner
        LedgerMachine.books = runner.run(stack.enter_async_context(open_books(dsn, clock, ids)))
        yield LedgerMachine
        runner.run(LedgerMachine.books.assert_clean())
        runner.run(stack.aclose())


@pytest.mark.timeout(3_600 if IS_LONG else 120)
def test_ledger_and_its_naive_twin_live_the_same_life(machine: type[LedgerMachine]) -> None:
    """
    Whatever happens in whatever order, both keep the same books, and the check is clean.
    """
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=100 if IS_LONG else 12,
            stateful_step_count=60 if IS_LONG else 20,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
