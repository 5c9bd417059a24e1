"""
Amounts, rates and times as people read them.
"""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.web.console.wording import (
    amount_text,
    clock_text,
    duration_text,
    glance_text,
    rate_text,
    to_decimal,
)


@pytest.mark.parametrize(
    ("text", "figures", "zeros"),
    [
        ("0.0001845", "0.0001845", "00"),
        ("12.5", "12.50", "0000000"),
        ("1234567.000000001", "1,234,567.000000001", ""),
        ("0", "0.00", "0000000"),
        ("-0.5", "-0.50", "0000000"),
        ("0.0000000000012", "0.0000000000012", ""),
        (None, "0.00", "0000000"),
        ("nonsense", "0.00", "0000000"),
    ],
)
def test_amount_is_exact_and_aligned(text: str | None, figures: str, zeros: str) -> None:
    """
    An amount has nine decimals or more; zeros that say nothing are apart.
    """
    shown = amount_text(text)

    assert (shown.figures, shown.zeros) == (figures, zeros)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=9, min_value=0, max_value=10**9))
def test_amount_text_loses_nothing(value: Decimal) -> None:
    """
    What is shown, read again, is the value.
    """
    assert Decimal(str(amount_text(f"{value:f}")).replace(",", "")) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Decimal(0), "0"),
        (Decimal("0.000123456"), "0.0001235"),
        (Decimal("0.5"), "0.5"),
        (12.3456, "12.35"),
        (987.654, "987.7"),
        (1234.5, "1,234"),
        (Decimal(1_500_000), "1,500,000"),
    ],
)
def test_rate_is_short(value: Decimal | float, text: str) -> None:
    """
    A headline rate has about four digits and no exponent.
    """
    assert rate_text(value) == text


def test_balance_at_a_glance_is_never_more_than_there_is() -> None:
    """
    A balance is cut, not rounded.
    """
    assert glance_text("82.41739999") == "82.4173"
    assert glance_text("0.00009") == "0.00"


def test_missing_values_are_dashes_or_zero() -> None:
    """
    What the hub did not say is shown as nothing, not as an error.
    """
    assert duration_text(None) == clock_text(None) == clock_text("yesterday") == "–"
    assert to_decimal("Infinity") == 0
    assert (duration_text(412.4), duration_text(2_360), duration_text(90_000)) == (
        "412 ms",
        "2.36 s",
        "1.5 min",
    )
