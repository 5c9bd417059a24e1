"""
The SDK's clients of the hub: what they send, and how they read refusals.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

import tokenworks.sdk
from tests.unit.sdk_seller import NETWORK, PAYEE, offer, paid, payment_required
from tokenworks.sdk import (
    AsyncHubClient,
    HubClient,
    HubError,
    MalformedOfferError,
    NothingPayableError,
    PaymentUncertainError,
    SpendCap,
    SpendCapError,
    Wallet,
)
from tokenworks.sdk.signing import from_base64url, payment_id_of

URL = "http://hub.example"
QUESTION = [{"role": "user", "content": "?"}]

Answer = Callable[[httpx.Request], httpx.Response]


def client_of(answer: Answer, *, cap: str = "1", network: str | None = NETWORK) -> HubClient:
    """
    Return a client of a hub that answers as it is told.
    """
    return HubClient(
        URL,
        Wallet.generate(),
        cap=SpendCap(per_payment=cap),
        network=network,
        transport=httpx.MockTransport(answer),
        sleep=lambda _: None,
    )


async def no_sleep(_: float) -> None:
    """
    Wait for nothing.
    """


def claims_of(jws: str) -> dict[str, Any]:
    """
    Return what was signed.
    """
    return json.loads(from_base64url(jws.split(".")[1]))


def supported(*networks: str) -> Answer:
    """
    Return a hub that supports some networks.
    """
    kinds = [{"x402Version": 2, "scheme": "exact", "network": name} for name in networks]
    return lambda _: httpx.Response(200, json={"kinds": kinds})


def test_network_is_asked_for_once() -> None:
    """
    The hub names its network; another chain beside it does not matter.
    """
    with client_of(supported("eip155:1", NETWORK), network=None) as hub:
        assert hub.network == hub.desk.network == NETWORK


@pytest.mark.parametrize("networks", [(), ("eip155:1",), ("hub:a", "hub:b")])
def test_what_is_no_hub_is_refused(networks: tuple[str, ...]) -> None:
    """
    No network of a hub, or more than one.
    """
    with pytest.raises(MalformedOfferError):
        client_of(supported(*networks), network=None)


def test_requests_to_the_hub_are_signed_with_their_query_and_body() -> None:
    """
    The wallet's header covers method, address, query and body; writes have an idempotency key.
    """
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"items": []})

    with client_of(answer) as hub:
        hub.payments(limit=3)
        hub.act_on_escrow("a/b", "submit", {"x": 1})
    read, write = seen
    claims = claims_of(read.headers["x-tokenworks-wallet"])
    assert (claims["htm"], claims["htu"]) == ("GET", f"{URL}/hub/v1/payments?limit=3")
    assert "authorization" not in read.headers
    claims = claims_of(write.headers["x-tokenworks-wallet"])
    assert claims["htu"] == str(write.url) == f"{URL}/hub/v1/escrows/a%2Fb/submit"
    assert write.headers["idempotency-key"]
    assert write.content == b'{"x":1}'


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"detail": "No.", "code": "mandate_unknown", "details": {"a": 1}}, "mandate_unknown"),
        ({"error": {"message": "No.", "code": "model_not_found"}}, "model_not_found"),
        ([], "unknown"),
    ],
    ids=["problem", "openai", "odd"],
)
def test_refusals_of_the_hub_are_typed(body: object, reason: str) -> None:
    """
    Problem documents and OpenAI's errors have one class here.
    """
    with client_of(lambda _: httpx.Response(404, json=body)) as hub:
        with pytest.raises(HubError) as refusal:
            hub.mandate("x")
        with pytest.raises(HubError):
            hub.quote_model("x", QUESTION)
    assert (refusal.value.status, refusal.value.reason) == (404, reason)


def test_quote_signs_nothing() -> None:
    """
    A quote is the 402's offer on this network.
    """
    with client_of(lambda request: payment_required(offer(request, amount="5"))) as hub:
        quote = hub.quote_model("m", QUESTION, max_tokens=3)
    assert (quote.amount, quote.currency) == (Decimal("0.000000005"), "USD")
    assert json.loads(quote.requirements.document["amount"]) == 5


def test_what_cannot_be_quoted_is_told() -> None:
    """
    What is free, and what is paid on another network.
    """
    with client_of(lambda _: httpx.Response(200)) as hub, pytest.raises(NothingPayableError):
        hub.quote("GET", "http://seller.example/")
    with (
        client_of(lambda request: payment_required(offer(request, network="eip155:1"))) as hub,
        pytest.raises(NothingPayableError),
    ):
        hub.quote("GET", "http://seller.example/")


def test_answer_without_its_price_is_an_error() -> None:
    """
    A bought answer says what it cost, or something is wrong with the hub.
    """
    silent = httpx.Response(200, json={"choices": []})
    with client_of(lambda _: silent) as hub, pytest.raises(MalformedOfferError):
        hub.call_model("m", QUESTION)


# ------------------------------------------------------------------ direct payments


def settling(**members: object) -> Answer:
    """
    Return a hub whose settle door answers so.
    """
    return lambda _: httpx.Response(200, json={"transaction": "t", "network": NETWORK, **members})


def test_direct_payment_is_counted() -> None:
    """
    A party is paid without a 402; the cap counts it.
    """
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return settling(success=True, amount="2000")(request)

    with client_of(answer) as hub:
        settlement = hub.pay(PAYEE, "0.000002", reference="invoice 7")
        assert settlement.price == hub.desk.cap.spent == Decimal("0.000002")
    body = json.loads(seen[0].content)
    claims = claims_of(body["paymentPayload"]["payload"]["authorization"])
    asked = body["paymentRequirements"]
    assert (claims["pay_to"], claims["reference"]) == (PAYEE, "invoice 7")
    assert claims["amount"] == asked["amount"] == "2000"
    assert claims["body_sha256"] == asked["extra"]["binding"]["bodySha256"]


def test_direct_payment_that_is_refused_costs_nothing() -> None:
    """
    The reason is the hub's; a review keeps its part of the cap.
    """
    with client_of(settling(success=False, errorReason="payee_unknown")) as hub:
        with pytest.raises(HubError, match="payee_unknown"):
            hub.pay(PAYEE, "0.5")
        assert (hub.desk.cap.spent, hub.desk.cap.reserved) == (0, 0)
    with client_of(settling(success=False, errorReason="payment_in_review")) as hub:
        with pytest.raises(HubError) as review:
            hub.pay(PAYEE, "0.5")
        assert review.value.reason == "payment_in_review"
        assert hub.desk.cap.reserved == Decimal("0.5")


def test_direct_payment_is_sent_again_as_it_was() -> None:
    """
    A broken connection repeats the same signature; without any answer it counts as spent.
    """
    seen: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.content)
        if len(seen) in {1, 2}:
            raise httpx.ReadTimeout("late")
        if len(seen) > 3:
            raise httpx.ConnectError("away")
        return settling(success=True, amount="2000")(request)

    with client_of(answer) as hub:
        assert hub.pay(PAYEE, "0.000002").amount == 2000
        assert len(set(seen)) == 1
        with pytest.raises(PaymentUncertainError):
            hub.pay(PAYEE, "0.5")
        assert hub.desk.cap.reserved == Decimal("0.5")


def test_direct_payment_keeps_the_cap() -> None:
    """
    Nothing is sent that the cap refuses.
    """

    def answer(_: httpx.Request) -> httpx.Response:
        raise AssertionError("nothing is sent")

    with client_of(answer, cap="0.1") as hub, pytest.raises(SpendCapError):
        hub.pay(PAYEE, "0.2")


def test_without_a_cap_nothing_is_paid() -> None:
    """
    The default spends nothing.
    """
    transport = httpx.MockTransport(lambda request: payment_required(offer(request)))
    hub = HubClient(URL, Wallet.generate(), network=NETWORK, transport=transport)
    with hub, pytest.raises(SpendCapError):
        hub.call_model("m", QUESTION)


# ------------------------------------------------------------------ asynchronous


def test_both_clients_can_do_the_same() -> None:
    """
    Every public method is there twice, with the same parameters.
    """
    for name, method in inspect.getmembers(HubClient, inspect.isfunction):
        if name.startswith("_") or name == "close":
            continue
        twin = getattr(AsyncHubClient, name)
        assert inspect.iscoroutinefunction(twin), name
        assert inspect.signature(twin) == inspect.signature(method), name


async def test_asynchronous_client_buys() -> None:
    """
    The same steps with ``await``.
    """
    completion = {"choices": [{"message": {"content": "wet"}}]}

    def answer(request: httpx.Request) -> httpx.Response:
        if "PAYMENT-SIGNATURE" not in request.headers:
            return payment_required(offer(request))
        bought = paid("700")
        return httpx.Response(200, headers=bought.headers, json=completion)

    client = AsyncHubClient(
        URL,
        Wallet.generate(),
        network=NETWORK,
        cap=SpendCap(per_payment="1"),
        transport=httpx.MockTransport(answer),
    )
    async with client as hub:
        bought = await hub.call_model("m", QUESTION)
    assert (bought.text, bought.charge) == ("wet", Decimal("0.0000007"))


def test_both_clients_have_the_same_words() -> None:
    """
    What one can do the other can, with the same arguments; only opening and closing differ.
    """

    def words(client: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(method).parameters)
            for name, method in inspect.getmembers(client, inspect.isfunction)
            if not name.startswith("_") and name not in {"close", "aclose"}
        }

    assert words(HubClient) == words(AsyncHubClient)


TERMS = {"milestones": [{"name": "all", "amount": "0.25", "condition": "true"}]}


@pytest.mark.parametrize("lost", [1, 2, 3])
async def test_escrow_whose_answer_is_lost_is_opened_with_the_same_signature(lost: int) -> None:
    """
    Sent again as it is; after the last try it counts as spent, and the error names the payment.
    """
    bodies: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(request.content)
        if len(bodies) <= lost:
            raise httpx.ReadError("gone")
        return httpx.Response(201, json={"escrow_id": "e"})

    transport = httpx.MockTransport(answer)
    cap = SpendCap(per_payment="1")
    asynchronous = AsyncHubClient(
        URL, Wallet.generate(), network=NETWORK, cap=cap, transport=transport, sleep=no_sleep
    )
    synchronous = client_of(answer)
    named: list[str] = []
    signed: list[str] = []
    for open_one in (synchronous.open_escrow, asynchronous.open_escrow):
        bodies.clear()
        try:
            opened: Any = open_one(PAYEE, TERMS)
            opened = await opened if inspect.isawaitable(opened) else opened
            assert opened == {"escrow_id": "e"}
        except PaymentUncertainError as error:
            named.append(error.payment_id)
        assert len(set(bodies)) == 1
        claims = claims_of(json.loads(bodies[0])["authorisation"])
        signed.append(str(payment_id_of(claims["iss"], UUID(claims["jti"]))))
    assert named == (signed if lost == 3 else [])
    for hub in (synchronous, asynchronous):
        used = hub.desk.cap.spent + hub.desk.cap.reserved
        assert used == Decimal("0.25")


@pytest.mark.parametrize(("status", "kept"), [(400, "0"), (402, "0"), (503, "0.25"), (500, "0.25")])
def test_escrow_that_may_be_held_all_the_same_keeps_its_part_of_the_cap(
    status: int, kept: str
) -> None:
    """
    A refusal gives it back; a hub that broke may have held the money before.
    """
    with client_of(lambda _: httpx.Response(status, json={"code": "x"})) as hub:
        with pytest.raises(HubError):
            hub.open_escrow(PAYEE, TERMS)
        assert hub.desk.cap.reserved == Decimal(kept)


def test_stream_is_refused_before_anything_is_signed() -> None:
    """
    ``call_model`` could not read it, and it would be paid.
    """
    with client_of(lambda _: httpx.Response(500)) as hub, pytest.raises(ValueError, match="stream"):
        hub.call_model("m", QUESTION, stream=True)


def test_what_was_bought_and_is_no_completion_is_told() -> None:
    """
    An error of this package, not a KeyError.
    """

    def answer(request: httpx.Request) -> httpx.Response:
        if "payment-signature" not in request.headers:
            return payment_required(offer(request))
        return paid("5")

    with client_of(answer) as hub:
        with pytest.raises(MalformedOfferError):
            hub.call_model("m", QUESTION)
        assert hub.desk.cap.spent == Decimal("0.000000005")


async def test_asynchronous_client_connects_through_the_given_transport() -> None:
    """
    Also to ask for the network: a proxy or a certificate counts for all.
    """
    transport = httpx.MockTransport(supported(NETWORK))
    hub = await AsyncHubClient.connect(URL, Wallet.generate(), transport=transport, timeout_s=3)
    assert hub.network == NETWORK
    await hub.aclose()


def test_package_says_that_it_is_typed() -> None:
    """
    Else a type checker believes nothing of it.
    """
    assert (Path(tokenworks.sdk.__file__).parents[1] / "py.typed").is_file()
