"""
Attacks, verdicts and reports.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from tokenworks.conformance.ground import Ground

SUITE_VERSION: Final = 1
"""Raised when a check is added, removed or judges otherwise."""

JsonObject: TypeAlias = "dict[str, object]"


class Verdict(StrEnum):
    """
    What came of an attack.
    """

    SURVIVED = "survived"
    FAILED = "failed"
    NOT_APPLICABLE = "not_applicable"


class Group(StrEnum):
    """
    What an attack aims at.
    """

    MONEY = "money"  # one payment, or one balance, spent twice
    BINDING = "binding"  # a signature spent on something else
    SIGNATURE = "signature"  # a payment nobody signed
    TIME = "time"
    AMOUNT = "amount"
    WIRE = "wire"  # requests that are no requests
    AUTHORITY = "authority"  # mandates, reviews and conditions; hubs only


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """
    A verdict with what it rests on.
    """

    verdict: Verdict
    because: str  # one sentence
    evidence: Mapping[str, object] = field(default_factory=dict[str, object])


Attack: TypeAlias = "Callable[[Ground], Awaitable[Outcome]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """
    One attack of the suite.
    """

    check_id: str  # stable: tables and issues refer to it
    group: Group
    proves: str  # what surviving shows, as a sentence
    attack: Attack


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """
    What one check found.
    """

    check_id: str
    group: Group
    proves: str
    outcome: Outcome
    took_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """
    What all checks found.
    """

    target: str
    network: str
    scheme: str
    started_at: datetime
    in_parallel: int
    findings: tuple[Finding, ...]
    suite_version: int = SUITE_VERSION

    @property
    def failures(self) -> tuple[Finding, ...]:
        """
        The checks that were not survived.
        """
        return tuple(f for f in self.findings if f.outcome.verdict is Verdict.FAILED)

    def to_document(self) -> JsonObject:
        """
        Return the report as JSON has it.
        """
        return {
            "suite_version": self.suite_version,
            "target": self.target,
            "network": self.network,
            "scheme": self.scheme,
            "started_at": self.started_at.isoformat(timespec="seconds"),
            "in_parallel": self.in_parallel,
            "findings": [to_document(finding) for finding in self.findings],
        }


def to_document(finding: Finding) -> JsonObject:
    """
    Return one finding as JSON has it.
    """
    return {
        "check_id": finding.check_id,
        "group": str(finding.group),
        "proves": finding.proves,
        "verdict": str(finding.outcome.verdict),
        "because": finding.outcome.because,
        "evidence": dict(finding.outcome.evidence),
        "took_ms": finding.took_ms,
    }


def survived(because: str, **evidence: object) -> Outcome:
    """
    Return that nothing was lost.
    """
    return Outcome(verdict=Verdict.SURVIVED, because=because, evidence=evidence)


def failed(because: str, **evidence: object) -> Outcome:
    """
    Return that something was lost.
    """
    return Outcome(verdict=Verdict.FAILED, because=because, evidence=evidence)


def not_applicable(because: str) -> Outcome:
    """
    Return that the attack makes no sense here, or could not be made.
    """
    return Outcome(verdict=Verdict.NOT_APPLICABLE, because=because)
