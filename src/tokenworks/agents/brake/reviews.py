"""
Reviews: payments that wait for people, from the question to how it ends.

Owns: opening one, what people say, that it ends once, and that whoever holds the money is told.
Does not own: who may decide and on what (``reviewing``, pure), the hold (``payments``).

Nothing here moves value: a review is opened before the payment's hold is placed, and whoever
places the hold gives it the review's expiry. So a crash between the two leaves a review without
a hold, which ends by its time and harms nobody.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final
from uuid import UUID

import psycopg
import structlog
from psycopg_pool import PoolTimeout

from tokenworks.agents.brake import profile_store, review_store
from tokenworks.agents.brake.errors import (
    RaiseNotPossibleError,
    ReviewDigestMismatchError,
    ReviewNotFoundError,
    ReviewsFullError,
)
from tokenworks.agents.brake.model import (
    Action,
    Decision,
    Review,
    ReviewFilter,
    ReviewState,
    Said,
    Scope,
    Subject,
)
from tokenworks.agents.brake.ports import HoldRelease, LimitRaiser
from tokenworks.agents.brake.records import Records
from tokenworks.agents.brake.reviewing import (
    NOTE_CHARACTERS_MAX,
    Approval,
    agreed,
    check_decision,
    check_note,
)
from tokenworks.agents.brake.rule_sets import two_persons_above
from tokenworks.agents.brake.ruling import Ruling
from tokenworks.agents.mandates.model import MoneyLimit
from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import TokenworksError
from tokenworks.foundation.limits import REVIEWS_PENDING_MAX
from tokenworks.postgres.pool import Connection

EXPIRE_MAX: Final = 200

_log = structlog.get_logger("tokenworks.brake")


class Reviews:
    """
    Lets payments wait, and ends the wait.

    Args:
        records: Where reviews are kept.
        ruling: Says when two persons are needed.
        clock: The time.
        raiser: Raises limits of mandates (``Scope.RAISE``); ``None``: not possible here.
        lifetime: After so long without a decision a payment is not made.
    """

    def __init__(
        self,
        records: Records,
        ruling: Ruling,
        clock: Clock,
        *,
        raiser: LimitRaiser | None,
        lifetime: timedelta,
    ) -> None:
        self._records = records
        self._ruling = ruling
        self._clock = clock
        self._raiser = raiser
        self._lifetime = lifetime
        self.release: HoldRelease | None = None

    async def open(self, subject: Subject, decision: Decision) -> Review:
        """
        Do what `Brake.open_review` promises.
        """
        assert decision.action is Action.HOLD, "only what is held waits for a person"
        now = self._clock.now()
        async with self._records.transaction() as connection:
            chain, _ = await self._ruling.chain(connection, subject.rule_parties)
            bound = two_persons_above(chain, subject.currency)
            review = Review(
                review_id=subject.payment_id,
                subject=subject,
                decision=decision,
                state=ReviewState.PENDING,
                approvals_needed=2 if bound is not None and subject.quanta > bound else 1,
                approved_by=(),
                created_at=now,
                expires_at=now + self._lifetime,
                decided_at=None,
                note="",
            )
            known = await review_store.find_review(connection, review.review_id)
            if known is None:
                waiting = await review_store.count_pending(connection, subject.agent_id, now=now)
                if waiting >= REVIEWS_PENDING_MAX:
                    message = f"{waiting} payments of this agent wait for people already."
                    raise ReviewsFullError(message)
                if await review_store.insert_review(connection, review):
                    await review_store.enqueue_deliveries(
                        connection, review.review_id, "opened", now=now
                    )
                    return review
                known = await review_store.find_review(connection, review.review_id)
        assert known is not None, "what could not be inserted is there"
        if known.subject.digest != subject.digest:
            message = "This payment waits for a person with another payload."
            raise ReviewDigestMismatchError(message)
        return known

    async def get(self, payment_id: UUID) -> Review | None:
        """
        Return the review of a payment, if there is one.
        """
        async with self._records.reading() as connection:
            return await review_store.find_review(connection, payment_id)

    async def of(self, payment_ids: Iterable[UUID]) -> dict[UUID, Review]:
        """
        Return the reviews of some payments; who was not asked about is left out.
        """
        async with self._records.reading() as connection:
            return await review_store.read_reviews(connection, payment_ids)

    async def said_of(self, review_id: UUID) -> list[Said]:
        """
        Return everything that was said about a review.
        """
        async with self._records.reading() as connection:
            return await review_store.said_of(connection, review_id)

    async def page(
        self, wanted: ReviewFilter, *, before: UUID | None = None, count: int
    ) -> list[Review]:
        """
        Return one page of reviews, newest first.
        """
        now = self._clock.now()
        async with self._records.reading() as connection:
            return await review_store.list_reviews(
                connection, wanted, before=before, count=count, now=now
            )

    async def approve(
        self,
        review_id: UUID,
        *,
        digest: bytes,
        actor: str,
        person: UUID,
        scope: Scope = Scope.ONCE,
        note: str = "",
        raised: MoneyLimit | None = None,
    ) -> Review:
        """
        Do what `Brake.approve` promises.
        """
        check_note(note)
        if (scope is Scope.RAISE) != (raised is not None):
            message = "Name the window and the new limit to raise, with the scope 'raise' only."
            raise RaiseNotPossibleError(message, param="raise")
        approval = Approval(person=person, scope=scope, raised=raised)
        if raised is not None:
            # Before the approval, so that the payment that waits fits; a repeat changes nothing.
            await self._raise(review_id, approval, digest=digest, actor=actor)
        now = self._clock.now()
        async with self._deciding(review_id) as (connection, review):
            given = await review_store.approvals(connection, review_id)
            approvers = [before.person for before in given]
            check_decision(review, person=person, digest=digest, now=now, approvers=approvers)
            said = Said(
                word="approve",
                actor=actor,
                person_id=person,
                scope=scope,
                note=note,
                digest=digest,
                decided_at=now,
                raised=raised,
            )
            await review_store.add_said(connection, review_id, said)
            if len(given) + 1 >= review.approvals_needed:
                if agreed([*given, approval]).scope is Scope.PAYEE:
                    await self._know_payee(connection, review.subject, actor=actor)
                await review_store.end_review(
                    connection, review_id, ReviewState.APPROVED, note=note, now=now
                )
                await review_store.enqueue_deliveries(connection, review_id, "approved", now=now)
            return await _found(connection, review_id)

    async def deny(
        self, review_id: UUID, *, digest: bytes, actor: str, person: UUID, note: str = ""
    ) -> Review:
        """
        Do what `Brake.deny` promises.
        """
        check_note(note)
        now = self._clock.now()
        async with self._deciding(review_id) as (connection, review):
            check_decision(review, person=person, digest=digest, now=now)
            given = await review_store.approvals(connection, review_id)
            if person in {before.person for before in given}:
                # Of each person one word is kept for good: the review itself says that it is
                # taken back, and by whom.
                note = f"Approval withdrawn by {actor}. {note}".strip()[:NOTE_CHARACTERS_MAX]
            else:
                said = Said(
                    word="deny",
                    actor=actor,
                    person_id=person,
                    scope=Scope.ONCE,
                    note=note,
                    digest=digest,
                    decided_at=now,
                )
                await review_store.add_said(connection, review_id, said)
            await review_store.end_review(
                connection, review_id, ReviewState.DENIED, note=note, now=now
            )
            await review_store.enqueue_deliveries(connection, review_id, "denied", now=now)
            ended = await _found(connection, review_id)
        await self._give_back(review_id, reason="review_denied")
        return ended

    async def expire_due(self) -> int:
        """
        End reviews whose time is over; return how many.

        Their payments are denied from the moment of the expiry on, whether or not this ran.
        """
        now = self._clock.now()
        async with self._records.transaction() as connection:
            due = await review_store.due_reviews(connection, count=EXPIRE_MAX, now=now)
            for review_id, digest in due:
                said = Said(
                    word="expire",
                    actor="clock",
                    person_id=None,
                    scope=Scope.ONCE,
                    note="",
                    digest=digest,
                    decided_at=now,
                )
                await review_store.add_said(connection, review_id, said)
                await review_store.end_review(
                    connection, review_id, ReviewState.EXPIRED, note="", now=now
                )
                await review_store.enqueue_deliveries(connection, review_id, "expired", now=now)
        for review_id, _ in due:
            await self._give_back(review_id, reason="review_expired")
        return len(due)

    async def _know_payee(self, connection: Connection, subject: Subject, *, actor: str) -> None:
        key = (subject.agent_id, subject.currency, subject.payee_id)
        known = profile_store.KnownPayee(payments=0, recent_quanta=())
        await profile_store.know_payees(
            connection, {key: known}, approved_by=actor, now=self._clock.now()
        )

    async def _raise(
        self, review_id: UUID, approval: Approval, *, digest: bytes, actor: str
    ) -> None:
        if self._raiser is None:
            message = "Limits of mandates cannot be raised here."
            raise RaiseNotPossibleError(message)
        async with self._deciding(review_id) as (connection, review):
            given = await review_store.approvals(connection, review_id)
            check_decision(
                review,
                person=approval.person,
                digest=digest,
                now=self._clock.now(),
                approvers=[before.person for before in given],
            )
        together = agreed([*given, approval])
        if len(given) + 1 < review.approvals_needed or together.raised is None:
            return  # somebody else has to agree first, or does not
        await self._raiser.raise_limit(
            review.subject.mandate_id,
            together.raised.window,
            together.raised.quanta,
            actor=actor,
        )

    async def _give_back(self, review_id: UUID, *, reason: str) -> None:
        if self.release is None:
            return
        try:
            await self.release(review_id, reason=reason)
        except (TokenworksError, psycopg.Error, PoolTimeout, OSError) as error:
            # The hold ends with the review's time all the same.
            _log.warning("hold_not_released", payment_id=str(review_id), reason=str(error))

    @asynccontextmanager
    async def _deciding(self, review_id: UUID) -> AsyncGenerator[tuple[Connection, Review]]:
        async with self._records.transaction() as connection:
            review = await review_store.find_review(connection, review_id, is_locked=True)
            if review is None:
                message = f"There is no review {review_id}."
                raise ReviewNotFoundError(message)
            yield connection, review


async def _found(connection: Connection, review_id: UUID) -> Review:
    review = await review_store.find_review(connection, review_id)
    assert review is not None, "it was locked a moment ago"
    return review
