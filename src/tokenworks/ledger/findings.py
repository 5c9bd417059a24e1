"""
What a check of the books can find, and its report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

FINDINGS_MAX: Final = 1_000


class ProblemCode(StrEnum):
    """
    What can be wrong with the books.
    """

    CHAIN_BROKEN = "chain_broken"
    """A batch's hash is not that of the batch before and its records."""
    BATCH_MISSING = "batch_missing"
    """Batch numbers of a lane have a gap, or records belong to no batch."""
    HEAD_DIFFERS = "head_differs"
    """A lane's head is not its last batch, or its last receipt."""
    RECEIPT_CHAIN_BROKEN = "receipt_chain_broken"
    RECORD_UNREADABLE = "record_unreadable"
    RECORD_DIFFERS = "record_differs"
    """A row's columns do not say what its record says."""
    BALANCE_DIFFERS = "balance_differs"
    """An account's counters are not the sum of its records."""
    HOLD_DIFFERS = "hold_differs"
    """A hold is not what its records say."""
    PENDING_DIFFERS = "pending_differs"
    """An account's pending debits are not what its open holds have left."""
    UNBALANCED = "unbalanced"
    """Debits and credits of an asset differ."""
    CLIENT_MONEY_UNSAFEGUARDED = "client_money_unsafeguarded"
    OVERDRAWN = "overdrawn"
    """A bounded account is below zero."""
    CHARGE_DIFFERS = "charge_differs"
    """A call's charge is not what its capture took."""
    PAYMENT_DIFFERS = "payment_differs"
    """A payment's row is not what its entry took, or is missing."""
    ENERGY_DIFFERS = "energy_differs"
    """An interval's energy is not what its entry moved, or its calls' shares were changed."""
    CHECKPOINT_DIFFERS = "checkpoint_differs"
    """A signed checkpoint saw another history, or its signature is not good."""
    CLOSING_DIFFERS = "closing_differs"
    """The close of a date does not go on from the one before, or its signature is not good."""
    ARCHIVE_DIFFERS = "archive_differs"
    """An archived file is not what was written before its month was dropped."""
    HOLD_OVERDUE = "hold_overdue"
    """Warning: a hold is open past its expiry and the grace."""
    WINDOW_DIFFERS = "window_differs"
    """Warning: a limit's window was not granted what the limit says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """
    One finding.
    """

    code: ProblemCode
    message: str
    where: str  # the row it is about, e.g. ``account 12`` or ``lane 1 batch 7``

    def to_json(self) -> dict[str, str]:
        """
        Return plain fields.
        """
        return {"code": self.code.value, "where": self.where, "message": self.message}


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """
    What was checked and what was found.
    """

    checked_at: datetime
    is_full: bool
    start: Mapping[str, object]
    """Where the history was read from: ``kind``, ``at``, ``is_signed``."""
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    counts: Mapping[str, int]
    omitted: int  # findings beyond ``FINDINGS_MAX``

    @property
    def is_clean(self) -> bool:
        """
        Return whether nothing is wrong; warnings do not count.
        """
        return not self.problems and not self.omitted

    def to_json(self) -> dict[str, object]:
        """
        Return plain fields.
        """
        return {
            "is_clean": self.is_clean,
            "checked_at": self.checked_at.isoformat().replace("+00:00", "Z"),
            "is_full": self.is_full,
            "start": dict(self.start),
            "counts": dict(self.counts),
            "problems": [problem.to_json() for problem in self.problems],
            "warnings": [warning.to_json() for warning in self.warnings],
            "omitted": self.omitted,
        }


@dataclass(slots=True)
class Findings:
    """
    Collect problems and warnings, at most ``FINDINGS_MAX`` of each.
    """

    problems: list[Problem] = field(default_factory=list[Problem])
    warnings: list[Problem] = field(default_factory=list[Problem])
    omitted: int = 0  # problems beyond

    def problem(self, code: ProblemCode, where: str, message: str) -> None:
        """
        Note something that is wrong.
        """
        if len(self.problems) < FINDINGS_MAX:
            self.problems.append(Problem(code=code, where=where, message=message))
        else:
            self.omitted += 1

    def warning(self, code: ProblemCode, where: str, message: str) -> None:
        """
        Note something worth a look.
        """
        if len(self.warnings) < FINDINGS_MAX:
            self.warnings.append(Problem(code=code, where=where, message=message))
