"""
Turn usage into a charge; pure, integers only.

Invariants: the exact cost is ``sum(count * nano_per_million) / 1,000,000`` quanta and is rounded
once, at the very end; each line is exact before that; an axis without a price adds nothing and is
named, so that the caller can refuse or book a fault; whatever a quote's token counts cover never
costs more than its ceiling.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final
from uuid import UUID

import msgspec

from tokenworks.metering.model import INPUT_AXES, OUTPUT_AXES, Axis, Usage
from tokenworks.pricing.errors import PriceMissingError
from tokenworks.pricing.model import UNITS_PER_PRICE, RateCard, Rounding

_NOTHING_ELSE: Final[Mapping[Axis, int]] = MappingProxyType({})


class RatedLine(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """
    One axis of a charge. A Struct because three are made on every call.
    """

    axis: Axis
    count: int
    nano_per_million: int
    price_id: UUID


class Rated(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a usage costs by one card.
    """

    card_id: UUID
    currency: str
    charge_quanta: int
    """The charge, rounded once by ``rounding``."""
    numerator: int
    """The exact charge times a million, from before the rounding."""
    rounding: Rounding
    lines: tuple[RatedLine, ...]
    unpriced: tuple[str, ...]
    """Axes that were used without a price, unknown ones by the supplier's name; charged 0."""


def rate(usage: Usage, card: RateCard) -> Rated:
    """
    Return what ``usage`` costs by ``card``. A few microseconds.
    """
    numerator = 0
    lines: list[RatedLine] = []
    unpriced: list[str] = list(usage.unknown_axes)
    prices = card.prices
    for axis, count in usage.counts.items():
        price = prices.get(axis)
        if price is None:
            unpriced.append(axis.value)
            continue
        nano = price.nano_per_million
        numerator += count * nano
        lines.append(
            RatedLine(axis=axis, count=count, nano_per_million=nano, price_id=price.price_id)
        )
    return Rated(
        card_id=card.card_id,
        currency=card.currency,
        charge_quanta=_ROUNDINGS[card.rounding](numerator, UNITS_PER_PRICE),
        numerator=numerator,
        rounding=card.rounding,
        lines=tuple(lines),
        unpriced=tuple(unpriced),
    )


def ceiling(
    card: RateCard,
    input_tokens: int,
    output_tokens: int,
    *,
    pieces: Mapping[Axis, int] = _NOTHING_ELSE,
) -> int:
    """
    Return the most quanta that so many tokens can cost, rounded up.

    Each side is priced at the dearest of its axes on the card: which tokens will be cached, or
    be reasoning, is not known before the call. A card with a price per request adds one.

    Args:
        card: The prices.
        input_tokens: Upper bound of the prompt.
        output_tokens: Granted output of all choices together.
        pieces: Upper bounds of what is not counted in tokens, by axis.

    Raises:
        PriceMissingError: A side that is used, or a piece, has no price.
    """
    assert input_tokens >= 0, "consumption is never negative"
    assert output_tokens >= 0, "consumption is never negative"
    numerator = 0
    if input_tokens:
        numerator += input_tokens * _dearest(card, INPUT_AXES)
    if output_tokens:
        numerator += output_tokens * _dearest(card, OUTPUT_AXES)
    for axis, count in pieces.items():
        if axis is not Axis.REQUEST:
            numerator += count * _dearest(card, (axis,))
    if Axis.REQUEST in card.prices or Axis.REQUEST in pieces:
        numerator += pieces.get(Axis.REQUEST, 1) * _dearest(card, (Axis.REQUEST,))
    return -(-numerator // UNITS_PER_PRICE)


def divide_half_even(numerator: int, denominator: int) -> int:
    """
    Return the nearest integer of a quotient that is not negative; a tie goes to the even one.
    """
    quotient, remainder = divmod(numerator, denominator)
    twice = 2 * remainder
    return quotient + (twice > denominator or (twice == denominator and quotient & 1 == 1))


_ROUNDINGS: Final = {Rounding.HALF_EVEN: divide_half_even}


def _dearest(card: RateCard, axes: Iterable[Axis]) -> int:
    prices = card.prices
    found = [prices[axis].nano_per_million for axis in axes if axis in prices]
    if found:
        return max(found)
    names = ", ".join(axes)
    has = ", ".join(prices)
    message = f"{card.model} at tier {card.tier} has no price for {names}; it has {has}."
    raise PriceMissingError(message, param=card.model, details={"axes": list(axes)})
