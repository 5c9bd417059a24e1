"""
Integrate a device's valid readings exactly; pure.

Between two powers the power is a straight line (trapezoid), between two counters it is constant.
Inside, energy is counted in halves of a picojoule (a microwatt for a microsecond is a picojoule),
so nothing is rounded until someone asks; then the energy *until* a moment is rounded down, and an
interval is the difference of two of those: the remainder is carried, and intervals add up.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tokenworks.factory.energy.model import Quantity

_HALF_PICOJOULES: Final = 2_000_000
"""In a microjoule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """
    The valid time between two readings that follow each other.
    """

    start_us: int
    end_us: int
    quantity: Quantity
    start_level: int  # microwatts; 0 of a counter
    end_level: int  # microwatts; the microjoules counted of a counter

    @property
    def duration_us(self) -> int:
        """
        Return how long it is.
        """
        return self.end_us - self.start_us

    def numerator(self, elapsed_us: int) -> int:
        """
        Return its energy so far, in half picojoules times the duration.
        """
        if self.quantity is Quantity.COUNTER:
            return self.end_level * _HALF_PICOJOULES * elapsed_us
        slope = self.end_level - self.start_level
        return 2 * self.start_level * elapsed_us * self.duration_us + slope * elapsed_us**2


class EnergyCurve:
    """
    One device's energy since its first reading.

    Args:
        device: Whose.
        segments: In order, not overlapping; what lies between them has no energy.
        unplaced_uj: What a counter counted in invalid intervals: metered, but nobody knows when.
    """

    def __init__(self, device: str, segments: Sequence[Segment], *, unplaced_uj: int = 0) -> None:
        self.device = device
        self.unplaced_uj = unplaced_uj
        self._segments = segments
        self._starts = [segment.start_us for segment in segments]
        self._energies = [0]  # half picojoules before each segment, and after the last
        self._times = [0]  # microseconds covered before each segment, and after the last
        for segment in segments:
            assert segment.duration_us > 0, "a segment lasts"
            whole = segment.numerator(segment.duration_us) // segment.duration_us
            self._energies.append(self._energies[-1] + whole)
            self._times.append(self._times[-1] + segment.duration_us)

    @property
    def placed_uj(self) -> int:
        """
        Return the energy of all valid intervals, rounded down.
        """
        return self._energies[-1] // _HALF_PICOJOULES

    def energy_uj(self, start_us: int, end_us: int) -> int:
        """
        Return the energy of an interval; of its validly metered part, where there are holes.
        """
        assert start_us <= end_us, "an interval ends after its start"
        return self._until_uj(end_us) - self._until_uj(start_us)

    def covered_us(self, start_us: int, end_us: int) -> int:
        """
        Return how much of an interval is validly metered.
        """
        return self._covered_until(end_us) - self._covered_until(start_us)

    def _until_uj(self, at_us: int) -> int:
        place = bisect_right(self._starts, at_us) - 1
        if place < 0:
            return 0
        segment = self._segments[place]
        elapsed_us = min(at_us, segment.end_us) - segment.start_us
        before = self._energies[place] * segment.duration_us
        return (before + segment.numerator(elapsed_us)) // (segment.duration_us * _HALF_PICOJOULES)

    def _covered_until(self, at_us: int) -> int:
        place = bisect_right(self._starts, at_us) - 1
        if place < 0:
            return 0
        segment = self._segments[place]
        return self._times[place] + min(at_us, segment.end_us) - segment.start_us
