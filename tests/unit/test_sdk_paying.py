"""
The SDK's transports: what is signed, how often, and what a cap counts.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import httpx
import pytest

from tests.unit.sdk_seller import (
    NETWORK,
    Seller,
    claims_of,
    header_of,
    offer,
    paid,
    payment_required,
    refused,
)
from tokenworks.sdk import (
    AnswerLostError,
    AsyncPayingTransport,
    BindingMismatchError,
    MalformedOfferError,
    NothingPayableError,
    PayingTransport,
    PaymentInReviewError,
    PaymentRefusedError,
    PaymentUncertainError,
    SdkError,
    SpendCap,
    SpendCapError,
    Wallet,
    settlement_of,
    wait_for_review,
    wait_for_review_async,
    wrap,
    wrap_async,
)
from tokenworks.sdk.paying import PaymentDesk
from tokenworks.sdk.repeating import Backoff

URL = "http://seller.example/answers?kind=short"
ATOMIC = Decimal("0.000000001")


def make_desk(*, per_payment: str = "0.000001", total: str = "0.001") -> PaymentDesk:
    """
    Return a desk with a cap of a thousand payments' worth, unless told otherwise.
    """
    cap = SpendCap(per_payment=per_payment, total=total)
    return PaymentDesk(Wallet.generate(), network=NETWORK, cap=cap)


def client_of(seller: Callable[[httpx.Request], httpx.Response], desk: PaymentDesk) -> httpx.Client:
    """
    Return a paying client of a seller.
    """
    inner = httpx.MockTransport(seller)
    return httpx.Client(transport=PayingTransport(desk, inner, sleep=lambda _: None))


def test_request_is_paid_and_sent_again() -> None:
    """
    The paid request is the first one with a signature for exactly it; the charge is counted.
    """
    seller, desk = Seller(paid("700")), make_desk()
    with client_of(seller, desk) as client:
        answer = client.post(URL, content=b"question")
    assert answer.json() == {"ok": True}
    (request,) = seller.paid
    claims = claims_of(request)
    assert request.content == b"question"
    assert claims["iss"] == desk.wallet.address
    assert (claims["method"], claims["url"]) == ("POST", URL)
    assert (claims["amount"], claims["scheme"]) == ("1000", "upto")
    settlement = settlement_of(answer)
    assert settlement is not None
    assert settlement.amount == 700
    assert (desk.cap.spent, desk.cap.reserved) == (700 * ATOMIC, 0)


async def test_request_is_paid_asynchronously() -> None:
    """
    The asynchronous transport does the same.
    """
    seller, desk = Seller(paid("700")), make_desk()
    transport = AsyncPayingTransport(desk, httpx.MockTransport(seller))
    async with httpx.AsyncClient(transport=transport) as client:
        answer = await client.post(URL, content=b"question")
    assert answer.json() == {"ok": True}
    assert desk.cap.spent == 700 * ATOMIC


def test_what_costs_nothing_passes_unsigned() -> None:
    """
    Without a 402 the desk is not asked, and a 402 without an offer is the caller's.
    """
    desk = make_desk()
    for status in (200, 402, 500):
        with client_of(lambda _, status=status: httpx.Response(status), desk) as client:
            assert client.get(URL).status_code == status
    assert desk.cap.spent == 0


def test_wrapped_client_pays() -> None:
    """
    A client that exists keeps its own transport below the paying one.
    """
    seller, desk = Seller(), make_desk()
    client = httpx.Client(transport=httpx.MockTransport(seller))
    with wrap(client, desk):
        assert client.get(URL).status_code == 200
    assert len(seller.paid) == 1


async def test_wrapped_asynchronous_client_pays() -> None:
    """
    And so does an asynchronous one.
    """
    seller, desk = Seller(), make_desk()
    client = httpx.AsyncClient(transport=httpx.MockTransport(seller))
    async with wrap_async(client, desk):
        assert (await client.get(URL)).status_code == 200
    assert len(seller.paid) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"binding": {"method": "GET"}},
        {"binding": {"url": "http://hub.example/x402/v1/chat/completions"}},
        {"binding": {"bodySha256": "A" * 43}},
    ],
    ids=["method", "url", "body"],
)
def test_nothing_is_signed_for_another_request(changes: dict[str, Any]) -> None:
    """
    A seller cannot make the wallet pay for a request that was not sent.
    """
    seller, desk = Seller(**changes), make_desk()
    with client_of(seller, desk) as client, pytest.raises(BindingMismatchError):
        client.post(URL, content=b"question")
    assert seller.paid == []
    assert desk.cap.reserved == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"network": "hub:another"},
        {"network": "eip155:8453"},
        {"scheme": "deferred"},
        {"asset": "CNY"},
        {"extra": {}},
    ],
    ids=["hub", "chain", "scheme", "currency", "unbound"],
)
def test_what_cannot_be_paid_is_not_signed(changes: dict[str, Any]) -> None:
    """
    Other networks, schemes and currencies, and offers without a binding, are left alone.
    """
    seller, desk = Seller(**changes), make_desk()
    with (
        client_of(seller, desk) as client,
        pytest.raises((NothingPayableError, BindingMismatchError)),
    ):
        client.get(URL)
    assert seller.paid == []


@pytest.mark.parametrize(
    "header",
    [
        "?",
        header_of({"x402Version": 1, "accepts": []}),
        header_of({"x402Version": 2}),
        header_of({"x402Version": 2, "accepts": [{"scheme": "upto"}]}),
        header_of({"x402Version": 2, "accepts": ["x"]}),
    ],
)
def test_offer_that_cannot_be_read_is_refused(header: str) -> None:
    """
    Whatever is no offer of version 2 has one clear error.
    """

    def sell(_: httpx.Request) -> httpx.Response:
        return httpx.Response(402, headers={"PAYMENT-REQUIRED": header})

    with client_of(sell, make_desk()) as client, pytest.raises(MalformedOfferError):
        client.get(URL)


@pytest.mark.parametrize("amount", ["-1", "1.5", "1e3", "", "٣"])
def test_amount_is_digits(amount: str) -> None:
    """
    An amount is a text of decimal digits and nothing else.
    """
    with (
        client_of(Seller(amount=amount), make_desk()) as client,
        pytest.raises(MalformedOfferError),
    ):
        client.get(URL)


def test_cheapest_offer_is_taken() -> None:
    """
    Of several ways to pay for the same request the one that costs least is signed.
    """
    seen: list[httpx.Request] = []

    def sell(request: httpx.Request) -> httpx.Response:
        if "PAYMENT-SIGNATURE" in request.headers:
            seen.append(request)
            return paid("300")
        return payment_required(
            offer(request, amount="900"), offer(request, scheme="exact", amount="300")
        )

    with client_of(sell, make_desk()) as client:
        client.get(URL)
    assert (claims_of(seen[0])["scheme"], claims_of(seen[0])["amount"]) == ("exact", "300")


# ------------------------------------------------------------------ the cap


def test_cap_refuses_before_anything_is_signed() -> None:
    """
    One payment above the cap, or above what is left, is not signed.
    """
    seller, desk = Seller(paid("1000")), make_desk(per_payment="0.000001", total="0.0000025")
    with client_of(seller, desk) as client:
        client.get(URL)
        client.get(URL)
        with pytest.raises(SpendCapError) as refusal:
            client.get(URL)
    assert (refusal.value.asked, refusal.value.left) == (1000, 500)
    assert len(seller.paid) == 2
    dear = Seller(amount="1001")
    with client_of(dear, make_desk()) as client, pytest.raises(SpendCapError):
        client.get(URL)
    assert dear.paid == []


def test_cap_holds_over_threads() -> None:
    """
    Thirty threads that pay at once spend no more than the total.
    """
    desk = make_desk(per_payment="0.000001", total="0.00001")
    gate = threading.Barrier(30)
    refusals: list[SpendCapError] = []
    seller = Seller(paid("1000"))

    def buy() -> None:
        with client_of(seller, desk) as client:
            gate.wait()
            try:
                client.get(URL)
            except SpendCapError as error:
                refusals.append(error)

    threads = [threading.Thread(target=buy) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seller.paid) == 10
    assert len(refusals) == 20
    assert desk.cap.spent == 10_000 * ATOMIC


@pytest.mark.parametrize("amount", ["0.0000000001", "-1", "nan", "inf", "x"])
def test_cap_is_an_amount(amount: str) -> None:
    """
    A cap that is no amount is refused when it is made.
    """
    with pytest.raises(ValueError):
        SpendCap(per_payment=amount)


def test_cap_is_never_a_float() -> None:
    """
    Value is never a float.
    """
    with pytest.raises(ValueError):
        SpendCap(per_payment=0.1)  # type: ignore[arg-type] # the mistake that is tested


# ------------------------------------------------------------------ what may go wrong


def test_broken_connection_sends_the_same_signature_again() -> None:
    """
    A timeout is no failure: nothing is signed a second time.
    """
    seller, desk = Seller(httpx.ReadTimeout("late"), httpx.ReadError("cut"), paid()), make_desk()
    with client_of(seller, desk) as client:
        assert client.get(URL).status_code == 200
    assert len({request.headers["PAYMENT-SIGNATURE"] for request in seller.paid}) == 1
    assert len(seller.paid) == 3
    assert desk.cap.spent == 700 * ATOMIC


def test_no_answer_at_all_counts_as_spent_until_it_is_known() -> None:
    """
    The error carries the request; sent again through the same client it goes on.
    """
    silence = [httpx.ConnectTimeout("late")] * (Backoff().repeats + 1)
    seller, desk = Seller(*silence, paid("700")), make_desk()
    with client_of(seller, desk) as client:
        with pytest.raises(PaymentUncertainError) as uncertain:
            client.get(URL)
        assert (desk.cap.spent, desk.cap.reserved) == (0, 1000 * ATOMIC)
        assert client.send(uncertain.value.request).status_code == 200
    assert (desk.cap.spent, desk.cap.reserved) == (700 * ATOMIC, 0)
    assert len({request.headers["PAYMENT-SIGNATURE"] for request in seller.paid}) == 1


def test_answer_that_was_lost_is_paid_once() -> None:
    """
    A repeat that finds the payment settled says so, and counts what was charged.
    """
    settled = paid("700", status=409)
    seller, desk = Seller(httpx.ReadTimeout("late"), settled), make_desk()
    with client_of(seller, desk) as client, pytest.raises(AnswerLostError):
        client.get(URL)
    assert (desk.cap.spent, desk.cap.reserved) == (700 * ATOMIC, 0)


def test_repeat_while_the_first_runs_is_uncertain() -> None:
    """
    Whoever works for the payment already may still be paid.
    """
    seller, desk = Seller(refused("payment_already_claimed")), make_desk()
    with client_of(seller, desk) as client, pytest.raises(PaymentUncertainError):
        client.get(URL)
    assert desk.cap.reserved == 1000 * ATOMIC


@pytest.mark.parametrize(
    "answer",
    [
        refused("insufficient_funds"),
        payment_required(error="insufficient_funds"),
        httpx.Response(402, json={"error": {"code": "insufficient_funds"}}),
    ],
    ids=["response", "required", "body"],
)
def test_refusal_costs_nothing(answer: httpx.Response) -> None:
    """
    Wherever a seller says why, the reason is the error's and the cap gets its part back.
    """
    seller, desk = Seller(answer), make_desk()
    with client_of(seller, desk) as client, pytest.raises(PaymentRefusedError) as refusal:
        client.get(URL)
    assert refusal.value.reason == "insufficient_funds"
    assert (desk.cap.spent, desk.cap.reserved) == (0, 0)


def test_error_without_a_word_keeps_its_part() -> None:
    """
    A seller that fails silently still has the signature: it counts until it is known.
    """
    seller, desk = Seller(httpx.Response(500)), make_desk()
    with client_of(seller, desk) as client:
        assert client.get(URL).status_code == 500
    assert desk.cap.reserved == 1000 * ATOMIC


def test_seller_that_names_no_charge_is_counted_whole() -> None:
    """
    Success without an amount counts as all that was signed.
    """
    seller, desk = Seller(paid(None)), make_desk()
    with client_of(seller, desk) as client:
        client.get(URL)
    assert desk.cap.spent == 1000 * ATOMIC


def test_streams_charge_comes_from_the_receipt_line() -> None:
    """
    A stream says what it cost in its last lines, however they are cut.
    """
    text = (
        b'data: {"x":1}\n\n: tokenworks-receipt {"receipt":{"charge":"0.0000004","currency":"USD"}}'
        b"\n\ndata: [DONE]\n\n"
    )
    for size in (1, 7, 1_000):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        stream = httpx.Response(
            200, headers={"content-type": "text/event-stream"}, content=iter(pieces)
        )
        desk = make_desk()
        with client_of(Seller(stream), desk) as client, client.stream("GET", URL) as answer:
            assert settlement_of(answer) is None
            assert b"".join(answer.iter_bytes()) == text
            settlement = settlement_of(answer)
        assert settlement is not None
        assert settlement.amount == 400
        assert (desk.cap.spent, desk.cap.reserved) == (400 * ATOMIC, 0)


# ------------------------------------------------------------------ a person decides


def test_review_goes_on_with_the_same_signature() -> None:
    """
    After the approval the very same request is answered.
    """
    waiting = refused("payment_in_review")
    seller, desk = Seller(waiting, waiting, waiting, paid("700")), make_desk()
    naps: list[float] = []
    with client_of(seller, desk) as client:
        with pytest.raises(PaymentInReviewError) as review:
            client.get(URL)
        assert desk.cap.reserved == 1000 * ATOMIC
        answer = wait_for_review(client, review.value, tries=5, every_s=2, sleep=naps.append)
    assert answer.status_code == 200
    assert naps == [2, 2, 2]
    assert len({request.headers["PAYMENT-SIGNATURE"] for request in seller.paid}) == 1
    assert (desk.cap.spent, desk.cap.reserved) == (700 * ATOMIC, 0)


async def test_review_that_nobody_decides_stays_in_review() -> None:
    """
    The last try's error is raised; a denial is a refusal.
    """
    waiting = payment_required(error="payment_in_review")
    seller, desk = Seller(waiting, waiting, waiting, refused("payment_denied")), make_desk()

    async def nap(_: float) -> None:
        return None

    sleep: Callable[[float], Awaitable[None]] = nap
    transport = AsyncPayingTransport(desk, httpx.MockTransport(seller))
    async with httpx.AsyncClient(transport=transport) as client:
        with pytest.raises(PaymentInReviewError) as review:
            await client.get(URL)
        with pytest.raises(PaymentInReviewError):
            await wait_for_review_async(client, review.value, tries=2, sleep=sleep)
        with pytest.raises(PaymentRefusedError):
            await wait_for_review_async(client, review.value, tries=2, sleep=sleep)
    assert desk.cap.reserved == 0


@pytest.mark.parametrize(
    "changes",
    [{"extra": None}, {"extra": []}, {"amount": "9" * 5_000}],
)
def test_odd_offer_is_an_error_of_this_package(changes: dict[str, object]) -> None:
    """
    Whatever a seller sends, nothing is signed and nothing else is raised.
    """
    seller = Seller(**changes)
    with client_of(seller, make_desk()) as client, pytest.raises(SdkError):
        client.get(URL)
    assert seller.paid == []


def test_odd_charge_counts_as_the_whole() -> None:
    """
    A settlement whose amount is no number in ASCII says nothing: the cap loses what was signed.
    """
    desk = make_desk()
    with client_of(Seller(paid("²")), desk) as client:
        assert client.get(URL).is_success
    assert desk.cap.spent == Decimal("0.000001")
