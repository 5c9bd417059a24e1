"""
Who may decide on a review, on what, and what comes of it; pure.

The order of the checks: the person may decide, the payload is the one that waits, nobody
decided before, it is still time, the person has not approved yet.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from tokenworks.agents.brake.errors import (
    ApproverNotAllowedError,
    InvalidNoteError,
    ReviewDecidedError,
    ReviewDigestMismatchError,
    ReviewExpiredError,
    SamePersonError,
)
from tokenworks.agents.brake.model import (
    Action,
    Decision,
    Reason,
    Review,
    ReviewState,
    Scope,
    Subject,
)
from tokenworks.agents.mandates.model import MoneyLimit
from tokenworks.identity.model import PLATFORM_ID, Level, Party, Role

NOTE_CHARACTERS_MAX: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """
    One person's yes, and how far it goes.
    """

    person: UUID
    scope: Scope
    raised: MoneyLimit | None = None  # with ``Scope.RAISE``: the new limit


def person_of(role: Role, chain: Sequence[Party]) -> UUID:
    """
    Return the person that a key stands for: two keys of one person are one.

    All keys of the hub's operator are one person; a buyer's key stands for the user it belongs
    to, else for its team or organisation as a whole.

    Args:
        role: Of the key.
        chain: The key's party and what is above it, the organisation first.

    Raises:
        ApproverNotAllowedError: The key is an agent's or below one, or of another role.
    """
    if role is Role.ADMIN:
        return PLATFORM_ID
    if role is not Role.BUYER or any(party.level is Level.AGENT for party in chain):
        message = "An agent decides on no payment; this needs a key of an owner above it."
        raise ApproverNotAllowedError(message)
    users = [party for party in chain if party.level is Level.USER]
    return (users or chain)[-1].party_id


def check_approver(subject: Subject, person: UUID) -> None:
    """
    Refuse a person who is not above the agent.

    Raises:
        ApproverNotAllowedError: Neither an owner above the agent nor the hub's operator.
    """
    if person != PLATFORM_ID and person not in subject.party_chain[:-1]:
        message = "Only an owner above the agent, or the hub's operator, decides on its payments."
        raise ApproverNotAllowedError(message)


def check_decision(
    review: Review, *, person: UUID, digest: bytes, now: datetime, approvers: Sequence[UUID] = ()
) -> None:
    """
    Refuse a decision that may not be made.

    Args:
        review: As it stands, under its row's lock.
        person: Who decides.
        digest: What the person believes to decide on.
        now: The time.
        approvers: Who approved before; empty for a denial, which one person may always say.

    Raises:
        ApproverNotAllowedError, ReviewDigestMismatchError, ReviewDecidedError,
        ReviewExpiredError, SamePersonError: In this order.
    """
    check_approver(review.subject, person)
    if not hmac.compare_digest(digest, review.subject.digest):
        message = (
            "This is not the payload that waits: look at the review again and name its digest."
        )
        raise ReviewDigestMismatchError(
            message, param="digest", details={"digest": review.subject.digest.hex()}
        )
    if state_at(review, now) is ReviewState.EXPIRED:
        message = f"The review expired at {review.expires_at:%Y-%m-%dT%H:%M:%SZ}; nothing was paid."
        raise ReviewExpiredError(message)
    if review.state is not ReviewState.PENDING:
        message = f"The review was {review.state} before, and that is final."
        raise ReviewDecidedError(message, details={"state": str(review.state)})
    if person in approvers:
        message = "You approved this before; the second approval is another person's."
        raise SamePersonError(message)


def check_note(note: str) -> None:
    """
    Refuse a note that is too long.

    Raises:
        InvalidNoteError: It is.
    """
    if len(note) > NOTE_CHARACTERS_MAX:
        message = f"A note has at most {NOTE_CHARACTERS_MAX} characters."
        raise InvalidNoteError(message, param="note")


def state_at(review: Review, now: datetime) -> ReviewState:
    """
    Return a review's state, whether or not anybody has noticed that its time is over.
    """
    if review.state is ReviewState.PENDING and now >= review.expires_at:
        return ReviewState.EXPIRED
    return review.state


def agreed(approvals: Sequence[Approval]) -> Approval:
    """
    Return what approvals say together: no further than everybody said.

    Different scopes are ``ONCE``; of two new limits of one window the lower one counts.
    """
    last = approvals[-1]
    limits = [approval.raised for approval in approvals if approval.raised is not None]
    windows = {limit.window for limit in limits}
    if len({approval.scope for approval in approvals}) > 1 or len(windows) > 1:
        return Approval(person=last.person, scope=Scope.ONCE)
    lowest = min(limits, key=lambda limit: limit.quanta, default=None)
    return Approval(person=last.person, scope=last.scope, raised=lowest)


def decision_after(review: Review, now: datetime) -> Decision:
    """
    Return what a payment's decision is, given its review.
    """
    state, first = state_at(review, now), review.decision
    if state is ReviewState.PENDING:
        return first
    if state is ReviewState.APPROVED:
        by = " and ".join(review.approved_by)
        reason = Reason(
            rule="review",
            action=Action.ALLOW,
            text=f"Approved by {by}{_when(review)}." + (f" {review.note}" if review.note else ""),
            figures={"approvals": len(review.approved_by)},
        )
        return _replaced(first, Action.ALLOW, reason, review_id=review.review_id)
    is_denied = state is ReviewState.DENIED
    by = review.denied_by or "a person"
    word = f"denied by {by}{_when(review)}" if is_denied else "not decided in time"
    reason = Reason(
        rule="review",
        action=Action.DENY,
        text=f"The payment was {word}." + (f" {review.note}" if review.note else ""),
        figures={},
    )
    return _replaced(first, Action.DENY, reason, review_id=None)


def _when(review: Review) -> str:
    moment = review.decided_at
    return "" if moment is None else f" at {moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _replaced(
    first: Decision, action: Action, reason: Reason, *, review_id: UUID | None
) -> Decision:
    return Decision(
        action=action,
        reasons=(*first.reasons, reason),
        score_ppm=first.score_ppm,
        rules_version=first.rules_version,
        review_id=review_id,
    )
