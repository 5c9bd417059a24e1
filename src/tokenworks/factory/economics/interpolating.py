"""
Monotone interpolation: through every point, and between two points never beyond them.

Piecewise cubic Hermite polynomials with the slopes of Fritsch and Butland (SIAM J. Sci. Stat.
Comput. 5, 1984), the method known as PCHIP; sixty lines instead of a numerical library. Curves of
machines are drawn in logarithms on both axes, where they are nearly straight.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from itertools import pairwise


class MonotoneCurve:
    """
    A curve through points.

    Args:
        xs: Strictly ascending, at least one.
        ys: As many.
    """

    def __init__(self, xs: Sequence[float], ys: Sequence[float]) -> None:
        assert xs, "a curve needs a point"
        assert len(xs) == len(ys)
        assert all(a < b for a, b in pairwise(xs)), "xs ascend"
        self._xs = tuple(xs)
        self._ys = tuple(ys)
        self._slopes = _slopes(self._xs, self._ys)

    @property
    def low(self) -> float:
        """
        Return the smallest x.
        """
        return self._xs[0]

    @property
    def high(self) -> float:
        """
        Return the largest x.
        """
        return self._xs[-1]

    def at(self, x: float) -> float:
        """
        Return y at an x within the curve; it does not extrapolate.
        """
        assert self.low <= x <= self.high, "outside of what was measured"
        right = bisect.bisect_left(self._xs, x)
        if self._xs[right] == x:
            return self._ys[right]
        left = right - 1
        width = self._xs[right] - self._xs[left]
        t = (x - self._xs[left]) / width
        first, last = self._ys[left], self._ys[right]
        y = (
            first * (1 + 2 * t) * (1 - t) ** 2
            + last * t * t * (3 - 2 * t)
            + width * self._slopes[left] * t * (1 - t) ** 2
            + width * self._slopes[right] * t * t * (t - 1)
        )
        # Rounding of floats must not carry it beyond its neighbours.
        return min(max(y, min(first, last)), max(first, last))


class LogarithmicCurve:
    """
    A monotone curve in the logarithms of positive numbers.
    """

    def __init__(self, xs: Sequence[float], ys: Sequence[float]) -> None:
        self._xs = tuple(xs)
        self._ys = tuple(ys)
        self._curve = MonotoneCurve([math.log(x) for x in xs], [math.log(y) for y in ys])

    def at(self, x: float) -> float:
        """
        Return y at an x within the curve; a measured x gives what was measured, exactly.
        """
        right = bisect.bisect_left(self._xs, x)
        if self._xs[right] == x:
            return self._ys[right]
        y = math.exp(self._curve.at(math.log(x)))
        # As above: the way through logarithms rounds too.
        first, last = self._ys[right - 1], self._ys[right]
        return min(max(y, min(first, last)), max(first, last))


def _slopes(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, ...]:
    count = len(xs)
    if count == 1:
        return (0.0,)
    widths = [b - a for a, b in pairwise(xs)]
    rises = [(d - c) / w for (c, d), w in zip(pairwise(ys), widths, strict=True)]
    if count == 2:
        return (rises[0], rises[0])
    inner = [
        _inner_slope(rises[at], rises[at + 1], widths[at], widths[at + 1])
        for at in range(count - 2)
    ]
    first = _end_slope(rises[0], rises[1], widths[0], widths[1])
    last = _end_slope(rises[-1], rises[-2], widths[-1], widths[-2])
    return (first, *inner, last)


def _inner_slope(before: float, after: float, width_before: float, width_after: float) -> float:
    if before == 0 or after == 0 or (before > 0) != (after > 0):
        return 0.0  # a summit or a valley is one of the points
    weight_before = 2 * width_after + width_before
    weight_after = width_after + 2 * width_before
    return (weight_before + weight_after) / (weight_before / before + weight_after / after)


def _end_slope(near: float, far: float, width_near: float, width_far: float) -> float:
    slope = ((2 * width_near + width_far) * near - width_near * far) / (width_near + width_far)
    if near == 0 or (slope > 0) != (near > 0):
        return 0.0
    # Three times the rise is the most that keeps a cubic monotone.
    return math.copysign(min(abs(slope), 3 * abs(near)), near)
