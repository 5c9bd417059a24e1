"""
The classes of service, from the catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Final, cast

from tokenworks.catalogue import read_catalogue
from tokenworks.metering.model import Axis
from tokenworks.pricing.errors import TierUnknownError
from tokenworks.pricing.model import complete_prices, nano_per_million_from_text

DEFAULT_TIER: Final = "standard"
"""The tier of a party that has chosen none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """
    A class of service with its list prices and its floor.
    """

    tier_id: str
    meaning: str
    prices: Mapping[Axis, int]
    """Nano-USD per million by axis; complete, as ``PriceBook.set_prices`` takes them."""
    speed_floor_tokens_per_s: int | None
    """Output tokens per second for one user, at least; ``None`` promises nothing."""
    first_token_p95_ms: int | None
    """Time to the first token in 95 of 100 calls, at most; ``None`` promises nothing."""


@cache
def load_tiers() -> Mapping[str, Tier]:
    """
    Return the tiers by id, in the order of the catalogue.

    Raises:
        CatalogueError: ``tiers.yaml`` does not fit its schema.
    """
    rows = cast("Mapping[str, Mapping[str, object]]", read_catalogue("tiers")["tiers"])
    return MappingProxyType({tier_id: _tier(tier_id, row) for tier_id, row in rows.items()})


def check_tier(tier_id: str, tiers: Mapping[str, Tier]) -> None:
    """
    Refuse a tier that does not exist.

    Raises:
        TierUnknownError: It is not among ``tiers``; the message names those that are.
    """
    if tier_id not in tiers:
        message = f"There is no tier {tier_id!r}; the tiers are {', '.join(tiers)}."
        raise TierUnknownError(message, param="tier")


def _tier(tier_id: str, row: Mapping[str, object]) -> Tier:
    texts = cast("Mapping[str, str]", row["prices_usd_per_million_tokens"])
    given = {Axis(axis): nano_per_million_from_text(text) for axis, text in texts.items()}
    return Tier(
        tier_id=tier_id,
        meaning=str(row["meaning"]),
        prices=MappingProxyType(complete_prices(given)),
        speed_floor_tokens_per_s=cast("int | None", row.get("speed_floor_tokens_per_s")),
        first_token_p95_ms=cast("int | None", row.get("first_token_p95_ms")),
    )
