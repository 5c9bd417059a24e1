"""
An escrow lives, against a naive model: any order of wishes, verdicts, silence and time.

The law: each milestone ends once, at what plain rules say; the parts sum to the hold; what was
evaluated and not met is never paid by silence; a dispute stops every clock of its milestone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from tokenworks.agents.escrow import deciding
from tokenworks.agents.escrow.errors import EscrowStateError
from tokenworks.agents.escrow.model import (
    FINAL_STATES,
    Escrow,
    EscrowEvent,
    EscrowState,
    EscrowTerms,
    EventKind,
    Ground,
    Milestone,
    MilestoneStanding,
    MilestoneState,
    Share,
    Submission,
    Verdict,
)
from tokenworks.agents.escrow.standing import standing

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
QUANTA = (1_000, 7, 1)
SUBMIT_BY = NOON + timedelta(seconds=1_000)
NO = UUID(int=0)

places = st.integers(0, len(QUANTA) - 1)
verdicts = st.sampled_from(["met", "third", "failed", "silent"])


def _escrow(review_window_s: int, decide_by_s: int) -> Escrow:
    terms = EscrowTerms(
        milestones=tuple(
            Milestone(name=f"m{place}", quanta=quanta, condition="true")
            for place, quanta in enumerate(QUANTA)
        ),
        result_schema={},
        submit_by=SUBMIT_BY,
        review_window_s=review_window_s,
        decide_by_s=decide_by_s,
        verifiers={},
        arbiter_id=None,
    )
    return Escrow(
        escrow_id=NO,
        state=EscrowState.OPENING,
        payer_agent_id=NO,
        organisation_id=NO,
        mandate_id=NO,
        payee_id=NO,
        currency="USD",
        quanta=sum(QUANTA),
        captured_quanta=0,
        terms=terms,
        terms_sha256="",
        created_at=NOON,
        decided_at=None,
        milestones=(MilestoneStanding(),) * len(QUANTA),
    )


@dataclass
class _Naive:
    """
    One milestone, as one would tell it to a person.
    """

    quanta: int
    word: str | None = None  # of the last submission: met, third, failed or silent
    submitted_s: int = 0
    judged_s: int = 0
    has_failed: bool = False
    is_disputed: bool = False
    paid: int | None = None  # ``None``: not decided

    @property
    def due(self) -> int:
        """
        What a met condition is worth.
        """
        return {"met": self.quanta, "third": self.quanta // 3}[self.word or ""]


class EscrowMachine(RuleBasedStateMachine):
    """
    The facts on one side, the naive milestones on the other.
    """

    @initialize(window=st.sampled_from([0, 50]), decide_by=st.sampled_from([60, 2_000]))
    def open(self, window: int, decide_by: int) -> None:
        """
        Fund an escrow of three milestones.
        """
        self.window, self.decide_by, self.now_s = window, decide_by, 0
        opened = EscrowEvent(kind=EventKind.OPENED, occurred_at=NOON, actor="w")
        self.escrow = standing(_escrow(window, decide_by), [opened])
        self.naive = [_Naive(quanta) for quanta in QUANTA]
        self.number = 0

    # ------------------------------------------------------------------ both sides

    @property
    def now(self) -> datetime:
        """
        The time on both sides.
        """
        return NOON + timedelta(seconds=self.now_s)

    def _add(self, events: list[EscrowEvent]) -> None:
        self.escrow = standing(self.escrow, events)
        again = standing(_escrow(self.window, self.decide_by), self.escrow.events)
        assert again == self.escrow, "facts alone give how it stands"

    def _wish(self, is_allowed: bool, wish: Any) -> bool:  # noqa: ANN401 - a function
        if is_allowed:
            self._add(wish())
            return True
        with pytest.raises(EscrowStateError):
            wish()
        return False

    def _verdict(self, place: int, word: str) -> None:
        whole = {"met": Share(part=1, whole=1), "third": Share(part=1, whole=3)}
        verdict = Verdict(
            share=whole.get(word, Share(part=0, whole=1)),
            error=None,
            condition_sha256="",
            result_sha256="",
            engine="",
        )
        heard = None if word == "silent" else verdict
        self._add(deciding.evaluated(self.escrow, place, heard, silent=["v"], now=self.now))
        mine = self.naive[place]
        mine.word, mine.judged_s = word, self.now_s
        mine.has_failed = mine.has_failed or word == "failed"

    @rule(place=places, word=verdicts)
    def submit(self, place: int, word: str) -> None:
        """
        The payee submits; the evaluator says a word, or waits for a verifier.
        """
        mine = self.naive[place]
        self.number += 1
        submission = Submission(number=1, submitted_at=self.now, result_sha256=f"{self.number}")
        is_allowed = (
            mine.paid is None
            and not mine.is_disputed
            and mine.word not in {"met", "third"}
            and self.now < SUBMIT_BY
        )
        done = self._wish(
            is_allowed,
            lambda: deciding.submit(
                self.escrow, place, submission, result=b"{}", actor="p", now=self.now
            ),
        )
        if done:
            mine.submitted_s = self.now_s
            self._verdict(place, word)
            again = deciding.submit(
                self.escrow, place, submission, result=b"{}", actor="p", now=self.now
            )
            assert again == [], "a repeat is no new submission"
        self._tick()

    @rule(place=places, word=st.sampled_from(["met", "failed"]))
    def verifier_speaks(self, place: int, word: str) -> None:
        """
        A verifier that was silent speaks.
        """
        mine = self.naive[place]
        if mine.word == "silent" and mine.paid is None and not mine.is_disputed:
            self._verdict(place, word)
        self._tick()

    @rule(place=places, side=st.sampled_from(["payer", "payee"]))
    def dispute(self, place: int, side: str) -> None:
        """
        A side disputes.
        """
        mine = self.naive[place]
        words = {"met", "third", "silent"} | ({"failed"} if side == "payee" else set())
        is_allowed = mine.paid is None and (mine.is_disputed or mine.word in words)
        done = self._wish(
            is_allowed,
            lambda: deciding.dispute(
                self.escrow, [place], by=side, reason="r", evidence=[], actor="a", now=self.now
            ),
        )
        mine.is_disputed = mine.is_disputed or done

    @rule(place=places, ppm=st.integers(0, 1_000_000))
    def arbitrate(self, place: int, ppm: int) -> None:
        """
        The arbiter decides one milestone.
        """
        mine = self.naive[place]
        amount = mine.quanta * ppm // 1_000_000
        done = self._wish(
            mine.is_disputed and mine.paid is None,
            lambda: deciding.arbitrate(
                self.escrow, {place: amount}, reason="r", actor="a", now=self.now
            ),
        )
        if done:
            mine.paid = amount

    @rule()
    def payee_cancels(self) -> None:
        """
        The payee lets go.
        """
        is_open = any(mine.paid is None for mine in self.naive)
        done = self._wish(
            is_open, lambda: deciding.cancel(self.escrow, by="payee", actor="p", now=self.now)
        )
        for mine in self.naive:
            if done and mine.paid is None:
                mine.paid = 0

    @rule()
    def payer_asks_to_cancel(self) -> None:
        """
        The payer asks.
        """
        left = [mine for mine in self.naive if mine.paid is None]
        is_allowed = bool(left) and all(mine.word is None for mine in left)
        before = self.escrow.decisions
        self._wish(
            is_allowed,
            lambda: deciding.cancel(self.escrow, by="payer", actor="p", now=self.now),
        )
        assert self.escrow.decisions == before, "asking decides nothing"

    @rule(seconds=st.sampled_from([1, 50, 60, 400, 1_000, 5_000]))
    def time_passes(self, seconds: int) -> None:
        """
        Time passes, and what is due is done.
        """
        self.now_s += seconds
        self._tick()

    def _tick(self) -> None:
        self._add(deciding.due(self.escrow, self.now))
        assert deciding.due(self.escrow, self.now) == [], "what is due is done"
        for mine in self.naive:
            self._tick_naive(mine)

    def _tick_naive(self, mine: _Naive) -> None:
        if mine.paid is not None or mine.is_disputed:
            return
        over_s = (SUBMIT_BY - NOON).total_seconds()
        if mine.word is None and self.now_s >= over_s:
            mine.paid = 0
        elif mine.word in {"met", "third"} and self.now_s >= mine.judged_s + self.window:
            mine.paid = mine.due
        elif mine.word == "failed" and self.now_s >= max(over_s, mine.judged_s + self.window):
            mine.paid = 0
        elif mine.word == "silent" and self.now_s >= mine.submitted_s + self.decide_by:
            if mine.has_failed:
                mine.is_disputed = True
            else:
                mine.paid = mine.quanta

    # ------------------------------------------------------------------ laws

    @invariant()
    def both_say_the_same(self) -> None:
        """
        The milestones stand as the naive ones do.
        """
        for mine, real in zip(self.naive, self.escrow.milestones, strict=True):
            assert (real.decision.quanta if real.decision else None) == mine.paid
            is_disputed = mine.is_disputed and mine.paid is None
            assert (real.state is MilestoneState.DISPUTED) == is_disputed
        over = [mine.paid for mine in self.naive if mine.paid is not None]
        assert (self.escrow.state in FINAL_STATES) == (len(over) == len(QUANTA))
        if self.escrow.state is EscrowState.SETTLED:
            assert sum(over) > 0
        if self.escrow.state in {EscrowState.REFUNDED, EscrowState.CANCELLED}:
            assert sum(over) == 0

    @invariant()
    def parts_sum_to_the_hold(self) -> None:
        """
        Decisions are numbered, the last closes, and no more is paid than held.
        """
        decisions = self.escrow.decisions
        assert [item.ordinal for item in decisions] == list(range(len(decisions)))
        captures = [item.capture for item in decisions if item.capture is not None]
        assert captures == list(range(len(captures))), "captures are numbered without gaps"
        assert all((item.capture is not None) == (item.quanta > 0) for item in decisions)
        assert [item.closes for item in decisions[:-1]] == [False] * max(0, len(decisions) - 1)
        is_over = len(decisions) == len(QUANTA)
        assert not decisions or decisions[-1].closes == is_over
        assert sum(item.quanta for item in decisions) <= self.escrow.quanta

    @invariant()
    def silence_never_pays_what_failed(self) -> None:
        """
        What was evaluated and not met is not paid by a clock.
        """
        for decision in self.escrow.decisions:
            milestone = self.escrow.milestones[decision.milestone]
            assert not (decision.ground is Ground.SILENCE and milestone.has_failed)

    @invariant()
    def somebody_will_decide(self) -> None:
        """
        An escrow that is not over has a time at which it goes on, or an arbiter.
        """
        if self.escrow.state in FINAL_STATES:
            return
        waits = deciding.next_due_at(self.escrow)
        assert waits is not None or self.escrow.state is EscrowState.DISPUTED
        assert waits is None or waits > self.now


def test_escrow_lives_as_plain_rules_say() -> None:
    """
    Any order of wishes and time ends each milestone once, at what the naive model says.
    """
    run_state_machine_as_test(
        EscrowMachine, settings=settings(max_examples=60, stateful_step_count=25, deadline=None)
    )


def test_nothing_happens_to_an_escrow_that_is_not_funded() -> None:
    """
    Without a hold there is nothing to submit for, to dispute, to cancel or to fall due.
    """
    escrow = _escrow(0, 60)
    submission = Submission(number=1, submitted_at=NOON, result_sha256="")
    for wish in (
        lambda: deciding.submit(escrow, 0, submission, result=b"{}", actor="p", now=NOON),
        lambda: deciding.cancel(escrow, by="payee", actor="p", now=NOON),
        lambda: deciding.arbitrate(escrow, {0: 1}, reason="r", actor="a", now=NOON),
    ):
        with pytest.raises(EscrowStateError) as refused:
            wish()
        assert refused.value.code == "escrow_not_funded"
    assert deciding.due(escrow, NOON + timedelta(days=900)) == []
    lapsed = EscrowEvent(kind=EventKind.LAPSED, occurred_at=NOON, actor="hub")
    assert standing(escrow, [lapsed]).state is EscrowState.CANCELLED


def test_verdict_that_a_new_statement_may_turn_waits_for_its_evaluation() -> None:
    """
    A met condition is not paid by the clock while a younger statement is not evaluated.
    """
    opened = EscrowEvent(kind=EventKind.OPENED, occurred_at=NOON, actor="w")
    escrow = standing(_escrow(50, 60), [opened])
    machine_submission = Submission(number=1, submitted_at=NOON, result_sha256="1")
    verdict = Verdict(
        share=Share(part=1, whole=1),
        error=None,
        condition_sha256="",
        result_sha256="1",
        engine="",
    )
    escrow = standing(
        escrow,
        deciding.submit(escrow, 0, machine_submission, result=b"{}", actor="p", now=NOON),
    )
    escrow = standing(escrow, deciding.evaluated(escrow, 0, verdict, silent=[], now=NOON))
    late = NOON + timedelta(seconds=51)
    assert [event.kind for event in deciding.due(escrow, late)] == [EventKind.DECIDED]
    waiting = replace(escrow.milestones[0], is_stale=True)
    stale = replace(escrow, milestones=(waiting, *escrow.milestones[1:]))
    assert deciding.due(stale, late) == []
