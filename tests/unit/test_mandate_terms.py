"""
Terms as JSON and the rules they keep; judging and attenuation, one field at a time.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from tokenworks.agents.mandates.attenuation import check_attenuated, check_expiry
from tokenworks.agents.mandates.errors import InvalidTermsError, MandateNotAttenuatedError
from tokenworks.agents.mandates.judging import refusal_of_terms
from tokenworks.agents.mandates.model import (
    TERMS_LIST_MAX,
    CountLimit,
    MoneyLimit,
    Purchase,
    Terms,
    Window,
)
from tokenworks.agents.mandates.terms import (
    check_terms,
    terms_from_json,
    terms_from_object,
    terms_to_shape,
)

CENT = 10**7
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ONE, TWO = UUID(int=1), UUID(int=2)


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"currency": "EUR"}, "invalid_terms", "currency"),
        ({"currency": "LIMIT.USD"}, "invalid_terms", "currency"),
        ({"colour": "blue"}, "invalid_terms", "terms"),
        ({"amount_max": 5}, "invalid_terms", "terms"),
        ({"amount_max": "1e3"}, "invalid_amount", "amount_max"),
        ({"amount_max": "0.0000000001"}, "amount_too_fine", "amount_max"),
        ({"amount_max": "5000000000"}, "amount_too_large", "amount_max"),
        ({"amount_min": "-1"}, "invalid_terms", "amount_min"),
        ({"amount_min": "2", "amount_max": "1"}, "invalid_terms", "amount_max"),
        ({"budgets": [{"window": "day", "amount": "0"}]}, "invalid_terms", "budgets"),
        ({"budgets": [{"window": "fortnight", "amount": "1"}]}, "invalid_terms", "terms"),
        (
            {"budgets": [{"window": "day", "amount": "1"}, {"window": "day", "amount": "2"}]},
            "invalid_terms",
            "budgets",
        ),
        ({"counts": [{"window": "day", "payments": 0}]}, "invalid_terms", "counts"),
        ({"counts": [{"window": "day", "payments": 2**62 + 1}]}, "invalid_terms", "counts"),
        ({"counts": [{"window": "day", "payments": 1.5}]}, "invalid_terms", "terms"),
        ({"payees": []}, "invalid_terms", "payees"),
        ({"payees": ["shop"]}, "invalid_terms", "terms"),
        ({"tools": ["t"] * (TERMS_LIST_MAX + 1)}, "invalid_terms", "tools"),
        ({"tools": ["x" * 201]}, "invalid_terms", "tools"),
        ({"tools": ["a\nb"]}, "invalid_terms", "tools"),
        ({"models": ["m@"]}, "invalid_terms", "models"),
        ({"models": ["a b"]}, "invalid_terms", "models"),
        ({"not_before": "yesterday"}, "invalid_terms", "not_before"),
        ({"not_before": "2026-01-01T00:00:00"}, "invalid_terms", "not_before"),
        ({"not_before": "9999-12-31T23:59:59-23:00"}, "invalid_terms", "not_before"),
        (
            {"not_before": "2026-01-02T00:00:00Z", "not_after": "2026-01-01T00:00:00Z"},
            "invalid_terms",
            "not_after",
        ),
        ({"reference": ""}, "invalid_terms", "reference"),
        ({"delegations_max": 8}, "invalid_terms", "delegations_max"),
        ({"delegations_max": -1}, "invalid_terms", "delegations_max"),
    ],
)
def test_bad_terms_are_refused_by_field(fields: dict[str, Any], code: str, param: str) -> None:
    """
    Each broken rule names the field; an unknown field is never ignored.
    """
    with pytest.raises(InvalidTermsError) as caught:
        terms_from_object({"currency": "USD", **fields})
    assert (caught.value.code, caught.value.param) == (code, param)


def test_moments_are_read_in_any_zone_and_kept_in_utc() -> None:
    """
    Noon in Berlin is eleven in UTC; who writes no offset is asked.
    """
    terms = terms_from_json('{"currency":"USD","not_after":"2026-01-15T12:00:00+01:00"}')
    assert terms.not_after == datetime(2026, 1, 15, 11, tzinfo=UTC)
    assert terms_to_shape(terms).not_after == "2026-01-15T11:00:00Z"


def test_amounts_reach_far_below_a_cent() -> None:
    """
    A billionth of a dollar is an amount.
    """
    terms = terms_from_object({"currency": "USD", "amount_min": "0.000000001"})
    assert terms.amount_min == 1
    check_terms(terms)


@pytest.mark.parametrize(
    ("terms", "purchase", "code"),
    [
        ({"currency": "CNY"}, {}, "currency_not_allowed"),
        ({"payees": frozenset({TWO})}, {}, "payee_not_allowed"),
        ({"instruments": frozenset({"hub:b"})}, {}, "instrument_not_allowed"),
        ({"providers": frozenset({"p"})}, {}, "provider_not_allowed"),
        ({"providers": frozenset({"p"})}, {"provider": "p"}, None),
        ({"amount_max": CENT - 1}, {}, "amount_not_allowed"),
        ({"amount_max": CENT, "amount_min": CENT}, {}, None),
        ({"amount_min": CENT + 1}, {}, "amount_not_allowed"),
        ({"reference": "r"}, {}, "reference_required"),
        ({"reference": "r"}, {"reference": "s"}, "reference_required"),
        ({"reference": "r"}, {"reference": "r"}, None),
        ({"tools": frozenset({"pay"})}, {}, "tool_not_allowed"),
        ({"tools": frozenset({"pay"})}, {"tool": "pay"}, None),
        ({"models": frozenset({"m@fast"})}, {}, "model_not_allowed"),
        ({"models": frozenset({"m@fast"})}, {"model": "m@slow"}, "model_not_allowed"),
        ({"models": frozenset({"m"})}, {"model": "m@slow"}, None),
    ],
)
def test_purchase_is_judged_field_by_field(
    terms: dict[str, Any], purchase: dict[str, Any], code: str | None
) -> None:
    """
    What is narrowed has to be named by the purchase.
    """
    asked = replace(
        Purchase(payee_id=ONE, quanta=CENT, currency="USD", instrument="hub:a"), **purchase
    )
    refused = refusal_of_terms(replace(Terms(), **terms), asked)
    assert (refused.code if refused is not None else None) == code


def _per(window: Window, quanta: int) -> tuple[MoneyLimit, ...]:
    return (MoneyLimit(window=window, quanta=quanta),)


@pytest.mark.parametrize(
    ("field", "parent", "narrower", "wider"),
    [
        ("amount_min", 5, 6, 4),
        ("amount_max", 5, 4, 6),
        ("budgets", _per(Window.MONTH, 5), _per(Window.DAY, 5), _per(Window.DAY, 6)),
        ("budgets", _per(Window.WEEK, 5), _per(Window.MONTH, 9), _per(Window.HOUR, 6)),
        ("payee_budgets", _per(Window.EVER, 5), _per(Window.YEAR, 5), _per(Window.WEEK, 6)),
        (
            "counts",
            (CountLimit(window=Window.DAY, payments=5),),
            (CountLimit(window=Window.MINUTE, payments=5),),
            (CountLimit(window=Window.DAY, payments=6),),
        ),
        ("payees", frozenset({ONE}), frozenset({ONE}), frozenset({ONE, TWO})),
        ("instruments", frozenset({"a", "b"}), frozenset({"a"}), frozenset({"c"})),
        ("providers", frozenset({"a"}), frozenset({"a"}), frozenset({"a", "b"})),
        ("not_before", NOW, NOW + timedelta(1), NOW - timedelta(1)),
        ("not_after", NOW, NOW - timedelta(1), NOW + timedelta(1)),
        ("reference", "r", "r", "s"),
        ("tools", frozenset({"a"}), frozenset({"a"}), frozenset({"b"})),
        ("models", frozenset({"m"}), frozenset({"m@fast"}), frozenset({"n"})),
        ("models", frozenset({"m@fast"}), frozenset({"m@fast"}), frozenset({"m"})),
        ("currency", "USD", "USD", "CNY"),
    ],
)
def test_attenuation_judges_each_field(
    field: str, parent: object, narrower: object, wider: object
) -> None:
    """
    As narrow or narrower passes, saying nothing passes, wider is refused by name.
    """
    above = replace(Terms(delegations_max=1), **{field: parent})
    check_attenuated(Terms(currency=above.currency), above)
    check_attenuated(replace(Terms(), **{field: narrower}), above)
    with pytest.raises(MandateNotAttenuatedError) as caught:
        check_attenuated(replace(Terms(), **{field: wider}), above)
    assert caught.value.param == field


def test_levels_fall_and_expiry_stays_within_the_parents() -> None:
    """
    Each level leaves one less, and no child outlives its parent.
    """
    with pytest.raises(MandateNotAttenuatedError):
        check_attenuated(Terms(delegations_max=2), Terms(delegations_max=2))
    check_expiry(NOW, NOW)
    check_expiry(None, NOW)
    with pytest.raises(MandateNotAttenuatedError):
        check_expiry(NOW + timedelta(seconds=1), NOW)
