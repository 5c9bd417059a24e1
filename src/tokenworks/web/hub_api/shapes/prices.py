"""
Prices and tiers as they leave the hub API.
"""

from __future__ import annotations

from uuid import UUID

from tokenworks.web.hub_api.shapes.parts import Decimal, Moment, Shape


class PriceShape(Shape):
    """
    One immutable row of the price book.
    """

    price_id: UUID
    model: str
    tier: str
    axis: str
    usd_per_million: Decimal
    nano_per_million: int
    effective_at: Moment
    created_at: Moment


class TierShape(Shape):
    """
    A class of service: default prices and the floor it promises.
    """

    tier: str
    default_prices: dict[str, str]
    speed_floor_tokens_per_s: int | None
    first_token_p95_ms: int | None
