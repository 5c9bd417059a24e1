"""
Turn what the brake answers into shapes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

from tokenworks.agents.brake.model import Review, Said
from tokenworks.agents.brake.reviewing import state_at
from tokenworks.agents.brake.rule_documents import to_document
from tokenworks.agents.brake.ruling import RulesView
from tokenworks.agents.brake.webhooks import Delivery, Webhook
from tokenworks.foundation.money import ASSETS, quanta_to_text
from tokenworks.web.hub_api.directory import Directory
from tokenworks.web.hub_api.shapes import reviews as shapes
from tokenworks.web.hub_api.shapes.parts import PartyRef


def review_parties(reviews: Iterable[Review]) -> set[UUID]:
    """
    Return the parties that reviews name.
    """
    subjects = [review.subject for review in reviews]
    return {
        party
        for subject in subjects
        for party in (subject.agent_id, subject.organisation_id, subject.payee_id)
    }


def to_review(review: Review, directory: Directory, *, now: datetime) -> shapes.ReviewShape:
    """
    Return a review; its parties were loaded.
    """
    return shapes.ReviewShape.model_validate(_fields(review, directory, now=now))


def to_review_detail(
    review: Review, said: Sequence[Said], directory: Directory, *, now: datetime
) -> shapes.ReviewDetail:
    """
    Return a review with what was said; all parties were loaded.
    """
    currency = review.subject.currency
    decisions = [
        shapes.SaidShape.model_validate(
            {
                "word": entry.word,
                "actor": entry.actor,
                "person": directory.party_or_none(entry.person_id),
                "scope": str(entry.scope),
                "raised_per": None if entry.raised is None else str(entry.raised.window),
                "raised_to": None
                if entry.raised is None
                else _money(entry.raised.quanta, currency),
                "note": entry.note,
                "digest": entry.digest.hex(),
                "decided_at": entry.decided_at,
            }
        )
        for entry in said
    ]
    fields = _fields(review, directory, now=now)
    return shapes.ReviewDetail.model_validate({**fields, "decisions": decisions})


def to_brake(party: PartyRef, view: RulesView) -> shapes.BrakeShape:
    """
    Return a party's rules.
    """
    own = view.own
    return shapes.BrakeShape(
        party=party,
        own=None
        if own is None
        else shapes.StoredRulesShape(
            version=own.version,
            document=dict(own.document),
            actor=own.actor,
            created_at=own.created_at,
        ),
        effective=[dict(to_document(rules)) for rules in view.chain],
        version=view.version,
    )


def to_webhook(
    webhook: Webhook,
    party: PartyRef,
    deliveries: Sequence[Delivery] = (),
    *,
    secret: str | None = None,
) -> shapes.WebhookShape:
    """
    Return a webhook, without its secret unless it was made just now.
    """
    return shapes.WebhookShape(
        party=party,
        url=webhook.url,
        allow_private=webhook.allow_private,
        actor=webhook.actor,
        created_at=webhook.created_at,
        secret=secret,
        deliveries=[
            shapes.DeliveryShape(
                review_id=delivery.review_id,
                event=delivery.event,
                state=delivery.state,
                attempts=delivery.attempts,
                created_at=delivery.created_at,
                attempted_at=delivery.attempted_at,
                next_attempt_at=delivery.next_attempt_at,
                http_status=delivery.http_status,
                error=delivery.error,
            )
            for delivery in deliveries
        ],
    )


def _fields(review: Review, directory: Directory, *, now: datetime) -> dict[str, object]:
    subject, decision = review.subject, review.decision
    return {
        "review_id": review.review_id,
        "state": str(state_at(review, now)),
        "digest": subject.digest.hex(),
        "agent": directory.party(subject.agent_id),
        "organisation": directory.party(subject.organisation_id),
        "payee": directory.party(subject.payee_id),
        "mandate_id": subject.mandate_id,
        "amount": _money(subject.quanta, subject.currency),
        "currency": subject.currency,
        "resource": subject.resource,
        "description": subject.description,
        "reasons": [
            shapes.ReasonShape(
                rule=reason.rule,
                action=str(reason.action),
                text=reason.text,
                figures=dict(reason.figures),
            )
            for reason in decision.reasons
        ],
        "score_ppm": decision.score_ppm,
        "rules_version": decision.rules_version,
        "approvals_needed": review.approvals_needed,
        "approved_by": list(review.approved_by),
        "created_at": review.created_at,
        "expires_at": review.expires_at,
        "decided_at": review.decided_at,
        "note": review.note,
    }


def _money(quanta: int, currency: str) -> str:
    return quanta_to_text(quanta, scale=ASSETS[currency].scale)
