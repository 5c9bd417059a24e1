"""
Escrows, naively: how each milestone stands, and what time, verdicts and people make of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from tests.simulation.simulator.operations.naive_payments import Signed

LAPSES_AFTER = timedelta(hours=1)
LOOKED_AT_AGAIN = timedelta(seconds=10)
WAITING = ("undecided", "met")


@dataclass
class NaiveMilestone:
    """
    One part of an escrow.
    """

    name: str
    quanta: int
    condition: str
    """``status``, ``share`` or ``verifier``."""
    state: str = "open"
    result: tuple[int, int] | None = None
    """What was submitted last: the status or what was done, and the whole."""
    submitted_at: datetime | None = None
    decided_at: datetime | None = None
    disputed_at: datetime | None = None
    share: tuple[int, int] = (0, 1)
    has_failed: bool = False
    paid: int = 0

    def judge(self, share: tuple[int, int], now: datetime) -> None:
        """
        Note a verdict.
        """
        self.share, self.decided_at = share, now
        self.state = "met" if share[0] else "not_met"
        self.has_failed = self.has_failed or not share[0]


@dataclass
class NaiveEscrow:
    """
    One escrow: what was agreed, and how it stands.
    """

    number: int
    escrow_id: UUID
    signed: Signed
    terms: dict[str, object]
    milestones: list[NaiveMilestone]
    submit_by: datetime
    review_window: timedelta
    decide_by: timedelta
    arbiter: UUID | None
    state: str = "nothing"
    """``nothing``, ``opening``, ``lapsed`` or ``funded``."""
    last_fact_at: datetime | None = None
    looked_at: datetime | None = None
    captures: int = 0

    @property
    def is_over(self) -> bool:
        """
        Return whether every milestone is decided.
        """
        return all(milestone.state == "decided" for milestone in self.milestones)

    def now(self, clock_now: datetime) -> datetime:
        """
        Return the time of a new fact: never before the last one.
        """
        self.last_fact_at = max(clock_now, self.last_fact_at or clock_now)
        return self.last_fact_at

    def due_at(self, milestone: NaiveMilestone) -> datetime | None:
        """
        Return when time alone decides a milestone.
        """
        match milestone.state:
            case "open":
                return self.submit_by
            case "undecided":
                assert milestone.submitted_at is not None, "it was submitted"
                return milestone.submitted_at + self.decide_by
            case "met":
                assert milestone.decided_at is not None, "it was judged"
                return milestone.decided_at + self.review_window
            case "not_met":
                assert milestone.decided_at is not None, "it was judged"
                return max(self.submit_by, milestone.decided_at + self.review_window)
            case _:
                return None

    def advance(self, now: datetime) -> Iterator[tuple[int, bool]]:
        """
        Decide what time decides; yield what is paid by each decision, and whether it is the last.
        """
        for milestone in self.milestones:
            due_at = self.due_at(milestone)
            if due_at is None or due_at > now:
                continue
            if milestone.state == "undecided" and milestone.has_failed:
                milestone.state, milestone.disputed_at = "disputed", now
                continue
            quanta = 0
            if milestone.state == "undecided":
                quanta = milestone.quanta
            elif milestone.state == "met":
                part, whole = milestone.share
                quanta = milestone.quanta * part // whole
            yield self.decide(milestone, quanta)

    def decide(self, milestone: NaiveMilestone, quanta: int) -> tuple[int, bool]:
        """
        Decide one milestone for good.
        """
        milestone.state, milestone.paid = "decided", quanta
        return quanta, self.is_over


@dataclass
class NaiveEscrows:
    """
    Every escrow that was tried to open, the oldest first.
    """

    known: list[NaiveEscrow] = field(default_factory=list[NaiveEscrow])

    def funded(self) -> list[NaiveEscrow]:
        """
        Return those that hold, or held, their money.
        """
        return [escrow for escrow in self.known if escrow.state == "funded"]
