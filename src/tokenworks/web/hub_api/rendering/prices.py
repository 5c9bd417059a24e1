"""
Draw prices and tiers, in USD per million.
"""

from __future__ import annotations

from collections.abc import Mapping

from tokenworks.metering.model import Axis
from tokenworks.pricing.model import RateCard, nano_per_million_to_text
from tokenworks.pricing.tiers import Tier
from tokenworks.web.hub_api.shapes.prices import PriceShape, TierShape


def to_prices(card: RateCard) -> list[PriceShape]:
    """
    Return every row of a version of prices.
    """
    return [
        PriceShape(
            price_id=price.price_id,
            model=price.model,
            tier=price.tier,
            axis=str(price.axis),
            usd_per_million=nano_per_million_to_text(price.nano_per_million),
            nano_per_million=price.nano_per_million,
            effective_at=price.effective_at,
            created_at=price.created_at,
        )
        for price in card.prices.values()
    ]


def to_tier(tier: Tier) -> TierShape:
    """
    Return a tier.
    """
    return TierShape(
        tier=tier.tier_id,
        default_prices=to_price_texts(tier.prices),
        speed_floor_tokens_per_s=tier.speed_floor_tokens_per_s,
        first_token_p95_ms=tier.first_token_p95_ms,
    )


def to_price_texts(prices: Mapping[Axis, int] | Mapping[str, int]) -> dict[str, str]:
    """
    Return nano-USD per million by axis as decimal text in USD.
    """
    return {str(axis): nano_per_million_to_text(nano) for axis, nano in prices.items()}
