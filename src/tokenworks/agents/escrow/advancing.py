"""
Bring an escrow forward: evaluate what waits, write down what is due, then move the money.

Order, and the point of no return: conditions are evaluated outside any transaction; verdicts and
decisions are written under the escrow's row lock, from the state as it is then; only after that
commit does money move, by the decision's own number, so that whoever finds a decision that is not
carried out (this process, another one, the worker after a crash) asks the ledger for the very same
fact. Nothing here depends on which of them does it, or how often.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import structlog

from tokenworks.agents.escrow.deciding import due, evaluated, next_due_at
from tokenworks.agents.escrow.errors import EvaluatorUnavailableError
from tokenworks.agents.escrow.evaluating import Judgement, evaluate
from tokenworks.agents.escrow.model import (
    FINAL_STATES,
    Decision,
    Escrow,
    EscrowEvent,
    EventKind,
    MilestoneState,
    Submission,
)
from tokenworks.agents.escrow.ports import Evaluator, Purse
from tokenworks.agents.escrow.receipt import receipt_details
from tokenworks.agents.escrow.standing import standing
from tokenworks.agents.escrow.store import EscrowStore, StoredEscrow
from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import TokenworksError
from tokenworks.postgres.pool import Connection

HUB: Final = "hub"
RETRY: Final = timedelta(seconds=10)
"""After so long somebody looks again at what could not be evaluated or carried out."""

_DECIDED: Final = frozenset({MilestoneState.DECIDED, MilestoneState.DISPUTED})

_log = structlog.get_logger("tokenworks.escrow")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Evaluated:
    """
    A judgement, and what exactly it is about.
    """

    milestone: int
    submission: Submission
    judgement: Judgement


class Advancing:
    """
    Evaluate, decide, carry out.
    """

    def __init__(
        self, store: EscrowStore, *, purse: Purse, evaluator: Evaluator, clock: Clock
    ) -> None:
        self._store = store
        self._purse = purse
        self._evaluator = evaluator
        self._clock = clock

    async def advance(self, escrow_id: UUID) -> None:
        """
        Do everything for an escrow that can be done now.

        Raises:
            TokenworksError: The books could not be reached; what was decided is carried out later.
        """
        stored = await self._store.get(escrow_id)
        assert stored is not None, "only escrows that are there advance"
        found = await self._evaluate(stored.escrow)
        async with self._store.locked(escrow_id) as (locked, connection):
            assert locked is not None, "an escrow is never deleted"
            events = self._due(locked.escrow, found)
            await self.append(connection, locked, events)
        await self.carry_out(escrow_id)

    async def advanced(self, escrow_id: UUID) -> Escrow:
        """
        Return an escrow after what can be done now; what cannot, the worker goes on with.
        """
        try:
            await self.advance(escrow_id)
        except TokenworksError as error:
            # What was asked for is recorded.
            _log.warning("escrow_not_advanced", escrow_id=str(escrow_id), code=error.code)
        return await self.standing(escrow_id)

    async def standing(self, escrow_id: UUID) -> Escrow:
        """
        Return an escrow as it stands.
        """
        stored = await self._store.get(escrow_id)
        assert stored is not None, "an escrow is never deleted"
        return stored.escrow

    async def append(
        self, connection: Connection, stored: StoredEscrow, events: list[EscrowEvent]
    ) -> Escrow:
        """
        Add facts to a locked escrow; return how it stands after them.
        """
        after = standing(stored.escrow, events)
        await self._store.append(
            connection, stored, events, state=after.state, due_at=self._due_at(after)
        )
        return after

    def now(self, escrow: Escrow) -> datetime:
        """
        Return the time for new facts: never before those that are there.
        """
        times = [event.occurred_at for event in escrow.events]
        return max(self._clock.now(), *times) if times else self._clock.now()

    async def carry_out(self, escrow_id: UUID) -> None:
        """
        Move the money of every decision that is not carried out, in their order.
        """
        stored = await self._store.get(escrow_id)
        assert stored is not None, "what was decided is there"
        for decision in stored.escrow.decisions:
            if decision.is_carried_out:
                continue
            await self._move(stored, decision)
            async with self._store.locked(escrow_id) as (locked, connection):
                assert locked is not None, "an escrow is never deleted"
                if locked.escrow.decisions[decision.ordinal].is_carried_out:
                    continue
                event = EscrowEvent(
                    kind=EventKind.CARRIED_OUT,
                    occurred_at=self.now(locked.escrow),
                    actor=HUB,
                    ordinal=decision.ordinal,
                )
                await self.append(connection, locked, [event])

    async def _move(self, stored: StoredEscrow, decision: Decision) -> None:
        escrow_id = stored.escrow.escrow_id
        if decision.capture is not None:
            await self._purse.capture(
                escrow_id,
                quanta=decision.quanta,
                closes=decision.closes,
                ordinal=decision.capture,
                details=receipt_details(stored.escrow, decision),
            )
        elif decision.closes:
            await self._purse.release(escrow_id, reason=f"escrow: {decision.ground.value}")

    async def _evaluate(self, escrow: Escrow) -> list[_Evaluated]:
        if escrow.state in FINAL_STATES or not escrow.is_funded:
            return []
        found: list[_Evaluated] = []
        for place, milestone in enumerate(escrow.milestones):
            submission = milestone.submission
            if submission is None or not milestone.is_stale or milestone.state in _DECIDED:
                continue
            result = await self._store.result(escrow.escrow_id, place)
            assert result is not None, "what was submitted is kept"
            try:
                judgement = await evaluate(
                    self._evaluator,
                    escrow.terms.milestones[place].condition,
                    result,
                    submission.attestations,
                    submission.metered,
                )
            except EvaluatorUnavailableError as error:
                _log.warning(
                    "condition_not_evaluated",
                    escrow_id=str(escrow.escrow_id),
                    milestone=place,
                    reason=error.message,
                )
                continue
            if judgement.verdict.result_sha256 == submission.result_sha256:
                found.append(
                    _Evaluated(milestone=place, submission=submission, judgement=judgement)
                )
        return found

    def _due(self, escrow: Escrow, found: list[_Evaluated]) -> list[EscrowEvent]:
        now = self.now(escrow)
        events: list[EscrowEvent] = []
        for item in found:
            # Something newer came in meanwhile: it is looked at on its own.
            if escrow.milestones[item.milestone].submission != item.submission:
                continue
            judgement = item.judgement
            events += evaluated(
                escrow,
                item.milestone,
                judgement.verdict if judgement.is_final else None,
                silent=judgement.silent,
                now=now,
            )
        return [*events, *due(standing(escrow, events), now)]

    def _due_at(self, escrow: Escrow) -> datetime | None:
        """
        Return when the worker has to look at an escrow again.
        """
        now = self._clock.now()
        if not (escrow.is_funded or escrow.has_lapsed):
            return now + RETRY
        if any(not decision.is_carried_out for decision in escrow.decisions):
            # Whoever decided carries it out at once; this is for when it dies before.
            return now + RETRY
        moment = next_due_at(escrow)
        if any(item.is_stale and item.state not in _DECIDED for item in escrow.milestones):
            waits = [item for item in (moment, now + RETRY) if item is not None]
            return min(waits)
        return moment

    async def postpone(self, escrow_id: UUID) -> None:
        """
        Let an escrow that could not be advanced rest for a moment, so that others have a turn.
        """
        async with self._store.locked(escrow_id) as (locked, connection):
            assert locked is not None, "an escrow is never deleted"
            await self._store.append(
                connection,
                locked,
                [],
                state=locked.escrow.state,
                due_at=self._clock.now() + RETRY,
            )

    async def advance_some(self, escrow_ids: list[UUID]) -> int:
        """
        Advance some escrows, each by itself; return how many could be.
        """
        advanced = 0
        for escrow_id in escrow_ids:
            try:
                await self.advance(escrow_id)
                advanced += 1
            except TokenworksError as error:
                _log.warning("escrow_not_advanced", escrow_id=str(escrow_id), code=error.code)
                await self.postpone(escrow_id)
        return advanced
