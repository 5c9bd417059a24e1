"""
Answers sold to wallets by x402: offered, paid, charged for what was used; nothing twice.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.databases import OpenDatabase
from tests.patience import PATIENCE_S
from tests.postgres.gateway_rig import DOLLAR, Plant, heard, nano, open_plant
from tests.postgres.selling_rig import SellingRig, braked, listening, open_selling_business
from tokenworks.agents.brake.model import Action, ReviewState
from tokenworks.agents.mandates.model import CountLimit, MoneyLimit, Terms, Window
from tokenworks.agents.payments.authorising import read_authorisation
from tokenworks.agents.payments.errors import (
    PaymentClaimedError,
    PaymentConflictError,
)
from tokenworks.agents.payments.errors import PaymentInReviewError as HeldForReviewError
from tokenworks.agents.payments.model import Requirements
from tokenworks.agents.payments.placing import Sold
from tokenworks.foundation.errors import InvalidError
from tokenworks.foundation.money import LIMIT_TOKENS
from tokenworks.sdk import (
    AnswerLostError,
    AsyncPayingTransport,
    Backoff,
    PaymentInReviewError,
    PaymentRefusedError,
    Wallet,
    settlement_of,
    wait_for_review_async,
)
from tokenworks.sdk.model import (
    from_payment_required,
    from_payment_response,
    to_payment_signature,
)
from tokenworks.sdk.paying import binding_of
from tokenworks.testing.supplier_stub import Behaviour
from tokenworks.web.x402_api.offering import read_payment
from tokenworks.web.x402_api.selling import STREAM_COMMENT, principal_of

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plant(
    open_database: OpenDatabase, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[tuple[Plant, str]]:
    """
    A hub and its suppliers, listening.
    """
    with open_database() as dsn:
        async with (
            open_plant(dsn, tmp_path_factory.mktemp("hub")) as plant,
            listening(plant.hub) as url,
        ):
            yield plant, url


@pytest_asyncio.fixture(loop_scope="module")
async def rig(plant: tuple[Plant, str]) -> AsyncGenerator[SellingRig]:
    """
    An agent whose wallet may spend its organisation's money.
    """
    async with open_selling_business(*plant) as rig:
        yield rig


def offered(answer: httpx.Response) -> dict[str, Any]:
    """
    Return the only way to pay in a 402.
    """
    (one,) = from_payment_required(answer.headers["payment-required"]).accepts
    return dict(one.document)


async def unpaid(rig: SellingRig, body: bytes) -> httpx.Response:
    """
    Ask without paying.
    """
    async with httpx.AsyncClient(timeout=PATIENCE_S) as plain:
        return await plain.post(rig.chat_url, content=body)


async def send(request: httpx.Request) -> httpx.Response:
    """
    Send a signed request as it is.
    """
    async with httpx.AsyncClient(timeout=PATIENCE_S) as plain:
        return await plain.send(request)


# ------------------------------------------------------------------ the offer


async def test_unpaid_request_is_offered_what_it_can_cost_at_most(rig: SellingRig) -> None:
    """
    402 with the quote's ceiling for that very body, bound to it; nothing is held.
    """
    body = rig.body()
    answer = await unpaid(rig, body)
    assert answer.status_code == 402
    asked = offered(answer)
    quote = await rig.gateway.quote(body)
    assert (asked["scheme"], asked["network"]) == ("upto", rig.network)
    assert (asked["amount"], asked["asset"]) == (str(quote.quanta), "USD")
    assert asked["extra"]["decimals"] == 9
    binding = asked["extra"]["binding"]
    assert (binding["method"], binding["url"]) == ("POST", rig.chat_url)
    other = offered(await unpaid(rig, rig.body(max_tokens=41)))
    assert other["extra"]["binding"]["bodySha256"] != binding["bodySha256"]
    assert int(other["amount"]) > int(asked["amount"])
    assert json.loads(base64.b64decode(answer.headers["payment-required"])) == answer.json()
    assert not await rig.gateway.hub.ledger.open_holds()


@pytest.mark.parametrize(
    ("members", "status"),
    [({"model": "nobody"}, 404), ({"messages": []}, 400), ({"max_tokens": 0}, 400)],
)
async def test_request_that_cannot_be_sold_is_refused_before_it_is_offered(
    rig: SellingRig, members: dict[str, Any], status: int
) -> None:
    """
    Nobody is asked to pay for what would be refused.
    """
    answer = await unpaid(rig, rig.body(**members))
    assert answer.status_code == status
    assert "payment-required" not in answer.headers


async def test_models_are_listed_with_their_prices(rig: SellingRig) -> None:
    """
    Every model at every tier that has a price; no key is asked for.
    """
    async with httpx.AsyncClient(timeout=PATIENCE_S) as plain:
        answer = await plain.get(f"{rig.url}/x402/v1/models")
    models = {entry["id"]: entry for entry in answer.json()["data"]}
    standard = models[f"{rig.gateway.model}@standard"]
    assert standard["currency"] == "USD"
    assert nano(standard["price_per_million"]["output"]) == 3 * DOLLAR
    assert nano(models[f"{rig.gateway.model}@free"]["price_per_million"]["output"]) == 0


async def test_other_addresses_and_methods_are_refused(rig: SellingRig) -> None:
    """
    The door has two addresses.
    """
    async with httpx.AsyncClient(timeout=PATIENCE_S) as plain:
        assert (await plain.get(rig.chat_url)).status_code == 400
        assert (await plain.get(f"{rig.url}/x402/v1/nothing")).status_code == 404


# ------------------------------------------------------------------ paid answers


async def test_paid_answer_is_charged_for_what_it_used(rig: SellingRig) -> None:
    """
    The actual tokens are settled, the rest of the hold returns, the header says what it cost.
    """
    async with rig.client(desk := rig.desk()) as client:
        answer = await client.post(rig.chat_url, content=rig.body())
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"]
    settlement = settlement_of(answer)
    assert settlement is not None
    call = await rig.gateway.call()
    assert settlement.amount == call.charge_quanta > 0
    assert settlement.transaction == str(call.call_id)
    assert settlement.payer == rig.wallet.address
    assert settlement.network == rig.network
    assert call.charge_quanta < call.quoted_quanta, "there was change"
    assert desk.cap.spent * DOLLAR == call.charge_quanta
    assert (call.party_id, call.key_id) == (rig.agent.party_id, rig.mandate.mandate_id)
    payment = await rig.gateway.hub.agents.payments.get(call.call_id)
    assert (payment.state, payment.scheme) == ("captured", "call")
    assert payment.captured_quanta == call.charge_quanta
    assert payment.authorised_quanta == call.quoted_quanta
    await rig.gateway.audit()


async def test_receipt_says_who_signed_and_why_it_was_let_through(rig: SellingRig) -> None:
    """
    The call's receipt carries the authorisation, the mandates and the brake's decision.
    """
    async with rig.client() as client:
        await client.post(rig.chat_url, content=rig.body())
    call = await rig.gateway.call()
    assert call.receipt is not None
    paid = call.receipt["payment"]
    assert paid["payer"] == rig.wallet.address
    assert paid["mandates"] == [str(rig.mandate.mandate_id)]
    assert paid["brake"]["action"] == "allow"
    assert nano(paid["authorised"]) == call.quoted_quanta
    assert paid["authorisation"].count(".") == 2


async def test_stream_is_capped_by_what_was_signed(rig: SellingRig) -> None:
    """
    Without an output limit the granted one is sent upstream; the receipt line says the charge.
    """
    rig.gateway.set_rules(granted_output_tokens=24)
    body = rig.body(stream=True, max_tokens=...)
    async with (
        rig.client(desk := rig.desk()) as client,
        client.stream("POST", rig.chat_url, content=body) as answer,
    ):
        assert answer.status_code == 200
        assert "payment-response" not in answer.headers
        raw = b"".join([piece async for piece in answer.aiter_bytes()])
        settlement = settlement_of(answer)
    stream = heard(raw)
    assert stream.is_done
    assert stream.receipt is not None
    call = await rig.gateway.call()
    assert nano(stream.receipt["receipt"]["charge"]) == call.charge_quanta > 0
    assert settlement is not None
    assert settlement.amount == call.charge_quanta
    [closing] = [line for line in raw.split(b"\n") if line.startswith(STREAM_COMMENT)]
    said = json.loads(base64.b64decode(closing.removeprefix(STREAM_COMMENT)))
    assert said == {
        "success": True,
        "transaction": str(call.call_id),
        "network": rig.network,
        "amount": str(call.charge_quanta),
        "payer": rig.wallet.address,
    }
    assert desk.cap.spent * DOLLAR == call.charge_quanta
    sent = json.loads(rig.gateway.first.requests[-1].body)
    assert sent["max_tokens"] == 24
    assert call.output_tokens <= 24
    await rig.gateway.audit()


async def test_supplier_that_ignores_the_cap_is_not_paid_by_the_wallet(rig: SellingRig) -> None:
    """
    Beyond what was signed the platform bears it; the hold never grows.
    """
    usage = {"prompt_tokens": 5, "completion_tokens": 4_000, "total_tokens": 4_005}
    message = {"role": "assistant", "content": "much"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    answer = {"id": "x", "object": "chat.completion", "created": 1, "model": "m"}
    await rig.gateway.add_odd_supplier({**answer, "choices": [choice], "usage": usage})
    async with rig.client() as client:
        paid = await client.post(rig.chat_url, content=rig.body())
    settlement = settlement_of(paid)
    call = await rig.gateway.call()
    assert settlement is not None
    assert settlement.amount == call.charge_quanta == call.quoted_quanta
    assert call.receipt is not None
    assert nano(call.receipt["overrun"]) > 0


async def test_what_is_free_costs_nothing_but_is_signed_for(rig: SellingRig) -> None:
    """
    One atomic unit is asked for, and comes back.
    """
    body = rig.body(model=f"{rig.gateway.model}@free")
    assert offered(await unpaid(rig, body))["amount"] == "1"
    async with rig.client() as client:
        answer = await client.post(rig.chat_url, content=body)
    settlement = settlement_of(answer)
    assert settlement is not None
    assert settlement.amount == 0
    await rig.gateway.audit()


# ------------------------------------------------------------------ failures and repeats


async def test_failed_call_gives_everything_back(rig: SellingRig) -> None:
    """
    No supplier delivers: nothing is charged, and the wallet is told so.
    """
    for stub in (rig.gateway.first, rig.gateway.second):
        stub.set_behaviour(Behaviour(status=500))
    async with rig.client(desk := rig.desk()) as client:
        with pytest.raises(PaymentRefusedError) as refusal:
            await client.post(rig.chat_url, content=rig.body())
    assert refusal.value.reason == "all_suppliers_failed"
    assert refusal.value.response.status_code == 502
    assert (desk.cap.spent, desk.cap.reserved) == (0, 0)
    call = await rig.gateway.call()
    assert (call.status, call.charge_quanta) == ("failed", 0)
    payment = await rig.gateway.hub.agents.payments.get(call.call_id)
    assert payment.state == "released"
    await rig.gateway.audit()


async def test_replay_answers_the_first_outcome(rig: SellingRig) -> None:
    """
    The same payment again buys nothing, costs nothing, and says what it has cost.
    """
    request = await rig.sign(rig.body())
    first = await send(request)
    second = await send(request)
    assert (first.status_code, second.status_code) == (200, 409)
    assert second.json()["error"]["code"] == "call_already_settled"
    call = await rig.gateway.call()
    assert second.json()["error"]["details"]["receipt"] == f"/hub/v1/receipts/{call.call_id}"
    settlement = from_payment_response(second.headers["payment-response"])
    assert settlement.is_success
    assert settlement.amount == call.charge_quanta
    await rig.gateway.audit()


async def test_fifty_at_once_buy_one_answer(rig: SellingRig) -> None:
    """
    One payment sent fifty times in parallel: one supplier's work, one charge.
    """
    request = await rig.sign(rig.body())
    asked_before = len(rig.gateway.first.requests)
    limits = httpx.Limits(max_connections=50)
    async with httpx.AsyncClient(timeout=PATIENCE_S, limits=limits) as plain:
        answers = await asyncio.gather(
            *(
                plain.post(rig.chat_url, content=request.content, headers=request.headers)
                for _ in range(50)
            )
        )
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [200] + [409] * 49
    assert len(rig.gateway.first.requests) == asked_before + 1
    await rig.gateway.audit()


async def test_payment_of_a_failed_call_buys_nothing_later(rig: SellingRig) -> None:
    """
    What was given back is not taken again: another request needs another signature.
    """
    request = await rig.sign(rig.body())
    for stub in (rig.gateway.first, rig.gateway.second):
        stub.set_behaviour(Behaviour(status=500))
    assert (await send(request)).status_code == 502
    for stub in (rig.gateway.first, rig.gateway.second):
        stub.reset()
    again = await send(request)
    assert again.status_code == 409
    assert again.json()["error"]["code"] == "payment_conflict"
    await rig.gateway.audit()


async def test_lost_answer_is_paid_once(rig: SellingRig) -> None:
    """
    The SDK's repeat finds the payment settled, and says so.
    """

    class Cut(httpx.AsyncBaseTransport):
        def __init__(self) -> None:
            self.inner = httpx.AsyncHTTPTransport()
            self.cuts = 1

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            answer = await self.inner.handle_async_request(request)
            if "PAYMENT-SIGNATURE" in request.headers and self.cuts:
                self.cuts -= 1
                await answer.aread()
                await answer.aclose()
                raise httpx.ReadTimeout("the answer was lost")
            return answer

        async def aclose(self) -> None:
            await self.inner.aclose()

    desk = rig.desk()
    at_once = Backoff(first_wait_s=0)
    transport = AsyncPayingTransport(desk, Cut(), backoff=at_once)
    async with httpx.AsyncClient(transport=transport) as client:
        with pytest.raises(AnswerLostError):
            await client.post(rig.chat_url, content=rig.body())
    call = await rig.gateway.call()
    assert desk.cap.spent * DOLLAR == call.charge_quanta
    await rig.gateway.audit()


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("?", "authorisation_malformed"),
        (base64.b64encode(b"[]").decode(), "authorisation_malformed"),
        (base64.b64encode(b'{"x402Version":1,"payload":{"authorization":"a"}}').decode(), None),
        (base64.b64encode(b'{"x402Version":2,"payload":{"authorization":"a.b.c"}}').decode(), None),
        ("A" * 40_000, "authorisation_malformed"),
    ],
)
async def test_payment_that_cannot_be_read_is_offered_again(
    rig: SellingRig, header: str, code: str | None
) -> None:
    """
    402 with a new offer and the reason; nothing is held.
    """
    async with httpx.AsyncClient(timeout=PATIENCE_S) as plain:
        answer = await plain.post(
            rig.chat_url, content=rig.body(), headers={"payment-signature": header}
        )
    assert answer.status_code == 402, answer.text
    assert from_payment_required(answer.headers["payment-required"]).error == (
        code or "authorisation_malformed"
    )
    assert not from_payment_response(answer.headers["payment-response"]).is_success


async def test_signature_for_another_body_buys_nothing(rig: SellingRig) -> None:
    """
    The body is signed: one question's payment does not buy another's answer.
    """
    request = await rig.sign(rig.body())
    headers = {"payment-signature": request.headers["payment-signature"]}
    async with httpx.AsyncClient(timeout=PATIENCE_S) as plain:
        answer = await plain.post(rig.chat_url, content=rig.body(max_tokens=39), headers=headers)
    assert answer.status_code == 402
    assert from_payment_response(answer.headers["payment-response"]).error_reason == (
        "request_binding_mismatch"
    )
    assert await rig.calls() == []


async def test_less_than_the_offer_is_refused_and_more_is_taken(rig: SellingRig) -> None:
    """
    What is signed covers the quote, or nothing is sold.
    """
    body = rig.body()
    amount = int(offered(await unpaid(rig, body))["amount"])
    less = await send(await signed_with(rig, body, amount=amount - 1))
    assert less.status_code == 402
    assert from_payment_response(less.headers["payment-response"]).error_reason == (
        "requirements_mismatch"
    )
    more = await send(await signed_with(rig, body, amount=amount + 1))
    assert more.status_code == 200
    await rig.gateway.audit()


async def signed_with(rig: SellingRig, body: bytes, *, amount: int) -> httpx.Request:
    """
    Return a request with a signature over another amount than was asked for.
    """
    answer = await unpaid(rig, body)
    required = from_payment_required(answer.headers["payment-required"])
    (asked,) = required.accepts
    request = httpx.Request("POST", rig.chat_url, content=body)
    jws = rig.wallet.authorise(replace(asked, amount=amount), binding_of(request))
    request.headers["payment-signature"] = to_payment_signature(required, asked, jws)
    return request


async def test_unknown_wallet_buys_nothing(rig: SellingRig) -> None:
    """
    A key that nobody registered has no money.
    """
    async with rig.client(rig.desk(Wallet.generate())) as client:
        with pytest.raises(PaymentRefusedError) as refusal:
            await client.post(rig.chat_url, content=rig.body())
    assert refusal.value.reason == "wallet_unknown"


async def test_models_of_the_mandate_are_kept(rig: SellingRig) -> None:
    """
    A mandate for another model does not pay for this one.
    """
    await rig.gateway.hub.agents.mandates.revoke(rig.mandate.mandate_id, actor="rig")
    mandate = await rig.issue(Terms(models=frozenset({f"{rig.gateway.model}@premium"})))
    async with rig.client(rig.desk(mandate=str(mandate.mandate_id))) as client:
        with pytest.raises(PaymentRefusedError) as refusal:
            await client.post(rig.chat_url, content=rig.body())
        assert refusal.value.reason == "model_not_allowed"
        body = rig.body(model=f"{rig.gateway.model}@premium")
        assert (await client.post(rig.chat_url, content=body)).status_code == 200
    await rig.gateway.audit()


async def test_budget_and_count_of_the_mandate_are_kept(rig: SellingRig) -> None:
    """
    Sums are the ledger's: the hold goes along the mandate's path, a call counts as one payment.
    """
    counted = await rig.issue(Terms(counts=(CountLimit(window=Window.HOUR, payments=2),)))
    async with rig.client(rig.desk(mandate=str(counted.mandate_id))) as client:
        for _ in range(2):
            assert (await client.post(rig.chat_url, content=rig.body())).status_code == 200
        with pytest.raises(PaymentRefusedError):
            await client.post(rig.chat_url, content=rig.body())
    amount = int(offered(await unpaid(rig, rig.body()))["amount"])
    limit = MoneyLimit(window=Window.EVER, quanta=amount - 1)
    poor = await rig.issue(Terms(budgets=(limit,)))
    async with rig.client(rig.desk(mandate=str(poor.mandate_id))) as client:
        with pytest.raises(PaymentRefusedError):
            await client.post(rig.chat_url, content=rig.body())
    await rig.gateway.audit()


async def test_limit_of_tokens_is_kept(rig: SellingRig) -> None:
    """
    A limit of tokens on the owner counts calls that wallets pay for too.
    """
    hub, organisation = rig.gateway.hub, rig.gateway.organisation
    await hub.ledger.set_limit(
        scope_id=organisation.party_id,
        asset=LIMIT_TOKENS,
        quanta=600,
        window="day",
        actor="rig",
    )
    async with rig.client() as client:
        assert (await client.post(rig.chat_url, content=rig.body())).status_code == 200
        (limit,) = await hub.ledger.limits([organisation.party_id])
        call = await rig.gateway.call()
        assert 600 - limit.remaining == call.total_tokens
        with pytest.raises(PaymentRefusedError):
            await client.post(rig.chat_url, content=rig.body(max_tokens=4_000))
    await rig.gateway.audit()


async def test_owners_kill_switch_stops_the_next_call(rig: SellingRig) -> None:
    """
    A frozen agent buys nothing more; thawed, it goes on.
    """
    mandates = rig.gateway.hub.agents.mandates
    await mandates.freeze(rig.agent.party_id, actor="owner")
    async with rig.client() as client:
        with pytest.raises(PaymentRefusedError) as refusal:
            await client.post(rig.chat_url, content=rig.body())
        assert refusal.value.reason == "mandate_frozen"
        await mandates.thaw(rig.agent.party_id, actor="owner")
        assert (await client.post(rig.chat_url, content=rig.body())).status_code == 200


# ------------------------------------------------------------------ a person decides


async def nap(_: float) -> None:
    """
    Wait for nothing.
    """


async def test_call_in_review_goes_on_with_the_same_signature(rig: SellingRig) -> None:
    """
    Held, not sold; after the approval the same request buys the answer, once.
    """
    asked_before = len(rig.gateway.first.requests)
    with braked(rig) as brake:
        brake.action = Action.HOLD
        async with rig.client(desk := rig.desk()) as client:
            with pytest.raises(PaymentInReviewError) as review:
                await client.post(rig.chat_url, content=rig.body())
            (hold,) = await rig.gateway.hub.ledger.open_holds()
            assert str(hold.hold_id) == review.value.review_id
            assert len(rig.gateway.first.requests) == asked_before
            with pytest.raises(PaymentInReviewError):
                await wait_for_review_async(client, review.value, tries=1, sleep=nap)
            waiting = brake.reviews[hold.hold_id]
            brake.reviews[hold.hold_id] = replace(waiting, state=ReviewState.APPROVED)
            answer = await wait_for_review_async(client, review.value, tries=1, sleep=nap)
        assert answer.status_code == 200
        assert (await send(review.value.request)).status_code == 409
    await rig.gateway.hub.agents.payments.quiet()
    call = await rig.gateway.call()
    assert brake.recorded == [(call.call_id, call.charge_quanta)]
    assert desk.cap.spent * DOLLAR == call.charge_quanta
    assert len(rig.gateway.first.requests) == asked_before + 1
    await rig.gateway.audit()


async def test_denied_call_is_not_sold(rig: SellingRig) -> None:
    """
    The brake or a person says no: nothing is held or sold, and the reasons are told.
    """
    with braked(rig) as brake:
        brake.action = Action.DENY
        async with rig.client() as client:
            with pytest.raises(PaymentRefusedError) as refusal:
                await client.post(rig.chat_url, content=rig.body())
    assert refusal.value.reason == "payment_denied"
    assert refusal.value.response.status_code == 403
    assert await rig.calls() == []
    await rig.gateway.audit()


# ------------------------------------------------------------------ the other door


async def test_what_buys_a_call_is_not_settled_elsewhere(rig: SellingRig) -> None:
    """
    Whoever has the signature can neither give back nor settle what the gateway works for.
    """
    payments = rig.gateway.hub.agents.payments
    jws, asked = await claimable(rig)
    held = await payments.claim_held(jws, asked, sold=Sold(tokens=100))
    for amount in (0, 1, asked.amount):
        with pytest.raises(PaymentClaimedError):
            await payments.settle(jws, replace(asked, amount=amount))
    await payments.release(held.payment_id, reason="the test is over")
    await rig.gateway.audit()


async def test_what_was_held_for_a_sale_elsewhere_buys_no_call(rig: SellingRig) -> None:
    """
    A hold that no model and no tokens were looked at for is given back, not sold on.
    """
    payments = rig.gateway.hub.agents.payments
    jws, asked = await claimable(rig)
    await payments.attest(jws, asked, asked.binding.url)
    with pytest.raises(PaymentConflictError):
        await payments.claim_held(jws, asked, sold=Sold(tokens=100))
    await rig.gateway.audit()


@pytest.mark.parametrize("has_waited", [False, True])
async def test_hold_of_a_signed_payment_is_kept_alive(rig: SellingRig, has_waited: bool) -> None:
    """
    The gateway's heartbeat extends the very hold that was claimed, also after a review.
    """
    hub = rig.gateway.hub
    payments, gateway = hub.agents.payments, hub.gateway
    rig.gateway.set_rules(hold_lifetime_s=7_200)
    jws, asked = await claimable(rig)
    quoted = await gateway.quote(rig.body())
    sold = Sold(tokens=quoted.quote.tokens)
    with braked(rig) as brake:
        if has_waited:
            brake.action = Action.HOLD
            with pytest.raises(HeldForReviewError):
                await payments.claim_held(jws, asked, sold=sold)
            ((payment_id, waiting),) = brake.reviews.items()
            brake.reviews[payment_id] = replace(waiting, state=ReviewState.APPROVED)
        held = await payments.claim_held(jws, asked, sold=sold)
        with pytest.raises(PaymentClaimedError):
            await payments.claim_held(jws, asked, sold=sold)
    call = gateway.open_held(quoted, principal_of(held), held)
    before = await hub.ledger.hold(held.payment_id)
    for _ in range(2):
        assert await gateway.holding.extend(call, quanta=0, tokens=0)
    after = await hub.ledger.hold(held.payment_id)
    assert before is not None
    assert after is not None
    assert after.expires_at > before.expires_at
    await gateway.settling.give_back(call, InvalidError("the test is over"))
    await rig.gateway.audit()


async def claimable(rig: SellingRig) -> tuple[str, Requirements]:
    """
    Return a signature for the chat door and what it was signed for.
    """
    request = await rig.sign(rig.body())
    jws = read_payment(request.headers["payment-signature"].encode())
    read = read_authorisation(jws, network=rig.network)
    asked = Requirements(
        scheme=read.scheme,
        network=read.network,
        amount=read.amount,
        asset=read.asset,
        pay_to=read.pay_to,
        binding=read.binding,
        timeout_s=60,
    )
    return jws, asked
