"""
Choose a front, and evaluate every tier on it under an operator's assumptions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType

from tokenworks.factory.economics.costing import Assumptions, UnitEconomics, unit_economics
from tokenworks.factory.economics.errors import AssumptionInvalidError, FrontUnknownError
from tokenworks.factory.economics.floors import NANO_PER_USD, Served, serve
from tokenworks.factory.economics.frontier import group_by_front
from tokenworks.factory.economics.model import FrontKey, Hardware, OperatingPoint
from tokenworks.metering.model import Axis
from tokenworks.pricing.tiers import Tier


@dataclass(frozen=True, slots=True, kw_only=True)
class TierEvaluation:
    """
    One tier on one front.
    """

    served: Served
    economics: UnitEconomics | None  # None: unreachable


def choose_front(
    points: Iterable[OperatingPoint],
    *,
    gpu: str,
    model: str,
    precision: str | None = None,
    workload: str | None = None,
) -> tuple[FrontKey, tuple[OperatingPoint, ...]]:
    """
    Return the one front that fits.

    Args:
        points: All there are.
        gpu: As in the points.
        model: As in the points.
        precision: ``None`` where the others say it.
        workload: ``None`` where the others say it.

    Raises:
        FrontUnknownError: None fits, or several do.
    """
    groups = group_by_front(points)
    fitting = [
        key
        for key in groups
        if (key.gpu, key.model) == (gpu, model)
        and precision in {None, key.precision}
        and workload in {None, key.workload}
    ]
    if len(fitting) == 1:
        return fitting[0], groups[fitting[0]]
    if fitting:
        names = "; ".join(f"{key.precision}, {key.workload}" for key in fitting)
        message = f"Several fronts fit, say precision and workload: {names}."
        raise FrontUnknownError(message, param="workload")
    of_gpu = sorted({key.model for key in groups if key.gpu == gpu})
    if model not in of_gpu:
        known = ", ".join(of_gpu) or "none; the GPUs are " + ", ".join(
            sorted({key.gpu for key in groups})
        )
        message = f"There is no point of {model!r} on {gpu!r}; its models are {known}."
        raise FrontUnknownError(message, param="model" if of_gpu else "gpu")
    names = "; ".join(
        f"{key.precision}, {key.workload}" for key in groups if (key.gpu, key.model) == (gpu, model)
    )
    message = f"No front fits; precision and workload are one of: {names}."
    raise FrontUnknownError(message, param="workload")


def evaluate(
    points: tuple[OperatingPoint, ...],
    hardware: Hardware,
    assumptions: Assumptions,
    tiers: Mapping[str, Tier],
) -> tuple[TierEvaluation, ...]:
    """
    Return every tier on the front of these points, in the order of the catalogue.

    Raises:
        AssumptionInvalidError: The points' power was measured at different boundaries.
    """
    boundaries = {point.boundary for point in points}
    if len(boundaries) != 1:
        rows = ", ".join(
            f"row {point.row} {point.boundary}" for point in points[:1] + _others(points)
        )
        message = f"Power on one front has one boundary: {rows}."
        raise AssumptionInvalidError(message, param="boundary")
    [boundary] = boundaries
    evaluations: list[TierEvaluation] = []
    for tier in tiers.values():
        served = serve(points, tier)
        economics = unit_economics(served, boundary, hardware, assumptions)
        evaluations.append(TierEvaluation(served=served, economics=economics))
    return tuple(evaluations)


def with_output_price(
    tiers: Mapping[str, Tier], tier_id: str, usd_per_million: Fraction
) -> Mapping[str, Tier]:
    """
    Return the tiers with another output price for one of them.

    Raises:
        AssumptionInvalidError: There is no such tier, or the price is below 0 or finer than
            a billionth of a dollar.
    """
    if tier_id not in tiers:
        message = f"There is no tier {tier_id!r}; the tiers are {', '.join(tiers)}."
        raise AssumptionInvalidError(message, param="tier")
    nano = usd_per_million * NANO_PER_USD
    if nano < 0 or nano.denominator != 1:
        message = "A price is at least 0 and has at most nine decimals."
        raise AssumptionInvalidError(message, param="price")
    tier = tiers[tier_id]
    prices = MappingProxyType({**tier.prices, Axis.OUTPUT: int(nano)})
    return MappingProxyType({**tiers, tier_id: dataclasses.replace(tier, prices=prices)})


def hardware_for(machines: Mapping[str, Hardware], gpu: str) -> Hardware:
    """
    Return the hardware of a GPU.

    Raises:
        FrontUnknownError: Its power and price are not known.
    """
    if gpu not in machines:
        known = ", ".join(machines)
        message = f"Power and price of {gpu!r} are not known; those of {known} are."
        raise FrontUnknownError(message, param="gpu")
    return machines[gpu]


def _others(points: tuple[OperatingPoint, ...]) -> tuple[OperatingPoint, ...]:
    return tuple(point for point in points if point.boundary is not points[0].boundary)[:1]
