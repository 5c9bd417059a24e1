"""
What is judged, what comes out, and what waits for a person.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from tokenworks.agents.mandates.model import MoneyLimit


class Action(StrEnum):
    """
    What the brake lets happen, from least to most scrutiny.
    """

    ALLOW = "allow"
    HOLD = "hold"
    DENY = "deny"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """
    A payment as the brake sees it.
    """

    payment_id: UUID
    digest: bytes  # SHA-256 of the exact payload; what an approval is bound to
    agent_id: UUID
    mandate_id: UUID
    organisation_id: UUID
    party_chain: tuple[UUID, ...]  # from the organisation down to the agent
    payee_id: UUID
    quanta: int
    currency: str
    resource: str  # method and URL, or ``escrow:..``
    request_digest: bytes  # SHA-256 of method, URL and body: equal calls are equal here
    description: str = ""  # for the person who looks at it
    mandate_chain: tuple[UUID, ...] = ()  # from the root down; whose budgets are watched
    overseers: tuple[UUID, ...] = ()  # as ``rule_parties``; empty: the party chain is all

    @property
    def rule_parties(self) -> tuple[UUID, ...]:
        """
        Return whose rules count, the organisation first: everybody on the spend path.

        Those above each agent that passed its mandate on, these agents, and the payer's own: an
        agent that is watched cannot have another one pay unwatched.
        """
        return self.overseers or self.party_chain


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """
    One rule that spoke.
    """

    rule: str  # e.g. ``new_payee``, ``loop``, ``score``
    action: Action
    text: str  # for people, with the figures
    figures: Mapping[str, str | int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """
    What the rules and the score say; stands on the receipt.
    """

    action: Action
    reasons: tuple[Reason, ...]
    score_ppm: int  # 0: as usual, 1,000,000 and above: far from anything seen
    rules_version: int
    review_id: UUID | None = None  # the approval that let it pass


class ReviewState(StrEnum):
    """
    Where a review stands; all but ``PENDING`` are final.
    """

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"


class Scope(StrEnum):
    """
    How far an approval goes.
    """

    ONCE = "once"  # this payload and nothing else
    PAYEE = "payee"  # and the payee counts as known from now on
    RAISE = "raise"  # and the mandate's limit is raised by its owner


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """
    A payment that waits for people.
    """

    review_id: UUID  # the payment's id
    subject: Subject
    decision: Decision
    state: ReviewState
    approvals_needed: int
    approved_by: tuple[str, ...]  # who approved so far, as actors
    denied_by: str | None = None  # who denied it, as an actor
    created_at: datetime
    expires_at: datetime
    decided_at: datetime | None
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """
    One entry of what was said about a review.
    """

    word: str  # approve, deny or expire
    actor: str
    person_id: UUID | None
    scope: Scope
    note: str
    digest: bytes
    decided_at: datetime
    raised: MoneyLimit | None = None  # with ``Scope.RAISE``: the new limit


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewFilter:
    """
    Which reviews; ``None``: all.
    """

    organisation_id: UUID | None = None
    party_id: UUID | None = None  # at or above the agent
    agent_id: UUID | None = None
    state: ReviewState | None = None
