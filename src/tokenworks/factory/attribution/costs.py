"""
Find what a token of each phase costs, from the meter itself; pure.

The energy of a window of steps above the idle floor is taken as a sum of five terms, none of them
negative: a prefill token, a pair of tokens that prefill looks at, a step that decodes (it reads
the weights once for the whole batch), a decode token, a pair of tokens that decode looks at. With
five terms all 31 sets of them are tried, which is the exact non-negative least squares.

The costs only decide proportions inside a window; the window's energy is the meter's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from enum import StrEnum
from itertools import combinations
from typing import Final

from tokenworks.factory.attribution.model import Step, Work

WINDOWS_MIN: Final = 20
"""Fewer wholly metered windows say too little about five terms."""

_TERMS: Final = 5
_FEMTOJOULES: Final = 1_000_000_000
"""In a microjoule."""

_SINGULAR: Final = 1e-9
"""A pivot below this part of its column means that two terms cannot be told apart."""


class CostSource(StrEnum):
    """
    Where the costs come from.
    """

    FITTED = "fitted"  # to the meter, over this very log
    ASSUMED = "assumed"  # too little was metered to fit: another machine's figures


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseCosts:
    """
    What a unit of each term costs, in femtojoules.
    """

    prefill_token_fj: int
    prefill_pair_fj: int
    decode_step_fj: int
    decode_token_fj: int
    decode_pair_fj: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """
    Costs, and how well they explain the meter.
    """

    costs: PhaseCosts
    source: CostSource
    windows: int  # that were wholly metered
    mean_error_ppm: int | None  # of a window's energy above the floor; ``None``: not fitted


ASSUMED: Final = PhaseCosts(
    # A saturated prefill token and a decode token at concurrency 256, as measured on B200 boards
    # with DeepSeek-V4-Pro FP4 (SemiAnalysis InferenceX, PowerX, September 2026).
    prefill_token_fj=77_000_000_000_000,
    prefill_pair_fj=0,
    decode_step_fj=0,
    decode_token_fj=798_000_000_000_000,
    decode_pair_fj=0,
)


def count_pairs(tokens: int, context_tokens: int) -> int:
    """
    Return how many pairs of tokens attention looks at: each new one at all up to itself.
    """
    return tokens * context_tokens + tokens * (tokens + 1) // 2


def count_terms(step: Step) -> tuple[int, int, int, int, int]:
    """
    Return how many units of each term a step has.
    """
    work = step.work
    return (
        sum(one.prefill_tokens for one in work),
        sum(count_pairs(one.prefill_tokens, one.context_tokens) for one in work),
        int(any(one.decode_tokens for one in work)),
        sum(one.decode_tokens for one in work),
        sum(_decode_pairs(one) for one in work),
    )


def _decode_pairs(one: Work) -> int:
    return count_pairs(one.decode_tokens, one.context_tokens + one.prefill_tokens)


def weigh(one: Work, costs: PhaseCosts, *, decoding: int) -> tuple[int, int, int]:
    """
    Return the weights of one call in one step: prefill, decode, context.

    Args:
        one: What the step did for the call.
        costs: Of the phases.
        decoding: How many calls decode in the step: they share what a step costs.
    """
    prefill = one.prefill_tokens * costs.prefill_token_fj
    decode = one.decode_tokens * costs.decode_token_fj
    if one.decode_tokens:
        decode += costs.decode_step_fj // decoding
    pairs = count_pairs(one.prefill_tokens, one.context_tokens)
    context = pairs * costs.prefill_pair_fj + _decode_pairs(one) * costs.decode_pair_fj
    return prefill, decode, context


def fit(windows: Sequence[tuple[Sequence[int], int]]) -> Fit:
    """
    Return the costs that explain wholly metered windows best.

    Args:
        windows: Of each, the units of the five terms and the microjoules above the idle floor.
    """
    if len(windows) < WINDOWS_MIN:
        return Fit(
            costs=ASSUMED, source=CostSource.ASSUMED, windows=len(windows), mean_error_ppm=None
        )
    scales = [max(terms[place] for terms, _ in windows) or 1 for place in range(_TERMS)]
    rows = [
        [terms[place] / scales[place] for place in range(_TERMS)] + [float(energy)]
        for terms, energy in windows
    ]
    products = [
        [math.fsum(row[left] * row[right] for row in rows) for right in range(_TERMS + 1)]
        for left in range(_TERMS + 1)
    ]
    best: tuple[float, list[float]] | None = None
    for size in range(1, _TERMS + 1):
        for chosen in combinations(range(_TERMS), size):
            solution = _solve(products, chosen)
            if solution is None or min(solution) < 0:
                continue
            values = [0.0] * _TERMS
            for place, value in zip(chosen, solution, strict=True):
                values[place] = value
            # What least squares explains of the sum of squares; more is better.
            explained = math.fsum(
                value * products[place][_TERMS] for place, value in enumerate(values)
            )
            if best is None or explained > best[0]:
                best = (explained, values)
    values = best[1] if best is not None else [0.0] * _TERMS
    rounded = [
        round(value / scale * _FEMTOJOULES) for value, scale in zip(values, scales, strict=True)
    ]
    costs = PhaseCosts(
        prefill_token_fj=rounded[0],
        prefill_pair_fj=rounded[1],
        decode_step_fj=rounded[2],
        decode_token_fj=rounded[3],
        decode_pair_fj=rounded[4],
    )
    if not any(rounded):
        return Fit(
            costs=ASSUMED, source=CostSource.ASSUMED, windows=len(windows), mean_error_ppm=None
        )
    return Fit(
        costs=costs,
        source=CostSource.FITTED,
        windows=len(windows),
        mean_error_ppm=_mean_error_ppm(windows, costs),
    )


def _solve(products: Sequence[Sequence[float]], chosen: Sequence[int]) -> list[float] | None:
    """
    Return the least squares over some terms by Gaussian elimination, or ``None`` if singular.
    """
    system = [
        [products[left][right] for right in chosen] + [products[left][_TERMS]] for left in chosen
    ]
    for place, row in enumerate(system):
        pivot = row[place]
        if pivot <= _SINGULAR * products[chosen[place]][chosen[place]]:
            return None
        for below in system[place + 1 :]:
            factor = below[place] / pivot
            for column in range(place, len(row)):
                below[column] -= factor * row[column]
    solution = [0.0] * len(chosen)
    for place in reversed(range(len(chosen))):
        row = system[place]
        known = math.fsum(row[right] * solution[right] for right in range(place + 1, len(chosen)))
        solution[place] = (row[-1] - known) / row[place]
    return solution


def _mean_error_ppm(windows: Sequence[tuple[Sequence[int], int]], costs: PhaseCosts) -> int:
    prices: tuple[int, ...] = astuple(costs)
    wrong = sum(
        abs(
            sum(price * term for price, term in zip(prices, terms, strict=True))
            - energy * _FEMTOJOULES
        )
        for terms, energy in windows
    )
    whole = sum(energy for _, energy in windows) * _FEMTOJOULES
    return wrong * 1_000_000 // whole if whole else 0
