"""
End a payment: take from its hold, or give it back; each exactly once.

The money, the payment's row and its receipt's root are one operation of the ledger, so a repeat
is answered by what is recorded. A receipt is drafted before the commit and signed on demand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import msgspec
import structlog

from tokenworks.agents.brake.model import Subject
from tokenworks.agents.payments.errors import PaymentConflictError, RequirementsMismatchError
from tokenworks.agents.payments.held import HeldPayment
from tokenworks.agents.payments.legs import capture_transfers
from tokenworks.agents.payments.model import PaymentState, Receipted
from tokenworks.agents.payments.payees import Payees
from tokenworks.agents.payments.payment_row import payment_row
from tokenworks.agents.payments.placing import Placing
from tokenworks.agents.payments.ports import Brake
from tokenworks.agents.payments.receipt import readers_of, receipt_fields
from tokenworks.agents.payments.store import payment_of
from tokenworks.foundation.errors import TokenworksError
from tokenworks.ledger.model import REPLAYED, Outcome, Posting, PostingKind, Refusal
from tokenworks.ledger.service import Ledger
from tokenworks.receipts.issuing import ReceiptIssuer
from tokenworks.receipts.model import JsonValue

CAPTURE_META: Final = '{"kind":"payment"}'
REASON_CHARACTERS_MAX: Final = 200
LEARNING_MAX: Final = 1_000
"""Captures that the brake may still have to learn; more wait for it."""

_encode = msgspec.json.Encoder(order="sorted").encode
_log = structlog.get_logger("tokenworks.payments")


class Capturing:
    """
    Capture and release holds of payments.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        placing: Placing,
        payees: Payees,
        brake: Brake,
        receipts: ReceiptIssuer,
    ) -> None:
        self._ledger = ledger
        self._placing = placing
        self._payees = payees
        self._brake = brake
        self._receipts = receipts
        self._learning: set[asyncio.Task[None]] = set()

    async def capture(
        self,
        held: HeldPayment,
        *,
        quanta: int,
        closes: bool = True,
        ordinal: int = 0,
        details: Mapping[str, JsonValue] | None = None,
    ) -> Receipted:
        """
        Pay the payee; what is left goes back when it ``closes``.

        Args:
            held: The payment.
            quanta: Above zero; with the captures before at most what was authorised.
            closes: Whether nothing more is to be captured.
            ordinal: The part of the payment, counted from 0.
            details: Why an escrow pays it, for the receipt.

        Raises:
            PaymentConflictError: This part was captured with another amount, or the payment
                was released.
            PaymentHoldExpiredError: The hold ended before.
            PaymentSettledError: Nothing is held any more.
        """
        assert quanta > 0, "a capture of nothing is a release"
        if quanta > held.authorised_quanta:
            message = "More is asked for than was authorised."
            raise RequirementsMismatchError(message, param="amount")
        fields = receipt_fields(
            held, quanta=quanta, ordinal=ordinal, closes=closes, details=details
        )
        prepared = self._receipts.draft(held.payment_id, fields, readers_of(fields))
        accounts = await self._payees.accounts(held.payee_id, held.currency)
        posting = Posting(
            kind=PostingKind.CAPTURE,
            fact_id=held.payment_id,
            ordinal=ordinal,
            closes=closes,
            transfers=capture_transfers(
                held.parts,
                accounts,
                currency=held.currency,
                quanta=quanta,
                is_first=ordinal == 0,
            ),
            receipt_root=prepared.root,
            meta=CAPTURE_META,
            rider_row=payment_row(
                held,
                operation="capture",
                ordinal=ordinal,
                closes=closes,
                quanta=quanta,
                receipt=fields,
            ),
        )
        # After this point the payee is paid, now or as soon as the books are back.
        outcome = await self._post(held, posting)
        assert not outcome.overrun, "a hold covers what is captured from it"
        if outcome.code != REPLAYED:
            await self.learn_soon(held, quanta)
        state = PaymentState.CAPTURED if closes else PaymentState.HELD
        return _receipted(held, outcome, state=state, quanta=quanta, ordinal=ordinal)

    async def release(self, held: HeldPayment, *, reason: str) -> Receipted:
        """
        Give back what is held; a repeat returns the first answer, whatever its reason.

        Raises:
            PaymentSettledError, PaymentHoldExpiredError: There is nothing to give back.
        """
        posting = Posting(
            kind=PostingKind.VOID,
            fact_id=held.payment_id,
            meta=_encode({"kind": "payment", "released": True}).decode(),
            rider_row=payment_row(held, operation="void", reason=reason[:REASON_CHARACTERS_MAX]),
        )
        outcome = await self._post(held, posting)
        return _receipted(held, outcome, state=PaymentState.RELEASED, quanta=0, ordinal=0)

    async def _post(self, held: HeldPayment, posting: Posting) -> Outcome:
        outcome = await self._ledger.post(posting, is_timed=True)
        if outcome.is_done:
            if posting.closes:
                self._placing.forget(held.payment_id)
            return outcome
        self._placing.forget(held.payment_id)
        if outcome.code == Refusal.CONFLICT:
            raise PaymentConflictError("The payment was settled before with another amount.")
        if outcome.code in {Refusal.HOLD_CLOSED, Refusal.HOLD_UNKNOWN}:
            raise await self._placing.closed(held.payment_id)
        _log.error("payment_not_settled", payment_id=str(held.payment_id), code=outcome.code)
        raise await self._ledger.refusal(outcome)

    async def quiet(self) -> None:
        """
        Return when everything that was captured is learned.
        """
        if self._learning:
            await asyncio.wait(self._learning)

    async def learn_soon(self, held: HeldPayment, quanta: int) -> None:
        """
        Tell the brake what was captured, behind the answer; never raises.
        """
        # The payee is paid: the answer does not wait for what the brake makes of it.
        if len(self._learning) >= LEARNING_MAX:
            await self._learn(held, quanta)
            return
        task = asyncio.create_task(self._learn(held, quanta))
        self._learning.add(task)
        task.add_done_callback(self._learning.discard)

    async def _learn(self, held: HeldPayment, quanta: int) -> None:
        try:
            await self._brake.record(subject_again(held), captured_quanta=quanta)
        except TokenworksError as error:
            # The payment stands; the next one is looked at without this one.
            _log.warning("payment_not_learned", code=error.code)


def subject_again(held: HeldPayment) -> Subject:
    """
    Return what the brake looked at, as far as it is still known.
    """
    return Subject(
        payment_id=held.payment_id,
        digest=held.digest,
        agent_id=held.agent_id,
        mandate_id=held.mandate_id,
        organisation_id=held.organisation_id,
        party_chain=held.party_chain,
        payee_id=held.payee_id,
        quanta=held.authorised_quanta,
        currency=held.currency,
        resource=held.resource,
        request_digest=held.request_digest,
        mandate_chain=held.chain,
    )


def _receipted(
    held: HeldPayment, outcome: Outcome, *, state: PaymentState, quanta: int, ordinal: int
) -> Receipted:
    assert outcome.recorded_at is not None, "a done operation has its ledger time"
    payment = payment_of(held, state=state, recorded_at=outcome.recorded_at, captured_quanta=quanta)
    return Receipted(
        payment=payment,
        ordinal=ordinal,
        captured_quanta=quanta,
        recorded_at=outcome.recorded_at,
        is_repeat=outcome.code == REPLAYED,
    )
