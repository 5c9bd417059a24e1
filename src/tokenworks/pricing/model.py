"""
Prices and rate cards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final
from uuid import UUID

from tokenworks.foundation.money import USD, quanta_from_text, quanta_to_text
from tokenworks.metering.model import Axis
from tokenworks.pricing.errors import PriceInvalidError

UNITS_PER_PRICE: Final = 1_000_000
"""A price is for so many units of its axis."""

NANO_PER_MILLION_MAX: Final = 10**15
"""The dearest price: one unit of money for one token, in nano-units per million."""

DEFAULT_AXES: Final[Mapping[Axis, Axis]] = MappingProxyType(
    {
        Axis.CACHE_READ: Axis.INPUT,
        Axis.CACHE_WRITE_5M: Axis.INPUT,
        Axis.CACHE_WRITE_1H: Axis.INPUT,
        Axis.REASONING: Axis.OUTPUT,
    }
)
"""Axes that every card has, with the axis whose price they take when none is given."""

REQUIRED_AXES: Final = (Axis.INPUT, Axis.OUTPUT)
"""Axes that every set of prices must give."""


class Rounding(StrEnum):
    """
    How the one rounding of a charge is done.
    """

    HALF_EVEN = "half_even"
    """To the nearest quantum; exactly between two, to the even one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """
    One immutable row of the price book.
    """

    price_id: UUID
    model: str
    tier: str
    axis: Axis
    nano_per_million: int
    """Nano-units of the card's currency for a million units of the axis; 0 is free."""
    effective_at: datetime
    created_at: datetime

    def __post_init__(self) -> None:
        assert 0 <= self.nano_per_million <= NANO_PER_MILLION_MAX, "prices are checked on entry"


@dataclass(frozen=True, slots=True, kw_only=True)
class RateCard:
    """
    One version of all prices of a model at a tier.
    """

    card_id: UUID
    model: str
    tier: str
    currency: str
    prices: Mapping[Axis, Price]
    rounding: Rounding
    effective_at: datetime
    """From when on it is the card, until a newer one takes effect."""
    created_at: datetime

    def __post_init__(self) -> None:
        object.__setattr__(self, "prices", MappingProxyType(dict(self.prices)))

    @property
    def is_free(self) -> bool:
        """
        Return whether every price is an explicit zero.
        """
        return not any(price.nano_per_million for price in self.prices.values())


def nano_per_million_from_text(text: str) -> int:
    """
    Parse a price in whole units of money per million, e.g. ``0.075``; nothing is rounded.

    Raises:
        PriceInvalidError: Not a plain decimal, finer than nine digits, negative, or too dear.
        InvalidError: The same, for what is no amount of money at all.
    """
    nano = quanta_from_text(text, scale=USD.scale)
    check_price(nano)
    return nano


def nano_per_million_to_text(nano: int) -> str:
    """
    Return a price as decimal text in whole units of money per million.
    """
    return quanta_to_text(nano, scale=USD.scale)


def check_price(nano: int, *, axis: Axis | None = None) -> None:
    """
    Refuse a price that no card may have.

    Raises:
        PriceInvalidError: It is no integer, negative, or above the dearest.
    """
    if type(nano) is int and 0 <= nano <= NANO_PER_MILLION_MAX:
        return
    dearest = nano_per_million_to_text(NANO_PER_MILLION_MAX)
    subject = "A price" if axis is None else f"The price of {axis}"
    message = f"{subject} must be between 0 and {dearest} per million, with nine decimals at most."
    raise PriceInvalidError(message, param=axis)


def complete_prices(given: Mapping[Axis, int]) -> dict[Axis, int]:
    """
    Return ``given`` with an explicit row for each axis that every card has.

    Args:
        given: Nano-units per million by axis; input and output must be among them.

    Raises:
        PriceInvalidError: A required axis is missing, or a price cannot be.
    """
    for axis, nano in given.items():
        check_price(nano, axis=axis)
    missing = [axis for axis in REQUIRED_AXES if axis not in given]
    if missing:
        names = " and ".join(missing)
        message = f"The prices lack {names}; free is an explicit 0."
        raise PriceInvalidError(message, param=missing[0])
    defaults = {axis: given[source] for axis, source in DEFAULT_AXES.items()}
    complete = defaults | dict(given)
    return {axis: complete[axis] for axis in Axis if axis in complete}
