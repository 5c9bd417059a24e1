"""
Show the receipt of a call again, as often as somebody asks.

Nothing but the fields is stored: a receipt is drafted and signed anew from them and from its place
in the lane's chain, byte for byte as the first time.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from tokenworks.gateway.calls import CallStore
from tokenworks.gateway.errors import CallNotFoundError
from tokenworks.ledger.model import REPLAYED, Outcome
from tokenworks.ledger.service import Ledger
from tokenworks.receipts.issuing import ReceiptIssuer


class ReceiptReader:
    """
    Show stored receipts again: the same signature, fields and disclosures as the first time.
    """

    def __init__(self, calls: CallStore, ledger: Ledger, issuer: ReceiptIssuer) -> None:
        self._calls = calls
        self._ledger = ledger
        self._issuer = issuer

    async def receipt_document(self, call_id: UUID, view: str) -> dict[str, Any]:
        """
        Return a reader's view of a settled call's receipt, with its certificate.

        Raises:
            CallNotFoundError: There is no such call, or nothing was sold.
        """
        call = await self._calls.get_call(call_id)
        entry = await self._ledger.stored_entry(call_id, "capture")
        if call is None or call.receipt is None or entry is None:
            message = f"There is no receipt of a call {call_id}."
            raise CallNotFoundError(message, param="call_id")
        recorded_at, _, lane, sequence, previous = entry
        prepared = self._issuer.draft(call_id, call.receipt)
        position = Outcome(
            code=REPLAYED,
            recorded_at=recorded_at,
            lane=lane,
            receipt_sequence=sequence,
            receipt_previous=bytes(previous),
        )
        return await self._issuer.document(prepared, position, view=view, with_certificate=True)
