"""
End a signed payment: pay its seller, or give it back; and who may take less than was held.

Whoever has the signature (the payer too) may pay the payee all of it. Less is taken by the payee
alone, or by whoever was given the claim: otherwise a payer could end a payment cheaply while the
seller works for it.

Owns: that rule, and claims. Does not own: the capture (``capturing``).
"""

from __future__ import annotations

import hmac
from typing import Final
from uuid import UUID

from tokenworks.agents.payments.capturing import Capturing
from tokenworks.agents.payments.errors import UnauthorizedServerError
from tokenworks.agents.payments.held import HeldPayment
from tokenworks.agents.payments.model import Receipted
from tokenworks.agents.payments.store import PaymentStore
from tokenworks.receipts.jws import to_base64url

RELEASED_BY_SELLER: Final = "settled with nothing"


class Settling:
    """
    Ends signed payments.

    Args:
        store: Rows of what was captured and released.
        capturing: Captures and releases.
        claim_key: Of the hub, secret: claims are made by it.
    """

    def __init__(self, *, store: PaymentStore, capturing: Capturing, claim_key: bytes) -> None:
        self._store = store
        self._capturing = capturing
        self._claim_key = claim_key

    async def end(self, held: HeldPayment, quanta: int, *, may_take_less: bool) -> Receipted:
        """
        Capture ``quanta`` of a hold and give back the rest; zero gives all of it back.

        Raises:
            UnauthorizedServerError: It is less than what is held, this is no repeat, and
                ``may_take_less`` is not true.
            TokenworksError: As ``capture`` and ``release`` of `Payments`.
        """
        if quanta != held.authorised_quanta and not may_take_less:
            await self._require_repeat(held, quanta)
        if quanta == 0:
            return await self._capturing.release(held, reason=RELEASED_BY_SELLER)
        return await self._capturing.capture(held, quanta=quanta)

    async def _require_repeat(self, held: HeldPayment, quanta: int) -> None:
        rows = await self._store.rows(held.payment_id)
        if rows and rows[-1]["closes"]:
            return  # it is over: the answer is the first one, or a conflict
        message = (
            f"Only the payee may settle {quanta} of {held.authorised_quanta} that are held: send"
            " extra.claim as verify answered it, or its API key as 'Authorization: Bearer tw_...'."
        )
        raise UnauthorizedServerError(message, param="amount")

    def claim_of(self, payment_id: UUID) -> str:
        """
        Return the claim of a payment: a MAC of its id, 256 bits, as base64url.
        """
        return to_base64url(hmac.digest(self._claim_key, payment_id.bytes, "sha256"))

    def is_claimer(self, held: HeldPayment, claim: str | None) -> bool:
        """
        Return whether a claim is the one that the payment's claimer was told.
        """
        if claim is None:
            return False
        return hmac.compare_digest(claim.encode(), self.claim_of(held.payment_id).encode())
