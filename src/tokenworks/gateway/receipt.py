"""
What a call's receipt says, and how it is signed and shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from tokenworks.agents.payments.held import HeldPayment, decision_to_json
from tokenworks.foundation.identifiers import identifier_text
from tokenworks.foundation.money import USD, quanta_to_text
from tokenworks.gateway.model import Attempt, CallOutcome, to_iso
from tokenworks.gateway.open_call import OpenCall
from tokenworks.gateway.settlement import SettlementLeg
from tokenworks.metering.model import Usage
from tokenworks.pricing.rating import Rated
from tokenworks.receipts.model import JsonValue

_SCALE = USD.scale


def receipt_fields(
    call: OpenCall,
    *,
    outcome: CallOutcome,
    usage: Usage,
    rated: Rated,
    legs: Sequence[SettlementLeg],
    charge_quanta: int,
    overrun_quanta: int,
    served: Attempt,
    floor: Mapping[str, JsonValue],
) -> dict[str, JsonValue]:
    """
    Return every field of a call's receipt; who sees which is decided by its name.

    A field is what can be shown alone, and each costs its salt and its digest: what only the
    auditor sees stands in one, ``caller``.

    ``charge`` is what the buyer pays; what the platform bears is ``overrun``; together
    they are the sum of the sale's legs.
    """
    tax = sum(leg.quanta for leg in legs if leg.kind == "tax")
    fields: dict[str, JsonValue] = {
        "model": call.request.model_name,
        "tier": served.offer.tier,
        "tier_floor": floor,
        "usage": cast("JsonValue", usage.to_json()),
        "rate_card": {
            "id": identifier_text(rated.card_id),
            "rounding": rated.rounding.value,
            "lines": [
                {
                    "axis": line.axis.value,
                    "count": line.count,
                    "nano_per_million": str(line.nano_per_million),
                    "price_id": identifier_text(line.price_id),
                }
                for line in rated.lines
            ],
            "unpriced": list(rated.unpriced),
        },
        "charge": _text(charge_quanta),
        "currency": rated.currency,
        "tax": _text(tax),
        "outcome": outcome.value,
        "energy": {"status": "pending"},
        "overrun": _text(overrun_quanta),
        "caller": {
            "started_at": to_iso(call.started_at),
            "organisation": identifier_text(call.principal.organisation_id),
            "party": identifier_text(call.principal.party_id),
            "key": identifier_text(call.principal.key_id),
        },
    }
    if call.payment is not None:
        fields["payment"] = _payment(call.payment)
    for attempt in call.attempts:
        fields[f"attempt.{attempt.ordinal}"] = cast("JsonValue", attempt.to_json())
    for index, leg in enumerate(legs, start=1):
        fields[f"leg.{index}"] = {
            "kind": leg.kind,
            "payee": identifier_text(leg.payee),
            "amount": _text(leg.quanta),
        }
    return fields


def _payment(held: HeldPayment) -> dict[str, JsonValue]:
    """
    Say by which signature the call was paid, and why it was let through.
    """
    return {
        "payer": held.payer,
        "authorised": _text(held.authorised_quanta),
        "mandates": [identifier_text(mandate_id) for mandate_id in held.chain],
        "brake": cast("JsonValue", decision_to_json(held.decision)),
        "authorisation": held.jws,
    }


def _text(quanta: int) -> str:
    return quanta_to_text(quanta, scale=_SCALE)
