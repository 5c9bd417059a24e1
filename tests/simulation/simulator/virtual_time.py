"""
An event loop whose time is a fake clock's: a timer fires when the simulation says so.

Real input and output still takes real time, but what a program schedules for later (heartbeats,
leases, deadlines) happens exactly when the fake clock has moved past it, and never by itself.
"""

from __future__ import annotations

import asyncio

from tokenworks.foundation.clock import FakeClock


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
