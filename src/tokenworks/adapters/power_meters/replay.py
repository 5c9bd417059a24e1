"""
Read recorded readings again, one moment at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from tokenworks.factory.energy.model import PowerSeries, Reading


class PowerReplay:
    """
    A source that tells a series again, in its own order and with its own times.
    """

    def __init__(self, series: PowerSeries) -> None:
        self._left = deque(series.readings)
        self._ranges_uj = dict(series.counter_ranges_uj)

    def read(self) -> Sequence[Reading]:
        """
        Return the next readings that share a time; nothing at the end.
        """
        readings: list[Reading] = []
        while self._left and (not readings or self._left[0].at_us == readings[0].at_us):
            readings.append(self._left.popleft())
        return readings

    @property
    def counter_ranges_uj(self) -> Mapping[str, int]:
        """
        Return the recorded ranges.
        """
        return self._ranges_uj
