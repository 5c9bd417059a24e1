"""
The official x402 packages, unmodified, with the hub's schemes registered.
"""

from __future__ import annotations

import base64
import hashlib

import httpx
import pytest
from x402.client import x402Client, x402ClientSync
from x402.http import FacilitatorConfig, HTTPFacilitatorClient, x402HTTPClientSync
from x402.http.clients.httpx import PaymentError, x402AsyncTransport
from x402.schemas import AssetAmount, PaymentRequirements, SupportedKind

from tests.unit.sdk_seller import NETWORK, PAYEE, Seller, claims_of
from tokenworks.sdk import BindingMismatchError, Wallet
from tokenworks.sdk.x402 import register
from tokenworks.sdk.x402_selling import (
    BindRequests,
    HubServerScheme,
    Message,
    Receive,
    Scope,
    Send,
    url_of,
)

URL = "http://seller.example/answers"


def official_client(seller: Seller, wallet: Wallet, *, cap: str = "$0.01") -> httpx.AsyncClient:
    """
    Return a client that pays with the official transport and a cap.
    """
    client = x402Client()
    witness = register(client, wallet, network=NETWORK)
    client.set_spend_controls({"max_amount_per_payment": cap})
    inner = witness.async_transport(httpx.MockTransport(seller))
    return httpx.AsyncClient(transport=x402AsyncTransport(client, inner))


async def test_official_client_pays_for_the_request_it_sent() -> None:
    """
    The official transport sends again with our authorisation for that very request.
    """
    seller, wallet = Seller(), Wallet.generate()
    async with official_client(seller, wallet) as client:
        answer = await client.post(URL, content=b"question")
    assert answer.status_code == 200
    claims = claims_of(seller.paid[0])
    assert (claims["iss"], claims["method"], claims["url"]) == (wallet.address, "POST", URL)


async def test_official_spend_control_refuses_before_signing() -> None:
    """
    Its cap in dollars is meant for the hub's dollars: nine decimals.
    """
    seller = Seller(amount="10000001")
    async with official_client(seller, Wallet.generate(), cap="$0.01") as client:
        with pytest.raises(PaymentError, match="spend_controls"):
            await client.get(URL)
    assert seller.paid == []


async def test_official_client_pays_no_unlisted_currency() -> None:
    """
    A currency without a cap of its own is not paid by default.
    """
    seller = Seller(asset="CNY")
    async with official_client(seller, Wallet.generate()) as client:
        with pytest.raises(PaymentError, match="allowed_assets"):
            await client.get(URL)
    assert seller.paid == []


async def test_official_client_signs_for_no_other_request() -> None:
    """
    What the witness did not see is not paid for, whoever asks.
    """
    seller = Seller(binding={"url": "http://hub.example/x402/v1/chat/completions"})
    async with official_client(seller, Wallet.generate()) as client:
        with pytest.raises(PaymentError) as refusal:
            await client.post(URL, content=b"question")
    assert isinstance(refusal.value.__cause__, BindingMismatchError)
    assert seller.paid == []


def test_official_client_pays_synchronously() -> None:
    """
    The synchronous client's own steps, with httpx below.
    """
    seller, wallet = Seller(), Wallet.generate()
    client = x402ClientSync()
    witness = register(client, wallet, network=NETWORK)
    steps = x402HTTPClientSync(client)
    with httpx.Client(transport=witness.transport(httpx.MockTransport(seller))) as http:
        asked = http.post(URL, content=b"question")
        headers, _ = steps.handle_402_response(dict(asked.headers), asked.content, URL)
        answer = http.post(URL, content=b"question", headers=headers)
    assert answer.status_code == 200
    assert claims_of(seller.paid[0])["iss"] == wallet.address


# ------------------------------------------------------------------ selling


def hash_of(body: bytes) -> str:
    """
    Return the base64url hash of a body.
    """
    return base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=").decode()


@pytest.mark.parametrize(
    ("price", "expected"),
    [
        ("$0.0002", ("200000", "USD")),
        ("0.000000001 USD", ("1", "USD")),
        ("3 CNY", ("3000000000", "CNY")),
        (2, ("2000000000", "USD")),
        (AssetAmount(amount="7", asset="CNY"), ("7", "CNY")),
    ],
)
def test_price_is_atomic(price: str | int | AssetAmount, expected: tuple[str, str]) -> None:
    """
    Prices are turned into nine decimals, exactly.
    """
    parsed = scheme().parse_price(price, NETWORK)
    assert (parsed.amount, parsed.asset) == expected


def test_price_is_never_rounded() -> None:
    """
    A price finer than an atomic unit is a mistake.
    """
    with pytest.raises(ValueError, match="decimals"):
        scheme().parse_price("$0.0000000001", NETWORK)


def test_nothing_is_sold_unbound() -> None:
    """
    Outside ``BindRequests`` there is no request to bind to: the seller fails closed.
    """
    with pytest.raises(RuntimeError, match="BindRequests"):
        scheme().enhance_payment_requirements(requirements(), kind(), [])


async def test_request_is_bound_and_reaches_the_handler_whole() -> None:
    """
    The hash is of all pieces of the body, and the application reads them again.
    """
    seen: list[object] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        bound = scheme().enhance_payment_requirements(requirements(), kind(), [])
        seen.append((await receive())["body"])
        seen.append(bound.extra["binding"])

    pieces = [b"que", b"stion"]

    async def receive() -> Message:
        body = pieces.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(pieces)}

    async def send(_: Message) -> None:
        raise AssertionError("the application answers nothing here")

    await BindRequests(application)(make_scope(b"x=1"), receive, send)
    assert seen == [
        b"question",
        {
            "method": "POST",
            "url": "http://seller.example/a%20b?x=1",
            "bodySha256": hash_of(b"question"),
        },
    ]


async def test_request_that_is_too_large_is_refused() -> None:
    """
    Nothing is hashed without a limit.
    """
    sent: list[Message] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("never reached")

    async def receive() -> Message:
        return {"type": "http.request", "body": b"xxxx", "more_body": True}

    async def send(message: Message) -> None:
        sent.append(message)

    await BindRequests(application, body_bytes_max=10)(make_scope(), receive, send)
    assert sent[0]["status"] == 413


def test_address_is_the_clients_or_the_public_one() -> None:
    """
    Behind a proxy the operator says how clients call it.
    """
    assert url_of(make_scope(), public_url=None) == "http://seller.example/a%20b"
    assert url_of(make_scope(), public_url="https://s.example/") == "https://s.example/a%20b"


def scheme() -> HubServerScheme:
    """
    Return a scheme whose facilitator is never reached.
    """
    return HubServerScheme("exact", facilitator=HTTPFacilitatorClient(FacilitatorConfig(url="x")))


def requirements() -> PaymentRequirements:
    """
    Return requirements as the official server makes them.
    """
    return PaymentRequirements(
        scheme="exact",
        network=NETWORK,
        asset="USD",
        amount="7",
        pay_to=PAYEE,
        max_timeout_seconds=60,
    )


def kind() -> SupportedKind:
    """
    Return what the facilitator supports.
    """
    return SupportedKind(x402_version=2, scheme="exact", network=NETWORK)


def make_scope(query: bytes = b"") -> Scope:
    """
    Return the scope of a request.
    """
    return {
        "type": "http",
        "method": "POST",
        "scheme": "http",
        "path": "/a b",
        "raw_path": b"/a%20b",
        "query_string": query,
        "headers": [(b"host", b"seller.example")],
    }
