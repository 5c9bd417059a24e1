"""
What happened gives how an escrow stands; pure.

The one place that reads facts: whoever folds the same facts has the same escrow, in any process
and after any crash. What cannot happen (a milestone decided twice, a last decision that does not
close) is a bug and asserted, because the functions of ``deciding`` never make such a fact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from tokenworks.agents.escrow.model import (
    Escrow,
    EscrowEvent,
    EscrowState,
    EventKind,
    Ground,
    MilestoneStanding,
    MilestoneState,
)

LIVE_STATES: Final = frozenset({MilestoneState.UNDECIDED, MilestoneState.MET})
"""Of a milestone that was delivered and waits."""


def standing(escrow: Escrow, events: Sequence[EscrowEvent]) -> Escrow:
    """
    Return an escrow after some more facts. O(events).
    """
    for event in events:
        escrow = _after(escrow, event)
    return replace(escrow, state=_state_of(escrow))


def _after(escrow: Escrow, event: EscrowEvent) -> Escrow:
    escrow = replace(escrow, events=(*escrow.events, event))
    match event.kind:
        case EventKind.OPENED:
            return replace(escrow, is_funded=True)
        case EventKind.LAPSED:
            return replace(escrow, has_lapsed=True, decided_at=event.occurred_at)
        case EventKind.CANCEL_ASKED:
            return replace(escrow, cancel_asked_at=event.occurred_at)
        case EventKind.CARRIED_OUT:
            return _carried_out(escrow, event)
        case EventKind.DECIDED:
            return _decided(escrow, event)
        case _:
            assert event.milestone is not None, "the other facts are about a milestone"
            milestone = _milestone_after(escrow.milestones[event.milestone], event)
            return _with_milestone(escrow, event.milestone, milestone)


def _milestone_after(milestone: MilestoneStanding, event: EscrowEvent) -> MilestoneStanding:
    if event.kind is EventKind.SUBMITTED:
        return replace(
            milestone,
            state=MilestoneState.UNDECIDED,
            submission=event.submission,
            is_stale=True,
        )
    if event.kind is EventKind.DISPUTED:
        if milestone.state is MilestoneState.DISPUTED:
            return milestone  # more evidence
        return replace(
            milestone,
            state=MilestoneState.DISPUTED,
            disputed_by=event.disputed_by,
            disputed_at=event.occurred_at,
        )
    assert milestone.submission is not None, "nothing is attested or evaluated before"
    if event.kind is EventKind.ATTESTED:
        attestations = (*milestone.submission.attestations, *event.attestations)
        # What is known now may change the verdict: it falls again.
        submission = replace(milestone.submission, attestations=attestations)
        return replace(milestone, submission=submission, is_stale=True)
    assert event.kind is EventKind.EVALUATED, "there is no other kind"
    if event.verdict is None:
        submission = replace(milestone.submission, silent=event.silent)
        return replace(milestone, submission=submission, is_stale=False)
    is_met = event.verdict.is_met
    return replace(
        milestone,
        state=MilestoneState.MET if is_met else MilestoneState.NOT_MET,
        is_stale=False,
        has_failed=milestone.has_failed or not is_met,
        submission=replace(
            milestone.submission, verdict=event.verdict, decided_at=event.occurred_at, silent=()
        ),
    )


def _decided(escrow: Escrow, event: EscrowEvent) -> Escrow:
    decision = event.decision
    assert decision is not None, "a decision is there"
    assert decision.ordinal == len(escrow.decisions), "decisions are numbered"
    before = escrow.milestones[decision.milestone]
    assert before.state is not MilestoneState.DECIDED, "a milestone is decided once"
    after = replace(before, state=MilestoneState.DECIDED, decision=decision)
    escrow = replace(
        _with_milestone(escrow, decision.milestone, after),
        decisions=(*escrow.decisions, decision),
    )
    is_over = all(item.state is MilestoneState.DECIDED for item in escrow.milestones)
    assert decision.closes == is_over, "the last decision closes"
    return replace(escrow, decided_at=event.occurred_at) if is_over else escrow


def _carried_out(escrow: Escrow, event: EscrowEvent) -> Escrow:
    assert event.ordinal is not None, "it says which decision"
    done = replace(escrow.decisions[event.ordinal], is_carried_out=True)
    assert not escrow.decisions[event.ordinal].is_carried_out, "carried out once"
    decisions = list(escrow.decisions)
    decisions[event.ordinal] = done
    return replace(
        escrow,
        decisions=tuple(decisions),
        captured_quanta=escrow.captured_quanta + done.quanta,
    )


def _with_milestone(escrow: Escrow, place: int, milestone: MilestoneStanding) -> Escrow:
    milestones = list(escrow.milestones)
    milestones[place] = milestone
    return replace(escrow, milestones=tuple(milestones))


def _state_of(escrow: Escrow) -> EscrowState:
    if escrow.has_lapsed:
        return EscrowState.CANCELLED
    if not escrow.is_funded:
        return EscrowState.OPENING
    states = {milestone.state for milestone in escrow.milestones}
    if states == {MilestoneState.DECIDED}:
        if any(decision.quanta for decision in escrow.decisions):
            return EscrowState.SETTLED
        is_cancelled = any(item.ground is Ground.CANCELLED for item in escrow.decisions)
        return EscrowState.CANCELLED if is_cancelled else EscrowState.REFUNDED
    if MilestoneState.DISPUTED in states:
        return EscrowState.DISPUTED
    return EscrowState.SUBMITTED if states & LIVE_STATES else EscrowState.FUNDED
