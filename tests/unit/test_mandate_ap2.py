"""
AP2 v0.2's eight constraints, what they mean here, and what is refused.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from tokenworks.agents.mandates.ap2 import from_ap2, merchants_of, to_ap2
from tokenworks.agents.mandates.errors import Ap2RefusedError
from tokenworks.agents.mandates.model import CountLimit, MoneyLimit, Terms, Window

SHOP, OTHER = UUID(int=1), UUID(int=2)
CENT = 10**7
EIGHT: list[dict[str, Any]] = [
    {"type": "payment.amount_range", "currency": "USD", "max": 500, "min": 10},
    {"type": "payment.budget", "max": 10_000, "currency": "USD"},
    {"type": "payment.agent_recurrence", "frequency": "DAILY", "max_occurrences": 12},
    {
        "type": "payment.allowed_payees",
        "allowed": [{"id": "m-1", "name": "Shop", "website": "shop.example"}],
    },
    {
        "type": "payment.allowed_payment_instruments",
        "allowed": [{"id": "hub:abc", "type": "network"}],
    },
    {
        "type": "payment.allowed_pisps",
        "allowed": [
            {"legal_name": "P Ltd", "brand_name": "P", "domain_name": "pisp.example"},
        ],
    },
    {"type": "payment.execution_date", "not_before": "2026-10-01", "not_after": "2026-12-31"},
    {"type": "payment.reference", "conditional_transaction_id": "tx-1"},
]


def _document(*constraints: dict[str, Any], **claims: object) -> dict[str, object]:
    return {"vct": "mandate.payment.open.1", "constraints": list(constraints), **claims}


def test_all_eight_constraints_become_terms() -> None:
    """
    Minor units become quanta, a frequency a count a window, a date its whole day.
    """
    document = _document(*EIGHT, iat=1, exp=1_800_000_000, risk_data={"score": 1}, cnf={"jwk": {}})
    assert merchants_of(document) == ("m-1",)
    imported = from_ap2(document, payees={"m-1": SHOP})
    assert imported.expires_at == datetime.fromtimestamp(1_800_000_000, tz=UTC)
    assert imported.terms == Terms(
        amount_min=10 * CENT,
        amount_max=500 * CENT,
        budgets=(MoneyLimit(window=Window.EVER, quanta=10_000 * CENT),),
        counts=(
            CountLimit(window=Window.DAY, payments=1),
            CountLimit(window=Window.EVER, payments=12),
        ),
        payees=frozenset({SHOP}),
        instruments=frozenset({"hub:abc"}),
        providers=frozenset({"pisp.example"}),
        not_before=datetime(2026, 10, 1, tzinfo=UTC),
        not_after=datetime(2027, 1, 1, tzinfo=UTC),
        reference="tx-1",
    )


@pytest.mark.parametrize(
    ("frequency", "window"),
    [
        ("DAILY", Window.DAY),
        ("WEEKLY", Window.WEEK),
        ("MONTHLY", Window.MONTH),
        ("QUARTERLY", Window.QUARTER),
        ("ANNUALLY", Window.YEAR),
    ],
)
def test_frequency_is_one_payment_a_window(frequency: str, window: Window) -> None:
    """
    A calendar window stands for each frequency that one can express.
    """
    recurrence = {"type": "payment.agent_recurrence", "frequency": frequency}
    assert from_ap2(_document(recurrence), payees={}).terms.counts == (
        CountLimit(window=window, payments=1),
    )


def test_on_demand_is_limited_by_its_occurrences_alone() -> None:
    """
    Without occurrences nothing is counted.
    """
    recurrence: dict[str, Any] = {"type": "payment.agent_recurrence", "frequency": "ON_DEMAND"}
    assert from_ap2(_document(recurrence), payees={}).terms.counts == ()
    recurrence["max_occurrences"] = 3
    assert from_ap2(_document(recurrence), payees={}).terms.counts == (
        CountLimit(window=Window.EVER, payments=3),
    )


RANGE = EIGHT[0]


@pytest.mark.parametrize(
    "document",
    [
        _document({"type": "payment.colour", "value": "blue"}),
        _document({**RANGE, "step": 5}),
        _document({"type": "payment.agent_recurrence", "frequency": "BIWEEKLY"}),
        _document({"type": "payment.agent_recurrence", "frequency": "HOURLY"}),
        _document({**RANGE, "max": 5.5}),
        _document({**RANGE, "max": "5"}),
        _document({"type": "payment.budget", "max": 1200.5, "currency": "USD"}),
        _document({"type": "payment.budget", "max": float(2**60), "currency": "USD"}),
        _document({**RANGE, "currency": "EUR"}),
        _document(RANGE, {"type": "payment.budget", "max": 5, "currency": "CNY"}),
        _document(RANGE, RANGE),
        _document(EIGHT[3]),  # nobody says who m-1 is
        _document({"type": "payment.execution_date", "not_before": "2026-10-01T12:00:00"}),
        _document({"type": "payment.execution_date", "not_before": "soon"}),
        _document(RANGE, _sd=["hash of something hidden"]),
        _document(RANGE, approved_by="nobody knows"),
        _document(RANGE, exp=10**30),
        _document(RANGE, payment_amount={"amount": 501, "currency": "USD"}),
        _document(EIGHT[7], transaction_id="tx-2"),
        {"vct": "mandate.payment.1", "constraints": []},
        {"constraints": []},
    ],
)
def test_what_is_not_understood_whole_is_refused(document: dict[str, object]) -> None:
    """
    Fail closed: what nobody would obey is not imported.
    """
    with pytest.raises(Ap2RefusedError):
        from_ap2(document, payees={})


def test_preset_claims_bind_like_constraints() -> None:
    """
    An open mandate may fix what the closed one will say.
    """
    document = _document(
        RANGE,
        payee={"id": "m-2", "name": "Other"},
        payment_amount={"amount": 20, "currency": "USD"},
        payment_instrument={"id": "hub:x", "type": "network"},
        pisp={"domain_name": "p.example"},
        execution_date="2026-05-01",
        transaction_id="tx-9",
    )
    terms = from_ap2(document, payees={"m-2": OTHER}).terms
    assert (terms.amount_min, terms.amount_max) == (20 * CENT, 20 * CENT)
    assert terms.payees == frozenset({OTHER})
    assert (terms.instruments, terms.providers) == (
        frozenset({"hub:x"}),
        frozenset({"p.example"}),
    )
    assert (terms.not_before, terms.not_after) == (
        datetime(2026, 5, 1, tzinfo=UTC),
        datetime(2026, 5, 2, tzinfo=UTC),
    )
    assert terms.reference == "tx-9"


def test_export_names_what_ap2_cannot_say() -> None:
    """
    Sub-cent amounts, windows, payee caps, tools and models are beyond AP2.
    """
    terms = Terms(
        amount_max=CENT + 1,
        budgets=(MoneyLimit(window=Window.DAY, quanta=CENT),),
        payee_budgets=(MoneyLimit(window=Window.EVER, quanta=CENT),),
        counts=(CountLimit(window=Window.MINUTE, payments=60),),
        tools=frozenset({"pay"}),
        models=frozenset({"m"}),
    )
    exported = to_ap2(terms, issued_at=datetime(2026, 1, 1, tzinfo=UTC), expires_at=None, names={})
    assert exported.not_expressed == (
        "amount_max",
        "budgets",
        "counts",
        "payee_budgets",
        "tools",
        "models",
    )
    assert exported.document["constraints"] == [
        {"type": "payment.amount_range", "currency": "USD", "max": 1}
    ]
