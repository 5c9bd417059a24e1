"""
Payments of agents as they leave the hub API, in the reader's view.
"""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from pydantic import Field

from tokenworks.agents.brake.model import Review
from tokenworks.agents.payments.held import decision_to_json
from tokenworks.agents.payments.model import Payment
from tokenworks.web.hub_api.bodies import MomentIn, NameOrId, PageQuery
from tokenworks.web.hub_api.directory import Directory
from tokenworks.web.hub_api.rendering import amount_text
from tokenworks.web.hub_api.shapes import Decimal, Moment, PartyRef, Shape


class PaymentQuery(PageQuery):
    """
    Which payments; those that are held (or wait for people) are asked for apart.
    """

    party: NameOrId | None = None  # paid by it or one below it, or paid to it
    agent: NameOrId | None = None
    payee: NameOrId | None = None
    mandate: UUID | None = None
    since: MomentIn | None = None
    held: bool = False


class PaymentReview(Shape):
    """
    What people said about a payment that was held for them.
    """

    state: str
    by: Annotated[list[str], Field(description="Who approved it so far, or who denied it.")]
    decided_at: Moment | None
    expires_at: Moment
    note: str


class PaymentShape(Shape):
    """
    One payment; what only its payer may see is null for its payee.
    """

    payment_id: UUID
    state: str
    scheme: str
    payer: str
    payee: PartyRef
    amount: Annotated[Decimal, Field(description="What was captured.")]
    currency: str
    resource: str
    recorded_at: Moment
    authorised: Decimal | None
    agent: PartyRef | None
    organisation: PartyRef | None
    mandate_id: UUID | None
    brake: dict[str, Any] | None
    review: PaymentReview | None


def to_payment(payment: Payment, directory: Directory, *, sees_payer: bool) -> PaymentShape:
    """
    Return a payment; its parties were loaded.
    """
    return PaymentShape(
        payment_id=payment.payment_id,
        state=payment.state.value,
        scheme=payment.scheme,
        payer=payment.payer,
        payee=directory.party(payment.payee_id),
        amount=amount_text(payment.captured_quanta, payment.currency),
        currency=payment.currency,
        resource=payment.resource,
        recorded_at=payment.recorded_at,
        authorised=(
            amount_text(payment.authorised_quanta, payment.currency) if sees_payer else None
        ),
        agent=directory.party(payment.agent_id) if sees_payer else None,
        organisation=directory.party(payment.organisation_id) if sees_payer else None,
        mandate_id=payment.mandate_id if sees_payer else None,
        brake=decision_to_json(payment.decision) if sees_payer else None,
        review=_to_review(payment.review) if sees_payer and payment.review else None,
    )


def _to_review(review: Review) -> PaymentReview:
    return PaymentReview(
        state=str(review.state),
        by=list(review.approved_by) if review.denied_by is None else [review.denied_by],
        decided_at=review.decided_at,
        expires_at=review.expires_at,
        note=review.note,
    )
