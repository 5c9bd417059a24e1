"""
How well the curves describe what was measured: leave-one-out errors and the logistic power law.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from tokenworks.factory.economics.interpolating import LogarithmicCurve
from tokenworks.factory.economics.model import OperatingPoint

Predictor = Callable[[Sequence[float], Sequence[float], float], float]
"""From xs, ys and an x between them to y."""

POINTS_MIN: Final = 5
"""A law with four parameters goes through four points whatever they are; it is judged from five."""

_ROUNDS: Final = 12
_GRID: Final = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerLaw:
    """
    Watts by batch: ``idle_w + range_w / (1 + exp(-steepness (log2 batch - midpoint)))``.

    The law of ML.ENERGY; good to extrapolate, interpolation is better between points.
    """

    idle_w: float
    range_w: float
    steepness: float
    midpoint: float  # in doublings of the batch

    def at(self, batch: float) -> float:
        """
        Return watts at a batch.
        """
        return self.idle_w + self.range_w * _logistic(batch, self.steepness, self.midpoint)


def leave_one_out(curve: Sequence[OperatingPoint], predict: Predictor) -> tuple[float, ...]:
    """
    Return the relative error of joules per token at each inner point, predicted from the others.

    A curve of two points has no inner point.
    """
    errors: list[float] = []
    for at in range(1, len(curve) - 1):
        others = [*curve[:at], *curve[at + 1 :]]
        predicted = predict(
            [point.batch for point in others],
            [point.joules_per_token for point in others],
            curve[at].batch,
        )
        errors.append(abs(predicted / curve[at].joules_per_token - 1))
    return tuple(errors)


def predict_monotone(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """
    Predict with the curve that the product uses.
    """
    return LogarithmicCurve(xs, ys).at(x)


def predict_straight(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """
    Predict with straight lines in logarithms: the yardstick.
    """
    for (left, low), (right, high) in pairwise(zip(xs, ys, strict=True)):
        if left <= x <= right:
            share = math.log(x / left) / math.log(right / left)
            return math.exp((1 - share) * math.log(low) + share * math.log(high))
    raise AssertionError("x is between its neighbours")


def fit_power(curve: Sequence[OperatingPoint]) -> PowerLaw:
    """
    Return the law whose squared relative errors are smallest.

    For a steepness and a midpoint the two other parameters are a linear problem; those two are
    searched on a grid that narrows around its best cell.
    """
    batches = [point.batch for point in curve]
    watts = [point.power_w for point in curve]
    lows, highs = math.log2(batches[0]), math.log2(batches[-1])
    steepness, midpoint = 1.0, (lows + highs) / 2
    steepness_reach, midpoint_reach = 3.0, highs - lows + 2.0  # the first in powers of e
    best, best_error = _solve(batches, watts, steepness, midpoint)
    for _ in range(_ROUNDS):
        for row in range(-(_GRID // 2), _GRID // 2 + 1):
            for column in range(-(_GRID // 2), _GRID // 2 + 1):
                law, error = _solve(
                    batches,
                    watts,
                    steepness * math.exp(steepness_reach * 2 * row / _GRID),
                    midpoint + midpoint_reach * 2 * column / _GRID,
                )
                if error < best_error:
                    best, best_error = law, error
        steepness, midpoint = best.steepness, best.midpoint
        steepness_reach, midpoint_reach = steepness_reach / 2, midpoint_reach / 2
    return best


def power_errors(curves: Iterable[Sequence[OperatingPoint]]) -> tuple[float, ...]:
    """
    Return the relative error of the fitted law at each point of the curves long enough for it.
    """
    return tuple(
        abs(law.at(point.batch) / point.power_w - 1)
        for curve in curves
        if len(curve) >= POINTS_MIN
        for law in (fit_power(curve),)
        for point in curve
    )


def _logistic(batch: float, steepness: float, midpoint: float) -> float:
    exponent = -steepness * (math.log2(batch) - midpoint)
    return 1 / (1 + math.exp(min(exponent, 700.0)))


def _solve(
    batches: Sequence[float], watts: Sequence[float], steepness: float, midpoint: float
) -> tuple[PowerLaw, float]:
    """
    Return the law for a shape, least squares of relative errors, no watts below zero; its error.
    """
    shares = [_logistic(batch, steepness, midpoint) for batch in batches]
    weights = [1 / watt**2 for watt in watts]
    total = sum(weights)
    mean_share = sum(w * s for w, s in zip(weights, shares, strict=True)) / total
    mean_watt = sum(w * p for w, p in zip(weights, watts, strict=True)) / total
    spread = sum(w * (s - mean_share) ** 2 for w, s in zip(weights, shares, strict=True))
    together = sum(
        w * (s - mean_share) * (p - mean_watt)
        for w, s, p in zip(weights, shares, watts, strict=True)
    )
    range_w = together / spread if spread > 1e-15 * total else 0.0
    idle_w = mean_watt - range_w * mean_share
    law = PowerLaw(idle_w=idle_w, range_w=range_w, steepness=steepness, midpoint=midpoint)
    if idle_w < 0 or idle_w + range_w < 0:
        return law, math.inf
    error = sum((law.at(b) / p - 1) ** 2 for b, p in zip(batches, watts, strict=True))
    return law, error
