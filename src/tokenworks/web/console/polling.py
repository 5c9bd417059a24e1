"""
Ask the hub one question at most every so often, and keep the last good answer.

Tabs of a session share what is asked. Nothing is asked while no page looks; a hub that does
not answer is left alone for as long as it says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import TokenworksError, UnauthenticatedError
from tokenworks.web.console.hub import RETRY_AFTER_S_DEFAULT

REST_TIMES: Final = 5
"""An answer that took long is good for so many times as long: a large tree is asked for less."""

REFUSED_FOR_S: Final = 10.0
"""How long a refusal counts before the question is asked again."""

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Look(Generic[Answer]):
    """
    What is known, and what is wrong with it.
    """

    answer: Answer | None = None  # the last good one; None: there was none yet
    notice: str | None = None  # what is wrong now, for people
    is_refused: bool = False  # the hub answers, and this key may not ask that


class Polled(Generic[Answer]):
    """
    One question and its newest answer.

    Args:
        ask: Asks the hub.
        clock: Says when an answer is old.
        fresh_for_s: How long an answer is new.
    """

    def __init__(
        self, ask: Callable[[], Awaitable[Answer]], clock: Clock, *, fresh_for_s: float
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._fresh_for_s = fresh_for_s
        self._lock = asyncio.Lock()
        self._not_before_s: float | None = None
        self._times_forgotten = 0
        self._latest: Look[Answer] = Look()

    async def read(self) -> Look[Answer]:
        """
        Return what is known; asks the hub when that is old.

        Raises:
            UnauthenticatedError: The hub does not accept the session's key any more.
        """
        async with self._lock:
            if self._not_before_s is None or self._clock.monotonic_s() >= self._not_before_s:
                await self._refresh()
            return self._latest

    def forget(self) -> None:
        """
        Ask anew next time: something was changed.

        An answer that is on its way was given before the change; it counts for nobody after.
        """
        self._not_before_s = None
        self._times_forgotten += 1

    async def _refresh(self) -> None:
        begun_s, times_forgotten = self._clock.monotonic_s(), self._times_forgotten
        try:
            self._latest = Look(answer=await self._ask())
            took_s = self._clock.monotonic_s() - begun_s
            wait_s = max(self._fresh_for_s, took_s * REST_TIMES)
        except UnauthenticatedError:
            raise
        except TokenworksError as error:
            is_away = error.retry_after_s is not None
            wait_s = error.retry_after_s or (RETRY_AFTER_S_DEFAULT if is_away else REFUSED_FOR_S)
            answer = self._latest.answer if is_away else None
            self._latest = Look(answer=answer, notice=error.message, is_refused=not is_away)
        if times_forgotten == self._times_forgotten:
            self._not_before_s = self._clock.monotonic_s() + wait_s
