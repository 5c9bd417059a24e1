"""
What comes in and leaves through the doors of the brake: rules, webhooks, reviews.

Amounts are decimal text in whole units, digests are hexadecimal.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, Field

from tokenworks.agents.brake.model import ReviewState, Scope
from tokenworks.agents.brake.reviewing import NOTE_CHARACTERS_MAX
from tokenworks.agents.mandates.model import Window
from tokenworks.web.hub_api.bodies import ActorName, Body, DecimalIn, NameOrId, PageQuery
from tokenworks.web.hub_api.shapes.parts import Decimal, Moment, PartyRef, Shape


def _readable(text: str) -> str:
    if not all(character.isprintable() or character == "\n" for character in text):
        message = "lines of printable characters"
        raise ValueError(message)
    return text


DigestIn = Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")]
NoteIn = Annotated[str, Field(max_length=NOTE_CHARACTERS_MAX), AfterValidator(_readable)]


class ReviewQuery(PageQuery):
    """
    Which reviews.
    """

    state: ReviewState | None = None
    agent: NameOrId | None = None


class RaiseIn(Body):
    """
    The new limit of the mandate.
    """

    per: Window
    amount: DecimalIn


class ApproveIn(Body):
    """
    One person's yes to exactly one payload.
    """

    digest: DigestIn
    scope: Scope = Scope.ONCE
    raise_limit: RaiseIn | None = None
    note: NoteIn = ""
    actor: ActorName | None = None


class DenyIn(Body):
    """
    One person's no to exactly one payload.
    """

    digest: DigestIn
    note: NoteIn = ""
    actor: ActorName | None = None


class WebhookIn(Body):
    """
    Where an owner wants to be told; only an admin vouches for a private address.
    """

    url: Annotated[str, Field(min_length=1, max_length=2_000)]
    allow_private: bool = False


class ReasonShape(Shape):
    """
    One rule that spoke.
    """

    rule: str
    action: str
    text: str
    figures: dict[str, str | int]


class SaidShape(Shape):
    """
    What one person, or the clock, said about a review.
    """

    word: Literal["approve", "deny", "expire"]
    actor: str
    person: PartyRef | None
    scope: str
    raised_per: str | None
    raised_to: Decimal | None
    note: str
    digest: str
    decided_at: Moment


class ReviewShape(Shape):
    """
    A payment that waits, or waited, for people.
    """

    review_id: UUID
    state: str
    digest: str
    agent: PartyRef
    organisation: PartyRef
    payee: PartyRef
    mandate_id: UUID
    amount: Decimal
    currency: str
    resource: str
    description: str
    reasons: list[ReasonShape]
    score_ppm: int
    rules_version: int
    approvals_needed: int
    approved_by: list[str]
    created_at: Moment
    expires_at: Moment
    decided_at: Moment | None
    note: str


class ReviewDetail(ReviewShape):
    """
    A review with everything that was said about it.
    """

    decisions: list[SaidShape]


class StoredRulesShape(Shape):
    """
    Rules as an owner wrote them.
    """

    version: int
    document: dict[str, Any]
    actor: str
    created_at: Moment


class BrakeShape(Shape):
    """
    The rules of a party, and all that count for it: the strictest answer of ``effective``.
    """

    party: PartyRef
    own: StoredRulesShape | None
    effective: list[dict[str, Any]]
    version: int


class DeliveryShape(Shape):
    """
    One message to a webhook and how far it has come.
    """

    review_id: UUID
    event: str
    state: str
    attempts: int
    created_at: Moment
    attempted_at: Moment | None
    next_attempt_at: Moment | None
    http_status: int | None
    error: str | None


class WebhookShape(Shape):
    """
    Where a party is told; ``secret`` is set in the one answer that made it.
    """

    party: PartyRef
    url: str
    allow_private: bool
    actor: str
    created_at: Moment
    secret: str | None = None
    deliveries: list[DeliveryShape]


class WebhookRemoved(Shape):
    """
    The webhook that is no more.
    """

    party: PartyRef
    removed: bool = True
