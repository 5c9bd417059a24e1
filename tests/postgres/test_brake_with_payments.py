"""
The brake in the life of a payment: real mandates, rules, people, ledger and receipts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from tests.postgres.payments_rig import (
    PayingWallet,
    PaymentsRig,
    open_payments,
    requirements,
)
from tokenworks.agents.brake.model import Review, ReviewFilter, ReviewState, Scope, Subject
from tokenworks.agents.mandates.model import Mandate, MoneyLimit, Terms, Window
from tokenworks.agents.payments.errors import PaymentDeniedError
from tokenworks.agents.payments.model import PaymentState
from tokenworks.agents.payments.store import PaymentFilter
from tokenworks.agents.services import AgentServices, open_agent_services
from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.errors import TokenworksError
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.gateway.calls import CallStore
from tokenworks.identity.model import Level, PartyKind
from tokenworks.supply.secrets import SecretBox

MONEY = 1_000_000
BUDGET = 500_000


@dataclass(kw_only=True)
class Life:
    """
    An agent with a mandate, as the hub has it: nothing but the seller is a fake.
    """

    rig: PaymentsRig
    agents: AgentServices
    mandate: Mandate

    async def rules(self, rules: dict[str, Any]) -> None:
        """
        Set the organisation's rules: those named, all others off.
        """
        names = ("velocity", "new_payee", "price_jump", "loop", "night", "burn_rate", "score")
        off = {name: {"action": "off"} for name in names}
        chain = [self.rig.organisation.party_id]
        await self.agents.brake.set_rules(chain, {"rules": {**off, **rules}}, actor="test")

    def sign(self, quanta: int) -> str:
        """
        Sign a payment to the shop.
        """
        return self.rig.wallet.pay(
            self.rig.shop.party_id, aud=self.agents.network, amount=str(quanta)
        )

    async def settle(self, jws: str, quanta: int, agents: AgentServices | None = None) -> str:
        """
        Settle a signed payment; return ``ok`` or why not.
        """
        asked = requirements(self.rig.shop.party_id, amount=quanta, network=self.agents.network)
        try:
            await (agents or self.agents).payments.settle(jws, asked)
        except TokenworksError as error:
            return error.code
        return "ok"

    async def waiting(self) -> Review:
        """
        Return the one review that is pending.
        """
        wanted = ReviewFilter(state=ReviewState.PENDING)
        (review,) = await self.agents.brake.list_reviews(wanted, count=10)
        return review

    async def approve(self, review: Review, **scope: Any) -> Review:  # noqa: ANN401 - passed on as given
        """
        Approve as the owner.
        """
        return await self.agents.brake.approve(
            review.review_id,
            digest=review.subject.digest,
            actor="owner",
            person=self.rig.organisation.party_id,
            **scope,
        )


async def open_agents(rig: PaymentsRig) -> AgentServices:
    """
    Open the services as each process does.
    """
    return await open_agent_services(
        pool=rig.books.pool,
        ledger=rig.books.ledger,
        identity=rig.identity,
        keys=rig.keys,
        clock=rig.clock,
        ids=rig.books.ids,
        calls=CallStore(rig.books.pool, rig.clock),
        box=SecretBox(bytes(32)),
    )


@pytest.fixture
async def life(dsn: str, clock: FakeClock, ids: IdentifierSource) -> AsyncIterator[Life]:
    """
    A mandate of half the organisation's money a day.
    """
    async with open_payments(dsn, clock, ids) as rig:
        for party in (rig.organisation, rig.agent):
            await rig.books.ledger.open_scope(party.party_id)
        agents = await open_agents(rig)
        await agents.mandates.add_wallet(rig.agent.party_id, rig.wallet.address, label="test")
        mandate = await agents.mandates.issue(
            rig.agent.party_id,
            Terms(budgets=(MoneyLimit(window=Window.DAY, quanta=BUDGET),)),
            actor="test",
        )
        yield Life(rig=rig, agents=agents, mandate=mandate)


async def test_held_payment_is_made_after_the_approval_and_its_receipt_says_why(
    life: Life,
) -> None:
    """
    Rules hold it, money waits with it, a person lets it pass, the receipt names both.
    """
    await life.rules({"new_payee": {"action": "hold"}})
    jws = life.sign(1_000)

    assert await life.settle(jws, 1_000) == "payment_in_review"
    assert await life.settle(jws, 1_000, await open_agents(life.rig)) == "payment_in_review"
    assert (await life.rig.cash(life.rig.organisation))[0] == MONEY - 1_000
    review = await life.waiting()
    await life.approve(review, note="a known shop")
    waiting = await life.agents.payments.get(review.review_id)
    assert (waiting.state, waiting.review and waiting.review.state) == (
        PaymentState.HELD,
        ReviewState.APPROVED,
    )

    # Through a process that did not hold it, along the capture by id, it reads the same.
    other_process = await open_agents(life.rig)
    assert await life.settle(jws, 1_000, other_process) == "ok"
    # It learns behind its answer.
    await other_process.payments.quiet()
    document = await life.agents.payments.receipt(review.review_id, "buyer")
    said = document["receipt"]["brake"]
    assert said["review"] == str(review.review_id)
    assert said["reasons"][0]["rule"] == "new_payee"
    assert said["reasons"][0]["text"].startswith("The first payment to this payee")
    moment = f"{life.rig.clock.now():%Y-%m-%dT%H:%M:%SZ}"
    assert said["reasons"][-1] == {
        "rule": "review",
        "action": "allow",
        "text": f"Approved by owner at {moment}. a known shop",
        "figures": {"approvals": 1},
    }
    paid = await life.agents.payments.get(review.review_id)
    assert paid.state is PaymentState.CAPTURED
    assert paid.review is not None
    assert (paid.review.state, paid.review.approved_by) == (ReviewState.APPROVED, ("owner",))
    # The payee is known now: the next payment needs nobody.
    assert await life.settle(life.sign(1_000), 1_000) == "ok"


async def test_denial_gives_the_money_back_at_once(life: Life) -> None:
    """
    What waited is free again, and the payment is never made.
    """
    await life.rules({"new_payee": {"action": "hold"}})
    jws = life.sign(1_000)
    assert await life.settle(jws, 1_000) == "payment_in_review"
    review = await life.waiting()

    await life.agents.brake.deny(
        review.review_id,
        digest=review.subject.digest,
        actor="owner",
        person=life.rig.organisation.party_id,
    )

    assert (await life.rig.cash(life.rig.organisation))[0] == MONEY
    payment = await life.agents.payments.get(review.review_id)
    assert payment.state is PaymentState.RELEASED
    assert payment.review is not None
    assert (payment.review.state, payment.review.denied_by) == (ReviewState.DENIED, "owner")
    assert await life.settle(jws, 1_000) != "ok"


async def test_nobody_decides_and_nothing_is_paid(life: Life) -> None:
    """
    The hold ends with the review; the same signature is refused for ever.
    """
    await life.rules({"new_payee": {"action": "hold"}})
    jws = life.sign(1_000)
    assert await life.settle(jws, 1_000) == "payment_in_review"
    life.rig.clock.advance(timedelta(minutes=15, seconds=1))

    assert await life.agents.brake.expire_due() == 1
    await life.rig.books.ledger.expire_due(grace=timedelta(0))

    assert (await life.rig.cash(life.rig.organisation))[0] == MONEY
    assert await life.settle(jws, 1_000) != "ok"
    [payment], _ = await life.agents.payments.list_payments(PaymentFilter(), None, 10)
    assert payment.state in {PaymentState.RELEASED, PaymentState.EXPIRED}
    assert payment.review is not None
    assert payment.review.state is ReviewState.EXPIRED


async def test_denied_payment_holds_nothing(life: Life) -> None:
    """
    A rule that denies asks nobody.
    """
    await life.rules({"new_payee": {"action": "deny"}})

    assert await life.settle(life.sign(1_000), 1_000) == "payment_denied"
    assert (await life.rig.cash(life.rig.organisation))[0] == MONEY
    assert await life.agents.brake.list_reviews(ReviewFilter(), count=10) == []


async def test_one_payment_sent_many_times_waits_once(life: Life) -> None:
    """
    Twenty times at once through two processes: one hold, one review, one line in the profile.
    """
    await life.rules(
        {
            "new_payee": {"action": "hold"},
            "loop": {"action": "deny", "times": 2, "within_s": 60},
        }
    )
    jws = life.sign(1_000)
    other = await open_agents(life.rig)

    answers = await asyncio.gather(
        *(life.settle(jws, 1_000, agents) for agents in [life.agents, other] * 10)
    )

    assert set(answers) == {"payment_in_review"}
    await life.waiting()
    assert (await life.rig.cash(life.rig.organisation))[0] == MONEY - 1_000


async def test_raise_lets_a_payment_fit(life: Life) -> None:
    """
    A payment above the mandate's budget: its owner raises the limit with the approval.
    """
    await life.rules({"new_payee": {"action": "hold"}})
    quanta = BUDGET + 100_000
    jws = life.sign(quanta)
    assert await life.settle(jws, quanta) not in {"ok", "payment_in_review"}
    review = await life.waiting()

    await life.approve(
        review,
        scope=Scope.RAISE,
        raised=MoneyLimit(window=Window.DAY, quanta=BUDGET + 200_000),
    )

    assert await life.settle(jws, quanta) == "ok"
    [view] = await life.rig.books.ledger.limits([life.mandate.mandate_id])
    assert (view.quanta, view.remaining) == (BUDGET + 200_000, 100_000)


async def test_burn_rate_is_judged_by_the_ledgers_own_figures(life: Life) -> None:
    """
    More than half of the day's budget before the day is over waits for a person.
    """
    burn = {"action": "hold", "spent_percent": 50, "window_percent": 100}
    await life.rules({"burn_rate": burn})

    assert await life.settle(life.sign(BUDGET // 2), BUDGET // 2) == "ok"
    # Another process, which remembers no older figures.
    other = await open_agents(life.rig)
    assert await life.settle(life.sign(1_000), 1_000, other) == "payment_in_review"
    review = await life.waiting()
    assert review.decision.reasons[0].figures["spent_percent"] == 50


async def test_one_nonce_brings_no_second_payload_past_the_brake(life: Life) -> None:
    """
    A small payment that was let pass and then found no money is no word for a large one.
    """
    empty = await life.agents.mandates.issue(
        life.rig.agent.party_id,
        Terms(budgets=(MoneyLimit(window=Window.DAY, quanta=1),)),
        actor="test",
    )
    await life.rules({"new_payee": {"action": "hold", "above": "0.00001"}})
    nonce = str(life.rig.books.ids.mint())
    network, shop = life.agents.network, life.rig.shop.party_id

    async def settle(quanta: int, mandate: Mandate) -> str:
        jws = life.rig.wallet.pay(
            shop, aud=network, amount=str(quanta), jti=nonce, mandate=str(mandate.mandate_id)
        )
        return await life.settle(jws, quanta)

    assert await settle(1_000, empty) == "limit_exceeded"

    assert await settle(100_000, life.mandate) != "ok"
    assert (await life.rig.cash(life.rig.shop))[1] == 0


async def test_whoever_an_agent_passed_its_mandate_on_to_is_under_its_rules(life: Life) -> None:
    """
    A watched agent cannot have another one pay unwatched; by escrow neither.
    """
    rig, agents = life.rig, life.agents
    helper = await rig.identity.add_party(
        "helper", kind=PartyKind.BUYER, level=Level.AGENT, parent=rig.organisation.party_id
    )
    await rig.books.ledger.open_scope(helper.party_id)
    wallet = PayingWallet(rig.clock, rig.books.ids)
    await agents.mandates.add_wallet(helper.party_id, wallet.address)
    root = await agents.mandates.issue(rig.agent.party_id, Terms(delegations_max=1), actor="test")
    child = await agents.mandates.issue(
        helper.party_id, Terms(), parent=root.mandate_id, actor="test"
    )
    await life.rules({})
    chain = [rig.organisation.party_id, rig.agent.party_id]
    await agents.brake.set_rules(chain, {"rules": {"new_payee": {"action": "deny"}}}, actor="test")
    shop = rig.shop.party_id
    jws = wallet.pay(shop, aud=agents.network, amount="1000")

    assert await life.settle(jws, 1_000) == "payment_denied"

    authority = await agents.mandates.authority_of(child.mandate_id)
    subject = Subject(
        payment_id=rig.books.ids.mint(),
        digest=bytes(32),
        agent_id=helper.party_id,
        mandate_id=child.mandate_id,
        organisation_id=rig.organisation.party_id,
        party_chain=authority.party_chain,
        payee_id=shop,
        quanta=1_000,
        currency="USD",
        resource="escrow:test",
        request_digest=bytes(32),
    )
    expires_at = rig.clock.now() + timedelta(minutes=1)
    with pytest.raises(PaymentDeniedError):
        await agents.payments.hold(authority, subject, quanta=1_000, expires_at=expires_at)
