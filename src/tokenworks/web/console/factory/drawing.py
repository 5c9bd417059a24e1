"""
Scales, ticks and rows of labels for charts in SVG; pure. Floats here are lengths on a screen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

CHARACTER_PX: Final = 6.6
LABEL_GAP_PX: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """
    A picture; the wide one is for screens from 720 pixels on.
    """

    name: str
    width: int
    height: int
    ticks_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """
    A place on an axis.
    """

    at: float
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogarithmicScale:
    """
    From positive values to pixels.
    """

    low: float
    high: float
    start: float  # pixels at ``low``
    end: float

    def at(self, value: float) -> float:
        """
        Return where a value is; what is beyond an end is at that end.
        """
        inside = min(max(value, self.low), self.high)
        share = math.log(inside / self.low) / math.log(self.high / self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, count_max: int) -> tuple[Tick, ...]:
        """
        Return round values within, no more than so many.
        """
        for steps in ((1, 2, 5), (1, 3), (1,)):
            values = [
                step * 10.0**power
                for power in range(_power(self.low), _power(self.high) + 1)
                for step in steps
                if self.low <= step * 10.0**power <= self.high
            ]
            if len(values) <= count_max:
                break
        return tuple(Tick(at=self.at(value), label=tick_text(value)) for value in values)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearScale:
    """
    From values of at least zero to pixels.
    """

    high: float
    start: float  # pixels at 0
    end: float

    def at(self, value: float) -> float:
        """
        Return where a value is.
        """
        inside = min(max(value, 0.0), self.high)
        return round(self.start + inside / self.high * (self.end - self.start), 1)

    def ticks(self) -> tuple[Tick, ...]:
        """
        Return zero, the middle and the end.
        """
        values = (0.0, self.high / 2, self.high)
        return tuple(Tick(at=self.at(value), label=tick_text(value)) for value in values)


def spanning(
    values: Iterable[float], *, start: float, end: float, room: float = 1.2
) -> LogarithmicScale:
    """
    Return a scale that holds positive values with some room around.
    """
    known = list(values)
    low, high = min(known) / room, max(known) * room
    return LogarithmicScale(low=low, high=high, start=start, end=end)


def rounded_up(top: float) -> float:
    """
    Return the next round value, so that an axis rarely changes.
    """
    if top <= 0:
        return 1.0
    power = 10.0 ** _power(top)
    return next(step * power for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * power >= top)


def path_of(points: Iterable[tuple[float, float]]) -> str:
    """
    Return the ``d`` of a line through points in pixels.
    """
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def rows_of(labels: Sequence[tuple[float, str]]) -> tuple[int, ...]:
    """
    Return for each centred label the first row in which it touches none before it.
    """
    ends: list[float] = []
    rows: list[int] = []
    for middle, text in labels:
        half = len(text) * CHARACTER_PX / 2
        fitting = (row for row, end in enumerate(ends) if middle - half > end + LABEL_GAP_PX)
        row = next(fitting, len(ends))
        if row == len(ends):
            ends.append(0.0)
        ends[row] = middle + half
        rows.append(row)
    return tuple(rows)


def tick_text(value: float) -> str:
    """
    Return a round value as an axis shows it.
    """
    if value >= 1_000_000:
        return f"{value / 1_000_000:g}M"
    if value >= 10_000:
        return f"{value / 1_000:g}k"
    return f"{value:,g}" if value < 1_000 else f"{value:,.0f}"


def _power(value: float) -> int:
    return math.floor(math.log10(value))
