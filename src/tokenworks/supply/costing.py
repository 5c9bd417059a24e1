"""
Make cost cards and splits, and say what a supplier is owed for an attempt; pure.

Units: shares are parts per million; costs are nano-USD per 1,000,000 of an axis, so that
``count * cost / 1,000,000`` is in quanta of USD (10^-9). Rounding happens once for each
attempt: a share rounds down (the remainder stays with the platform), an axis card rounds
half to even.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, TypeVar
from uuid import UUID

from tokenworks.foundation.money import PPM
from tokenworks.supply.errors import InvalidOfferError
from tokenworks.supply.model import CostCard, Split

COST_NANO_MAX: Final = 10**15
"""Dearest cost of an axis: a million dollars per million."""

AXIS_FALLBACKS: Final[Mapping[str, str | None]] = MappingProxyType(
    {
        "input": None,
        "cache_read": "input",
        "cache_write_5m": "input",
        "cache_write_1h": "input",
        "output": None,
        "reasoning": "output",
        "audio_input": "input",
        "audio_output": "output",
        "image": None,
        "tool_call": None,
        "request": None,
    }
)
"""Every axis of usage, and the axis whose cost it takes when a card does not name it."""

# Mappings are invariant in their keys, and callers have enums of text.
_AxisT = TypeVar("_AxisT", bound=str)

_REQUIRED_AXES: Final = ("input", "output")


def share_card(supplier_share_ppm: int) -> CostCard:
    """
    Return the card of a supplier that is paid a share of the charge.

    Raises:
        InvalidOfferError: The share is below 0 or above 1,000,000.
    """
    _check_share("supplier_share", supplier_share_ppm)
    return CostCard(supplier_share_ppm=supplier_share_ppm)


def axis_card(costs: Mapping[_AxisT, int]) -> CostCard:
    """
    Return the card of a supplier that is paid by usage, with a row for every axis.

    Input and output must be named. Axes of tokens that are not named cost what input or
    output does; images, tool calls and requests that are not named cost nothing.

    Args:
        costs: Axis -> nano-USD per 1,000,000.

    Raises:
        InvalidOfferError: An axis is unknown or missing, or a cost is out of range.
    """
    named = {str(axis): cost for axis, cost in costs.items()}
    unknown = sorted(named.keys() - AXIS_FALLBACKS.keys())
    if unknown:
        message = f"No such axis of usage: {', '.join(unknown)}. There are: {_axis_names()}."
        raise InvalidOfferError(message, param="costs")
    for axis, cost in named.items():
        # bool is an int to Python, and no cost.
        if isinstance(cost, bool) or not 0 <= cost <= COST_NANO_MAX:
            message = f"The cost of {axis} is 0 to {COST_NANO_MAX} nano-USD per million."
            raise InvalidOfferError(message, param="costs")
    missing = [axis for axis in _REQUIRED_AXES if axis not in named]
    if missing:
        message = f"A cost card by axis names at least input and output; missing: {missing[0]}."
        raise InvalidOfferError(message, param="costs")
    full = {
        axis: named.get(axis, 0 if fallback is None else named[fallback])
        for axis, fallback in AXIS_FALLBACKS.items()
    }
    return CostCard(costs=MappingProxyType(full))


def check_cost_card(card: CostCard) -> CostCard:
    """
    Return the card, complete, whichever way it was made.

    Raises:
        InvalidOfferError: It has both forms or none, or a value breaks a rule.
    """
    if (card.supplier_share_ppm is None) == (card.costs is None):
        message = "A cost card is either a share of the charge or costs by axis."
        raise InvalidOfferError(message, param="cost_card")
    if card.costs is not None:
        return axis_card(card.costs)
    assert card.supplier_share_ppm is not None, "one of the two was just found set"
    return share_card(card.supplier_share_ppm)


def check_split(split: Split) -> None:
    """
    Refuse shares out of range, beyond the charge, or without an owner.

    Raises:
        InvalidOfferError: With the share at fault.
    """
    owned: tuple[tuple[str, int, UUID | None], ...] = (
        ("reseller", split.reseller_ppm, split.reseller_id),
        ("rights", split.rights_ppm, split.rights_id),
        ("power", split.power_ppm, split.power_id),
    )
    _check_share("tax", split.tax_ppm)
    for name, share_ppm, _ in owned:
        _check_share(name, share_ppm)
    total_ppm = split.tax_ppm + split.reseller_ppm + split.rights_ppm
    if total_ppm > PPM:
        message = (
            f"Tax, reseller and rights together take {total_ppm} of {PPM} parts of the charge."
        )
        raise InvalidOfferError(message, param="split")
    for name, share_ppm, owner_id in owned:
        if share_ppm > 0 and owner_id is None:
            message = f"The {name} share needs the party that owns it."
            raise InvalidOfferError(message, param=f"split.{name}_id")


def payable_quanta(card: CostCard, *, charge_quanta: int, counts: Mapping[_AxisT, int]) -> int:
    """
    Return what a supplier is owed for one attempt, in quanta of USD.

    Args:
        card: The offer's.
        charge_quanta: What the buyer is charged; only a share looks at it.
        counts: Axis -> how much the attempt used; only an axis card looks at it.

    Raises:
        KeyError: An axis that no card knows; the caller has refused such usage before.
    """
    assert charge_quanta >= 0, "a charge is never negative"
    if card.supplier_share_ppm is not None:
        return charge_quanta * card.supplier_share_ppm // PPM
    assert card.costs is not None, "a card has one of two forms"
    numerator = sum(count * card.costs[axis] for axis, count in counts.items())
    return _divide_half_even(numerator, PPM)


def platform_share_ppm(card: CostCard, split: Split) -> int | None:
    """
    Return what the platform keeps of a charge; negative when it pays to sell.

    ``None`` for a card by axis, where that depends on the price.
    """
    if card.supplier_share_ppm is None:
        return None
    sale_ppm = split.tax_ppm + split.reseller_ppm + split.rights_ppm
    return PPM - sale_ppm - card.supplier_share_ppm


def _check_share(name: str, share_ppm: int) -> None:
    if isinstance(share_ppm, bool) or not 0 <= share_ppm <= PPM:
        message = f"The {name} share is 0 to {PPM} parts per million, not {share_ppm}."
        raise InvalidOfferError(message, param=f"{name}_ppm")


def _divide_half_even(numerator: int, denominator: int) -> int:
    quotient, remainder = divmod(numerator, denominator)
    twice = 2 * remainder
    return quotient + (twice > denominator or (twice == denominator and quotient % 2 == 1))


def _axis_names() -> str:
    return ", ".join(AXIS_FALLBACKS)
