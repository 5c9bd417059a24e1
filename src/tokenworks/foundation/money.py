"""
Exact value: assets with a fixed integer scale, amounts, splits.

Invariants: an amount is an integer number of quanta (10 ** -scale units) and never
a float; parts of a split sum to the whole. One transfer is at most ``QUANTA_MAX``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tokenworks.foundation.errors import InvalidError

QUANTA_MAX: Final = 2**62
"""Largest amount of one transfer, in quanta: a bigint with room for one addition."""

PPM: Final = 1_000_000
"""Parts per million in the whole."""

_DECIMAL = re.compile(r"-?\d{1,30}(\.\d{1,30})?")


@dataclass(frozen=True, slots=True)
class Asset:
    """
    A unit of value.

    ``scale`` is the number of decimal digits of one quantum; it never changes.
    """

    code: str
    scale: int


USD: Final = Asset("USD", 9)
CNY: Final = Asset("CNY", 9)
MICROJOULE: Final = Asset("UJ", 6)
LIMIT_USD: Final = Asset("LIMIT.USD", 9)
LIMIT_TOKENS: Final = Asset("LIMIT.TOK", 0)
LIMIT_PAYMENTS: Final = Asset("LIMIT.PAYMENTS", 0)

ASSETS: Final[dict[str, Asset]] = {
    asset.code: asset for asset in (USD, CNY, MICROJOULE, LIMIT_USD, LIMIT_TOKENS, LIMIT_PAYMENTS)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """
    An exact quantity of one asset.
    """

    quanta: int
    asset: Asset

    def to_text(self) -> str:
        """
        Return plain decimal text in whole units, e.g. ``0.00012`` (no exponent).
        """
        return quanta_to_text(self.quanta, scale=self.asset.scale)

    @classmethod
    def from_text(cls, text: str, asset: Asset) -> Amount:
        """
        Parse plain decimal text in whole units.

        Raises:
            InvalidError: Not a decimal, finer than the asset's scale, or beyond
                ``QUANTA_MAX``.
        """
        return cls(quanta=quanta_from_text(text, scale=asset.scale), asset=asset)


def quanta_to_text(quanta: int, *, scale: int) -> str:
    """
    Return ``quanta`` as decimal text in whole units without trailing zeros.
    """
    sign = "-" if quanta < 0 else ""
    whole, fraction = divmod(abs(quanta), 10**scale)
    digits = str(fraction).rjust(scale, "0").rstrip("0") if scale else ""
    return f"{sign}{whole}.{digits}" if digits else f"{sign}{whole}"


def quanta_from_text(text: str, *, scale: int) -> int:
    """
    Return decimal text in whole units as quanta; nothing is ever rounded.

    Raises:
        InvalidError: Not a plain decimal, too fine for the scale, or too large.
    """
    if not _DECIMAL.fullmatch(text):
        message = f"{text!r} is not a plain decimal number such as 12.50."
        raise InvalidError(message, code="invalid_amount")
    whole, _, fraction = text.partition(".")
    fraction = fraction.rstrip("0")
    if len(fraction) > scale:
        message = f"{text} is finer than the smallest unit (10^-{scale})."
        raise InvalidError(message, code="amount_too_fine")
    sign = -1 if whole.startswith("-") else 1
    quanta = abs(int(whole)) * 10**scale + int(fraction.ljust(scale, "0") or "0")
    if quanta > QUANTA_MAX:
        message = f"{text} is larger than the ledger can move at once."
        raise InvalidError(message, code="amount_too_large")
    return sign * quanta


def split_by_shares(total: int, shares_ppm: Sequence[int]) -> list[int]:
    """
    Split ``total`` quanta by integer shares that sum to one million.

    Largest remainder, ties to the earlier share, so that the parts always sum to
    the whole. O(n log n) in the number of shares.
    """
    assert total >= 0, "a charge is never negative"
    assert sum(shares_ppm) == PPM, "shares sum to the whole"
    assert all(share >= 0 for share in shares_ppm), "a share is never negative"
    parts = [total * share // PPM for share in shares_ppm]
    remainders = [(-(total * share % PPM), index) for index, share in enumerate(shares_ppm)]
    for _, index in sorted(remainders)[: total - sum(parts)]:
        parts[index] += 1
    assert sum(parts) == total, "parts sum to the whole"
    return parts
