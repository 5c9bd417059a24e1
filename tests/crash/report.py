"""
What a crash test did and measured, for people and for programs.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from tests.crash.auditor import Audit


@dataclass(slots=True, kw_only=True)
class Report:
    """
    One scenario's outcome.
    """

    scenario: str
    seed: int
    seconds: float = 0.0
    harm: Counter[str] = field(default_factory=Counter)  # what was done, how often
    recovery_s: list[float] = field(default_factory=list)
    """From each harm to the first answer of a call that began after it."""
    tries: Counter[str] = field(default_factory=Counter)  # how calls ended for clients
    facts: dict[str, object] = field(default_factory=dict)  # what only this scenario measures
    audit: Audit | None = None
    findings: list[str] = field(default_factory=list)
    skipped: str | None = None  # why nothing was done

    @property
    def is_clean(self) -> bool:
        """
        Whether every law held; a scenario that was skipped broke none.
        """
        return not self.findings

    def to_document(self) -> Mapping[str, Any]:
        """
        Return all of it as JSON has it.
        """
        document = {each.name: getattr(self, each.name) for each in fields(self)}
        return {
            **document,
            "is_clean": self.is_clean,
            "recovery_s": [round(seconds, 3) for seconds in self.recovery_s],
            "audit": None if self.audit is None else asdict(self.audit),
        }

    def to_text(self) -> str:
        """
        Return a summary of a few lines.
        """
        if self.skipped is not None:
            return f"{self.scenario}: SKIPPED: {self.skipped}"
        verdict = "clean" if self.is_clean else f"{len(self.findings)} FINDINGS"
        lines = [
            f"{self.scenario}: seed {self.seed}, {self.seconds:.0f} s, {verdict}",
            f"  {'done':<14}{named(self.harm)}",
            f"  {'calls seen':<14}{named(self.tries)}",
        ]
        if self.recovery_s:
            middle = statistics.median(self.recovery_s)
            lines.append(
                f"  {'recovery':<14}median {middle:.2f} s, longest {max(self.recovery_s):.2f} s"
            )
        if self.audit is not None:
            lines += _audit_lines(self.audit)
        lines += [f"  {name:<14}{value}" for name, value in self.facts.items()]
        lines += [f"  FINDING {finding}" for finding in self.findings]
        return "\n".join(lines)


def _audit_lines(audit: Audit) -> list[str]:
    lines = (
        ("answers", f"{audit.answers} whole, {audit.streams} of them streams"),
        ("keys", f"{audit.keys}, {audit.keys_retried} of them tried again"),
        ("told settled", f"{audit.keys_told_settled} keys whose answer was lost"),
        ("charged", f"{audit.calls_settled} calls, {audit.charged} USD"),
        ("ended unpaid", f"{audit.calls_unpaid} calls"),
        ("cut off", f"{audit.holds_ended_unpaid} calls, whose holds ended unpaid"),
        ("given back", f"{audit.holds_given_back} holds of processes that were gone"),
        ("holds", f"{audit.holds_open} open; ended within {audit.late_s_max:.1f} s of expiry"),
    )
    return [f"  {name:<14}{text}" for name, text in lines]


def named(counts: Counter[str]) -> str:
    """
    Return counts as text, the largest first.
    """
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing"
