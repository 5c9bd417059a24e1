"""
Where time comes from; nothing else in the product reads a clock.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """
    A source of time that can be replaced by a fake one.
    """

    def now(self) -> datetime:
        """
        Return the current time, in UTC with microseconds.
        """
        ...

    def monotonic_s(self) -> float:
        """
        Return seconds that never run backwards, for durations only.
        """
        ...


class SystemClock:
    """
    The machine's clock.
    """

    def now(self) -> datetime:
        """
        Return the machine's time in UTC.
        """
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        """
        Return the machine's monotonic seconds.
        """
        return time.monotonic()


class FakeClock:
    """
    A clock that moves only when told to.
    """

    def __init__(self, start: datetime) -> None:
        assert start.tzinfo is not None, "time carries its zone"
        self._start = start
        self._now = start

    def now(self) -> datetime:
        """
        Return the time last set.
        """
        return self._now

    def monotonic_s(self) -> float:
        """
        Return seconds since this clock was made.
        """
        return (self._now - self._start).total_seconds()

    def advance(self, step: timedelta) -> None:
        """
        Move forward (or, to simulate a jump, backward) by ``step``.
        """
        self._now += step
