"""
What an owner's webhook is told, and how the message is signed; pure.

The message is a CloudEvent 1.0 in JSON, one document (structured mode), signed as Standard
Webhooks says: HMAC-SHA256 with the shared secret over ``id.timestamp.body``. Each attempt
carries the same id and the same body, so a receiver can tell a repeat; it answers 2xx when it
has the message, and nothing else it answers is read.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec

from tokenworks.agents.brake.model import Review
from tokenworks.foundation.money import ASSETS, quanta_to_text

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - the prefix of the standard
SECRET_BYTES: Final = 32
MEDIA_TYPE: Final = "application/cloudevents+json; charset=utf-8"
TYPE_PREFIX: Final = "io.tokenworks.review."
RETRY_AFTER: Final = tuple(
    timedelta(seconds=seconds) for seconds in (5, 30, 120, 300, 900, 3_600, 21_600)
)
"""How long after each failed attempt the next one comes; after the last it is given up."""
ATTEMPTS_MAX: Final = len(RETRY_AFTER) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """
    Where an owner is told.
    """

    party_id: UUID
    url: str
    allow_private: bool
    actor: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """
    One message and how far it has come.
    """

    review_id: UUID
    party_id: UUID
    event: str  # opened, approved, denied or expired
    state: str  # waiting, delivered or given_up
    attempts: int
    created_at: datetime
    attempted_at: datetime | None
    next_attempt_at: datetime | None  # ``None``: there is none
    http_status: int | None
    error: str | None


def secret_text(random: bytes) -> str:
    """
    Return a secret as receivers store it.
    """
    assert len(random) == SECRET_BYTES, "as long as the hash"
    return SECRET_PREFIX + base64.b64encode(random).decode()


def message_id_of(review_id: UUID, event: str) -> str:
    """
    Return the id of a message: the same for each attempt.
    """
    return f"msg_{review_id.hex}_{event}"


def message_body(review: Review, event: str, *, created_at: datetime, source: str) -> bytes:
    """
    Return the message: the same for each attempt, whatever became of the review meanwhile.

    Args:
        review: What it is about.
        event: ``opened``, ``approved``, ``denied`` or ``expired``.
        created_at: When it happened.
        source: The hub, as a URI.
    """
    subject = review.subject
    asked: Mapping[str, Any] = {
        "approvals_needed": review.approvals_needed,
        "expires_at": _moment(review.expires_at),
        "approve": f"/hub/v1/reviews/{review.review_id}/approve",
        "deny": f"/hub/v1/reviews/{review.review_id}/deny",
    }
    document: dict[str, Any] = {
        "specversion": "1.0",
        "id": message_id_of(review.review_id, event),
        "source": source,
        "type": TYPE_PREFIX + event,
        "subject": str(review.review_id),
        "time": _moment(created_at),
        "datacontenttype": "application/json",
        "data": {
            "review_id": review.review_id,
            "state": "pending" if event == "opened" else event,
            "digest": subject.digest.hex(),
            "agent_id": subject.agent_id,
            "organisation_id": subject.organisation_id,
            "mandate_id": subject.mandate_id,
            "payee_id": subject.payee_id,
            "amount": quanta_to_text(subject.quanta, scale=ASSETS[subject.currency].scale),
            "currency": subject.currency,
            "resource": subject.resource,
            "description": subject.description,
            "reasons": [
                {"rule": reason.rule, "action": reason.action.value, "text": reason.text}
                for reason in review.decision.reasons
            ],
            "score_ppm": review.decision.score_ppm,
            **({"asked": asked} if event == "opened" else {}),
        },
    }
    return msgspec.json.encode(document)


def signed_headers(
    secret: str, *, message_id: str, body: bytes, sent_at: datetime
) -> dict[str, str]:
    """
    Return the headers of one attempt.

    Args:
        secret: As ``secret_text`` returned it.
        message_id: Of the message.
        body: Exactly the bytes that are sent.
        sent_at: The time of the attempt.
    """
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    timestamp = str(int(sent_at.timestamp()))
    content = f"{message_id}.{timestamp}.".encode() + body
    signature = base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()
    return {
        "content-type": MEDIA_TYPE,
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{signature}",
    }


def next_attempt_after(attempts: int, *, now: datetime) -> datetime | None:
    """
    Return when a message is tried again after so many failed attempts; ``None``: never.
    """
    return now + RETRY_AFTER[attempts - 1] if attempts < ATTEMPTS_MAX else None


def _moment(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
