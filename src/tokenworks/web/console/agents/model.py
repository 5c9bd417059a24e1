"""
What the hub API answers about agents, reviews, payments and escrows, as far as the console
reads it. As in ``console/model.py``, what may be missing has a default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from tokenworks.web.console.model import Document, PartyRef

FREEZABLE: Final = ("agents", "mandates")
"""Where the hub freezes and thaws: parties of any level, and mandates."""


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """
    One limit of a mandate or party in its present window; amounts are decimal text of ``unit``.
    """

    unit: str  # a currency, ``payments`` or ``tokens``
    per: str
    amount: str
    spent: str = "0"
    held: str = "0"
    remaining: str = "0"
    resets_at: str | None = None


class MoneyLimit(msgspec.Struct, frozen=True, kw_only=True):
    """
    Money in each window.
    """

    window: str
    amount: str


class CountLimit(msgspec.Struct, frozen=True, kw_only=True):
    """
    Payments in each window.
    """

    window: str
    payments: int


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a mandate allows; what is missing is not narrowed.
    """

    currency: str = "USD"
    amount_min: str | None = None
    amount_max: str | None = None
    budgets: tuple[MoneyLimit, ...] = ()
    counts: tuple[CountLimit, ...] = ()
    payee_budgets: tuple[MoneyLimit, ...] = ()
    payees: tuple[str, ...] | None = None
    instruments: tuple[str, ...] | None = None
    providers: tuple[str, ...] | None = None
    not_before: str | None = None
    not_after: str | None = None
    reference: str | None = None
    tools: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None
    delegations_max: int = 0


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """
    One rule of the brake that spoke.
    """

    rule: str
    action: str
    text: str
    figures: Mapping[str, str | int] = {}


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the brake said about a payment.
    """

    action: str
    reasons: tuple[Reason, ...] = ()
    score_ppm: int = 0
    review: str | None = None  # the approval that let it pass


class TreeParty(msgspec.Struct, frozen=True, kw_only=True):
    """
    An owner, a team or an agent.
    """

    party_id: str
    name: str
    level: str
    parent_id: str | None = None
    state: str = "active"  # its own
    is_frozen: bool = False  # it, or somebody above it
    limits: tuple[Limit, ...] = ()


class TreeMandate(msgspec.Struct, frozen=True, kw_only=True):
    """
    A mandate as the tree shows it.
    """

    mandate_id: str
    agent_id: str
    parent_id: str | None = None
    depth: int = 1
    label: str = ""
    currency: str = "USD"
    state: str = "active"  # its own
    is_usable: bool = True  # nothing above it, and no date, is in the way
    expires_at: str | None = None
    limits: tuple[Limit, ...] = ()


class AgentTree(msgspec.Struct, frozen=True, kw_only=True):
    """
    Agents, everybody above one, and their mandates; parents first.
    """

    as_of: str = ""
    parties: tuple[TreeParty, ...] = ()
    mandates: tuple[TreeMandate, ...] = ()
    is_cut: bool = False


class MandateEvent(msgspec.Struct, frozen=True, kw_only=True):
    """
    What was done to a mandate.
    """

    kind: str
    happened_at: str
    actor: str = ""
    details: Document = {}


class Mandate(msgspec.Struct, frozen=True, kw_only=True):
    """
    A mandate with its terms.
    """

    mandate_id: str
    agent: PartyRef
    organisation: PartyRef
    label: str = ""
    state: str = "active"
    parent_id: str | None = None
    depth: int = 1
    terms: Terms = Terms()
    status: str = ""  # active, or why nothing can be paid: an error code of the hub
    created_at: str = ""
    expires_at: str | None = None
    revoked_at: str | None = None
    limits: tuple[Limit, ...] = ()
    events: tuple[MandateEvent, ...] = ()


class PaymentReview(msgspec.Struct, frozen=True, kw_only=True):
    """
    What people said about a payment that was held for them.
    """

    state: str
    by: tuple[str, ...] = ()
    decided_at: str | None = None
    expires_at: str | None = None
    note: str = ""

    @property
    def says(self) -> str:
        """
        Return the outcome in words.
        """
        by = f" by {' and '.join(self.by)}" if self.by else ""
        match self.state:
            case "pending":
                return f"approved{by}, one more person is asked" if by else "nobody has decided yet"
            case "expired":
                return "not decided in time"
            case state:
                return f"{state}{by}"


class Payment(msgspec.Struct, frozen=True, kw_only=True):
    """
    A payment as it stands in the books; what only its payer may see is null for its payee.
    """

    payment_id: str
    state: str
    scheme: str = ""
    payer: str = ""  # the wallet's address
    payee: PartyRef | None = None
    amount: str = "0"  # what was captured
    currency: str = "USD"
    resource: str = ""
    recorded_at: str = ""
    authorised: str | None = None
    agent: PartyRef | None = None
    organisation: PartyRef | None = None
    mandate_id: str | None = None
    brake: Decision | None = None
    review: PaymentReview | None = None

    @property
    def judged(self) -> str:
        """
        Return what the brake itself said, before people did.
        """
        said = "" if self.brake is None else self.brake.action
        return said if self.review is None else "hold"

    @property
    def is_open(self) -> bool:
        """
        Return whether money is held for it.
        """
        return self.state in {"held", "in_review"}

    @property
    def worth(self) -> str:
        """
        Return what it moved, or what is held for it while it is open.
        """
        return (self.authorised or self.amount) if self.is_open else self.amount


class PaymentPage(msgspec.Struct, frozen=True, kw_only=True):
    """
    Payments, newest first.
    """

    items: tuple[Payment, ...] = ()
    next_cursor: str | None = None


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """
    What one person, or the clock, said about a review.
    """

    word: str  # approve, deny or expire
    actor: str = ""
    person: PartyRef | None = None
    scope: str = "once"
    raised_per: str | None = None
    raised_to: str | None = None
    note: str = ""
    decided_at: str = ""


class Review(msgspec.Struct, frozen=True, kw_only=True):
    """
    A payment that waits, or waited, for people; ``decisions`` only when it was asked for alone.
    """

    review_id: str
    state: str
    digest: str
    agent: PartyRef
    organisation: PartyRef
    payee: PartyRef
    mandate_id: str
    amount: str
    currency: str
    resource: str = ""
    description: str = ""
    reasons: tuple[Reason, ...] = ()
    score_ppm: int = 0
    approvals_needed: int = 1
    approved_by: tuple[str, ...] = ()
    created_at: str = ""
    expires_at: str = ""
    decided_at: str | None = None
    note: str = ""
    decisions: tuple[Said, ...] = ()


class ReviewPage(msgspec.Struct, frozen=True, kw_only=True):
    """
    Reviews, newest first.
    """

    items: tuple[Review, ...] = ()
    next_cursor: str | None = None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the condition said.
    """

    is_met: bool = False
    share: str = ""  # part/whole, exact
    error: str | None = None
    engine: str = ""


class Attestation(msgspec.Struct, frozen=True, kw_only=True):
    """
    A verifier's statement; ``refusal`` says why the condition cannot see it.
    """

    verifier: str | None = None
    claims: Document = {}
    refusal: str | None = None


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """
    The last submission of a milestone; its result is asked for apart.
    """

    number: int = 1
    submitted_at: str = ""
    result_sha256: str = ""
    attestations: tuple[Attestation, ...] = ()
    verdict: Verdict | None = None
    waits_for: tuple[str, ...] = ()  # verifiers that have not spoken
    metered: Document | None = None  # by the hub, in the calls that were named


class EscrowDecision(msgspec.Struct, frozen=True, kw_only=True):
    """
    What is paid for one milestone, and why.
    """

    amount: str = "0"
    ground: str = ""
    reason: str = ""
    decided_at: str = ""
    is_carried_out: bool = False
    receipt: str | None = None  # path of the capture's receipt


class Milestone(msgspec.Struct, frozen=True, kw_only=True):
    """
    A part of the amount, with a condition of its own, as it stands.
    """

    name: str
    amount: str
    condition: str = ""
    state: str = "open"
    submission: Submission | None = None
    disputed_by: str | None = None
    decision: EscrowDecision | None = None


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """
    Something a side points to.
    """

    sha256: str
    uri: str


class EscrowEvent(msgspec.Struct, frozen=True, kw_only=True):
    """
    One fact of an escrow's life.
    """

    kind: str
    occurred_at: str
    actor: str = ""
    milestone: str | None = None
    reason: str = ""
    evidence: tuple[Evidence, ...] = ()


class EscrowTerms(msgspec.Struct, frozen=True, kw_only=True):
    """
    What both sides agreed to, as far as the milestones do not say it.
    """

    review_window_s: int = 0
    decide_by_s: int = 0
    verifiers: Mapping[str, str] = {}


class Escrow(msgspec.Struct, frozen=True, kw_only=True):
    """
    Payments that are due on conditions; parties are ids. ``terms``, ``sides`` and ``events``
    only when it was asked for alone.
    """

    escrow_id: str
    state: str
    payer_agent: str
    organisation: str
    mandate: str
    payee: str
    arbiter: str | None = None
    currency: str
    amount: str
    captured: str = "0"
    created_at: str = ""
    submit_by: str | None = None
    decided_at: str | None = None
    cancel_asked_at: str | None = None
    milestones: tuple[Milestone, ...] = ()
    terms: EscrowTerms = EscrowTerms()
    sides: tuple[str, ...] = ()  # what the reader is to it
    events: tuple[EscrowEvent, ...] = ()

    @property
    def party_ids(self) -> tuple[str, ...]:
        """
        Return the parties whose names are shown.
        """
        named = (self.payer_agent, self.organisation, self.payee, self.arbiter)
        return tuple(party_id for party_id in named if party_id is not None)


class EscrowPage(msgspec.Struct, frozen=True, kw_only=True):
    """
    Escrows, newest first.
    """

    items: tuple[Escrow, ...] = ()
    next_cursor: str | None = None
