"""
Payments on a real ledger: one hold, one capture, the first answer again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import conninfo

from tests.postgres.payments_rig import (
    NOTHING,
    PRICE,
    URL,
    PaymentsRig,
    make_payments,
    open_payments,
    requirements,
)
from tokenworks.agents.brake.model import Action, ReviewState
from tokenworks.agents.payments.model import Binding, PaymentState, Scheme
from tokenworks.agents.payments.store import PaymentFilter
from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.errors import TokenworksError
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.identity.model import Level, PartyKind, PartyState
from tokenworks.identity.service import Identity
from tokenworks.ledger.archive import archive_months
from tokenworks.ledger.model import Outcome, Placement
from tokenworks.ledger.writer import Writer
from tokenworks.receipts.trust import TrustedKeys
from tokenworks.receipts.verify import verify_chain


@pytest.fixture
async def rig(dsn: str, clock: FakeClock, ids: IdentifierSource) -> AsyncIterator[PaymentsRig]:
    """
    A business that pays; the books are checked when the test is over.
    """
    async with open_payments(dsn, clock, ids) as rig:
        yield rig


async def code_of(awaitable: Awaitable[object]) -> str:
    """
    Return the code of the refusal that must come.
    """
    with pytest.raises(TokenworksError) as caught:
        await awaitable
    return caught.value.code


async def test_a_settle_moves_money_and_limits_once(rig: PaymentsRig) -> None:
    """
    The payee has the money, every limit is spent, and the trial balance is proper.
    """
    await rig.limit("LIMIT.USD", 500_000)
    await rig.limit("LIMIT.PAYMENTS", 3)
    jws = rig.wallet.pay(rig.shop.party_id)

    done = await rig.payments.settle(jws, requirements(rig.shop.party_id))

    assert (done.captured_quanta, done.is_repeat) == (PRICE, False)
    assert await rig.cash(rig.organisation) == (1_000_000 - PRICE, 1_000_000 - PRICE)
    assert await rig.cash(rig.shop) == (PRICE, PRICE)
    assert await rig.limits() == {
        "LIMIT.USD": (500_000 - PRICE, 0),
        "LIMIT.PAYMENTS": (2, 0),
    }
    assert (await rig.books.ledger.trial_balance()).is_balanced
    await rig.payments.quiet()
    assert rig.brake.recorded == [(done.payment.payment_id, PRICE)]


async def test_a_payable_is_paid_from_own_funds_later(rig: PaymentsRig) -> None:
    """
    What a supplier is owed is no client money: as much leaves the safeguarded bank.
    """
    before = await rig.account(UUID(int=1), "safeguarded")

    await rig.payments.settle(
        rig.wallet.pay(rig.supplier.party_id), requirements(rig.supplier.party_id)
    )

    after = await rig.account(UUID(int=1), "safeguarded")
    payable = await rig.account(rig.supplier.party_id, "supplier_payable")
    assert payable.balance == PRICE
    assert before.balance - after.balance == PRICE
    balance = await rig.books.ledger.trial_balance()
    assert balance.client_money == balance.safeguarded


async def test_the_same_payment_fifty_times_from_two_processes_is_captured_once(
    rig: PaymentsRig,
) -> None:
    """
    Whoever asks and however often: one hold, one capture, one answer.
    """
    writer = Writer(rig.books.dsn, clock=rig.clock, holder="other", rider="hub")
    await writer.start()
    try:
        services = [rig.payments, await rig.another_process(writer)]
        jws, asked = rig.wallet.pay(rig.shop.party_id), requirements(rig.shop.party_id)

        answers = await asyncio.gather(
            *(services[turn % 2].settle(jws, asked) for turn in range(50))
        )
    finally:
        await writer.close()

    assert {answer.payment.payment_id for answer in answers} == {answers[0].payment.payment_id}
    assert {answer.recorded_at for answer in answers} == {answers[0].recorded_at}
    assert sum(not answer.is_repeat for answer in answers) == 1
    assert await rig.cash(rig.shop) == (PRICE, PRICE)
    for service in services:
        await service.quiet()
    assert len(rig.brake.recorded) == 1


async def test_balance_for_one_payment_buys_one(rig: PaymentsRig) -> None:
    """
    Many authorisations at once with money for one: one is claimed, the others are refused.
    """
    asked = requirements(rig.shop.party_id, amount=700_000)
    signed = [rig.wallet.pay(rig.shop.party_id, amount="700000") for _ in range(20)]

    answers = await asyncio.gather(
        *(rig.payments.claim(jws, asked) for jws in signed), return_exceptions=True
    )

    held = [answer for answer in answers if not isinstance(answer, BaseException)]
    codes = {answer.code for answer in answers if isinstance(answer, TokenworksError)}
    assert (len(held), codes) == (1, {"insufficient_funds"})


async def test_a_claim_is_given_once(rig: PaymentsRig) -> None:
    """
    Of fifty verifications at once one may work; the settle after it is not one of them.
    """
    jws, asked = rig.wallet.pay(rig.shop.party_id), requirements(rig.shop.party_id)

    answers = await asyncio.gather(
        *(rig.payments.claim(jws, asked) for _ in range(50)), return_exceptions=True
    )

    assert sum(not isinstance(answer, BaseException) for answer in answers) == 1
    assert {a.code for a in answers if isinstance(a, TokenworksError)} == {
        "payment_already_claimed"
    }
    await rig.payments.settle(jws, asked)
    assert await code_of(rig.payments.claim(jws, asked)) == "payment_already_settled"


def lose_next_answer(writer: Writer) -> None:
    """
    Let the answer to the next batch of holds be lost after its commit.
    """
    batches = writer._batches
    run = batches.place

    async def run_and_lose(batch: Sequence[Placement]) -> list[Outcome]:
        vars(batches)["place"] = run
        await run(batch)
        raise psycopg.OperationalError("the answer was lost")

    vars(batches)["place"] = run_and_lose


async def test_a_claim_whose_answer_was_lost_is_still_its_own(rig: PaymentsRig) -> None:
    """
    The ledger is asked again and says it is done: the first caller has it, and nobody else.
    """
    jws, asked = rig.wallet.pay(rig.shop.party_id), requirements(rig.shop.party_id)
    lose_next_answer(rig.books.writer)

    claimed = await rig.payments.claim(jws, asked)

    assert claimed.state is PaymentState.HELD
    assert await code_of(rig.payments.claim(jws, asked)) == "payment_already_claimed"


async def test_an_attested_claim_whose_answer_was_lost_is_still_its_own(rig: PaymentsRig) -> None:
    """
    Likewise where the claim extends a hold that is there already.
    """
    jws, asked = rig.wallet.pay(rig.shop.party_id), requirements(rig.shop.party_id)
    attestation = await rig.payments.attest(jws, asked, URL)
    lose_next_answer(rig.books.writer)

    await rig.payments.claim_attested(attestation, asked)

    again = rig.payments.claim_attested(attestation, asked)
    assert await code_of(again) == "payment_already_claimed"


async def test_a_process_that_died_between_hold_and_capture_is_followed_by_another(
    rig: PaymentsRig,
) -> None:
    """
    Everything the capture needs stands in the books.
    """
    jws, asked = rig.wallet.pay(rig.shop.party_id), requirements(rig.shop.party_id)
    held = await rig.payments.claim(jws, asked)
    survivor = await make_payments(rig, rig.books.ledger)

    by_signature = await survivor.settle(jws, asked)
    by_id = await (await make_payments(rig, rig.books.ledger)).capture(
        held.payment_id, quanta=PRICE
    )

    assert (by_signature.is_repeat, by_id.is_repeat) == (False, True)
    assert by_id.recorded_at == by_signature.recorded_at
    assert await rig.cash(rig.shop) == (PRICE, PRICE)


async def test_signing_again_with_the_same_nonce_is_the_same_payment(rig: PaymentsRig) -> None:
    """
    New times alone make no new payment; any other content is a conflict.
    """
    claims = rig.wallet.claims(rig.shop.party_id)
    asked = requirements(rig.shop.party_id)
    first = await rig.payments.settle(rig.wallet.sign(claims), asked)
    rig.clock.advance(timedelta(seconds=30))
    later = claims | {"iat": claims["iat"] + 30, "exp": claims["exp"] + 30}

    again = await rig.payments.settle(rig.wallet.sign(later), asked)
    other = rig.wallet.sign(later | {"amount": "5"})

    assert again.is_repeat
    assert again.payment.payment_id == first.payment.payment_id
    assert await code_of(rig.payments.settle(other, replace(asked, amount=5))) == "payment_conflict"


async def test_a_nonce_buys_one_request_alone(rig: PaymentsRig) -> None:
    """
    The same nonce, amount and payee for another request: no second answer, neither while the
    first payment is held nor when it is settled, in this process or in another one.
    """
    claims = rig.wallet.claims(rig.shop.party_id)
    asked = requirements(rig.shop.party_id)
    other_url = "https://seller.example/dear"
    other = rig.wallet.sign(claims | {"url": other_url})
    dear = replace(asked, binding=replace(asked.binding, url=other_url))

    async def assert_conflict() -> None:
        for service in (rig.payments, await make_payments(rig, rig.books.ledger)):
            for door in (service.claim, service.settle, service.authorise):
                assert await code_of(door(other, dear)) == "payment_conflict"

    await rig.payments.claim(rig.wallet.sign(claims), asked)
    await assert_conflict()
    await rig.payments.settle(rig.wallet.sign(claims), asked)
    await assert_conflict()
    assert await rig.cash(rig.shop) == (PRICE, PRICE)


async def test_what_is_held_is_settled_though_everything_changed(rig: PaymentsRig) -> None:
    """
    Revoked mandate, closed scope, stricter brake, expired signature, frozen payee: a hold is a
    promise (LEDGER 19). New payments are refused.
    """
    jws, asked = rig.wallet.pay(rig.shop.party_id), requirements(rig.shop.party_id, timeout_s=600)
    await rig.payments.claim(jws, asked)
    rig.mandates.revoked.add(rig.wallet.address)
    rig.brake.action = Action.DENY
    await rig.books.ledger.set_scope_state(rig.mandate_id, "closed")
    await rig.identity.set_party_state(rig.shop.party_id, PartyState.FROZEN)
    rig.clock.advance(timedelta(seconds=120))

    done = await (await make_payments(rig, rig.books.ledger)).settle(jws, asked)

    assert done.captured_quanta == PRICE
    fresh = rig.wallet.pay(rig.supplier.party_id)
    assert (
        await code_of(rig.payments.settle(fresh, requirements(rig.supplier.party_id)))
        == "mandate_revoked"
    )


async def test_the_ledger_refuses_what_a_cache_would_allow(rig: PaymentsRig) -> None:
    """
    The mandate's scope is closed while the book of mandates still says yes.
    """
    await rig.books.ledger.set_scope_state(rig.mandate_id, "closed")

    code = await code_of(
        rig.payments.claim(rig.wallet.pay(rig.shop.party_id), requirements(rig.shop.party_id))
    )

    assert code == "mandate_revoked"


async def test_upto_pays_the_actual_amount_and_returns_the_rest(rig: PaymentsRig) -> None:
    """
    At most what was signed; again is the first answer, another amount a conflict.
    """
    jws = rig.wallet.pay(rig.shop.party_id, scheme="upto")
    asked = requirements(rig.shop.party_id, scheme=Scheme.UPTO)
    await rig.payments.claim(jws, asked)

    mean = rig.payments.settle(jws, replace(asked, amount=1))
    assert await code_of(mean) == "unauthorized_server"

    done = await rig.payments.settle(jws, replace(asked, amount=7), is_payee=True)
    again = await (await make_payments(rig, rig.books.ledger)).settle(jws, replace(asked, amount=7))

    assert (done.captured_quanta, again.captured_quanta, again.is_repeat) == (7, 7, True)
    assert await rig.cash(rig.organisation) == (999_993, 999_993)
    for other, code in ((8, "payment_conflict"), (0, "payment_already_settled")):
        assert await code_of(rig.payments.settle(jws, replace(asked, amount=other))) == code
    above = replace(asked, amount=PRICE + 1)
    assert await code_of(rig.payments.settle(jws, above)) == "requirements_mismatch"


async def test_upto_of_nothing_gives_everything_back(rig: PaymentsRig) -> None:
    """
    A release is recorded; settling an amount afterwards is a conflict.
    """
    await rig.limit("LIMIT.PAYMENTS", 1)
    jws = rig.wallet.pay(rig.shop.party_id, scheme="upto")
    asked = requirements(rig.shop.party_id, scheme=Scheme.UPTO)
    held = await rig.payments.claim(jws, asked)

    assert (
        await code_of(rig.payments.settle(jws, replace(asked, amount=0))) == "unauthorized_server"
    )
    done = await rig.payments.settle(jws, replace(asked, amount=0), is_payee=True)
    again = await rig.payments.settle(jws, replace(asked, amount=0))

    assert (done.captured_quanta, again.is_repeat) == (0, True)
    assert await rig.cash(rig.organisation) == (1_000_000, 1_000_000)
    assert (await rig.limits())["LIMIT.PAYMENTS"] == (1, 0)
    assert (await rig.payments.get(held.payment_id)).state is PaymentState.RELEASED
    assert await code_of(rig.payments.settle(jws, asked)) == "payment_conflict"


async def test_a_hold_that_ended_is_never_placed_again(rig: PaymentsRig) -> None:
    """
    After its expiry a payment is over, also with a new signature of the same nonce.
    """
    claims = rig.wallet.claims(rig.shop.party_id)
    asked = requirements(rig.shop.party_id, timeout_s=5)
    held = await rig.payments.claim(rig.wallet.sign(claims), asked)
    rig.clock.advance(timedelta(seconds=10))
    assert await rig.books.ledger.expire_due(grace=timedelta(0)) == 1

    for jws in (rig.wallet.sign(claims), rig.wallet.sign(claims | {"exp": claims["exp"] + 60})):
        assert await code_of(rig.payments.settle(jws, asked)) == "hold_expired"
        survivor = await make_payments(rig, rig.books.ledger)
        assert await code_of(survivor.settle(jws, asked)) == "hold_expired"
        assert await code_of(survivor.claim(jws, asked)) == "hold_expired"
    assert (await rig.payments.get(held.payment_id)).state is PaymentState.EXPIRED
    assert await rig.cash(rig.organisation) == (1_000_000, 1_000_000)


async def test_times_and_nonces_are_refused_by_name(rig: PaymentsRig) -> None:
    """
    Expired, too long, from the future; and a nonce of a time that the ledger does not know.
    """
    now_s = int(rig.clock.now().timestamp())
    changes: list[tuple[dict[str, Any], str]] = [
        ({"exp": now_s - 1}, "authorisation_expired"),
        ({"exp": now_s + 3_601}, "authorisation_expired"),
        ({"iat": now_s + 61, "exp": now_s + 120}, "authorisation_not_yet_valid"),
    ]
    for days in (-200, 1):
        moment = rig.clock.now() + timedelta(days=days)
        nonce = IdentifierSource(FakeClock(moment)).mint()
        changes.append(({"jti": str(nonce)}, "id_outside_window"))

    for claims, code in changes:
        jws = rig.wallet.pay(rig.shop.party_id, **claims)
        assert await code_of(rig.payments.claim(jws, requirements(rig.shop.party_id))) == code


async def test_payees_that_cannot_be_paid_are_refused_by_name(rig: PaymentsRig) -> None:
    """
    Unknown, of the payer's own organisation, frozen, closed.
    """
    nobody = uuid4()
    await rig.identity.set_party_state(rig.supplier.party_id, PartyState.FROZEN)
    expected = {
        nobody: "payee_unknown",
        rig.organisation.party_id: "payee_is_payer",
        rig.agent.party_id: "payee_is_payer",
        rig.supplier.party_id: "payee_not_active",
    }

    for payee, code in expected.items():
        refused = rig.payments.claim(rig.wallet.pay(payee), requirements(payee))
        assert await code_of(refused) == code


async def test_a_payee_frozen_a_moment_ago_is_not_paid(rig: PaymentsRig) -> None:
    """
    Whoever freezes it, or its organisation, and whatever this process remembers: the next
    payment is refused, and goes on after the thaw; what was held before is paid.
    """
    till = await rig.identity.add_party(
        "till", kind=PartyKind.BUYER, level=Level.USER, parent=rig.shop.party_id
    )
    elsewhere = Identity(rig.books.pool, rig.clock, rig.books.ids)
    asked = requirements(till.party_id)
    await rig.payments.settle(rig.wallet.pay(till.party_id), asked)
    held = rig.wallet.pay(till.party_id)
    await rig.payments.claim(held, asked)

    for frozen in (till, rig.shop):
        await elsewhere.set_party_state(frozen.party_id, PartyState.FROZEN)
        refused = rig.payments.settle(rig.wallet.pay(till.party_id), asked)
        assert await code_of(refused) == "payee_not_active"
        if frozen is till:
            await elsewhere.set_party_state(frozen.party_id, PartyState.ACTIVE)
            await rig.payments.settle(rig.wallet.pay(till.party_id), asked)
    assert (await rig.payments.settle(held, asked)).captured_quanta == PRICE


async def test_a_signature_for_one_request_buys_no_other(rig: PaymentsRig) -> None:
    """
    Method, URL and body are signed; nothing is held.
    """
    jws = rig.wallet.pay(rig.shop.party_id)
    other = NOTHING[:-1] + ("A" if NOTHING[-1] != "A" else "B")
    for binding in (
        Binding(method="POST", url="https://seller.example/infer", body_sha256=NOTHING),
        Binding(method="GET", url="https://seller.example/other", body_sha256=NOTHING),
        Binding(method="GET", url="https://seller.example/infer", body_sha256=other),
    ):
        asked = requirements(rig.shop.party_id, binding=binding)
        assert await code_of(rig.payments.claim(jws, asked)) == "request_binding_mismatch"
    assert await rig.cash(rig.organisation) == (1_000_000, 1_000_000)


async def test_a_payment_in_review_goes_on_after_approval_and_is_claimed_once(
    rig: PaymentsRig,
) -> None:
    """
    The money waits with it; whoever comes first after the approval works for it.
    """
    rig.brake.action = Action.HOLD
    jws, asked = rig.wallet.pay(rig.shop.party_id), requirements(rig.shop.party_id)

    for _ in range(2):
        assert await code_of(rig.payments.claim(jws, asked)) == "payment_in_review"
        assert await code_of(rig.payments.settle(jws, asked)) == "payment_in_review"
    assert (await rig.cash(rig.organisation))[0] == 1_000_000 - PRICE
    (review,) = rig.brake.reviews.values()
    assert (await rig.payments.get(review.review_id)).state is PaymentState.IN_REVIEW

    rig.brake.reviews[review.review_id] = replace(review, state=ReviewState.APPROVED)
    answers = await asyncio.gather(
        *(rig.payments.claim(jws, asked) for _ in range(10)), return_exceptions=True
    )
    assert sum(not isinstance(answer, BaseException) for answer in answers) == 1
    done = await (await make_payments(rig, rig.books.ledger)).settle(jws, asked)

    document = await rig.payments.receipt(done.payment.payment_id, "buyer")
    assert document["receipt"]["brake"]["review"] == str(review.review_id)
    assert document["receipt"]["brake"]["reasons"][0]["rule"] == "new_payee"


@pytest.mark.parametrize("state", [ReviewState.DENIED, ReviewState.EXPIRED])
async def test_a_payment_that_people_denied_is_over(rig: PaymentsRig, state: ReviewState) -> None:
    """
    Also when the brake would allow it now; what was held can be given back.
    """
    rig.brake.action = Action.HOLD
    jws, asked = rig.wallet.pay(rig.shop.party_id), requirements(rig.shop.party_id)
    assert await code_of(rig.payments.claim(jws, asked)) == "payment_in_review"
    (review,) = rig.brake.reviews.values()
    rig.brake.reviews[review.review_id] = replace(review, state=state)
    rig.brake.action = Action.ALLOW

    for refused in (rig.payments.claim(jws, asked), rig.payments.settle(jws, asked)):
        assert await code_of(refused) == "payment_denied"
    captured = rig.payments.capture(review.review_id, quanta=PRICE)
    assert await code_of(captured) == "payment_denied"
    await rig.payments.release(review.review_id, reason="denied")
    assert await rig.cash(rig.organisation) == (1_000_000, 1_000_000)


async def test_a_review_whose_time_is_over_denies_before_anybody_noticed(
    rig: PaymentsRig,
) -> None:
    """
    Whether or not the worker ended it.
    """
    rig.brake.action = Action.HOLD
    jws, asked = rig.wallet.pay(rig.shop.party_id), requirements(rig.shop.party_id)
    assert await code_of(rig.payments.claim(jws, asked)) == "payment_in_review"
    (review,) = rig.brake.reviews.values()
    rig.clock.advance(review.expires_at - rig.clock.now())

    captured = rig.payments.capture(review.review_id, quanta=PRICE)
    assert await code_of(captured) == "payment_denied"
    await rig.payments.release(review.review_id, reason="over")


async def test_an_approval_of_another_payload_is_not_used(rig: PaymentsRig) -> None:
    """
    What was approved is bound to its digest.
    """
    rig.brake.action = Action.HOLD
    jws, asked = rig.wallet.pay(rig.shop.party_id), requirements(rig.shop.party_id)
    assert await code_of(rig.payments.claim(jws, asked)) == "payment_in_review"
    (review,) = rig.brake.reviews.values()
    other = replace(review.subject, digest=b"another")
    rig.brake.reviews[review.review_id] = replace(review, state=ReviewState.APPROVED, subject=other)

    assert await code_of(rig.payments.settle(jws, asked)) == "payment_conflict"


async def test_a_denied_payment_holds_nothing(rig: PaymentsRig) -> None:
    """
    The brake is asked before the money.
    """
    rig.brake.action = Action.DENY

    refused = rig.payments.claim(rig.wallet.pay(rig.shop.party_id), requirements(rig.shop.party_id))

    assert await code_of(refused) == "payment_denied"
    assert await rig.cash(rig.organisation) == (1_000_000, 1_000_000)


async def test_parts_of_a_payment_never_take_more_than_was_authorised(rig: PaymentsRig) -> None:
    """
    Milestones are captured one by one; the last gives the rest back; one payment is counted.
    """
    await rig.limit("LIMIT.PAYMENTS", 5)
    jws = rig.wallet.pay(rig.shop.party_id, scheme="upto")
    asked = requirements(rig.shop.party_id, scheme=Scheme.UPTO)
    held = await rig.payments.authorise(jws, asked)
    capture = rig.payments.capture

    await capture(held.payment_id, quanta=50_000, closes=False, ordinal=0)
    both = await asyncio.gather(
        capture(held.payment_id, quanta=60_000, closes=False, ordinal=1),
        capture(held.payment_id, quanta=60_000, closes=False, ordinal=2),
        return_exceptions=True,
    )
    assert sum(not isinstance(answer, BaseException) for answer in both) == 1
    too_much = capture(held.payment_id, quanta=10_001, ordinal=3)
    assert await code_of(too_much) == "payment_conflict"
    await capture(held.payment_id, quanta=10_000, ordinal=3)

    payment = await rig.payments.get(held.payment_id)
    assert (payment.state, payment.captured_quanta) == (PaymentState.CAPTURED, PRICE)
    assert await rig.cash(rig.shop) == (PRICE, PRICE)
    assert (await rig.limits())["LIMIT.PAYMENTS"] == (4, 0)


async def test_an_attested_payment_is_claimed_and_settled_with_the_attestation_alone(
    rig: PaymentsRig,
) -> None:
    """
    Held once by the payer, given to one seller, captured for the attested payee and resource.
    """
    jws = rig.wallet.pay(rig.shop.party_id, scheme="upto")
    asked = requirements(rig.shop.party_id, scheme=Scheme.UPTO)
    url = asked.binding.url
    attestation = await rig.payments.attest(jws, asked, url)
    survivor = await make_payments(rig, rig.books.ledger)

    assert await survivor.attest(jws, asked, url) == attestation
    other_payee = survivor.settle_attested(attestation, requirements(rig.supplier.party_id))
    assert await code_of(other_payee) == "unauthorized_server"
    other_url = replace(asked, binding=replace(asked.binding, url="https://seller.example/b"))
    assert (
        await code_of(survivor.settle_attested(attestation, other_url))
        == "request_binding_mismatch"
    )
    for changed in ({"body_sha256": "A" * 43}, {"method": "POST"}):
        other = replace(asked, binding=replace(asked.binding, **changed))
        code = await code_of(survivor.claim_attested(attestation, other))
        assert code == "request_binding_mismatch"
    head, payload, signature = attestation.split(".")
    forged = f"{head}.{payload[:-2]}AA.{signature}"
    assert await code_of(survivor.settle_attested(forged, asked)) == "attestation_invalid"
    claims = await asyncio.gather(
        *(survivor.claim_attested(attestation, asked) for _ in range(9)),
        rig.payments.claim(jws, asked),
        return_exceptions=True,
    )
    assert sum(not isinstance(claim, BaseException) for claim in claims) == 1
    mean = survivor.settle_attested(attestation, replace(asked, amount=0))
    assert await code_of(mean) == "unauthorized_server"
    done = await survivor.settle_attested(attestation, replace(asked, amount=5), is_payee=True)
    again = await rig.payments.settle_attested(attestation, replace(asked, amount=5))

    assert (done.is_repeat, again.is_repeat) == (False, True)
    assert await rig.cash(rig.shop) == (5, 5)


async def test_a_claimed_payment_is_not_attested(rig: PaymentsRig) -> None:
    """
    Else it could be given to a second seller.
    """
    jws, asked = rig.wallet.pay(rig.shop.party_id), requirements(rig.shop.party_id)
    await rig.payments.claim(jws, asked)

    assert (
        await code_of(rig.payments.attest(jws, asked, asked.binding.url))
        == "payment_already_claimed"
    )


async def test_receipts_show_each_reader_its_own_and_verify_offline(rig: PaymentsRig) -> None:
    """
    The payee sees who paid for what; neither mandate nor reasons. All stand in one chain.
    """
    done = [
        await rig.payments.settle(
            rig.wallet.pay(rig.shop.party_id), requirements(rig.shop.party_id)
        )
        for _ in range(2)
    ]
    documents = [await rig.payments.receipt(d.payment.payment_id, "buyer") for d in done]
    payment_id = done[-1].payment.payment_id
    payee = await rig.payments.receipt(payment_id, f"leg_owner:{rig.shop.party_id}")
    auditor = await rig.payments.receipt(payment_id, "auditor")
    keys = TrustedKeys.from_json(json.dumps(await rig.keys.jwks()))

    assert all(found.ok for found in verify_chain([*documents, payee, auditor], keys))
    assert documents[0]["receipt"]["mandates"] == [str(rig.mandate_id)]
    assert documents[0]["receipt"]["amount"] == "0.00012"
    seen = payee["receipt"]
    assert seen["payer"] == rig.wallet.address
    assert seen["resource"] == "GET https://seller.example/infer"
    assert {"mandates", "brake", "spender", "authorised"}.isdisjoint(seen)
    assert {"mandates", "brake", "leg.1"} <= auditor["receipt"].keys()
    stranger = rig.payments.receipt(payment_id, f"leg_owner:{rig.supplier.party_id}")
    assert await code_of(stranger) == "receipt_view_empty"


async def test_payments_are_listed_by_who_pays_and_who_is_paid(rig: PaymentsRig) -> None:
    """
    Newest first, page by page; those that are held are another list.
    """
    done = [
        await rig.payments.settle(
            rig.wallet.pay(rig.shop.party_id), requirements(rig.shop.party_id)
        )
        for _ in range(3)
    ]
    held = await rig.payments.claim(
        rig.wallet.pay(rig.shop.party_id), requirements(rig.shop.party_id)
    )
    newest_first = sorted((d.payment.payment_id for d in done), reverse=True)

    for wanted in (
        PaymentFilter(),
        PaymentFilter(within_party_id=rig.organisation.party_id),
        PaymentFilter(within_party_id=rig.agent.party_id),
        PaymentFilter(within_party_id=rig.shop.party_id),
        PaymentFilter(payee_id=rig.shop.party_id, mandate_id=rig.mandate_id),
    ):
        first, cursor = await rig.payments.list_payments(wanted, None, 2)
        second, end = await rig.payments.list_payments(wanted, cursor, 2)
        assert [p.payment_id for p in (*first, *second)] == newest_first
        assert end is None
        open_ones, _ = await rig.payments.list_payments(replace(wanted, is_held=True), None, 2)
        assert [p.payment_id for p in open_ones] == [held.payment_id]
    strangers = PaymentFilter(within_party_id=rig.supplier.party_id)
    assert await rig.payments.list_payments(strangers, None, 2) == ([], None)


async def test_payments_whose_hold_expired_are_listed_in_their_place(rig: PaymentsRig) -> None:
    """
    Between those that were captured, page by page, and for whoever asks.
    """
    asked = requirements(rig.shop.party_id, timeout_s=1)
    expected: list[tuple[UUID, PaymentState]] = []
    for turn in range(4):
        jws = rig.wallet.pay(rig.shop.party_id)
        if turn % 2:
            done = await rig.payments.settle(jws, asked)
            expected.insert(0, (done.payment.payment_id, PaymentState.CAPTURED))
        else:
            claimed = await rig.payments.claim(jws, asked)
            expected.insert(0, (claimed.payment_id, PaymentState.EXPIRED))
        rig.clock.advance(timedelta(milliseconds=5))
    rig.clock.advance(timedelta(seconds=2))
    await rig.books.ledger.expire_due(grace=timedelta(0))

    listed: list[tuple[UUID, PaymentState]] = []
    cursor = None
    for _ in range(3):
        wanted = PaymentFilter(payee_id=rig.shop.party_id)
        page, cursor = await rig.payments.list_payments(wanted, cursor, 3)
        listed.extend((payment.payment_id, payment.state) for payment in page)
        if cursor is None:
            break

    assert listed == expected
    assert (await rig.payments.get(expected[-1][0])).state is PaymentState.EXPIRED


async def test_the_check_compares_payments_with_their_entries(rig: PaymentsRig) -> None:
    """
    A row that says another amount, belongs to no entry, or is missing is found.
    """
    done = await rig.payments.settle(
        rig.wallet.pay(rig.shop.party_id), requirements(rig.shop.party_id)
    )
    where = f"payment {done.payment.payment_id}"
    for damage, repair in (
        ("captured_quanta = captured_quanta - 1", f"captured_quanta = {PRICE}"),
        ("ordinal = 1", "ordinal = 0"),
    ):
        await _tamper(rig, f"UPDATE agents.payments SET {damage}")
        assert await _problems(rig) == {("payment_differs", where)}
        await _tamper(rig, f"UPDATE agents.payments SET {repair}")
        assert not await _problems(rig)

    await _tamper(rig, "DELETE FROM agents.payments")
    assert await _problems(rig) == {("payment_differs", where)}
    rig.damaged = True


async def _problems(rig: PaymentsRig) -> set[tuple[str, str]]:
    report = await rig.books.check()
    return {(problem.code.value, problem.where) for problem in report.problems}


async def _tamper(rig: PaymentsRig, statement: str) -> None:
    async with await psycopg.AsyncConnection.connect(rig.books.dsn) as owner:
        await owner.execute("SET session_replication_role = replica")
        await owner.execute(statement.encode())


async def test_payments_leave_the_database_with_their_month(dsn: str, tmp_path: Path) -> None:
    """
    Archived rows are compared with archived entries; the old nonce buys nothing again.
    """
    clock = FakeClock(datetime(2026, 1, 20, 12, tzinfo=UTC))
    async with open_payments(dsn, clock, IdentifierSource(clock)) as rig:
        asked = requirements(rig.shop.party_id)
        claims = rig.wallet.claims(rig.shop.party_id)
        await rig.payments.settle(rig.wallet.sign(claims), asked)
        for month in (2, 3):
            clock.advance(datetime(2026, month, 5, tzinfo=UTC) - clock.now())
            await rig.books.ledger.ensure_partitions()
            await rig.payments.ensure_partitions()
            await rig.payments.settle(rig.wallet.pay(rig.shop.party_id), asked)

        archive_months(
            conninfo.make_conninfo(dsn, user="tokenworks_retention"),
            tmp_path,
            before=datetime(2026, 2, 1, tzinfo=UTC),
            clock=clock,
        )
        report = await rig.books.check(full=True, archive=tmp_path)
        now_s = int(clock.now().timestamp())
        again = rig.wallet.sign(claims | {"iat": now_s, "exp": now_s + 60})

        assert report.is_clean, report.to_json()
        assert report.counts["payments"] == 3
        assert len(await rig.books.rows("SELECT FROM agents.payments")) == 2
        assert await code_of(rig.payments.settle(again, asked)) == "id_outside_window"
        assert await rig.cash(rig.shop) == (3 * PRICE, 3 * PRICE)
        rig.damaged = True  # without its archive the full check cannot be run
