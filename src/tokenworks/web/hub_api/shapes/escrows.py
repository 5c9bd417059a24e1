"""
Escrows as the hub API takes and shows them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field, model_validator

from tokenworks.web.hub_api.bodies import Body, DecimalIn, Ppm
from tokenworks.web.hub_api.shapes.parts import Shape

MilestoneName = Annotated[str, Field(min_length=1, max_length=63)]
Milestones = Annotated[list[MilestoneName], Field(min_length=1, max_length=32)]
Reason = Annotated[str, Field(min_length=1, max_length=2_000)]
Jws = Annotated[str, Field(min_length=1, max_length=16_384)]


class EvidenceIn(Body):
    """
    Something a side points to.
    """

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    uri: Annotated[str, Field(min_length=1, max_length=2_000)]


class AttestIn(Body):
    """
    Verifiers' statements about the last submission of a milestone.
    """

    milestone: MilestoneName
    attestations: Annotated[list[Jws], Field(min_length=1, max_length=32)]


class DisputeIn(Body):
    """
    What is disputed, and why.
    """

    milestones: Milestones
    reason: Reason
    evidence: Annotated[list[EvidenceIn], Field(max_length=32)] = Field(default_factory=list)


class PartIn(Body):
    """
    What the payee gets of a disputed milestone: a part of it in ppm, or an amount.
    """

    milestone: MilestoneName
    ppm: Ppm | None = None
    amount: DecimalIn | None = None

    @model_validator(mode="after")
    def _has_one(self) -> PartIn:
        if (self.ppm is None) == (self.amount is None):
            message = "give either ppm or amount"
            raise ValueError(message)
        return self


class ArbitrateIn(Body):
    """
    The arbiter's word.
    """

    parts: Annotated[list[PartIn], Field(min_length=1, max_length=32)]
    reason: Reason


class AttestationShape(Shape):
    """
    A verifier's statement; ``refusal`` says why the condition cannot see it.
    """

    verifier: str | None
    sha256: str
    claims: dict[str, Any]
    refusal: str | None


class VerdictShape(Shape):
    """
    What the condition said.
    """

    is_met: bool
    share: str  # part/whole, exact
    error: str | None
    engine: str


class SubmissionShape(Shape):
    """
    The last submission of a milestone.
    """

    number: int
    submitted_at: datetime
    result_sha256: str
    attestations: list[AttestationShape]
    verdict: VerdictShape | None
    waits_for: list[str]  # verifiers that have not spoken
    calls: list[UUID]
    metered: dict[str, Any] | None  # what the hub metered in them
    metered_sha256: str | None


class DecisionShape(Shape):
    """
    What is paid for a milestone, and why.
    """

    amount: str
    ground: str
    reason: str
    decided_at: datetime
    is_carried_out: bool
    receipt: str | None  # path of the capture's receipt


class MilestoneShape(Shape):
    """
    One milestone as it stands.
    """

    name: str
    amount: str
    condition: str
    state: str
    submission: SubmissionShape | None
    disputed_by: str | None
    decision: DecisionShape | None


class EscrowEventShape(Shape):
    """
    One fact of an escrow's life.
    """

    kind: str
    occurred_at: datetime
    actor: str
    milestone: str | None
    reason: str
    evidence: list[EvidenceIn]


class EscrowShape(Shape):
    """
    An escrow as it stands.
    """

    escrow_id: UUID
    state: str
    payer_agent: UUID
    organisation: UUID
    mandate: UUID
    payee: UUID
    arbiter: UUID | None
    currency: str
    amount: str
    captured: str
    terms_sha256: str
    created_at: datetime
    submit_by: datetime
    decided_at: datetime | None
    cancel_asked_at: datetime | None
    milestones: list[MilestoneShape]


class EscrowDetailShape(EscrowShape):
    """
    An escrow with its terms and everything that happened.
    """

    terms: dict[str, Any]
    sides: list[str]  # what the caller is to it
    events: list[EscrowEventShape]
