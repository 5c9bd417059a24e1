"""
What a front serves at the floor of each tier, and how it is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Final

from tokenworks.factory.economics.frontier import find_front
from tokenworks.factory.economics.interpolating import LogarithmicCurve
from tokenworks.factory.economics.model import OperatingPoint, SystemPoint, exactly
from tokenworks.metering.model import Axis
from tokenworks.pricing.tiers import Tier

NANO_PER_USD: Final = 10**9


class Reach(StrEnum):
    """
    How it is known what is served at a floor.
    """

    MEASURED = "measured"  # there is a point at this very speed
    INTERPOLATED = "interpolated"  # between two points
    CLAMPED = "clamped"  # the slowest point is faster than the floor: that one is used
    UNREACHABLE = "unreachable"  # no point is that fast: nothing is served


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """
    One GPU at the floor of a tier.
    """

    tier: Tier
    reach: Reach
    tokens_per_s_per_user: float | None  # None: unreachable
    tokens_per_s_per_gpu: float  # 0: unreachable
    power_w_per_gpu: float  # within the boundary of the points
    is_first_token_measured: bool  # of every point on the front that was used


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemServed:
    """
    A megawatt of a system at the floor of a tier.
    """

    tier: Tier
    reach: Reach
    tokens_per_s_per_megawatt: Fraction  # 0: unreachable

    @property
    def usd_per_s_per_megawatt(self) -> Fraction:
        """
        Return what it earns, used in full.
        """
        return self.tokens_per_s_per_megawatt * output_price(self.tier) / 10**6


def output_price(tier: Tier) -> Fraction:
    """
    Return US dollars per million output tokens.
    """
    return Fraction(tier.prices[Axis.OUTPUT], NANO_PER_USD)


def serve(points: Iterable[OperatingPoint], tier: Tier) -> Served:
    """
    Return what the points of one front serve at a tier's floor.

    Points whose median first token is later than the tier promises are not used; points whose
    first token was not measured are, and the answer says so. A tier without a floor takes the
    slowest point, which serves most.
    """
    bound = tier.first_token_p95_ms
    usable = [
        point
        for point in points
        if bound is None or point.ttft_ms is None or point.ttft_ms <= bound
    ]
    # Points of the same speed on a front are the same point twice: one of them makes the curve.
    front = {point.tokens_per_s_per_user: point for point in find_front(usable).points}
    speeds = sorted(front)
    reach, speed = _reach(speeds, tier)
    if speed is None:
        throughput, watts = 0.0, 0.0
    else:
        ordered = [front[each] for each in speeds]
        throughput = _at(speeds, [point.tokens_per_s_per_gpu for point in ordered], speed)
        watts = _at(speeds, [point.power_w_per_gpu for point in ordered], speed)
    return Served(
        tier=tier,
        reach=reach,
        tokens_per_s_per_user=speed,
        tokens_per_s_per_gpu=throughput,
        power_w_per_gpu=watts,
        is_first_token_measured=all(point.ttft_ms is not None for point in front.values()),
    )


def serve_system(points: Iterable[SystemPoint], tier: Tier) -> SystemServed:
    """
    Return what a megawatt of one system serves at a tier's floor.
    """
    known = {point.tokens_per_s_per_user: point for point in points}
    speeds = sorted(known)
    reach, speed = _reach(speeds, tier)
    if speed is None:
        rate = Fraction(0)
    elif speed in known:
        rate = known[speed].output_tokens_per_s_per_megawatt
    else:
        rates = [float(known[each].output_tokens_per_s_per_megawatt) for each in speeds]
        rate = exactly(_at(speeds, rates, speed))
    return SystemServed(tier=tier, reach=reach, tokens_per_s_per_megawatt=rate)


def _reach(speeds: Sequence[float], tier: Tier) -> tuple[Reach, float | None]:
    if not speeds:
        return Reach.UNREACHABLE, None
    if tier.speed_floor_tokens_per_s is None:
        return Reach.MEASURED, speeds[0]
    floor = float(tier.speed_floor_tokens_per_s)
    if floor > speeds[-1]:
        return Reach.UNREACHABLE, None
    if floor < speeds[0]:
        return Reach.CLAMPED, speeds[0]
    return (Reach.MEASURED if floor in speeds else Reach.INTERPOLATED), floor


def _at(speeds: Sequence[float], values: Sequence[float], speed: float) -> float:
    return LogarithmicCurve(speeds, values).at(speed)
