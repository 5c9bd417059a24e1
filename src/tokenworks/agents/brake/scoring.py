"""
How far a payment is from what is usual for its agent: one figure, robust against what it judges.

Four features, each larger the more unusual:

=========  ==============================================================================
amount     log10 of the amount in quanta
pace       minus log10 of the mean time between the last ``PACE_PAYMENTS`` payments
novelty    share of new payees among the last payments (exponentially weighted)
rarity     minus log10 of the share of this agent's payments that went to the payee
=========  ==============================================================================

Each has a location m and a scale s that follow it by robust exponential smoothing (Gelper,
Fried, Croux: "Robust forecasting with exponential and Holt-Winters smoothing", Journal of
Forecasting 29 (2010) 285-300, equations 6 to 10), with residual r = x - m::

    m <- m + rate * psi(r / s) * s          psi(u) = max(-K, min(K, u))             (Huber)
    s^2 <- s^2 + rate * (rho(r / s) - 1) * s^2
           rho(u) = C * (1 - (1 - (u / K)^2)^3) for |u| <= K, else C       (biweight)

with K = 2 and C = 2.52, so that E rho(u) = 1 for normal u. A payment far outside moves m by at
most rate * K * s and s^2 by a factor of at most 1 + rate * (C - 1), whatever its size: an
attack cannot teach itself in one step. A feature's deviation is z = max(0, (x - m) / s), s at
least its floor; an amount counts ``NEW_PAYEE_WEIGHT`` times as much when its payee is new. The
score is the largest weighted z over ``USUAL_Z``, in ppm: 1,000,000 is as far as rules hold by
default.

Learned only from payments that were captured, so never from what was held or denied.
Floats, because no amount is ever computed from a score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log10, sqrt
from typing import Final

FEATURES: Final = ("amount", "pace", "novelty", "rarity")

RATES: Final = (0.02, 0.02, 0.002, 0.02)
"""
How fast each feature's location and scale follow (both smoothing parameters of the method). The
share of new payees follows slowly, or an attack by many small payments would soon be usual.
"""
SCALE_RATE_MAX: Final = 0.1
K: Final = 2.0
C: Final = 2.52
FLOORS: Final = (0.10, 0.10, 0.03, 0.20)
"""The least scale of each feature: below it nothing is unusual."""
WEIGHTS: Final = (1.0, 1.0, 1.2, 0.75)
NEW_PAYEE_WEIGHT: Final = 1.5
"""How much more an amount counts that goes to a payee for the first time."""
FIRST_SCALES: Final = (0.5, 0.5, 0.15, 0.5)
USUAL_Z: Final = 5.0
Z_MAX: Final = 1_000.0
LEARN_FIRST: Final = 30
"""So many payments are learned from before the score says anything."""
PACE_PAYMENTS: Final = 8
NOVELTY_WEIGHT: Final = 0.1
PPM: Final = 1_000_000
_GAP_MIN_S: Final = 0.001


@dataclass(slots=True)
class Baseline:
    """
    What is usual of one feature.
    """

    location: float = 0.0
    scale: float = 0.0


def _first_baselines() -> list[Baseline]:
    return [Baseline(0.0, scale) for scale in FIRST_SCALES]


@dataclass(slots=True)
class ScoreState:
    """
    What the score knows of an agent.
    """

    count: int = 0
    novelty: float = 0.0  # share of new payees, exponentially weighted
    baselines: list[Baseline] = field(default_factory=_first_baselines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """
    How unusual a payment is, and in which respect most.
    """

    ppm: int
    feature: str
    z_milli: int


def features_of(
    *,
    quanta: int,
    times_us: Sequence[int],
    is_new_payee: bool,
    payee_payments: int,
    state: ScoreState,
) -> tuple[float, float, float, float]:
    """
    Return the four features of a payment.

    Args:
        quanta: Its amount.
        times_us: When the payments up to this one were judged, itself last; the last
            ``PACE_PAYMENTS`` of them count.
        is_new_payee: Whether its payee was never paid before.
        payee_payments: How often its payee was paid before.
        state: What was learned before.
    """
    recent = times_us[-PACE_PAYMENTS:]
    gap_s = max((recent[-1] - recent[0]) / 1e6 / max(len(recent) - 1, 1), _GAP_MIN_S)
    novelty = state.novelty + NOVELTY_WEIGHT * (is_new_payee - state.novelty)
    share = (payee_payments + 1) / (state.count + 2)
    return log10(quanta + 1), -log10(gap_s), novelty, -log10(min(share, 1.0))


def score_of(features: Sequence[float], state: ScoreState, *, is_new_payee: bool) -> Score:
    """
    Return the score of a payment; 0 while too little is known.
    """
    if state.count < LEARN_FIRST:
        return Score(ppm=0, feature="", z_milli=0)
    worst, feature = 0.0, 0
    for place, (value, line) in enumerate(zip(features, state.baselines, strict=True)):
        z = WEIGHTS[place] * (value - line.location) / max(line.scale, FLOORS[place])
        if place == 0 and is_new_payee:
            z *= NEW_PAYEE_WEIGHT
        if z > worst:
            worst, feature = z, place
    worst = min(worst, Z_MAX)
    return Score(
        ppm=round(worst / USUAL_Z * PPM),
        feature=FEATURES[feature],
        z_milli=round(worst * 1_000),
    )


def learn(features: Sequence[float], state: ScoreState, *, is_new_payee: bool) -> None:
    """
    Move what is usual towards a payment that was captured.
    """
    is_first = state.count == 0
    state.count = min(state.count + 1, 2**32 - 1)
    state.novelty += NOVELTY_WEIGHT * (is_new_payee - state.novelty)
    # A mean at first: the start would otherwise weigh for dozens of payments.
    first = 1.0 / state.count
    for place, (value, line) in enumerate(zip(features, state.baselines, strict=True)):
        if is_first:
            line.location = value
            continue
        scale = max(line.scale, FLOORS[place])
        u = (value - line.location) / scale
        line.location += max(RATES[place], first) * max(-K, min(K, u)) * scale
        rho = C if abs(u) > K else C * (1.0 - (1.0 - (u / K) ** 2) ** 3)
        rate = max(RATES[place], min(first, SCALE_RATE_MAX))
        line.scale = sqrt(scale * scale * (1.0 + rate * (rho - 1.0)))
