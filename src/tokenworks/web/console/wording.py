"""
Write amounts, counts, durations and times for people; pure.

Amounts are decimal text from the hub; nothing here rounds one that is shown as a value
of the books. Only headline rates are shortened, to figures a glance can read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_DOWN, Decimal, InvalidOperation
from types import MappingProxyType
from typing import Final

MONEY_PLACES: Final = 9
RATE_DIGITS: Final = 4
_GLANCE: Final = Decimal("0.0001")

PURPOSE_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "cash": "prepaid cash",
        "supplier_payable": "payable to supplier",
        "power_payable": "payable to power producer",
        "rights_payable": "payable to rights holder",
        "reseller_payable": "payable to reseller",
        "tax_payable": "tax payable",
        "platform_revenue": "revenue",
        "purchases": "purchases",
        "safeguarded": "safeguarded bank money",
        "own_funds": "own bank money",
        "overrun": "overrun borne",
        "limit_source": "limit, source",
        "limit_available": "limit, available",
        "limit_spent": "limit, spent",
        "limit_overrun": "limit, overrun",
        "energy_metered": "energy, metered",
        "energy_used": "energy, used by calls",
        "energy_unattributed": "energy, used by no call",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AmountText:
    """
    An exact amount in two parts: what says something, and zeros that only align.
    """

    figures: str
    zeros: str

    def __str__(self) -> str:
        return self.figures + self.zeros


def to_decimal(text: str | None) -> Decimal:
    """
    Return an amount of the hub's; what is missing or no number counts as zero.
    """
    try:
        value = Decimal(text or "0")
    except InvalidOperation:
        return Decimal(0)
    return value if value.is_finite() else Decimal(0)


def amount_text(value: str | Decimal | None, *, places: int = MONEY_PLACES) -> AmountText:
    """
    Return an amount with at least ``places`` decimals, never rounded.
    """
    number = value if isinstance(value, Decimal) else to_decimal(value)
    exponent = number.as_tuple().exponent
    scale = max(places, -exponent if isinstance(exponent, int) else 0)
    text = f"{number:,.{scale}f}"
    if "." not in text:
        return AmountText(figures=text, zeros="")
    whole, _, decimals = text.partition(".")
    kept = decimals.rstrip("0")
    # Two decimals always count as figures: "0.50" is how money looks.
    kept = decimals[: max(len(kept), min(2, len(decimals)))]
    return AmountText(figures=f"{whole}.{kept}", zeros=decimals[len(kept) :])


def units_text(text: str) -> AmountText:
    """
    Return an amount of a unit without decimals, such as tokens.
    """
    return amount_text(text, places=0)


def rate_text(value: Decimal | float, *, digits: int = RATE_DIGITS) -> str:
    """
    Return a headline figure with about ``digits`` significant digits, plainly written.
    """
    number = value if isinstance(value, Decimal) else Decimal(repr(value))
    if number == 0:
        return "0"
    if abs(number) >= 10 ** (digits - 1):
        return f"{number:,.0f}"
    places = digits - 1 - number.adjusted()
    text = f"{round(number, places):,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def glance_text(value: str | Decimal) -> str:
    """
    Return a balance cut to four decimals, down: never more than there is.
    """
    number = value if isinstance(value, Decimal) else to_decimal(value)
    return amount_text(number.quantize(_GLANCE, rounding=ROUND_DOWN), places=2).figures


def price_text(text: str) -> str:
    """
    Return a price with at least two decimals, as on a price list.
    """
    return amount_text(text, places=2).figures


def count_text(count: int) -> str:
    """
    Return a count with thousands apart.
    """
    return f"{count:,}"


def duration_text(duration_ms: float | None) -> str:
    """
    Return a duration as milliseconds, seconds or minutes.
    """
    if duration_ms is None:
        return "–"
    if duration_ms < 1_000:
        return f"{duration_ms:.0f} ms"
    if duration_ms < 60_000:
        return f"{duration_ms / 1_000:.2f} s"
    return f"{duration_ms / 60_000:.1f} min"


def span_text(seconds: int) -> str:
    """
    Return a span of whole minutes or hours.
    """
    if seconds % 3_600 == 0:
        hours = seconds // 3_600
        return "hour" if hours == 1 else f"{hours} hours"
    minutes = seconds // 60
    return "minute" if minutes == 1 else f"{minutes} minutes"


def moment_of(text: str | None) -> datetime | None:
    """
    Return a time of the hub's, or nothing when it is missing or no time.
    """
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def clock_text(text: str | None) -> str:
    """
    Return a time's hours, minutes and seconds in UTC.
    """
    moment = moment_of(text)
    return moment.strftime("%H:%M:%S") if moment else "–"


def day_and_clock_text(text: str | None) -> str:
    """
    Return a time with its day, in UTC.
    """
    moment = moment_of(text)
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC") if moment else "–"


def words(name: str) -> str:
    """
    Return a machine word as words: ``cache_read`` is "cache read".
    """
    return name.replace("_", " ")


def purpose_text(purpose: str) -> str:
    """
    Return what an account is for.
    """
    return PURPOSE_NAMES.get(purpose, words(purpose))
