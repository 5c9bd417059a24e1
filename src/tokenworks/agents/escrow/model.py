"""
Escrows, their milestones, what is submitted and what is decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, TypeAlias
from uuid import UUID

CONDITION_BYTES_MAX: Final = 4_096
RESULT_BYTES_MAX: Final = 256 * 1024
MILESTONES_MAX: Final = 32

JsonObject: TypeAlias = Mapping[str, object]


class EscrowState(StrEnum):
    """
    Where an escrow stands; the last three are final.
    """

    FUNDED = "funded"  # held; the worker has not delivered
    SUBMITTED = "submitted"  # delivered; the condition waits for a verifier or a window
    DISPUTED = "disputed"  # an arbiter decides
    SETTLED = "settled"  # captured, whole or in part; the rest went back
    REFUNDED = "refunded"  # all went back
    CANCELLED = "cancelled"  # both agreed before a submission


@dataclass(frozen=True, slots=True, kw_only=True)
class Milestone:
    """
    A part of the amount with a condition of its own.
    """

    name: str
    quanta: int
    condition: str  # CEL; the variable is ``result``


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """
    What the sandbox said about one condition and one result.
    """

    is_met: bool
    fraction_ppm: int  # what a condition that returns a number releases of its part
    error: str | None  # why it could not be evaluated: not met
    condition_sha256: str
    result_sha256: str
    engine: str  # name and version of the evaluator


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
    verifiers: Mapping[str, str]  # name -> public key; their attestations are fields of result
    arbiter_id: UUID | None  # a party; ``None``: the hub's operator


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
    created_at: datetime
    decided_at: datetime | None
