"""
From fronts, tiers and unit economics to what leaves through the hub API.

Money is rounded here and nowhere before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any, Final, Literal

from tokenworks.factory.economics.costing import Assumptions, capital_within
from tokenworks.factory.economics.evaluating import TierEvaluation
from tokenworks.factory.economics.floors import Reach, Served, output_price
from tokenworks.factory.economics.frontier import Front
from tokenworks.factory.economics.interpolating import LogarithmicCurve
from tokenworks.factory.economics.model import (
    FrontKey,
    Hardware,
    OperatingPoint,
    SystemPoint,
    to_decimal,
)
from tokenworks.factory.economics.revenue import BASE_TIERS, SystemRevenue
from tokenworks.pricing.tiers import Tier
from tokenworks.web.hub_api.shapes.economics import (
    AssumptionsShape,
    CurvePoint,
    EconomicsShape,
    FrontierShape,
    FrontNameShape,
    HardwareShape,
    PointShape,
    ServedShape,
    SystemPointShape,
    SystemShape,
    SystemTierShape,
    TierEconomicsShape,
)

PLACES: Final = 6
CURVE_STEPS_PER_SEGMENT: Final = 8


def to_front_name(key: FrontKey, *, points: int, is_priced: bool) -> FrontNameShape:
    """
    Return the name of a front.
    """
    return FrontNameShape(
        gpu=key.gpu,
        model=key.model,
        precision=key.precision,
        workload=key.workload,
        points=points,
        is_priced=is_priced,
    )


def to_frontier(
    key: FrontKey,
    front: Front,
    served: Iterable[Served],
    sources: dict[str, str],
) -> FrontierShape:
    """
    Return a front with everything that can be said about it.
    """
    everything = (*front.points, *(entry.point for entry in front.dominated))
    behind = [_to_point(entry.point, by=entry.by.row) for entry in front.dominated]
    used = {point.source for point in everything}
    return FrontierShape(
        gpu=key.gpu,
        model=key.model,
        precision=key.precision,
        workload=key.workload,
        points=[*(_to_point(point) for point in front.points), *behind],
        curve=_curve(front.points),
        tiers=[_to_served(each, everything, front) for each in served],
        sources={name: text for name, text in sources.items() if name in used},
    )


def to_economics(
    key: FrontKey,
    hardware: Hardware,
    assumptions: Assumptions,
    evaluations: Iterable[TierEvaluation],
) -> EconomicsShape:
    """
    Return unit economics, rounded for people.
    """
    given = assumptions.capital_usd_per_gpu_hour
    capital = capital_within(hardware) if given is None else given
    return EconomicsShape(
        gpu=key.gpu,
        model=key.model,
        precision=key.precision,
        workload=key.workload,
        hardware=HardwareShape(
            gpu=hardware.gpu,
            label=hardware.label,
            it_kw=float(hardware.it_kw),
            usd_per_hour=_text(hardware.usd_per_hour),
        ),
        assumptions=AssumptionsShape(
            utilisation=_text(assumptions.utilisation),
            pue=_text(assumptions.pue),
            power_usd_per_mwh=_text(assumptions.power_usd_per_mwh),
            capital_usd_per_gpu_hour=_text(capital),
            is_capital_given=given is not None,
        ),
        tiers=[_to_tier_economics(each) for each in evaluations],
    )


def to_system(row: SystemRevenue, points: Sequence[SystemPoint]) -> SystemShape:
    """
    Return one row of the revenue table with the points it is made from.
    """
    return SystemShape(
        system=row.system,
        points=[
            SystemPointShape(
                tokens_per_s_per_user=point.tokens_per_s_per_user,
                tokens_per_s_per_megawatt=float(point.output_tokens_per_s_per_megawatt),
            )
            for point in points
            if point.system == row.system
        ],
        tiers=[
            SystemTierShape(
                tier=each.tier.tier_id,
                speed_floor_tokens_per_s=each.tier.speed_floor_tokens_per_s,
                reach=each.reach.value,
                tokens_per_s_per_megawatt=float(each.tokens_per_s_per_megawatt),
                usd_per_s_per_megawatt=_text(each.usd_per_s_per_megawatt),
            )
            for each in row.tiers
        ],
        even_four_usd_billion=_text(row.even_split_usd_billion(BASE_TIERS)),
        even_five_usd_billion=_text(row.even_split_usd_billion(len(row.tiers))),
        best_single_usd_billion=_text(row.best_single_usd_billion),
    )


def _to_point(point: OperatingPoint, *, by: int | None = None) -> PointShape:
    return PointShape(
        row=point.row,
        gpu_count=point.gpu_count,
        engine=point.engine,
        layout=point.layout,
        batch=point.batch,
        tokens_per_s_per_user=point.tokens_per_s_per_user,
        tokens_per_s_per_gpu=point.tokens_per_s_per_gpu,
        joules_per_token=point.joules_per_token,
        power_w_per_gpu=point.power_w_per_gpu,
        ttft_ms=point.ttft_ms,
        boundary=point.boundary.value,
        as_of=point.as_of,
        source=point.source,
        dominated_by_row=by,
    )


def _to_served(served: Served, points: Iterable[OperatingPoint], front: Front) -> ServedShape:
    tier = served.tier
    bound = tier.first_token_p95_ms
    return ServedShape(
        tier=tier.tier_id,
        speed_floor_tokens_per_s=tier.speed_floor_tokens_per_s,
        first_token_p95_ms=tier.first_token_p95_ms,
        reach=served.reach.value,
        unreachable_because=_why_unreachable(served, points),
        tokens_per_s_per_user=served.tokens_per_s_per_user,
        tokens_per_s_per_gpu=served.tokens_per_s_per_gpu,
        power_w_per_gpu=served.power_w_per_gpu,
        is_first_token_measured=served.is_first_token_measured,
        leaves_out_late_points=any(
            bound is not None and point.ttft_ms is not None and point.ttft_ms > bound
            for point in front.points
        ),
    )


def _why_unreachable(
    served: Served, points: Iterable[OperatingPoint]
) -> Literal["speed", "first_token"] | None:
    if served.reach is not Reach.UNREACHABLE:
        return None
    is_fast_enough = any(point.tokens_per_s_per_user >= _floor_of(served.tier) for point in points)
    return "first_token" if is_fast_enough else "speed"


def _floor_of(tier: Tier) -> float:
    return float(tier.speed_floor_tokens_per_s or 0)


def _curve(points: Sequence[OperatingPoint]) -> list[CurvePoint]:
    """
    Return the interpolated front, as finely as a chart needs it.
    """
    known = {point.tokens_per_s_per_user: point.tokens_per_s_per_gpu for point in points}
    speeds = sorted(known)
    curve = LogarithmicCurve(speeds, [known[speed] for speed in speeds])
    drawn: list[float] = []
    for low, high in pairwise(speeds):
        ratio = high / low
        parts = range(CURVE_STEPS_PER_SEGMENT)
        drawn.extend(low * ratio ** (part / CURVE_STEPS_PER_SEGMENT) for part in parts)
    drawn.append(speeds[-1])
    return [
        CurvePoint(tokens_per_s_per_user=speed, tokens_per_s_per_gpu=curve.at(speed))
        for speed in drawn
    ]


def _to_tier_economics(evaluation: TierEvaluation) -> TierEconomicsShape:
    served, found = evaluation.served, evaluation.economics
    facts: dict[str, Any] = {
        "tier": served.tier.tier_id,
        "reach": served.reach.value,
        "price_usd_per_million": _text(output_price(served.tier)),
    }
    if found is not None:
        share = found.break_even_utilisation
        facts |= {
            "cost_usd_per_million": _text(found.cost_usd_per_million),
            "power_usd_per_million": _text(found.power_usd_per_million),
            "tokens_per_joule": float(found.tokens_per_joule),
            "drawn_kw": float(found.drawn_kw),
            "usd_per_s_per_megawatt": _text(found.usd_per_s_per_megawatt),
            "break_even_utilisation": None if share is None else _text(share),
            "break_even_power_usd_per_mwh": _text(found.break_even_power_usd_per_mwh),
        }
    return TierEconomicsShape(**facts)


def _text(value: Fraction) -> str:
    text = f"{to_decimal(value, PLACES):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
