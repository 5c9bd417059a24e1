"""
Errors of pricing.
"""

from __future__ import annotations

from tokenworks.foundation.errors import (
    ConflictError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)


class PriceMissingError(NotFoundError):
    """
    There is no price for what was asked; nothing is ever sold at a price nobody set.
    """

    code = "price_missing"


class PriceInvalidError(InvalidError):
    """
    A price, or a set of prices, cannot be part of a rate card.
    """

    code = "price_invalid"


class TierUnknownError(InvalidError):
    """
    The tier is not in the catalogue.
    """

    code = "tier_unknown"


class PriceConflictError(ConflictError):
    """
    Other prices already take effect at the same moment for this model and tier.
    """

    code = "price_conflict"


class PriceBookUnavailableError(UnavailableError):
    """
    The price book cannot be read or written right now.
    """

    code = "price_book_unavailable"
