"""
The words of reconciliation: lines, verdicts, statements, proposals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from uuid import UUID

from tokenworks.foundation.money import PPM, Asset
from tokenworks.gateway.owed import OwedAttempt


class Verdict(StrEnum):
    """
    What a line of a statement, or an attempt of ours, was found to be.
    """

    MATCHED = "matched"
    """The line bills one attempt, and the amounts agree within the tolerance."""
    AMOUNT_DIFFERS = "amount_differs"
    """The line bills one attempt at another amount."""
    MISSING_HERE = "missing_here"
    """The line bills nothing that the hub knows."""
    MISSING_AT_SUPPLIER = "missing_at_supplier"
    """The hub owes for an attempt that is not on the statement."""
    DUPLICATE = "duplicate"
    """The line, or the attempt that it bills, was billed before."""
    AMBIGUOUS = "ambiguous"
    """Several lines or attempts look alike; which belongs to which is not guessed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementLine:
    """
    One line of a supplier's statement.
    """

    number: int
    """Of the line in the file; the header is 1."""
    reference: str
    """The supplier's own name of the line."""
    quanta: int
    call_id: UUID | None = None
    """The hub's call id, where the supplier echoes it."""
    occurred_at: datetime | None = None
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """
    How far a line may be from what is owed, and from when it happened.
    """

    quanta: int = 0
    ppm: int = 0
    """Of what is owed; the larger of both counts."""
    window_s: int = 60
    """Between the line's time and the attempt, where nothing better than time tells."""

    def covers(self, *, billed_quanta: int, owed_quanta: int) -> bool:
        """
        Return whether two amounts count as the same.
        """
        allowed = max(self.quanta, owed_quanta * self.ppm // PPM)
        return abs(billed_quanta - owed_quanta) <= allowed


@dataclass(frozen=True, slots=True, kw_only=True)
class LineFinding:
    """
    What one line is; ``attempt`` is what it bills, where that is certain.
    """

    line: StatementLine
    verdict: Verdict
    attempt: OwedAttempt | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFinding:
    """
    An attempt that no line certainly bills.
    """

    attempt: OwedAttempt
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Matching:
    """
    Every line once, and every attempt that is owed and not billed.
    """

    lines: Sequence[LineFinding]
    attempts: Sequence[AttemptFinding]

    @property
    def total_quanta(self) -> int:
        """
        Return what the statement asks for.
        """
        return sum(finding.line.quanta for finding in self.lines)

    @property
    def correction_quanta(self) -> int:
        """
        Return what the supplier would get more, or less, if its attempts were paid as billed.

        Lines and attempts without a certain counterpart are no part of it: somebody has to
        ask the supplier first.
        """
        return sum(
            finding.line.quanta - finding.attempt.owed_quanta
            for finding in self.lines
            if finding.attempt is not None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """
    A statement as it was imported.
    """

    statement_id: UUID
    supplier_id: UUID
    party_id: UUID
    file_name: str
    file_sha256: bytes
    columns: Mapping[str, str]
    asset: Asset
    since: datetime
    until: datetime
    tolerance: Tolerance
    line_count: int
    total_quanta: int
    imported_at: datetime
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """
    A correcting entry, and who accepted it.
    """

    fact_id: UUID
    quanta: int
    """Above zero the supplier gets more."""
    accepted_at: datetime | None
    accepted_by: str | None
    is_posted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictTotal:
    """
    What one verdict sums up to.
    """

    verdict: Verdict
    day: date | None
    """``None``: of all days, or of lines without any time."""
    lines: int
    billed_quanta: int
    attempts: int
    owed_quanta: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """
    A statement with its differences summed up.
    """

    statement: Statement
    totals: Sequence[VerdictTotal]
    days: Sequence[VerdictTotal]
    proposal: Proposal | None
    replayed: bool = False
    """Whether an import found the same file imported before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """
    One line or one attempt with its verdict, for lists.
    """

    verdict: Verdict
    line_number: int | None
    reference: str | None
    call_id: UUID | None
    ordinal: int | None
    occurred_at: datetime | None
    model: str | None
    billed_quanta: int | None
    owed_quanta: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Payable:
    """
    What a supplier is owed, and how much of it may be paid out now.
    """

    asset: Asset
    owed_quanta: int
    on_hold_quanta: int
    """Neither matched with a statement nor old enough."""
    receivable_quanta: int
    """What the supplier owes the platform; it is kept back."""

    @property
    def free_quanta(self) -> int:
        """
        Return what may be paid out.
        """
        return max(0, self.owed_quanta - self.on_hold_quanta - self.receivable_quanta)
