"""
The brake as the rest of the hub uses it: judge, learn, wait for people, set rules.

The parts, each with its own rules: ``judging`` (payments in batches; ``batch`` is one of them),
``reviews`` (payments that wait for people), ``ruling`` (rules in force), ``notifying`` (webhooks).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
from psycopg_pool import PoolTimeout

from tokenworks.agents.brake.budgets import Budgets, mandates_of
from tokenworks.agents.brake.errors import BrakeUnavailableError
from tokenworks.agents.brake.judging import Judging
from tokenworks.agents.brake.model import (
    Decision,
    Review,
    ReviewFilter,
    Said,
    Scope,
    Subject,
)
from tokenworks.agents.brake.notifying import Webhooks
from tokenworks.agents.brake.ports import HoldRelease, LedgerLimits, LimitRaiser
from tokenworks.agents.brake.records import Records
from tokenworks.agents.brake.reviews import Reviews
from tokenworks.agents.brake.ruling import RulesView, Ruling
from tokenworks.agents.mandates.model import MoneyLimit
from tokenworks.foundation.clock import Clock
from tokenworks.foundation.limits import REVIEW_LIFETIME_S
from tokenworks.postgres.pool import Pool


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
        self._records = Records(pool)
        self._budgets = Budgets(ledger, clock)
        self._judging = Judging(pool, clock, mark_key=mark_key)
        self._ruling = Ruling(self._records, self._judging.book, clock)
        self._reviews = Reviews(
            self._records,
            self._ruling,
            clock,
            raiser=raiser,
            lifetime=timedelta(seconds=review_lifetime_s),
        )
        self._webhooks = webhooks

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
        self._reviews.release = release

    async def ensure_partitions(self) -> None:
        """
        Make the months that the ledger has.
        """
        await self._records.ensure_partitions()

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

    # --------------------------------------------------------------------------- rules

    async def open_review(self, subject: Subject, decision: Decision) -> Review:
        """
        Let a payment wait for people; a repeat returns the review that is there.

        Called before the hold is placed; the hold expires with the review.

        Raises:
            ReviewDigestMismatchError: The payment waits, or waited, with another payload.
            PaymentOutsideWindowError: The payment's id is of a time the books do not cover.
            ReviewsFullError: ``REVIEWS_PENDING_MAX`` of this agent wait already.
        """
        return await self._reviews.open(subject, decision)

    async def review(self, payment_id: UUID) -> Review | None:
        """
        Return the review of a payment, if there is one.
        """
        return await self._reviews.get(payment_id)

    async def reviews_of(self, payment_ids: Iterable[UUID]) -> dict[UUID, Review]:
        """
        Return the reviews of some payments; who was not asked about is left out.
        """
        return await self._reviews.of(payment_ids)

    async def said_of(self, review_id: UUID) -> list[Said]:
        """
        Return everything that was said about a review.
        """
        return await self._reviews.said_of(review_id)

    async def list_reviews(
        self, wanted: ReviewFilter, *, before: UUID | None = None, count: int
    ) -> list[Review]:
        """
        Return one page of reviews, newest first.
        """
        return await self._reviews.page(wanted, before=before, count=count)

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
        return await self._reviews.approve(
            review_id,
            digest=digest,
            actor=actor,
            person=person,
            scope=scope,
            note=note,
            raised=raised,
        )

    async def deny(
        self, review_id: UUID, *, digest: bytes, actor: str, person: UUID, note: str = ""
    ) -> Review:
        """
        Let a payment not be made; one person is enough, also one that approved it before.

        Raises:
            ReviewNotFoundError, ApproverNotAllowedError, ReviewDigestMismatchError,
            ReviewExpiredError, ReviewDecidedError: In this order.
        """
        return await self._reviews.deny(
            review_id, digest=digest, actor=actor, person=person, note=note
        )

    async def expire_due(self) -> int:
        """
        End reviews whose time is over; return how many.

        Their payments are denied from the moment of the expiry on, whether or not this ran.
        """
        return await self._reviews.expire_due()

    # --------------------------------------------------------------------------- rules

    async def rules(self, party_chain: Sequence[UUID]) -> RulesView:
        """
        Return what the last party of a chain set and what counts for it.

        Args:
            party_chain: From the organisation down to the party.
        """
        return await self._ruling.view(party_chain)

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
        return await self._ruling.set(party_chain, document, actor=actor)
