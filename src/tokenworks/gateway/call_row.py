"""
The fields of a call's row, as the ledger's rider takes it.
"""

from __future__ import annotations

from typing import Final

COLUMNS: Final = (
    "call_id",
    "status",
    "outcome",
    "organisation_id",
    "team_id",
    "party_id",
    "key_id",
    "model",
    "tier",
    "is_stream",
    "supplier_id",
    "supplier_name",
    "usage",
    "input_tokens",
    "output_tokens",
    "is_estimate",
    "currency",
    "quoted_quanta",
    "charge_quanta",
    "payable_quanta",
    "started_at",
    "duration_ms",
    "first_token_ms",
    "attempt_count",
    "attempts",
    "error_code",
    "receipt",
)
"""The fields of the type ``gateway.call_row``, in its order."""
