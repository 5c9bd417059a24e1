"""
The life of an escrow: how it stands gives what may be wished and what is due; pure.

Each function says which facts follow from a wish or from time, or why they may not; ``standing``
folds them. Nothing here reads a clock, evaluates a condition or moves money.

::

    open --submit--> undecided --verifier--> met | not_met
      |                 |  decide_by            |      |  max(submit_by, verdict + window)
      | submit_by       v  (never failed)       v      v
      v               PAID                 verdict   REFUNDED
    REFUNDED            | (failed before)   + window
                        v                       v
                     disputed <---dispute---- met, not_met, undecided
                        |                       |
                        v arbitrate             v
                      SPLIT                  its share PAID

Rules that are easy to break:

- a milestone is decided once; ``closes`` is true for the last one and only for it;
- silence pays a submission that nobody decided on, never a milestone whose condition was
  evaluated and not met: that one goes to the arbiter;
- a deadline decides only what nobody else decided before, and a dispute before it stops it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from tokenworks.agents.escrow.errors import EscrowStateError
from tokenworks.agents.escrow.model import (
    ATTESTATIONS_OF_ONE_MAX,
    EVIDENCE_MAX,
    FINAL_STATES,
    SUBMISSIONS_MAX,
    Attestation,
    Decision,
    Escrow,
    EscrowEvent,
    EventKind,
    Evidence,
    Ground,
    MilestoneStanding,
    MilestoneState,
    Submission,
    Verdict,
)
from tokenworks.agents.escrow.standing import LIVE_STATES

HUB: Final = "hub"
PAYER: Final = "payer"
PAYEE: Final = "payee"

# ---------------------------------------------------------------------- wishes


def submit(
    escrow: Escrow,
    milestone: int,
    submission: Submission,
    *,
    result: bytes,
    actor: str,
    now: datetime,
) -> list[EscrowEvent]:
    """
    Return the facts of a submission; none when it is a repeat of the last one.

    The same result and calls with statements that were not there before are no new submission.

    Raises:
        EscrowStateError: Too late, too often, or decided already.
    """
    require_funded(escrow)
    before = escrow.milestones[milestone]
    last = before.submission
    is_same_result = last is not None and last.result_sha256 == submission.result_sha256
    if last is not None and is_same_result and last.calls == submission.calls:
        return attest(escrow, milestone, submission.attestations, actor=actor, now=now)
    if before.state is MilestoneState.DECIDED:
        raise EscrowStateError("This milestone is decided.")
    if before.state is MilestoneState.DISPUTED:
        raise EscrowStateError("This milestone is disputed; the arbiter has the next word.")
    if before.state is MilestoneState.MET:
        raise EscrowStateError("The condition is met by what was submitted before.")
    if now >= escrow.terms.submit_by:
        raise EscrowStateError("It is too late to submit.", code="escrow_too_late")
    if submission.number > SUBMISSIONS_MAX:
        raise EscrowStateError(f"A milestone has at most {SUBMISSIONS_MAX} submissions.")
    if last is not None and is_same_result:
        # What was stated about this result stays, whatever calls are named for it now.
        known = {item.sha256: item for item in (*last.attestations, *submission.attestations)}
        submission = replace(submission, attestations=tuple(known.values()))
    _check_count(submission.attestations)
    event = _event(EventKind.SUBMITTED, actor, now, milestone=milestone, submission=submission)
    return [replace(event, result=result)]


def attest(
    escrow: Escrow,
    milestone: int,
    attestations: Sequence[Attestation],
    *,
    actor: str,
    now: datetime,
) -> list[EscrowEvent]:
    """
    Return the facts of more statements about the last submission; none when all are known.

    Raises:
        EscrowStateError: Nothing was submitted, or there are too many.
    """
    require_funded(escrow)
    before = escrow.milestones[milestone]
    if before.submission is None:
        raise EscrowStateError("Nothing was submitted for this milestone.")
    known = {item.sha256 for item in before.submission.attestations}
    new = tuple(item for item in attestations if item.sha256 not in known)
    if not new or before.state in {MilestoneState.DECIDED, MilestoneState.DISPUTED}:
        return []
    _check_count((*before.submission.attestations, *new))
    return [_event(EventKind.ATTESTED, actor, now, milestone=milestone, attestations=new)]


def _check_count(attestations: Sequence[Attestation]) -> None:
    """
    Bound what is kept, for each by itself: nobody fills the room of a verifier that objects.
    """
    origins = Counter(item.verifier if item.refusal is None else None for item in attestations)
    if origins and max(origins.values()) > ATTESTATIONS_OF_ONE_MAX:
        message = (
            f"Of one submission at most {ATTESTATIONS_OF_ONE_MAX} statements of each verifier are"
            " kept, and as many that were refused."
        )
        raise EscrowStateError(message)


def dispute(
    escrow: Escrow,
    milestones: Sequence[int],
    *,
    by: str,
    reason: str,
    evidence: Sequence[Evidence],
    actor: str,
    now: datetime,
) -> list[EscrowEvent]:
    """
    Return the facts of a dispute, or of more evidence in one.

    The payer disputes what was submitted, the payee also a verdict; both before it is decided.

    Raises:
        EscrowStateError: There is nothing to dispute, or no longer.
    """
    require_funded(escrow)
    allowed = {*LIVE_STATES, MilestoneState.DISPUTED}
    if by == PAYEE:
        allowed.add(MilestoneState.NOT_MET)
    # For each side by itself: nobody uses up the other's room.
    known = sum(len(event.evidence) for event in escrow.events if event.disputed_by == by)
    if known + len(evidence) * len(milestones) > EVIDENCE_MAX * len(escrow.milestones):
        message = f"Each side has at most {EVIDENCE_MAX} pieces of evidence for a milestone."
        raise EscrowStateError(message)
    events: list[EscrowEvent] = []
    for place in milestones:
        before = escrow.milestones[place]
        if before.state is MilestoneState.DECIDED:
            raise EscrowStateError("This milestone is decided; nobody can dispute it any more.")
        if before.state not in allowed:
            raise EscrowStateError("Nothing was submitted for this milestone that waits.")
        event = _event(EventKind.DISPUTED, actor, now, milestone=place)
        events.append(replace(event, disputed_by=by, reason=reason, evidence=tuple(evidence)))
    return events


def arbitrate(
    escrow: Escrow, quanta: Mapping[int, int], *, reason: str, actor: str, now: datetime
) -> list[EscrowEvent]:
    """
    Return the facts of an arbiter's word.

    Args:
        escrow: As it stands.
        quanta: What the payee gets of each disputed milestone.
        reason: Why.
        actor: Who.
        now: When.

    Raises:
        EscrowStateError: A milestone is not disputed.
    """
    require_funded(escrow)
    for place, amount in quanta.items():
        if escrow.milestones[place].state is not MilestoneState.DISPUTED:
            raise EscrowStateError("Only a disputed milestone is arbitrated.")
        assert 0 <= amount <= escrow.terms.milestones[place].quanta, "checked at the border"
    wanted = [(place, quanta[place], Ground.ARBITRATED, reason) for place in sorted(quanta)]
    return _decisions(escrow, wanted, actor=actor, now=now)


def cancel(escrow: Escrow, *, by: str, actor: str, now: datetime) -> list[EscrowEvent]:
    """
    Return the facts of a cancellation.

    The payee may let go of all that is undecided at any time. The payer may ask while nothing
    is submitted; that changes nothing until the payee cancels.

    Raises:
        EscrowStateError: The payer asks too late, or all is decided.
    """
    require_funded(escrow)
    if escrow.state in FINAL_STATES:
        raise EscrowStateError("This escrow is over.")
    undecided = [
        place
        for place, milestone in enumerate(escrow.milestones)
        if milestone.state is not MilestoneState.DECIDED
    ]
    if by == PAYEE:
        wanted = [(place, 0, Ground.CANCELLED, "") for place in undecided]
        return _decisions(escrow, wanted, actor=actor, now=now)
    if any(escrow.milestones[place].state is not MilestoneState.OPEN for place in undecided):
        message = "Something was submitted; the payer can dispute it, not cancel."
        raise EscrowStateError(message)
    if escrow.cancel_asked_at is not None:
        return []
    return [_event(EventKind.CANCEL_ASKED, actor, now)]


# ---------------------------------------------------------------------- time


def evaluated(
    escrow: Escrow,
    milestone: int,
    verdict: Verdict | None,
    *,
    silent: Collection[str],
    now: datetime,
) -> list[EscrowEvent]:
    """
    Return the facts of an evaluation.

    Args:
        escrow: As it stands.
        milestone: Which.
        verdict: What the evaluator said; ``None``: a verifier's word may still change it.
        silent: Verifiers that have not spoken.
        now: When.
    """
    before = escrow.milestones[milestone]
    if before.state in {MilestoneState.DECIDED, MilestoneState.DISPUTED}:
        return []
    assert before.submission is not None, "only a submission is evaluated"
    event = _event(EventKind.EVALUATED, HUB, now, milestone=milestone, verdict=verdict)
    return [event if verdict else replace(event, silent=tuple(sorted(silent)))]


def due(escrow: Escrow, now: datetime) -> list[EscrowEvent]:
    """
    Return the facts that time alone brings about.
    """
    if not escrow.is_funded:
        return []
    wanted: list[tuple[int, int, Ground, str]] = []
    referred: list[EscrowEvent] = []
    for place, milestone in enumerate(escrow.milestones):
        due_at = _due_at(escrow, milestone)
        if due_at is None or due_at > now:
            continue
        quanta = escrow.terms.milestones[place].quanta
        if milestone.state is MilestoneState.MET:
            assert milestone.submission is not None, "what is met was submitted"
            assert milestone.submission.verdict is not None, "and evaluated"
            share = milestone.submission.verdict.share
            wanted.append((place, share.of_quanta(quanta), Ground.CONDITION_MET, ""))
        elif milestone.state is MilestoneState.NOT_MET:
            wanted.append((place, 0, Ground.CONDITION_NOT_MET, ""))
        elif milestone.state is MilestoneState.OPEN:
            wanted.append((place, 0, Ground.NOT_DELIVERED, ""))
        elif milestone.has_failed:
            event = _event(EventKind.DISPUTED, HUB, now, milestone=place)
            reason = "a submission failed before, so silence does not pay"
            referred.append(replace(event, disputed_by=HUB, reason=reason))
        else:
            wanted.append((place, quanta, Ground.SILENCE, ""))
    return [*referred, *_decisions(escrow, wanted, actor=HUB, now=now)]


def next_due_at(escrow: Escrow) -> datetime | None:
    """
    Return when time decides something next; ``None`` when it never will by itself.
    """
    if not escrow.is_funded or escrow.state in FINAL_STATES:
        return None
    moments = (_due_at(escrow, milestone) for milestone in escrow.milestones)
    return min((moment for moment in moments if moment is not None), default=None)


def _due_at(escrow: Escrow, milestone: MilestoneStanding) -> datetime | None:
    terms, submission = escrow.terms, milestone.submission
    window = timedelta(seconds=terms.review_window_s)
    if milestone.state is MilestoneState.OPEN:
        return terms.submit_by
    if submission is None or milestone.state in {MilestoneState.DECIDED, MilestoneState.DISPUTED}:
        return None
    if milestone.state is MilestoneState.UNDECIDED:
        return submission.submitted_at + timedelta(seconds=terms.decide_by_s)
    if milestone.is_stale:
        return None  # a new statement may turn the verdict: it is evaluated first
    assert submission.decided_at is not None, "met or not met was evaluated"
    if milestone.state is MilestoneState.MET:
        return submission.decided_at + window
    return max(terms.submit_by, submission.decided_at + window)


def require_funded(escrow: Escrow) -> None:
    """
    Refuse what needs the hold.

    Raises:
        EscrowStateError: The escrow is not funded, or never was.
    """
    if not escrow.is_funded:
        message = "This escrow is not funded: its payment was not allowed yet."
        raise EscrowStateError(message, code="escrow_not_funded")


def _decisions(
    escrow: Escrow,
    wanted: Sequence[tuple[int, int, Ground, str]],
    *,
    actor: str,
    now: datetime,
) -> list[EscrowEvent]:
    ordinal = len(escrow.decisions)
    captures = sum(decision.capture is not None for decision in escrow.decisions)
    events: list[EscrowEvent] = []
    for place, quanta, ground, reason in wanted:
        decision = Decision(
            milestone=place,
            ordinal=ordinal,
            # Captures are numbered for themselves: the first one pays the mandate's unit too.
            capture=captures if quanta else None,
            quanta=quanta,
            closes=ordinal == len(escrow.milestones) - 1,
            ground=ground,
            reason=reason,
            decided_at=now,
        )
        ordinal += 1
        captures += quanta > 0
        events.append(_event(EventKind.DECIDED, actor, now, milestone=place, decision=decision))
    return events


def _event(
    kind: EventKind,
    actor: str,
    now: datetime,
    *,
    milestone: int | None = None,
    submission: Submission | None = None,
    attestations: tuple[Attestation, ...] = (),
    verdict: Verdict | None = None,
    decision: Decision | None = None,
) -> EscrowEvent:
    return EscrowEvent(
        kind=kind,
        occurred_at=now,
        actor=actor,
        milestone=milestone,
        submission=submission,
        attestations=attestations,
        verdict=verdict,
        decision=decision,
    )
