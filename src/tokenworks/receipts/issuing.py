"""
Draft a receipt before the commit, sign it after.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from tokenworks.ledger.model import Outcome
from tokenworks.receipts.draft import draft
from tokenworks.receipts.model import ChainPosition, Draft, JsonValue, Readers
from tokenworks.receipts.service import ReceiptKeys
from tokenworks.receipts.signing import LaneSigner
from tokenworks.receipts.views import BUYER, present, readers_of


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

    def draft(
        self, fact_id: UUID, fields: Mapping[str, JsonValue], readers: Readers | None = None
    ) -> Draft:
        """
        Return the commitments to a receipt's fields.

        Args:
            fact_id: The call's or the payment's id.
            fields: Everything the receipt says.
            readers: Who sees each field; as for a call when omitted.
        """
        readers = readers_of(fields) if readers is None else readers
        return draft(fact_id, fields, readers, self._salt_key)

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
