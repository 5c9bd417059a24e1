"""
Escrows, their milestones, what is submitted and what is decided.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final, TypeAlias
from uuid import UUID

from tokenworks.foundation.money import PPM

CONDITION_BYTES_MAX: Final = 4_096
RESULT_BYTES_MAX: Final = 256 * 1024
MILESTONES_MAX: Final = 32
VERIFIERS_MAX: Final = 16
CALLS_MAX: Final = 100
"""Of one submission."""
ATTESTATIONS_MAX: Final = 32
"""Of one request."""
ATTESTATIONS_OF_ONE_MAX: Final = 8
"""Of one submission: from each verifier, and of those that were refused."""
EVIDENCE_MAX: Final = 32
"""From each side, for each milestone."""
SUBMISSIONS_MAX: Final = 100
"""Of one milestone."""
SHARE_NUMBER_MAX: Final = 10**18

JsonObject: TypeAlias = Mapping[str, object]

_DECIMAL_SHARE: Final = re.compile(r"[01](?:\.[0-9]{1,18})?")


class EscrowState(StrEnum):
    """
    Where an escrow stands; the last three are final.
    """

    OPENING = "opening"  # written down, not held yet; a person may still have to allow it
    FUNDED = "funded"  # held; the payee has not delivered
    SUBMITTED = "submitted"  # delivered; the condition waits for a verifier or a window
    DISPUTED = "disputed"  # an arbiter decides
    SETTLED = "settled"  # captured, whole or in part; the rest went back
    REFUNDED = "refunded"  # all went back
    CANCELLED = "cancelled"  # the payee let it go, or it was never funded


FINAL_STATES: Final = frozenset({EscrowState.SETTLED, EscrowState.REFUNDED, EscrowState.CANCELLED})


class MilestoneState(StrEnum):
    """
    Where one milestone stands; ``DECIDED`` is final.
    """

    OPEN = "open"  # nothing submitted
    UNDECIDED = "undecided"  # submitted; a verifier or the evaluator has not spoken
    NOT_MET = "not_met"  # evaluated; may be submitted again
    MET = "met"  # evaluated; the payer may still dispute
    DISPUTED = "disputed"
    DECIDED = "decided"


class Ground(StrEnum):
    """
    Why a milestone was decided as it was.
    """

    CONDITION_MET = "condition_met"
    SILENCE = "silence"  # nobody decided on a submission in time, so the payee is paid
    NOT_DELIVERED = "not_delivered"
    CONDITION_NOT_MET = "condition_not_met"
    ARBITRATED = "arbitrated"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """
    An exact part of a whole, between nothing and all.
    """

    part: int
    whole: int

    @classmethod
    def of(cls, part: int, whole: int) -> Share | None:
        """
        Return a share, or ``None`` when the numbers are none.
        """
        is_share = 0 <= part <= whole <= SHARE_NUMBER_MAX and whole > 0
        return cls(part=part, whole=whole) if is_share else None

    @classmethod
    def from_text(cls, text: str) -> Share | None:
        """
        Return the share of a decimal text such as ``0.75``; ``None`` when it is none.
        """
        if not _DECIMAL_SHARE.fullmatch(text):
            return None
        whole, _, fraction = text.partition(".")
        scale = 10 ** len(fraction)
        return cls.of(int(whole) * scale + int(fraction or "0"), scale)

    @property
    def ppm(self) -> int:
        """
        Return parts per million, rounded down; to be shown, never to pay by.
        """
        return PPM * self.part // self.whole

    def of_quanta(self, quanta: int) -> int:
        """
        Return this share of an amount, rounded down; what is left belongs to the payer.
        """
        return quanta * self.part // self.whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Milestone:
    """
    A part of the amount with a condition of its own.
    """

    name: str
    quanta: int
    condition: str  # CEL; the variable is ``result``


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """
    What an evaluator says; exactly one of the two is set.
    """

    share: Share | None
    error: str | None  # ``code: text``; a condition that cannot be evaluated is not met


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """
    What came of one condition and one result.
    """

    share: Share  # of the milestone's amount; nothing when the condition is not met
    error: str | None  # why it could not be evaluated: not met
    condition_sha256: str
    result_sha256: str
    engine: str  # name and version of the evaluator
    metered_sha256: str | None = None  # of what the hub metered; ``None``: no call was named

    @property
    def is_met(self) -> bool:
        """
        Return whether anything is due.
        """
        return self.share.part > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EscrowTerms:
    """
    What both sides agree to before work begins.
    """

    milestones: tuple[Milestone, ...]
    result_schema: JsonObject  # JSON Schema of ``result``
    submit_by: datetime  # without a submission: refunded
    review_window_s: int  # after a met condition the payer may dispute for so long; 0: at once
    decide_by_s: int  # after a submission nobody decided on, the payee is paid
    verifiers: Mapping[str, str]  # name -> public key; what they attest is ``result.attested``
    arbiter_id: UUID | None  # a party; ``None``: the hub's operator


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """
    Something a side points to: its hash binds it, the address says where it is.
    """

    sha256: str  # hexadecimal
    uri: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attestation:
    """
    A verifier's statement that was handed in, accepted or refused.
    """

    verifier: str | None  # its name in the terms; ``None``: no verifier of this escrow
    jws: str
    sha256: str  # of the JWS
    issued_at_s: int
    claims: JsonObject
    refusal: str | None  # why the condition cannot see it


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """
    What is paid for one milestone; recorded before money moves.
    """

    milestone: int  # its place in the terms
    ordinal: int  # decisions are carried out in this order
    capture: int | None  # the capture's number in the books, and its receipt's; nothing: none
    quanta: int
    closes: bool  # the last one; what is left goes back to the payer
    ground: Ground
    reason: str  # the arbiter's words, or empty
    decided_at: datetime
    is_carried_out: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """
    What the payee last handed in for a milestone, and what came of it.
    """

    number: int  # 1 for the first of the milestone
    submitted_at: datetime
    result_sha256: str  # of the canonical result, which is kept with the fact
    attestations: tuple[Attestation, ...] = ()
    verdict: Verdict | None = None  # ``None``: not evaluated, or a verifier has not spoken
    decided_at: datetime | None = None  # when the verdict fell
    silent: tuple[str, ...] = ()  # verifiers that the condition waits for
    calls: tuple[UUID, ...] = ()  # the payee's, sorted
    metered: JsonObject | None = None  # what the hub metered in them: ``result.metered``
    metered_sha256: str | None = None  # of its canonical form


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteredCall:
    """
    One ended call of a model, as the gateway recorded it.
    """

    call_id: UUID
    party_id: UUID
    is_settled: bool  # else nothing was delivered
    ended_at: datetime
    model: str
    tier: str
    usage: Mapping[str, int]  # by axis
    input_tokens: int
    output_tokens: int
    is_estimate: bool
    currency: str
    charge_quanta: int
    duration_ms: float
    first_token_ms: float | None  # ``None``: not a stream
    http_status: int | None  # of the supplier that answered; ``None``: not recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class MilestoneStanding:
    """
    One milestone as it stands.
    """

    state: MilestoneState = MilestoneState.OPEN
    submission: Submission | None = None
    is_stale: bool = False  # something was handed in that no verdict has seen
    has_failed: bool = False  # some submission was evaluated and not met
    disputed_by: str | None = None  # ``payer``, ``payee`` or ``hub``
    disputed_at: datetime | None = None
    decision: Decision | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """
    Who asks something of an escrow.
    """

    party_id: UUID
    name: str  # as the record keeps it, e.g. ``key ..`` or ``wallet ..``
    is_admin: bool = False


class EventKind(StrEnum):
    """
    What can happen to an escrow.
    """

    OPENED = "opened"  # the hold is placed
    LAPSED = "lapsed"  # it never was, and the authorisation is over
    SUBMITTED = "submitted"
    ATTESTED = "attested"  # more statements of verifiers about the last submission
    EVALUATED = "evaluated"
    DISPUTED = "disputed"
    DECIDED = "decided"
    CARRIED_OUT = "carried_out"
    CANCEL_ASKED = "cancel_asked"


@dataclass(frozen=True, slots=True, kw_only=True)
class EscrowEvent:
    """
    One fact of an escrow's life; facts are never changed.
    """

    kind: EventKind
    occurred_at: datetime
    actor: str
    milestone: int | None = None  # its place in the terms
    submission: Submission | None = None
    attestations: tuple[Attestation, ...] = ()
    verdict: Verdict | None = None  # of an evaluation; ``None``: verifiers have not spoken
    silent: tuple[str, ...] = ()  # which
    disputed_by: str | None = None
    reason: str = ""
    evidence: tuple[Evidence, ...] = ()
    decision: Decision | None = None
    ordinal: int | None = None  # of the decision that was carried out
    result: bytes | None = None  # canonical JSON, of a submission; not read back with the others


@dataclass(frozen=True, slots=True, kw_only=True)
class Escrow:
    """
    One escrow as it stands.
    """

    escrow_id: UUID  # the payment's id, and the hold's
    state: EscrowState
    payer_agent_id: UUID
    organisation_id: UUID
    mandate_id: UUID
    payee_id: UUID
    currency: str
    quanta: int
    captured_quanta: int
    terms: EscrowTerms
    terms_sha256: str
    created_at: datetime
    decided_at: datetime | None
    milestones: tuple[MilestoneStanding, ...] = ()
    decisions: tuple[Decision, ...] = ()
    is_funded: bool = False
    has_lapsed: bool = False  # never funded, and never will be
    cancel_asked_at: datetime | None = None  # by the payer; the payee has not answered
    events: tuple[EscrowEvent, ...] = field(default=(), repr=False)
