"""
Say how payments stand: their state in the books, what people said of them, their receipts.

Owns: what a state means when row, hold and review are put together. Does not own: any change.

Invariant: nobody is told that a payment is held while people may still refuse it; it is in
review until they approve it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from tokenworks.agents.brake.model import Action, Decision, ReviewState
from tokenworks.agents.brake.reviewing import state_at
from tokenworks.agents.payments.errors import PaymentNotFoundError
from tokenworks.agents.payments.model import Payment, PaymentState
from tokenworks.agents.payments.placing import Placing
from tokenworks.agents.payments.ports import Brake
from tokenworks.agents.payments.receipt import readers_of
from tokenworks.agents.payments.store import PaymentFilter, PaymentStore, from_row, payment_of
from tokenworks.foundation.clock import Clock
from tokenworks.ledger.model import Outcome
from tokenworks.ledger.service import Ledger
from tokenworks.receipts.issuing import ReceiptIssuer


class Standing:
    """
    Reads payments.

    Args:
        store: Rows of what was captured and released.
        ledger: Holds and entries.
        placing: Finds a payment in its hold.
        brake: What people said.
        receipts: Draws a receipt up again.
        clock: Whether a review is too late.
    """

    def __init__(
        self,
        *,
        store: PaymentStore,
        ledger: Ledger,
        placing: Placing,
        brake: Brake,
        receipts: ReceiptIssuer,
        clock: Clock,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._placing = placing
        self._brake = brake
        self._receipts = receipts
        self._clock = clock

    async def get(self, payment_id: UUID) -> Payment:
        """
        Return a payment as it stands in the books, with what people said.

        Raises:
            PaymentNotFoundError: There is none.
        """
        payment = await self._stands(payment_id)
        return (await self._with_reviews([payment]))[0]

    async def _stands(self, payment_id: UUID) -> Payment:
        rows = await self._store.rows(payment_id)
        captured = sum(row["captured_quanta"] for row in rows)
        if rows and rows[-1]["closes"]:
            return from_row(rows[-1], captured_quanta=captured)
        found = await self._placing.find(payment_id)
        if found is None:
            raise not_found(payment_id)
        held, hold_state = found
        view = await self._ledger.hold(payment_id)
        assert view is not None, "it was found a moment ago"
        if rows:
            payment = from_row(rows[-1], captured_quanta=captured)
            is_open = hold_state == "open"
            return replace(payment, state=PaymentState.HELD if is_open else PaymentState.CAPTURED)
        state = {
            "open": PaymentState.HELD,
            "captured": PaymentState.CAPTURED,
            "voided": PaymentState.RELEASED,
            "expired": PaymentState.EXPIRED,
        }[hold_state]
        return payment_of(held, state=state, recorded_at=view.placed_at)

    async def _with_reviews(self, payments: Sequence[Payment]) -> list[Payment]:
        """
        Say of payments that people were asked about what they said, and which still wait.
        """
        asked = [p.payment_id for p in payments if _was_asked_about(p.decision)]
        if not asked:
            return list(payments)
        reviews = await self._brake.reviews_of(asked)
        now = self._clock.now()
        told: list[Payment] = []
        for payment in payments:
            review, state = reviews.get(payment.payment_id), payment.state
            if review is not None:
                review = replace(review, state=state_at(review, now))
                if state is PaymentState.HELD and review.state is not ReviewState.APPROVED:
                    # Denied or too late too, until the hold is given back: nobody may count on it.
                    state = PaymentState.IN_REVIEW
            told.append(replace(payment, state=state, review=review))
        return told

    async def list_payments(
        self, wanted: PaymentFilter, cursor: str | None, limit: int
    ) -> tuple[list[Payment], str | None]:
        """
        Return one page of payments, newest first, and the next page's cursor; two queries.
        """
        payments, following = await self._store.list_payments(wanted, cursor, limit)
        return await self._with_reviews(payments), following

    async def receipt(self, payment_id: UUID, view: str, ordinal: int = 0) -> dict[str, Any]:
        """
        Draw up what `Payments.receipt` promises.
        """
        rows = await self._store.rows(payment_id)
        row = next(
            (r for r in rows if r["operation"] == "capture" and r["ordinal"] == ordinal), None
        )
        entry = await self._ledger.stored_entry(payment_id, "capture", ordinal)
        if row is None or entry is None:
            message = f"There is no receipt of a payment {payment_id}."
            raise PaymentNotFoundError(message, param="payment_id")
        recorded_at, _, lane, sequence, previous = entry
        fields = row["receipt"]
        if fields is None:
            message = f"The payment bought a call; its receipt is /hub/v1/receipts/{payment_id}."
            raise PaymentNotFoundError(message, param="payment_id")
        prepared = self._receipts.draft(payment_id, fields, readers_of(fields))
        position = Outcome(
            code="replayed",
            recorded_at=recorded_at,
            lane=lane,
            receipt_sequence=sequence,
            receipt_previous=bytes(previous),
        )
        return await self._receipts.document(prepared, position, view=view, with_certificate=True)


def not_found(payment_id: UUID) -> PaymentNotFoundError:
    """
    Return what is raised when an id names no payment.
    """
    return PaymentNotFoundError(f"There is no payment {payment_id}.", param="payment_id")


def _was_asked_about(decision: Decision) -> bool:
    return decision.action is not Action.ALLOW or decision.review_id is not None
