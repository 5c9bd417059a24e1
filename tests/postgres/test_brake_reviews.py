"""
Payments that wait for people, against a real database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import psycopg
import pytest

from tests.postgres.brake_rig import DOLLAR, MARK_KEY, Rig, open_rig
from tokenworks.agents.brake.errors import (
    ApproverNotAllowedError,
    InvalidNoteError,
    PaymentOutsideWindowError,
    RaiseNotPossibleError,
    ReviewDecidedError,
    ReviewDigestMismatchError,
    ReviewExpiredError,
    ReviewNotFoundError,
    ReviewsFullError,
    SamePersonError,
)
from tokenworks.agents.brake.model import Action, Review, ReviewFilter, ReviewState, Scope
from tokenworks.agents.brake.service import Brake
from tokenworks.agents.mandates.model import MoneyLimit, Window
from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.errors import TokenworksError
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.limits import REVIEWS_PENDING_MAX
from tokenworks.identity.model import PLATFORM_ID
from tokenworks.postgres.pool import Pool


@pytest.fixture
async def rig(pool: Pool, clock: FakeClock, ids: IdentifierSource) -> Rig:
    """
    A brake whose owner wants to see every new payee.
    """
    rig = await open_rig(pool, clock, ids)
    await rig.rules({"new_payee": {"action": "hold"}})
    return rig


async def held(rig: Rig, *, quanta: int = DOLLAR) -> Review:
    """
    A payment that waits.
    """
    payment = rig.payment(quanta=quanta)
    decision = await rig.brake.judge(payment)
    assert decision.action is Action.HOLD
    return await rig.brake.open_review(payment, decision)


async def approve(
    rig: Rig,
    review: Review,
    person: UUID,
    *,
    digest: bytes | None = None,
    actor: str | None = None,
    scope: Scope = Scope.ONCE,
    note: str = "",
    raised: MoneyLimit | None = None,
) -> Review:
    """
    One person's yes.
    """
    return await rig.brake.approve(
        review.review_id,
        digest=review.subject.digest if digest is None else digest,
        actor=actor or f"key of {person}",
        person=person,
        scope=scope,
        note=note,
        raised=raised,
    )


async def test_approved_payment_passes_with_its_review(rig: Rig) -> None:
    """
    After the approval the same payment is allowed, and its decision names who allowed it.
    """
    review = await held(rig)
    assert review.expires_at - review.created_at == timedelta(minutes=15)
    assert await rig.brake.open_review(review.subject, review.decision) == review

    approved = await approve(rig, review, rig.user, note="a known shop")

    assert (approved.state, approved.approved_by) == (
        ReviewState.APPROVED,
        (f"key of {rig.user}",),
    )
    decision = await rig.second_brake().judge(review.subject)
    assert (decision.action, decision.review_id) == (Action.ALLOW, review.review_id)
    assert [reason.rule for reason in decision.reasons] == ["new_payee", "review"]
    moment = f"{rig.clock.now():%Y-%m-%dT%H:%M:%SZ}"
    assert decision.reasons[1].text == f"Approved by key of {rig.user} at {moment}. a known shop"
    said = await rig.brake.said_of(review.review_id)
    assert [(s.word, s.person_id, s.note) for s in said] == [("approve", rig.user, "a known shop")]


async def test_denied_payment_is_never_made(rig: Rig) -> None:
    """
    A denial is final for the payment, gives the hold back, and says why.
    """
    released: list[tuple[UUID, str]] = []

    async def release(payment_id: UUID, /, *, reason: str) -> None:
        released.append((payment_id, reason))

    rig.brake.release_with(release)
    review = await held(rig)

    denied = await rig.brake.deny(
        review.review_id,
        digest=review.subject.digest,
        actor="ann",
        person=rig.user,
        note="never heard of it",
    )

    assert denied.state is ReviewState.DENIED
    assert released == [(review.review_id, "review_denied")]
    decision = await rig.brake.judge(review.subject)
    assert decision.action is Action.DENY
    moment = f"{rig.clock.now():%Y-%m-%dT%H:%M:%SZ}"
    text = f"The payment was denied by ann at {moment}. never heard of it"
    assert decision.reasons[-1].text == text


async def test_review_expires_closed(rig: Rig) -> None:
    """
    Nobody decided: denied from the moment of the expiry on, and for ever.
    """
    review = await held(rig)
    rig.clock.advance(timedelta(minutes=15))

    decision = await rig.brake.judge(review.subject)
    assert decision.action is Action.DENY
    with pytest.raises(ReviewExpiredError):
        await approve(rig, review, rig.user)
    assert await rig.brake.expire_due() == 1
    assert await rig.brake.expire_due() == 0
    with pytest.raises(ReviewExpiredError):
        await approve(rig, review, rig.user)
    ended = await rig.brake.review(review.review_id)
    assert ended is not None
    assert ended.state is ReviewState.EXPIRED
    assert [said.word for said in await rig.brake.said_of(review.review_id)] == ["expire"]


async def test_two_persons_are_needed_above_the_amount(rig: Rig) -> None:
    """
    Above the owner's amount one person is not enough, however many keys they have.
    """
    review = await held(rig, quanta=101 * DOLLAR)
    assert review.approvals_needed == 2

    first = await approve(rig, review, rig.user)
    assert first.state is ReviewState.PENDING
    assert (await rig.brake.judge(review.subject)).action is Action.HOLD
    with pytest.raises(SamePersonError):
        await approve(rig, review, rig.user, actor="another key of the same person")
    second = await approve(rig, review, PLATFORM_ID)

    assert second.state is ReviewState.APPROVED
    assert len(second.approved_by) == 2
    assert (await rig.brake.judge(review.subject)).action is Action.ALLOW


async def test_who_approved_first_may_still_deny(rig: Rig) -> None:
    """
    Before the second person has spoken; nothing is paid, and the review says whose word it was.
    """
    review = await held(rig, quanta=101 * DOLLAR)
    await approve(rig, review, rig.user)

    ended = await rig.brake.deny(
        review.review_id, digest=review.subject.digest, actor="key 1", person=rig.user, note="no"
    )

    assert (ended.state, ended.note) == (
        ReviewState.DENIED,
        "Approval withdrawn by key 1. no",
    )
    assert (await rig.brake.judge(review.subject)).action is Action.DENY


async def test_two_persons_at_once_are_two(rig: Rig) -> None:
    """
    Twenty approvals of two persons at the same time are two, and end the review once.
    """
    review = await held(rig, quanta=101 * DOLLAR)
    people = [rig.user, rig.team] * 10

    answers = await asyncio.gather(
        *(approve(rig, review, person) for person in people), return_exceptions=True
    )

    codes = [getattr(answer, "code", "ok") for answer in answers]
    assert codes.count("ok") == 2
    assert set(codes) <= {"ok", "review_same_person", "review_decided"}
    assert len(await rig.brake.said_of(review.review_id)) == 2


async def test_bad_decisions(rig: Rig) -> None:
    """
    A table of what must not be decided, in the order of the checks.
    """
    review = await held(rig)
    stranger, wrong = rig.ids.mint(), bytes(32)
    limit = MoneyLimit(window=Window.DAY, quanta=1)
    table: list[tuple[Awaitable[Review], type[TokenworksError]]] = [
        (approve(rig, review, rig.agent), ApproverNotAllowedError),
        (approve(rig, review, stranger), ApproverNotAllowedError),
        (approve(rig, review, stranger, digest=wrong), ApproverNotAllowedError),
        (approve(rig, review, rig.user, digest=wrong), ReviewDigestMismatchError),
        (approve(rig, review, rig.user, digest=b""), ReviewDigestMismatchError),
        (approve(rig, review, rig.user, note="x" * 1_001), InvalidNoteError),
        (approve(rig, review, rig.user, scope=Scope.RAISE), RaiseNotPossibleError),
        (approve(rig, review, rig.user, raised=limit), RaiseNotPossibleError),
    ]
    for attempt, error in table:
        with pytest.raises(error):
            await attempt
    with pytest.raises(ReviewNotFoundError):
        await approve(rig, replace(review, review_id=rig.ids.mint()), rig.user)
    assert await rig.brake.said_of(review.review_id) == []

    await approve(rig, review, rig.user)

    for decide in (rig.brake.deny, rig.brake.approve):
        with pytest.raises(ReviewDecidedError):
            await decide(
                review.review_id, digest=review.subject.digest, actor="ann", person=rig.team
            )


async def test_approval_of_one_payload_is_none_of_another(rig: Rig) -> None:
    """
    An approval is not worth anything for another payload under the same id.
    """
    review = await held(rig)
    await approve(rig, review, rig.user)
    other = replace(review.subject, digest=bytes(32), quanta=50 * DOLLAR)

    with pytest.raises(ReviewDigestMismatchError):
        await rig.brake.judge(other)
    with pytest.raises(ReviewDigestMismatchError):
        await rig.brake.open_review(other, review.decision)


async def test_scope_says_how_far_an_approval_goes(rig: Rig) -> None:
    """
    Once is once; a payee that was approved is known from then on.
    """
    await approve(rig, await held(rig), rig.user)
    second = await held(rig)

    await approve(rig, second, rig.user, scope=Scope.PAYEE)

    assert (await rig.brake.judge(rig.payment())).action is Action.ALLOW


async def test_of_two_scopes_the_lesser_counts(rig: Rig) -> None:
    """
    One of two persons alone makes no payee known.
    """
    review = await held(rig, quanta=101 * DOLLAR)
    await approve(rig, review, rig.user)
    await approve(rig, review, rig.team, scope=Scope.PAYEE)

    assert (await rig.brake.judge(rig.payment())).action is Action.HOLD


async def test_raise_waits_for_the_last_person(rig: Rig) -> None:
    """
    A limit is raised when everybody has said so, to the lowest figure they said.
    """
    review = await held(rig, quanta=101 * DOLLAR)
    high = MoneyLimit(window=Window.DAY, quanta=500 * DOLLAR)
    low = MoneyLimit(window=Window.DAY, quanta=300 * DOLLAR)

    await approve(rig, review, rig.user, scope=Scope.RAISE, raised=high)
    assert rig.raiser.raised == []
    await approve(rig, review, rig.team, scope=Scope.RAISE, raised=low)

    assert rig.raiser.raised == [(rig.mandate, Window.DAY, 300 * DOLLAR, f"key of {rig.team}")]
    said = await rig.brake.said_of(review.review_id)
    assert [entry.raised for entry in said] == [high, low]


async def test_raise_that_is_refused_approves_nothing(rig: Rig) -> None:
    """
    When the limit cannot be raised, the payment still waits.
    """
    brake = Brake(rig.pool, ledger=rig.limits, clock=rig.clock, mark_key=MARK_KEY)
    review = await held(rig)

    with pytest.raises(RaiseNotPossibleError):
        await brake.approve(
            review.review_id,
            digest=review.subject.digest,
            actor="ann",
            person=rig.user,
            scope=Scope.RAISE,
            raised=MoneyLimit(window=Window.DAY, quanta=1),
        )
    again = await rig.brake.review(review.review_id)
    assert again is not None
    assert again.state is ReviewState.PENDING


async def test_list_is_newest_first_and_by_tree(rig: Rig) -> None:
    """
    Pages go on where they ended; a party sees its tree.
    """
    reviews = [await held(rig) for _ in range(3)]
    await approve(rig, reviews[0], rig.user)
    wanted = ReviewFilter(party_id=rig.team, state=ReviewState.PENDING)

    first = await rig.brake.list_reviews(wanted, count=1)
    rest = await rig.brake.list_reviews(wanted, before=first[0].review_id, count=10)

    assert {row.review_id for row in (*first, *rest)} == {r.review_id for r in reviews[1:]}
    assert first[0].review_id > rest[0].review_id
    other = ReviewFilter(party_id=rig.shop)
    assert await rig.brake.list_reviews(other, count=10) == []
    rig.clock.advance(timedelta(hours=1))
    assert await rig.brake.list_reviews(wanted, count=10) == []
    expired = ReviewFilter(organisation_id=rig.organisation, state=ReviewState.EXPIRED)
    assert len(await rig.brake.list_reviews(expired, count=10)) == 2


async def test_loop_of_held_payments_does_not_fill_the_inbox(rig: Rig) -> None:
    """
    So many of one agent wait and no more; another agent's still may, and so may one asked again.
    """
    reviews = [await held(rig) for _ in range(REVIEWS_PENDING_MAX)]

    payment = rig.payment()
    with pytest.raises(ReviewsFullError):
        await rig.brake.open_review(payment, reviews[0].decision)
    again = await rig.brake.open_review(reviews[0].subject, reviews[0].decision)
    assert again.review_id == reviews[0].review_id
    other = replace(rig.payment(), agent_id=rig.user)
    await rig.brake.open_review(other, reviews[0].decision)

    first = reviews[0]
    await rig.brake.deny(
        first.review_id, digest=first.subject.digest, actor="owner", person=rig.organisation
    )
    assert (await rig.brake.open_review(payment, first.decision)).review_id == payment.payment_id


async def test_review_outside_the_books_is_refused(rig: Rig) -> None:
    """
    A payment whose id is of a far time cannot wait, as the ledger would not hold it.
    """
    payment = rig.payment(payment_id=UUID(int=1 << 100))
    decision = await rig.brake.judge(payment)

    with pytest.raises(PaymentOutsideWindowError):
        await rig.brake.open_review(payment, decision)


async def test_review_ends_once_in_the_database_too(rig: Rig) -> None:
    """
    Whoever writes to the table: an end stays, and the subject never changes.
    """
    review = await held(rig)
    await approve(rig, review, rig.user)
    async with rig.pool.connection() as connection:
        for change in (
            b"state = 'denied'",
            b"state = 'pending', decided_at = NULL",
            b"digest = 'other'",
            b"expires_at = expires_at + interval '1 day'",
        ):
            with pytest.raises(psycopg.DatabaseError, match="ends once"):
                await connection.execute(b"UPDATE agents.reviews SET " + change)
        with pytest.raises(psycopg.DatabaseError, match="append-only"):
            await connection.execute("UPDATE agents.review_decisions SET actor = 'me'")
