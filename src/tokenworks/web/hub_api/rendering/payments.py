"""
Draw payments of agents in the reader's view.
"""

from __future__ import annotations

from tokenworks.agents.brake.model import Review
from tokenworks.agents.payments.held import decision_to_json
from tokenworks.agents.payments.model import Payment
from tokenworks.web.hub_api.directory import Directory
from tokenworks.web.hub_api.rendering.amounts import amount_text
from tokenworks.web.hub_api.shapes.payments import PaymentReview, PaymentShape


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
