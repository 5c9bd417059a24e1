"""
What a call's receipt says, and how it is signed and shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast
from uuid import UUID

from tokenworks.foundation.identifiers import identifier_text
from tokenworks.foundation.money import USD, quanta_to_text
from tokenworks.gateway.model import Attempt, CallOutcome, to_iso
from tokenworks.gateway.open_call import OpenCall
from tokenworks.gateway.settlement import SettlementLeg
from tokenworks.ledger.model import Outcome
from tokenworks.metering.model import Usage
from tokenworks.pricing.rating import Rated
from tokenworks.receipts.draft import draft
from tokenworks.receipts.model import ChainPosition, Draft, JsonValue
from tokenworks.receipts.service import ReceiptKeys
from tokenworks.receipts.signing import LaneSigner
from tokenworks.receipts.views import BUYER, present, readers_of

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
    for attempt in call.attempts:
        fields[f"attempt.{attempt.ordinal}"] = cast("JsonValue", attempt.to_json())
    for index, leg in enumerate(legs, start=1):
        fields[f"leg.{index}"] = {
            "kind": leg.kind,
            "payee": identifier_text(leg.payee),
            "amount": _text(leg.quanta),
        }
    return fields


class ReceiptIssuer:
    """
    Draft before the commit, sign after it.

    Args:
        keys: The hub's signing keys.
        salt_key: The key of all salts.
    """

    def __init__(self, keys: ReceiptKeys, salt_key: bytes) -> None:
        self._keys = keys
        self._salt_key = salt_key
        self._signers: dict[int, LaneSigner] = {}

    def draft(self, call_id: UUID, fields: Mapping[str, JsonValue]) -> Draft:
        """
        Return the commitments to a receipt's fields.
        """
        return draft(call_id, fields, readers_of(fields), self._salt_key)

    async def document(
        self,
        prepared: Draft,
        outcome: Outcome,
        *,
        view: str = BUYER,
        with_certificate: bool = False,
    ) -> dict[str, Any]:
        """
        Return a reader's view of a committed receipt, signed with its lane's key.
        """
        assert outcome.lane is not None, "a committed receipt has its place"
        assert outcome.receipt_sequence is not None, "a committed receipt has its place"
        assert outcome.receipt_previous is not None, "a committed receipt has its place"
        assert outcome.recorded_at is not None, "a committed receipt has its time"
        signer = self._signers.get(outcome.lane)
        if signer is None:
            signer = await self._keys.ensure_lane_key(outcome.lane)
            self._signers[outcome.lane] = signer
        position = ChainPosition(
            lane=outcome.lane,
            sequence=outcome.receipt_sequence,
            previous=outcome.receipt_previous,
        )
        jws = signer.sign(prepared, position, outcome.recorded_at)
        certificate = signer.certificate if with_certificate else None
        return present(prepared, view, jws, certificate=certificate)


def _text(quanta: int) -> str:
    return quanta_to_text(quanta, scale=_SCALE)
