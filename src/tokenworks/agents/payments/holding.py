"""
Hold payments by id: what somebody else has read the signature of, such as an escrow.

Owns: that one id is one payment, and how much of it the next part may take.
Does not own: the hold itself (``placing``), captures (``capturing``).

The checks, in this order: the id is new or names the same payment; the payee may be paid and is
not the payer's own organisation; the brake; money and limits.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from uuid import UUID

from tokenworks.agents.brake.model import Decision, ReviewState, Subject
from tokenworks.agents.mandates.model import Authority
from tokenworks.agents.payments.errors import (
    PayeeIsPayerError,
    PaymentConflictError,
    PaymentDeniedError,
    PaymentInReviewError,
)
from tokenworks.agents.payments.held import ESCROW, HeldPayment, is_waiting
from tokenworks.agents.payments.model import Payment, PaymentState
from tokenworks.agents.payments.payees import Payees
from tokenworks.agents.payments.placing import Placing, held_of
from tokenworks.agents.payments.ports import Brake
from tokenworks.agents.payments.standing import Standing, not_found
from tokenworks.agents.payments.store import PaymentStore, payment_of
from tokenworks.ledger.model import Fate, Refusal


class Holding:
    """
    Places and finds holds by their payment's id.

    Args:
        store: Rows of what was captured.
        placing: Places and remembers holds.
        payees: Who may be paid.
        brake: Looks at each payment.
        standing: How a payment that was held before stands now.
    """

    def __init__(
        self,
        *,
        store: PaymentStore,
        placing: Placing,
        payees: Payees,
        brake: Brake,
        standing: Standing,
    ) -> None:
        self._store = store
        self._placing = placing
        self._payees = payees
        self._brake = brake
        self._standing = standing

    async def hold(
        self,
        authority: Authority,
        subject: Subject,
        *,
        quanta: int,
        expires_at: datetime,
        fate: Fate = Fate.VOID,
        payer: str = "",
        kind: str = ESCROW,
        decision: Decision | None = None,
        jws: str | None = None,
    ) -> Payment:
        """
        Do what `Payments.hold` promises.
        """
        assert fate is not Fate.CAPTURE, "a capture at expiry would have no receipt"
        assert quanta == subject.quanta, "what is looked at is what is held"
        found = await self._find_same(subject)
        if found is not None:
            return found
        subject = replace(
            subject,
            mandate_chain=tuple(link.mandate_id for link in authority.chain),
            overseers=authority.parties,
        )
        payee = await self._payees.payable(subject.payee_id)
        if payee.organisation_id == authority.mandate.organisation_id:
            message = "The payee belongs to the payer's own organisation."
            raise PayeeIsPayerError(message, param="payee")
        decision = decision or await self._brake.judge(subject)
        waits = is_waiting(decision)
        if waits:
            expires_at = await self._ask(subject, decision)
        held = held_of(subject, decision, kind=kind, payer=payer, jws=jws)
        outcome = await self._placing.place(held, authority, expires_at=expires_at, fate=fate)
        if outcome.code == Refusal.CONFLICT:
            found = await self._find_same(subject)
            if found is not None:
                return found
        if not outcome.is_done:
            raise await self._placing.refusal(authority, outcome)
        assert outcome.recorded_at is not None, "a placed hold has its time"
        if waits:
            message = "A person decides about this payment; ask for it again later."
            raise PaymentInReviewError(message, details={"payment_id": str(subject.payment_id)})
        return payment_of(held, state=PaymentState.HELD, recorded_at=outcome.recorded_at)

    async def _ask(self, subject: Subject, decision: Decision) -> datetime:
        review = None
        if decision.action.value != "deny":
            review = await self._brake.open_review(subject, decision)
        if review is None or review.state in {ReviewState.DENIED, ReviewState.EXPIRED}:
            reasons = "; ".join(reason.text for reason in decision.reasons) or "by a person."
            raise PaymentDeniedError(f"The payment was stopped: {reasons}")
        return review.expires_at

    async def _find_same(self, subject: Subject) -> Payment | None:
        found = await self._placing.find(subject.payment_id)
        if found is None:
            return None
        held, _ = found
        if held.digest != subject.digest:
            raise PaymentConflictError("The id was used for another payment.")
        await self._placing.admitted(held)
        return await self._standing.get(subject.payment_id)

    async def find(self, payment_id: UUID) -> HeldPayment:
        """
        Return a payment as it was held, whatever became of it and whoever must still approve it.

        Raises:
            PaymentNotFoundError: There is none.
        """
        held = self._placing.known(payment_id)
        if held is not None:
            return held
        found = await self._placing.find(payment_id)
        if found is None:
            raise not_found(payment_id)
        return found[0]

    async def find_admitted(self, payment_id: UUID) -> HeldPayment:
        """
        Return a payment that nobody has to approve any more.

        Raises:
            PaymentNotFoundError: There is none.
            PaymentInReviewError, PaymentDeniedError: People did not approve it.
        """
        held = self._placing.known(payment_id)
        if held is not None:
            return held
        found = await self._placing.find(payment_id)
        if found is None:
            raise not_found(payment_id)
        return await self._placing.admitted(found[0])

    async def require_left(self, held: HeldPayment, *, quanta: int, ordinal: int) -> None:
        """
        Refuse a part that is more than what the other parts leave.

        Raises:
            PaymentConflictError: All parts together were more than what was authorised.
        """
        # Two parts at once that are both within it are stopped by the row's own constraint.
        rows = await self._store.rows(held.payment_id)
        others = sum(row["captured_quanta"] for row in rows if row["ordinal"] != ordinal)
        if others + quanta > held.authorised_quanta:
            message = "All parts together are at most what was authorised."
            raise PaymentConflictError(message, param="amount")
