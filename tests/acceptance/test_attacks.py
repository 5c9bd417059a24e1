"""
What agents' payments must survive: fifty at once, two gateways on one database, kill -9 between.

Each test ends with the books: exactly what was captured left the payer and reached the payee,
nothing is held, and the books balance; at the end the whole hub's check is clean.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Final

import psutil
import pytest

from tests.acceptance.agent_business import (
    IN_PARALLEL,
    PRICE,
    AgentBusiness,
    open_agent_business,
    orders_of,
)
from tests.acceptance.conftest import Shop
from tests.acceptance.hub_process import HubProcess, run_command
from tokenworks.agents.mandates.errors import MandateTooDeepError
from tokenworks.conformance.facilitator import Answer, Order
from tokenworks.conformance.ground import at_once
from tokenworks.conformance.rails import order_for

RECOVERY_TIMEOUT_S: Final = 180


@pytest.fixture(scope="module")
def market(session_fragile: Shop) -> Iterator[HubProcess]:
    """
    A hub of two gateway processes that tests may kill; its books are checked at the end.
    """
    yield session_fragile
    session_fragile.check_books()


@pytest.fixture
async def business(market: HubProcess) -> AsyncIterator[AgentBusiness]:
    """
    Services beside the hub; the whole hub's books balance after each test.
    """
    async with open_agent_business(market) as opened:
        yield opened
    assert market.get("ledger/trial-balance")["is_balanced"] is True


def transactions(answers: list[Answer]) -> set[str]:
    """
    Return the different payments that were made.
    """
    return {answer.transaction for answer in answers if answer.is_settled}


def reasons(answers: list[Answer]) -> set[str]:
    """
    Return why the others were refused.
    """
    return {answer.reason for answer in answers if not (answer.is_valid or answer.is_settled)}


def test_published_suite_is_survived(market: HubProcess) -> None:
    """
    ``tokenworks x402 audit`` with an admin key opens its own agents and finds nothing.
    """
    words = ["x402", "audit", f"{market.url}/x402", "--key", market.admin_key, "--json"]
    done = run_command(*words)
    assert done.returncode in {0, 1}, done.stderr
    report = json.loads(done.stdout)
    assert [row for row in report["findings"] if row["verdict"] != "survived"] == []
    assert done.returncode == 0
    assert report["in_parallel"] == IN_PARALLEL


async def test_one_payment_sent_many_times_at_once_is_paid_once(business: AgentBusiness) -> None:
    """
    Of fifty verifications one claims; fifty settlements are answered with one payment.
    """
    payer, payee = await business.payer(payments=IN_PARALLEL), await business.payee()
    async with business.ground(payer, payee) as ground:
        order = ground.order(payer.wallet)
        verified = await at_once(ground.facilitator.verify, [order] * IN_PARALLEL)
        settled = await at_once(ground.facilitator.settle, [order] * IN_PARALLEL)
    assert sum(answer.is_valid for answer in verified) == 1
    assert reasons(verified) == {"payment_already_claimed"}
    assert all(answer.is_settled for answer in settled), reasons(settled)
    assert len(transactions(settled)) == 1
    await business.assert_paid(payer, payee, payments=1, of=IN_PARALLEL)


async def test_many_payments_with_money_for_one_buy_one(business: AgentBusiness) -> None:
    """
    Fifty different authorisations at once from a balance for one: one is held, one is paid.
    """
    payer, payee = await business.payer(payments=1), await business.payee()
    async with business.ground(payer, payee) as ground:
        orders = orders_of(ground, [payer.wallet], IN_PARALLEL)
        sold = await ground.sell_at_once(orders)
    assert (sold.works, sold.transactions) == (1, 1)
    assert reasons([*sold.refused]) == {"insufficient_funds"}
    await business.assert_paid(payer, payee, payments=1, of=1)


async def test_signature_for_one_request_pays_for_no_other(business: AgentBusiness) -> None:
    """
    Fifty signatures for one request are sent at once for another method, address and body.
    """
    payer, payee = await business.payer(payments=IN_PARALLEL), await business.payee()
    async with business.ground(payer, payee) as ground:
        others = [
            replace(ground.sale, method="GET", body=b""),
            replace(ground.sale, url=f"{ground.sale.url}/other"),
            replace(ground.sale, body=b'{"prompt":"Write a book."}'),
        ]
        orders = [
            order_for(
                ground.rail,
                others[number % len(others)],
                ground.rail.sign(payer.wallet, ground.sale, ground.times()),
            )
            for number in range(IN_PARALLEL)
        ]
        answers = await at_once(ground.facilitator.verify, orders)
        answers += await at_once(ground.facilitator.settle, orders)
    assert reasons(answers) == {"request_binding_mismatch"}
    assert len(answers) == 2 * IN_PARALLEL
    await business.assert_paid(payer, payee, payments=0, of=IN_PARALLEL)


async def test_replay_after_settle_returns_the_first_receipt(business: AgentBusiness) -> None:
    """
    Fifty replays at once of a payment that was settled change nothing.
    """
    payer, payee = await business.payer(payments=2), await business.payee()
    async with business.ground(payer, payee) as ground:
        order = ground.order(payer.wallet)
        first = await ground.facilitator.settle(order)
        again = await at_once(ground.facilitator.settle, [order] * IN_PARALLEL)
    assert first.is_settled, first
    assert transactions(again) == {first.transaction}
    assert all(answer.document == first.document for answer in again)
    await business.assert_paid(payer, payee, payments=1, of=2)


async def test_settles_whose_callers_hung_up_are_paid_once(business: AgentBusiness) -> None:
    """
    Fifty callers close their connections before the answer and ask again.
    """
    payer, payee = await business.payer(payments=IN_PARALLEL), await business.payee()
    async with business.ground(payer, payee) as ground:
        orders = orders_of(ground, [payer.wallet], IN_PARALLEL)
        lost = await at_once(ground.facilitator.settle_and_hang_up, orders)
        again = await at_once(ground.facilitator.settle, orders)
    assert any(answer.status == 0 for answer in lost), "nobody hung up"
    assert all(answer.is_settled for answer in again), reasons(again)
    assert len(transactions(again)) == IN_PARALLEL
    await business.assert_paid(payer, payee, payments=IN_PARALLEL, of=IN_PARALLEL)


async def test_mandate_revoked_in_flight_binds_the_next_hold(business: AgentBusiness) -> None:
    """
    What was held before the revocation is paid; nothing that was asked after it is.
    """
    payer, payee = await business.payer(payments=2 * IN_PARALLEL), await business.payee()
    async with business.ground(payer, payee) as ground:
        held = orders_of(ground, [payer.wallet], IN_PARALLEL // 2)
        assert all(a.is_valid for a in await at_once(ground.facilitator.verify, held))
        racing = asyncio.gather(
            at_once(ground.facilitator.settle, orders_of(ground, [payer.wallet], IN_PARALLEL))
        )
        await business.services.agents.mandates.revoke(payer.mandate_id, actor="test")
        after = await at_once(
            ground.facilitator.settle, orders_of(ground, [payer.wallet], IN_PARALLEL)
        )
        (raced,) = await racing
        captured = await at_once(ground.facilitator.settle, held)
    assert reasons(after) <= {"mandate_revoked", "wallet_has_no_mandate"}
    assert len([answer for answer in after if answer.is_settled]) == 0
    assert all(answer.is_settled for answer in captured), reasons(captured)
    paid = len(held) + sum(answer.is_settled for answer in raced)
    await business.assert_paid(payer, payee, payments=paid, of=2 * IN_PARALLEL)


async def test_siblings_at_once_never_exceed_their_parents_budget(business: AgentBusiness) -> None:
    """
    Five agents whose mandates each allow what their common parent allows in all.
    """
    affordable = 10
    organisation = await business.organisation(quanta=IN_PARALLEL * PRICE)
    parent = await business.agent(organisation, budget=affordable * PRICE, delegations=1)
    siblings = [
        await business.agent(organisation, budget=affordable * PRICE, parent=parent.mandate_id)
        for _ in range(5)
    ]
    payee = await business.payee()
    async with business.ground(parent, payee) as ground:
        wallets = [sibling.wallet for sibling in siblings]
        answers = await at_once(ground.facilitator.settle, orders_of(ground, wallets, IN_PARALLEL))
    assert len(transactions(answers)) == affordable, reasons(answers)
    await business.assert_paid(parent, payee, payments=affordable, of=IN_PARALLEL)
    limits = await business.services.ledger.limits([parent.mandate_id])
    assert [(view.remaining, view.held) for view in limits] == [(0, 0)]


async def test_handler_that_fails_after_the_hold_costs_nothing(business: AgentBusiness) -> None:
    """
    Fifty holds whose payee gives up go back; the same money then buys fifty pieces.
    """
    payer, payee = await business.payer(payments=IN_PARALLEL), await business.payee()
    async with business.ground(payer, payee, scheme="upto") as ground:
        failing = orders_of(ground, [payer.wallet], IN_PARALLEL)
        verified = await at_once(ground.facilitator.verify, failing)
        assert all(answer.is_valid for answer in verified), reasons(verified)
        assert (await business.cash(payer.organisation)).available == 0
        released = await at_once(
            lambda order: ground.facilitator.settle_as(order, business.process.admin_key),
            [asking(order, "0") for order in failing],
        )
        assert all(answer.is_settled for answer in released), reasons(released)
        late = await at_once(ground.facilitator.settle, failing)
        assert {answer.document.get("amount", "0") for answer in late} == {"0"}
        again = await at_once(
            ground.facilitator.settle, orders_of(ground, [payer.wallet], IN_PARALLEL)
        )
        assert all(answer.is_settled for answer in again), reasons(again)
    await business.assert_paid(payer, payee, payments=IN_PARALLEL, of=IN_PARALLEL)


async def test_payer_cannot_end_a_payment_cheaply(business: AgentBusiness) -> None:
    """
    While the seller works, the payer settles for one unit, or for nothing: only the payee may.
    """
    payer, payee = await business.payer(payments=IN_PARALLEL), await business.payee()
    async with business.ground(payer, payee, scheme="upto") as ground:
        orders = orders_of(ground, [payer.wallet], IN_PARALLEL)
        verified = await at_once(ground.facilitator.verify, orders)
        assert all(answer.is_valid for answer in verified), reasons(verified)
        cheap = [asking(order, str(number % 2)) for number, order in enumerate(orders)]
        refused = await at_once(ground.facilitator.settle, cheap)
        assert not transactions(refused)
        assert reasons(refused) == {"unauthorized_server"}
        settled = await at_once(ground.facilitator.settle, orders)
        assert len(transactions(settled)) == IN_PARALLEL, reasons(settled)
    await business.assert_paid(payer, payee, payments=IN_PARALLEL, of=IN_PARALLEL)


async def test_delegation_deeper_than_eight_is_refused(business: AgentBusiness) -> None:
    """
    A chain of eight pays, and holds at every level; a ninth level is not made.
    """
    organisation = await business.organisation(quanta=IN_PARALLEL * PRICE)
    chain = [await business.agent(organisation, budget=10 * PRICE, delegations=7)]
    for level in range(2, 9):
        chain.append(
            await business.agent(
                organisation,
                budget=10 * PRICE,
                parent=chain[-1].mandate_id,
                delegations=8 - level,
            )
        )
    with pytest.raises(MandateTooDeepError):
        await business.agent(organisation, parent=chain[-1].mandate_id)
    payee = await business.payee()
    async with business.ground(chain[-1], payee) as ground:
        answers = await at_once(
            ground.facilitator.settle, orders_of(ground, [chain[-1].wallet], IN_PARALLEL)
        )
    assert len(transactions(answers)) == 10, reasons(answers)
    limits = await business.services.ledger.limits([link.mandate_id for link in chain])
    assert {(view.remaining, view.held) for view in limits} == {(0, 0)}
    assert len(limits) == 8
    await business.assert_paid(chain[0], payee, payments=10, of=IN_PARALLEL)


async def test_gateways_killed_between_hold_and_capture_lose_nothing(
    business: AgentBusiness,
) -> None:
    """
    Fifty are held, every gateway is killed with -9, and whoever is there next captures each once.
    """
    payer, payee = await business.payer(payments=IN_PARALLEL), await business.payee()
    async with business.ground(payer, payee) as ground:
        orders = orders_of(ground, [payer.wallet], IN_PARALLEL)
        verified = await at_once(ground.facilitator.verify, orders)
        assert all(answer.is_valid for answer in verified), reasons(verified)
        held = await business.cash(payer.organisation)
        assert (held.balance, held.available) == (IN_PARALLEL * PRICE, 0)
        kill_gateways(business.process)
        settled = await settle_until_answered(business, orders)
        claimed = await at_once(ground.facilitator.verify, orders)
    assert len(transactions(settled)) == IN_PARALLEL
    assert not any(answer.is_valid for answer in claimed), "paid twice for one claim"
    await business.assert_paid(payer, payee, payments=IN_PARALLEL, of=IN_PARALLEL)


async def test_gateways_killed_while_they_settle_pay_each_once(business: AgentBusiness) -> None:
    """
    Gateways are killed while fifty settlements are under way; every one is asked again.
    """
    payer, payee = await business.payer(payments=IN_PARALLEL), await business.payee()
    async with business.ground(payer, payee) as ground:
        orders = orders_of(ground, [payer.wallet], IN_PARALLEL)
        first = asyncio.Event()

        async def settle(order_number: int) -> Answer:
            answer = await ground.facilitator.settle(orders[order_number])
            first.set()
            return answer

        racing = asyncio.gather(*(settle(number) for number in range(IN_PARALLEL)))
        await first.wait()
        kill_gateways(business.process)
        answered = [answer for answer in await racing if answer.is_settled]
        again = await settle_until_answered(business, orders)
    assert transactions(answered) <= transactions(again)
    assert len(transactions(again)) == IN_PARALLEL
    await business.assert_paid(payer, payee, payments=IN_PARALLEL, of=IN_PARALLEL)


def asking(order: Order, amount: str) -> Order:
    """
    Return the settle call that charges another amount than was held.
    """
    return replace(order, requirements={**order.requirements, "amount": amount})


# ------------------------------------------------------------------ processes


def kill_gateways(process: HubProcess) -> None:
    """
    Kill every gateway with -9; the supervisor starts them again.
    """
    for name, pid in process.children().items():
        if name.startswith("gateway") and psutil.pid_exists(pid):
            os.kill(pid, signal.SIGKILL)


async def settle_until_answered(business: AgentBusiness, orders: list[Order]) -> list[Answer]:
    """
    Settle as a patient seller does: what was not answered is asked again.
    """
    answers: dict[int, Answer] = {}
    async with asyncio.timeout(RECOVERY_TIMEOUT_S), business.facilitator() as facilitator:
        while len(answers) < len(orders):
            open_numbers = [number for number in range(len(orders)) if number not in answers]
            sent = await at_once(facilitator.settle, [orders[number] for number in open_numbers])
            told = zip(open_numbers, sent, strict=True)
            answers |= {
                number: answer
                for number, answer in told
                if not (answer.is_fault or answer.is_unfinished)
            }
    return [answers[number] for number in range(len(orders))]
