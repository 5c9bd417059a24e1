"""
The brake as the rest of the hub uses it: judge, learn, wait for people.

Nothing here moves value: a review is opened before the payment's hold is placed, and whoever
places the hold gives it the review's expiry. So a crash between the two leaves a review without
a hold, which ends by its time and harms nobody.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import psycopg
import structlog
from psycopg_pool import PoolTimeout

from tokenworks.agents.brake import store
from tokenworks.agents.brake.budgets import Budgets, mandates_of
from tokenworks.agents.brake.errors import (
    BrakeUnavailableError,
    InvalidRulesError,
    RaiseNotPossibleError,
    ReviewDigestMismatchError,
    ReviewNotFoundError,
    ReviewsFullError,
)
from tokenworks.agents.brake.judging import Judging
from tokenworks.agents.brake.model import (
    Action,
    Decision,
    Review,
    ReviewState,
    Scope,
    Subject,
)
from tokenworks.agents.brake.notifying import Webhooks
from tokenworks.agents.brake.ports import HoldRelease, LedgerLimits, LimitRaiser
from tokenworks.agents.brake.reviewing import (
    NOTE_CHARACTERS_MAX,
    Approval,
    agreed,
    check_decision,
    check_note,
)
from tokenworks.agents.brake.rule_documents import StoredRules, default_rules, parse_rules
from tokenworks.agents.brake.rule_sets import (
    RuleSet,
    compose_chain,
    refuse_looser,
    two_persons_above,
)
from tokenworks.agents.mandates.model import MoneyLimit
from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import TokenworksError
from tokenworks.foundation.limits import REVIEW_LIFETIME_S, REVIEWS_PENDING_MAX
from tokenworks.identity.model import PLATFORM_ID
from tokenworks.postgres.pool import Connection, Pool

EXPIRE_MAX: Final = 200

_log = structlog.get_logger("tokenworks.brake")


@dataclass(frozen=True, slots=True, kw_only=True)
class RulesView:
    """
    What a party set, and everything that counts for it.
    """

    own: StoredRules | None
    chain: tuple[RuleSet, ...]
    version: int


class Brake:
    """
    Judge payments, and let people decide on those that are held.

    Args:
        pool: Connections to the database.
        ledger: Says what is left of budgets.
        clock: The time.
        mark_key: Of the hub, secret: by it every process knows a payment again.
        raiser: Raises limits of mandates (``Scope.RAISE``); ``None``: not possible here.
        webhooks: Tells owners; ``None``: the outbox is filled, and others empty it.
        review_lifetime_s: After so long without a decision a payment is not made.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        ledger: LedgerLimits,
        clock: Clock,
        mark_key: bytes,
        raiser: LimitRaiser | None = None,
        webhooks: Webhooks | None = None,
        review_lifetime_s: int = REVIEW_LIFETIME_S,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._raiser = raiser
        self._review_lifetime = timedelta(seconds=review_lifetime_s)
        self._budgets = Budgets(ledger, clock)
        self._judging = Judging(pool, clock, mark_key=mark_key)
        self._webhooks = webhooks
        self._release: HoldRelease | None = None

    @property
    def webhooks(self) -> Webhooks:
        """
        Return owners' webhooks.
        """
        assert self._webhooks is not None, "this process was opened with webhooks"
        return self._webhooks

    async def deliver_webhooks(self) -> int:
        """
        Try to deliver the messages that are due; return how many.
        """
        return await self.webhooks.deliver_due()

    def release_with(self, release: HoldRelease) -> None:
        """
        Say who gives holds back when a review is denied; without it they end by their time.
        """
        self._release = release

    async def ensure_partitions(self) -> None:
        """
        Make the months that the ledger has.
        """
        async with self._pool.connection() as connection:
            await store.ensure_partitions(connection)

    # ------------------------------------------------------------------------- judging

    async def judge(self, subject: Subject) -> Decision:
        """
        Return what happens to a payment; the same payment has the same answer.

        A payment that a person approved is allowed, with the review's id; one that was denied
        or not decided in time is denied.

        Raises:
            BrakeUnavailableError: It cannot be judged, so it is not allowed.
            ReviewDigestMismatchError: The same id was judged with another payload.
        """
        mandates = mandates_of(subject.mandate_chain, subject.mandate_id)
        try:
            budgets = await self._budgets.of(mandates, subject.currency)
        except (psycopg.Error, PoolTimeout, OSError) as error:
            message = "Budgets cannot be read right now."
            raise BrakeUnavailableError(message, retry_after_s=1.0) from error
        return await self._judging.judge(subject, budgets)

    async def record(self, subject: Subject, *, captured_quanta: int) -> None:
        """
        Learn from a capture: what is usual, and that the payee is known; once a payment.

        Raises:
            BrakeUnavailableError: Nothing was learned; the payment stands all the same.
        """
        await self._judging.record(subject, captured_quanta)

    # ------------------------------------------------------------------------- reviews

    async def open_review(self, subject: Subject, decision: Decision) -> Review:
        """
        Let a payment wait for people; a repeat returns the review that is there.

        Called before the hold is placed; the hold expires with the review.

        Raises:
            ReviewDigestMismatchError: The payment waits, or waited, with another payload.
            PaymentOutsideWindowError: The payment's id is of a time the books do not cover.
            ReviewsFullError: ``REVIEWS_PENDING_MAX`` of this agent wait already.
        """
        assert decision.action is Action.HOLD, "only what is held waits for a person"
        now = self._clock.now()
        async with self._transaction() as connection:
            chain, _ = await self._chain(connection, subject.rule_parties)
            bound = two_persons_above(chain, subject.currency)
            review = Review(
                review_id=subject.payment_id,
                subject=subject,
                decision=decision,
                state=ReviewState.PENDING,
                approvals_needed=2 if bound is not None and subject.quanta > bound else 1,
                approved_by=(),
                created_at=now,
                expires_at=now + self._review_lifetime,
                decided_at=None,
                note="",
            )
            known = await store.find_review(connection, review.review_id)
            if known is None:
                waiting = await store.count_pending(connection, subject.agent_id, now=now)
                if waiting >= REVIEWS_PENDING_MAX:
                    message = f"{waiting} payments of this agent wait for people already."
                    raise ReviewsFullError(message)
                if await store.insert_review(connection, review):
                    await store.enqueue_deliveries(connection, review.review_id, "opened", now=now)
                    return review
                known = await store.find_review(connection, review.review_id)
        assert known is not None, "what could not be inserted is there"
        if known.subject.digest != subject.digest:
            message = "This payment waits for a person with another payload."
            raise ReviewDigestMismatchError(message)
        return known

    async def review(self, payment_id: UUID) -> Review | None:
        """
        Return the review of a payment, if there is one.
        """
        async with self._reading() as connection:
            return await store.find_review(connection, payment_id)

    async def reviews_of(self, payment_ids: Iterable[UUID]) -> dict[UUID, Review]:
        """
        Return the reviews of some payments; who was not asked about is left out.
        """
        async with self._reading() as connection:
            return await store.read_reviews(connection, payment_ids)

    async def said_of(self, review_id: UUID) -> list[store.Said]:
        """
        Return everything that was said about a review.
        """
        async with self._reading() as connection:
            return await store.said_of(connection, review_id)

    async def list_reviews(
        self, wanted: store.ReviewFilter, *, before: UUID | None = None, count: int
    ) -> list[Review]:
        """
        Return one page of reviews, newest first.
        """
        now = self._clock.now()
        async with self._reading() as connection:
            return await store.list_reviews(connection, wanted, before=before, count=count, now=now)

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
        Let exactly this payload pass; of two persons who are needed, the second one does.

        Args:
            review_id: The payment's id.
            digest: SHA-256 of the payload that the person looked at.
            actor: Who, as the books keep it.
            person: Whom the actor's key stands for; see ``reviewing.person_of``.
            scope: How far; of two persons the lesser of what both said.
            note: Why.
            raised: The new limit, with ``Scope.RAISE`` only.

        Raises:
            ReviewNotFoundError, ApproverNotAllowedError, ReviewDigestMismatchError,
            ReviewExpiredError, ReviewDecidedError, SamePersonError: In this order.
            RaiseNotPossibleError: No limit was named, or none can be raised here.
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
            given = await store.approvals(connection, review_id)
            approvers = [before.person for before in given]
            check_decision(review, person=person, digest=digest, now=now, approvers=approvers)
            said = store.Said(
                word="approve",
                actor=actor,
                person_id=person,
                scope=scope,
                note=note,
                digest=digest,
                decided_at=now,
                raised=raised,
            )
            await store.add_said(connection, review_id, said)
            if len(given) + 1 >= review.approvals_needed:
                if agreed([*given, approval]).scope is Scope.PAYEE:
                    await self._know_payee(connection, review.subject, actor=actor)
                await store.end_review(
                    connection, review_id, ReviewState.APPROVED, note=note, now=now
                )
                await store.enqueue_deliveries(connection, review_id, "approved", now=now)
            return await _found(connection, review_id)

    async def deny(
        self, review_id: UUID, *, digest: bytes, actor: str, person: UUID, note: str = ""
    ) -> Review:
        """
        Let a payment not be made; one person is enough, also one that approved it before.

        Raises:
            ReviewNotFoundError, ApproverNotAllowedError, ReviewDigestMismatchError,
            ReviewExpiredError, ReviewDecidedError: In this order.
        """
        check_note(note)
        now = self._clock.now()
        async with self._deciding(review_id) as (connection, review):
            check_decision(review, person=person, digest=digest, now=now)
            given = await store.approvals(connection, review_id)
            if person in {before.person for before in given}:
                # Of each person one word is kept for good: the review itself says that it is
                # taken back, and by whom.
                note = f"Approval withdrawn by {actor}. {note}".strip()[:NOTE_CHARACTERS_MAX]
            else:
                said = store.Said(
                    word="deny",
                    actor=actor,
                    person_id=person,
                    scope=Scope.ONCE,
                    note=note,
                    digest=digest,
                    decided_at=now,
                )
                await store.add_said(connection, review_id, said)
            await store.end_review(connection, review_id, ReviewState.DENIED, note=note, now=now)
            await store.enqueue_deliveries(connection, review_id, "denied", now=now)
            ended = await _found(connection, review_id)
        await self._give_back(review_id, reason="review_denied")
        return ended

    async def expire_due(self) -> int:
        """
        End reviews whose time is over; return how many.

        Their payments are denied from the moment of the expiry on, whether or not this ran.
        """
        now = self._clock.now()
        async with self._transaction() as connection:
            due = await store.due_reviews(connection, count=EXPIRE_MAX, now=now)
            for review_id, digest in due:
                said = store.Said(
                    word="expire",
                    actor="clock",
                    person_id=None,
                    scope=Scope.ONCE,
                    note="",
                    digest=digest,
                    decided_at=now,
                )
                await store.add_said(connection, review_id, said)
                await store.end_review(connection, review_id, ReviewState.EXPIRED, note="", now=now)
                await store.enqueue_deliveries(connection, review_id, "expired", now=now)
        for review_id, _ in due:
            await self._give_back(review_id, reason="review_expired")
        return len(due)

    # --------------------------------------------------------------------------- rules

    async def rules(self, party_chain: Sequence[UUID]) -> RulesView:
        """
        Return what the last party of a chain set and what counts for it.

        Args:
            party_chain: From the organisation down to the party.
        """
        async with self._reading() as connection:
            return await self._view(connection, party_chain)

    async def set_rules(
        self, party_chain: Sequence[UUID], document: Mapping[str, Any], *, actor: str
    ) -> RulesView:
        """
        Put new rules of a party in force, for all that is judged from now on.

        Args:
            party_chain: From the organisation down to the party; the platform alone sets what
                counts for everybody.
            document: As ``catalogue/brake.schema.json`` says; it replaces the party's own.
            actor: Who, as the books keep it.

        Raises:
            InvalidRulesError: It breaks the schema.
            RulesLooserError: A rule is looser than what is inherited.
        """
        rules = parse_rules(document)
        if party_chain[-1] == PLATFORM_ID and rules.counts_tree:
            message = "A rule with scope: tree counts one owner's payments, never the whole hub's."
            raise InvalidRulesError(message, param="rules")
        now = self._clock.now()
        async with self._transaction() as connection:
            await store.lock_rules(connection)
            refuse_looser(rules, await self._above(connection, party_chain))
            await store.insert_rules(connection, party_chain[-1], document, actor=actor, now=now)
            return await self._view(connection, party_chain)

    async def _above(
        self, connection: Connection, party_chain: Sequence[UUID]
    ) -> Sequence[RuleSet]:
        *parents, party = party_chain
        if party == PLATFORM_ID:
            return ()
        if parents:
            chain, _ = await self._chain(connection, parents)
            return chain
        # An organisation inherits the operator's rules; the catalogue's it may replace.
        versions = await store.rule_versions(connection, [PLATFORM_ID])
        await self._judging.book.load(connection, versions)
        operator = self._judging.book.own(PLATFORM_ID, versions)
        return () if operator is None else (operator.rules,)

    async def _view(self, connection: Connection, party_chain: Sequence[UUID]) -> RulesView:
        party = party_chain[-1]
        versions = await store.rule_versions(connection, {*party_chain, PLATFORM_ID})
        await self._judging.book.load(connection, versions)
        own = self._judging.book.own(party, versions)
        if party == PLATFORM_ID:
            chain = compose_chain(
                (), operator=None if own is None else own.rules, defaults=default_rules()
            )
            return RulesView(own=own, chain=chain, version=versions.get(party, 0))
        chain, version = self._judging.book.chain(party_chain, versions)
        return RulesView(own=own, chain=chain, version=version)

    async def _chain(
        self, connection: Connection, parties: Sequence[UUID]
    ) -> tuple[tuple[RuleSet, ...], int]:
        versions = await store.rule_versions(connection, {*parties, PLATFORM_ID})
        await self._judging.book.load(connection, versions)
        return self._judging.book.chain(parties, versions)

    # -------------------------------------------------------------------------- within

    async def _know_payee(self, connection: Connection, subject: Subject, *, actor: str) -> None:
        key = (subject.agent_id, subject.currency, subject.payee_id)
        known = store.KnownPayee(payments=0, recent_quanta=())
        await store.know_payees(connection, {key: known}, approved_by=actor, now=self._clock.now())

    async def _raise(
        self, review_id: UUID, approval: Approval, *, digest: bytes, actor: str
    ) -> None:
        if self._raiser is None:
            message = "Limits of mandates cannot be raised here."
            raise RaiseNotPossibleError(message)
        async with self._deciding(review_id) as (connection, review):
            given = await store.approvals(connection, review_id)
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
        if self._release is None:
            return
        try:
            await self._release(review_id, reason=reason)
        except (TokenworksError, psycopg.Error, PoolTimeout, OSError) as error:
            # The hold ends with the review's time all the same.
            _log.warning("hold_not_released", payment_id=str(review_id), reason=str(error))

    @asynccontextmanager
    async def _deciding(self, review_id: UUID) -> AsyncGenerator[tuple[Connection, Review]]:
        async with self._transaction() as connection:
            review = await store.find_review(connection, review_id, is_locked=True)
            if review is None:
                message = f"There is no review {review_id}."
                raise ReviewNotFoundError(message)
            yield connection, review

    @asynccontextmanager
    async def _transaction(self) -> AsyncGenerator[Connection]:
        async with self._reading() as connection, connection.transaction():
            yield connection

    @asynccontextmanager
    async def _reading(self) -> AsyncGenerator[Connection]:
        try:
            async with self._pool.connection() as connection:
                yield connection
        except (psycopg.OperationalError, PoolTimeout) as error:
            message = "The brake's records cannot be read or changed right now."
            raise BrakeUnavailableError(message, retry_after_s=1.0) from error


async def _found(connection: Connection, review_id: UUID) -> Review:
    review = await store.find_review(connection, review_id)
    assert review is not None, "it was locked a moment ago"
    return review
