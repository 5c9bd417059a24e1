"""
Offers as tests of pure gateway modules need them.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from tokenworks.supply.costing import share_card
from tokenworks.supply.model import Offer, OfferState, Split

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)
RESELLER, RIGHTS, POWER, SUPPLIER = (UUID(int=number) for number in (21, 22, 23, 24))
SPLIT = Split(
    tax_ppm=80_000,
    reseller_ppm=30_000,
    reseller_id=RESELLER,
    rights_ppm=20_000,
    rights_id=RIGHTS,
    power_ppm=250_000,
    power_id=POWER,
)


def offer(number: int = 1, **changes: Any) -> Offer:  # noqa: ANN401 - any field
    """
    Return an active offer; its number is its id.
    """
    fields: dict[str, Any] = {
        "offer_id": UUID(int=number),
        "supplier_id": UUID(int=100 + number),
        "supplier_name": f"supplier-{number}",
        "supplier_party_id": SUPPLIER,
        "model": "tiny",
        "upstream_model": "vendor/tiny",
        "tier": "standard",
        "cost_card": share_card(600_000),
        "split": Split(),
        "context_tokens_max": None,
        "priority": 100,
        "state": OfferState.ACTIVE,
        "blocked_reason": None,
        "terms_version": 1,
        "created_at": NOON,
    }
    return Offer(**{**fields, **changes})
