"""
How often the hub is asked, and what stays when it does not answer.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.errors import (
    ForbiddenError,
    TokenworksError,
    UnauthenticatedError,
    UnavailableError,
)
from tokenworks.web.console.polling import Polled


class Asked:
    """
    A question whose answers are numbered; it may take a while, or fail.
    """

    def __init__(self) -> None:
        self.clock = FakeClock(datetime(2026, 3, 1, tzinfo=UTC))
        self.times = 0
        self.takes_s = 0.0
        self.error: TokenworksError | None = None
        self.during: Callable[[], None] | None = None  # happens while the hub answers
        self.polled = Polled(self._ask, self.clock, fresh_for_s=2.0)

    async def _ask(self) -> int:
        self.times += 1
        self.clock.advance(timedelta(seconds=self.takes_s))
        if self.during is not None:
            self.during()
        if self.error is not None:
            raise self.error
        return self.times

    async def answers(self, *pauses_s: float) -> list[int | None]:
        """
        Read now, and again after each pause.
        """
        found = [(await self.polled.read()).answer]
        for pause_s in pauses_s:
            self.clock.advance(timedelta(seconds=pause_s))
            found.append((await self.polled.read()).answer)
        return found


async def test_answer_is_good_for_a_while() -> None:
    """
    However often it is read, the hub is asked once in two seconds.
    """
    assert await Asked().answers(0.0, 1.0, 0.9, 0.2, 1.0) == [1, 1, 1, 1, 2, 2]


async def test_what_was_changed_is_asked_for_at_once() -> None:
    """
    After an action the old answer is not shown again.
    """
    asked = Asked()
    await asked.answers()
    asked.polled.forget()

    assert await asked.answers() == [2]


async def test_answer_on_its_way_when_something_was_changed_is_old() -> None:
    """
    What was asked before an action and answered after it is asked for again.
    """
    asked = Asked()
    asked.during = asked.polled.forget
    before = await asked.answers()
    asked.during = None

    assert (before, await asked.answers()) == ([1], [2])


async def test_slow_answer_is_good_for_longer() -> None:
    """
    A question that takes a second is asked every five at most.
    """
    asked = Asked()
    asked.takes_s = 1.0

    assert await asked.answers(2.0, 2.0, 1.0) == [1, 1, 1, 2]


async def test_last_answer_stays_while_the_hub_is_away() -> None:
    """
    The hub is left alone for as long as it says; the answer stays with a notice.
    """
    asked = Asked()
    await asked.answers()
    asked.error = UnavailableError("The hub does not answer.", retry_after_s=30)
    asked.clock.advance(timedelta(seconds=3))
    away = await asked.polled.read()
    await asked.answers(29.0)

    assert (away.answer, away.notice, away.is_refused) == (1, "The hub does not answer.", False)
    assert asked.times == 2
    asked.error = None
    asked.clock.advance(timedelta(seconds=2))
    assert (await asked.polled.read()).notice is None


async def test_refusal_takes_the_answer_away() -> None:
    """
    What the key may no longer see is not shown any more, and is not asked for all the time.
    """
    asked = Asked()
    await asked.answers()
    asked.error = ForbiddenError("This key may not see that.")
    asked.clock.advance(timedelta(seconds=3))
    look = await asked.polled.read()
    await asked.answers(9.0)

    assert (look.answer, look.is_refused, asked.times) == (None, True, 2)


async def test_key_that_is_not_accepted_is_not_hidden() -> None:
    """
    The page has to leave.
    """
    asked = Asked()
    asked.error = UnauthenticatedError("no")

    with pytest.raises(UnauthenticatedError):
        await asked.polled.read()
