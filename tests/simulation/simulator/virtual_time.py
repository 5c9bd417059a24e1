"""
An event loop whose time is a fake clock's: a timer fires when the simulation says so.

Real input and output still takes real time, but what a program schedules for later (heartbeats,
leases, deadlines) happens exactly when the fake clock has moved past it, and never by itself.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from tokenworks.foundation.clock import FakeClock


class JumpingClock(FakeClock):
    """
    A fake clock that can be set back, as a machine's can; what counts durations goes on.
    """

    def __init__(self, start: datetime) -> None:
        super().__init__(start)
        self._set_back_s = 0.0

    def monotonic_s(self) -> float:
        """
        Return the seconds that have passed, whatever the clock was set to.
        """
        return super().monotonic_s() + self._set_back_s

    def set_back(self, step: timedelta) -> None:
        """
        Let the clock show an earlier time from now on.
        """
        self._set_back_s += step.total_seconds()
        self.advance(-step)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """
    A loop that asks a fake clock for the time.
    """

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._fake_clock = clock

    def time(self) -> float:
        """
        Return the fake clock's seconds.
        """
        return self._fake_clock.monotonic_s()
