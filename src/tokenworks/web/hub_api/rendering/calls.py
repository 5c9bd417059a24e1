"""
Draw calls in the reader's view: buyers see no supplier's payable, suppliers no buyer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

from tokenworks.foundation.money import quanta_to_text
from tokenworks.gateway.ended_calls import AttemptRow, CallRow, SpendRow
from tokenworks.identity.model import Role
from tokenworks.pricing.model import nano_per_million_to_text
from tokenworks.web.hub_api.access import Reader
from tokenworks.web.hub_api.directory import Directory
from tokenworks.web.hub_api.rendering.amounts import amount_text
from tokenworks.web.hub_api.shapes.calls import (
    AttemptShape,
    CallDetailShape,
    CallKey,
    CallShape,
    RatedLineShape,
    SpendRowShape,
)


def call_parties(calls: Iterable[CallRow]) -> set[UUID | None]:
    """
    Return the parties that calls name.
    """
    rows = list(calls)
    return {row.party_id for row in rows} | {
        party_id for row in rows for party_id in (row.organisation_id, row.team_id)
    }


def to_call(call: CallRow, directory: Directory, reader: Reader) -> CallShape:
    """
    Return a call in the reader's view; its parties were loaded.
    """
    return CallShape.model_validate(_call_fields(call, directory, reader))


def to_call_detail(call: CallRow, directory: Directory, reader: Reader) -> CallDetailShape:
    """
    Return a call with its lines and attempts in the reader's view; its parties were loaded.
    """
    attempts: Sequence[AttemptRow] = call.attempts
    if not reader.sees_buyer:
        attempts = [row for row in attempts if reader.sees_supplier(row.supplier_id)]
    fields = _call_fields(call, directory, reader)
    fields["lines"] = [
        RatedLineShape(
            axis=line.axis,
            count=line.count,
            usd_per_million=nano_per_million_to_text(line.nano_per_million),
            price_id=line.price_id,
        )
        for line in call.lines
        if reader.sees_buyer
    ]
    fields["attempts"] = [_to_attempt(row, call, reader) for row in attempts]
    fields["refunded"] = _money(call.refunded_quanta, call) if reader.sees_buyer else None
    fields["quoted"] = _money(call.quoted_quanta, call) if reader.sees_buyer else None
    return CallDetailShape.model_validate(fields)


def _call_fields(call: CallRow, directory: Directory, reader: Reader) -> dict[str, object]:
    sees_buyer = reader.sees_buyer
    sees_supplier = reader.sees_supplier(call.supplier_id)
    key = CallKey(key_id=call.key_id, prefix=call.key_prefix, label=call.key_label)
    return {
        "call_id": call.call_id,
        "status": call.status,
        "outcome": call.outcome,
        "is_stream": call.is_stream,
        "model": call.model,
        "tier": call.tier,
        "party": directory.party(call.party_id) if sees_buyer else None,
        "organisation": directory.party(call.organisation_id) if sees_buyer else None,
        "team": directory.party_or_none(call.team_id) if sees_buyer else None,
        "key": key if sees_buyer else None,
        "supplier": call.supplier_name if sees_supplier else None,
        "usage": dict(call.usage),
        "total_tokens": call.total_tokens,
        "is_estimate": call.is_estimate,
        "charge": _money(call.charge_quanta, call) if sees_buyer else None,
        "currency": call.asset.code,
        "payable": _money(_payable_quanta(call, reader), call),
        "started_at": call.started_at,
        "ended_at": call.ended_at,
        "duration_ms": _rounded_ms(call.duration_ms),
        "first_token_ms": _rounded_ms(call.first_token_ms),
        "attempt_count": call.attempt_count,
        "error_code": call.error_code,
    }


def _payable_quanta(call: CallRow, reader: Reader) -> int | None:
    if reader.role is Role.ADMIN:
        return call.payable_quanta
    if reader.role is Role.BUYER:
        return None
    if call.attempts:
        own = [row for row in call.attempts if reader.sees_supplier(row.supplier_id)]
        return sum(row.payable_quanta or 0 for row in own)
    # In a list the attempts are not at hand; of several, not all may be the reader's.
    is_own = call.attempt_count == 1 and reader.sees_supplier(call.supplier_id)
    return call.payable_quanta if is_own else None


def _to_attempt(row: AttemptRow, call: CallRow, reader: Reader) -> AttemptShape:
    sees_supplier = reader.sees_supplier(row.supplier_id)
    return AttemptShape(
        ordinal=row.ordinal,
        supplier=row.supplier_name if sees_supplier else None,
        offer_id=row.offer_id if sees_supplier else None,
        status=row.status,
        http_status=row.http_status,
        error_code=row.error_code,
        started_at=row.started_at,
        duration_ms=_rounded_ms(row.duration_ms),
        payable=_money(row.payable_quanta, call) if sees_supplier else None,
    )


def _rounded_ms(duration_ms: float | None) -> float | None:
    return None if duration_ms is None else round(duration_ms, 3)


def _money(quanta: int | None, call: CallRow) -> str | None:
    return None if quanta is None else quanta_to_text(quanta, scale=call.asset.scale)


def to_spend_row(row: SpendRow, *, label: str, currency: str) -> SpendRowShape:
    """
    Return one group of a spend report.
    """
    return SpendRowShape(
        group=row.group,
        label=label,
        calls=row.calls,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        total_tokens=row.total_tokens,
        charge=amount_text(row.charge_quanta, currency),
    )
