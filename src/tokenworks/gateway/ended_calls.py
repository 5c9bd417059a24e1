"""
Ended calls, and sums of them, as lists and reports show them.

Money is in quanta of the row's asset. A call's lines and attempts are those of its receipt, the
one record of them; a call that was not sold has no receipt, so its row names its attempts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from tokenworks.foundation.money import ASSETS, Asset, quanta_from_text


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFilter:
    """
    Which calls a list is about; ``None`` means any.
    """

    organisation_id: UUID | None = None
    within_party_id: UUID | None = None
    team_id: UUID | None = None
    key_id: UUID | None = None
    model: str | None = None
    tier: str | None = None
    status: str | None = None
    supplier_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow:
    """
    One physical request to a supplier, as the receipt records it.
    """

    ordinal: int
    supplier_id: UUID
    supplier_name: str
    offer_id: UUID
    status: str
    http_status: int | None
    error_code: str | None
    started_at: datetime
    duration_ms: float | None
    payable_quanta: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedLineRow:
    """
    One axis of a call's charge.
    """

    axis: str
    count: int
    nano_per_million: int
    price_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRow:
    """
    One ended call; money in quanta of ``asset``.
    """

    call_id: UUID
    status: str
    """``settled``, or ``failed``: nothing was delivered and nothing charged."""
    outcome: str
    is_stream: bool
    model: str
    tier: str
    party_id: UUID
    organisation_id: UUID
    team_id: UUID | None
    key_id: UUID
    key_prefix: str
    key_label: str
    supplier_id: UUID | None
    supplier_name: str | None
    usage: Mapping[str, int]
    total_tokens: int
    input_tokens: int
    output_tokens: int
    is_estimate: bool
    asset: Asset
    charge_quanta: int
    payable_quanta: int
    quoted_quanta: int
    started_at: datetime
    ended_at: datetime
    duration_ms: float
    first_token_ms: float | None
    attempt_count: int
    error_code: str | None
    refunded_quanta: int = 0
    lines: Sequence[RatedLineRow] = ()
    attempts: Sequence[AttemptRow] = ()
    receipt: Mapping[str, Any] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendRow:
    """
    What one group of calls consumed and cost.
    """

    group: str
    calls: int
    input_tokens: int
    output_tokens: int
    total_tokens: int
    charge_quanta: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowLeg:
    """
    What one kind of leg moved to one party in a window; ``sale``: from a buyer.
    """

    kind: str
    party_id: UUID
    payer_id: UUID | None = None
    quanta: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowView:
    """
    Settled calls of the last seconds.
    """

    asset: Asset
    calls: int
    tokens: int
    charge_quanta: int
    legs: Sequence[FlowLeg]
    last_calls: Sequence[CallRow]


def from_row(row: Mapping[str, Any]) -> CallRow:
    """
    Read one row of a list of calls; without its lines and attempts.
    """
    return CallRow(
        call_id=row["call_id"],
        status=row["status"],
        outcome=row["outcome"],
        is_stream=row["is_stream"],
        model=row["model"],
        tier=row["tier"],
        party_id=row["party_id"],
        organisation_id=row["organisation_id"],
        team_id=row["team_id"],
        key_id=row["key_id"],
        key_prefix=row["key_prefix"] or "",
        key_label=row["key_label"] or "",
        supplier_id=row["supplier_id"],
        supplier_name=row["supplier_name"],
        usage=row["usage"],
        total_tokens=row["input_tokens"] + row["output_tokens"],
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        is_estimate=row["is_estimate"],
        asset=ASSETS[row["currency"]],
        charge_quanta=row["charge_quanta"],
        payable_quanta=row["payable_quanta"],
        quoted_quanta=row["quoted_quanta"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        duration_ms=row["duration_ms"],
        first_token_ms=row["first_token_ms"],
        attempt_count=row["attempt_count"],
        error_code=row["error_code"],
        refunded_quanta=row["refunded_quanta"],
        receipt=row["receipt"],
    )


def detailed_from_row(row: Mapping[str, Any]) -> CallRow:
    """
    Read one row of a list of calls, with the lines and attempts that its receipt records.
    """
    call = from_row(row)
    receipt: Mapping[str, Any] = call.receipt or {}
    lines = receipt.get("rate_card", {}).get("lines", ())
    return CallRow(
        **{name: getattr(call, name) for name in _PLAIN_FIELDS},
        lines=[
            RatedLineRow(
                axis=line["axis"],
                count=line["count"],
                nano_per_million=int(line["nano_per_million"]),
                price_id=UUID(line["price_id"]),
            )
            for line in lines
        ],
        attempts=[
            _attempt(ordinal, value)
            for ordinal, value in enumerate(_attempts_of(row, receipt), start=1)
        ],
    )


_PLAIN_FIELDS: Final = tuple(
    name for name in CallRow.__dataclass_fields__ if name not in {"lines", "attempts"}
)


def _attempts_of(row: Mapping[str, Any], receipt: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    if not receipt:
        return row["attempts"] or ()
    return [receipt[f"attempt.{number}"] for number in range(1, row["attempt_count"] + 1)]


def _attempt(ordinal: int, value: Mapping[str, Any]) -> AttemptRow:
    duration_us = value["duration_us"]
    return AttemptRow(
        ordinal=ordinal,
        supplier_id=UUID(value["supplier_id"]),
        supplier_name=value["supplier_name"],
        offer_id=UUID(value["offer"]),
        status=value["status"],
        http_status=value["http_status"],
        error_code=value["error"],
        started_at=datetime.fromisoformat(value["started_at"]),
        duration_ms=None if duration_us is None else duration_us / 1000,
        payable_quanta=quanta_from_text(value["payable_quanta"], scale=0),
    )
