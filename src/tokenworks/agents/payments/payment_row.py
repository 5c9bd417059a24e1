"""
A payment's row, as the ledger's rider takes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from tokenworks.agents.payments.held import HeldPayment, decision_to_json
from tokenworks.foundation.identifiers import identifier_text
from tokenworks.postgres.composite import composite_text

COLUMNS: Final = (
    "payment_id",
    "operation",
    "ordinal",
    "closes",
    "kind",
    "payer",
    "agent_id",
    "organisation_id",
    "mandate_id",
    "payee_id",
    "currency",
    "authorised_quanta",
    "captured_quanta",
    "resource",
    "digest",
    "reason",
    "decision",
    "receipt",
)
"""The fields of the type ``agents.payment_row``, in its order."""

RIDER_MARK: Final = "P"
"""Stands before a payment's row, so that the rider tells it from a call's."""

BOTH_MARK: Final = "B"
SEPARATOR: Final = "\x1e"
"""Stands before and between the rows of a call and of the payment that paid for it; no row has
it inside: JSON escapes it, and no name or code may hold it."""

_encode = msgspec.json.Encoder().encode


def payment_row(
    held: HeldPayment,
    *,
    operation: str,
    ordinal: int = 0,
    closes: bool = True,
    quanta: int = 0,
    reason: str | None = None,
    receipt: Mapping[str, Any] | None = None,
) -> str:
    """
    Return the row of one capture or release for the rider ``hub``.
    """
    return RIDER_MARK + composite_text(
        (
            held.payment_id,
            operation,
            ordinal,
            closes,
            held.kind,
            held.payer,
            identifier_text(held.agent_id),
            identifier_text(held.organisation_id),
            identifier_text(held.mandate_id),
            identifier_text(held.payee_id),
            held.currency,
            held.authorised_quanta,
            quanta,
            held.resource,
            "\\x" + held.digest.hex(),
            reason,
            _encode(decision_to_json(held.decision)).decode(),
            None if receipt is None else _encode(receipt).decode(),
        )
    )


def with_call_row(call_row: str, row: str) -> str:
    """
    Return a call's row and the row of its payment as one text for the rider ``hub``.
    """
    assert SEPARATOR not in call_row, "a call's row is one record"
    assert SEPARATOR not in row, "a payment's row is one record"
    return f"{BOTH_MARK}{call_row}{SEPARATOR}{row}"
