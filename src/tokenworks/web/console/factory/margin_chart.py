"""
What a million tokens of each tier cost, next to their price, on one logarithmic axis; pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tokenworks.web.console.factory.drawing import Size, Tick, spanning
from tokenworks.web.console.factory.model import TierEconomics
from tokenworks.web.console.factory.wording import dollars_text, tier_name
from tokenworks.web.console.wording import to_decimal

WIDE: Final = Size(name="wide", width=800, height=0, ticks_max=7)
COMPACT: Final = Size(name="compact", width=340, height=0, ticks_max=4)
LEFT: Final = 92
ROW_PX: Final = 44
TOP: Final = 10
AXIS_PX: Final = 44
LABEL_ROOM: Final = 62


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """
    One tier; places are ``None`` where there is nothing to draw.
    """

    y: float
    tier: str
    reach: str
    is_free: bool
    pays: bool
    cost_x: float | None
    price_x: float | None
    before_x: float | None
    cost_text: str
    price_text: str
    is_cost_right: bool  # of the price


@dataclass(frozen=True, slots=True, kw_only=True)
class MarginChart:
    """
    Everything a template draws.
    """

    size: Size
    left: float
    right: float
    bottom: float
    ticks: tuple[Tick, ...]
    rows: tuple[Row, ...]


def to_chart(
    tiers: Sequence[TierEconomics], before: Sequence[TierEconomics], size: Size
) -> MarginChart | None:
    """
    Return the picture in one size; ``None`` when no tier can be served.

    Args:
        tiers: As they are computed now.
        before: With nothing changed, in the same order.
        size: Of the picture; its height follows from the tiers.
    """
    costs = [_positive(tier.cost_usd_per_million) for tier in (*tiers, *before)]
    known = [cost for cost in costs if cost is not None]
    if not known:
        return None
    known += [p for tier in tiers if (p := _positive(tier.price_usd_per_million)) is not None]
    bottom = TOP + ROW_PX * len(tiers)
    size = Size(name=size.name, width=size.width, height=bottom + AXIS_PX, ticks_max=size.ticks_max)
    right = float(size.width - LABEL_ROOM)
    x = spanning(known, start=LEFT + LABEL_ROOM, end=right, room=1.0 if len(set(known)) > 1 else 2)
    rows: list[Row] = []
    for index, (tier, old) in enumerate(zip(tiers, before, strict=True)):
        cost, price = _positive(tier.cost_usd_per_million), _positive(tier.price_usd_per_million)
        was = _positive(old.cost_usd_per_million)
        rows.append(
            Row(
                y=TOP + ROW_PX * (index + 0.5),
                tier=tier_name(tier.tier),
                reach=tier.reach,
                is_free=price is None,
                pays=cost is not None and price is not None and price >= cost,
                cost_x=None if cost is None else x.at(cost),
                price_x=None if price is None else x.at(price),
                before_x=None if was is None or was == cost else x.at(was),
                cost_text=dollars_text(tier.cost_usd_per_million),
                price_text=dollars_text(tier.price_usd_per_million),
                is_cost_right=cost is not None and price is not None and cost > price,
            )
        )
    return MarginChart(
        size=size,
        left=LEFT,
        right=float(size.width - 4),
        bottom=bottom,
        ticks=x.ticks(size.ticks_max),
        rows=tuple(rows),
    )


def _positive(text: str | None) -> float | None:
    value = float(to_decimal(text))
    return value if value > 0 else None
