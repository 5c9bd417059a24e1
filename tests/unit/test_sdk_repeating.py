"""
When the SDK sends a signed request again, and after how long.
"""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.unit.sdk_seller import NETWORK, Seller, paid, refused
from tokenworks.sdk import (
    AsyncPayingTransport,
    Backoff,
    HubClient,
    PayingTransport,
    PaymentUncertainError,
    SpendCap,
    Wallet,
)
from tokenworks.sdk.paying import PaymentDesk
from tokenworks.sdk.repeating import retry_after_s

URL = "http://seller.example/answers"
DATE = "Wed, 21 Oct 2026 07:28:00 GMT"
LATER = "Wed, 21 Oct 2026 07:28:05 GMT"


def busy(status: int = 503, **headers: str) -> httpx.Response:
    """
    Return an answer that says nothing of the payment.
    """
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, headers=named, json={"code": "busy"})


def get(
    *answers: httpx.Response | Exception, chance: float = 1.0
) -> tuple[Any, Seller, list[float]]:
    """
    Buy from a seller that answers so; return what came, the seller and the waits.
    """
    seller, waits = Seller(*answers), list[float]()
    cap = SpendCap(per_payment="0.000001")
    desk = PaymentDesk(Wallet.generate(), network=NETWORK, cap=cap)
    transport = PayingTransport(
        desk,
        httpx.MockTransport(seller),
        backoff=Backoff(chance=lambda: chance),
        sleep=waits.append,
    )
    with httpx.Client(transport=transport) as client:
        try:
            return client.get(URL), seller, waits
        except PaymentUncertainError as error:
            return error, seller, waits


@pytest.mark.parametrize(("chance", "waits"), [(0.0, [0.5, 1.0]), (1.0, [0.25, 0.5])])
def test_broken_connection_is_tried_again_after_twice_the_wait(
    chance: float, waits: list[float]
) -> None:
    """
    Up to half of each wait is left to chance, so that clients do not come back together.
    """
    broken = httpx.ReadError("cut")
    answer, seller, waited = get(broken, broken, paid(), chance=chance)
    assert answer.status_code == 200
    assert waited == waits
    assert len({request.headers["PAYMENT-SIGNATURE"] for request in seller.paid}) == 1


def test_nothing_is_waited_for_after_the_last_try() -> None:
    """
    Three tries have two waits between them.
    """
    error, seller, waits = get(*[httpx.ConnectError("away")] * 3)
    assert isinstance(error, PaymentUncertainError)
    assert (len(seller.paid), len(waits)) == (3, 2)


def test_waits_are_bounded() -> None:
    """
    However often it is tried.
    """
    backoff = Backoff(repeats=60, wait_s_max=4.0, chance=lambda: 0.0)
    assert max(backoff.after_fault(attempt) or 0 for attempt in range(60)) == 4.0


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("asked", "wait_s"), [({"retry_after": "3"}, 3.5), ({"retry_after": LATER, "date": DATE}, 5.5)]
)
def test_server_that_names_a_time_is_not_asked_before_it(
    status: int, asked: dict[str, str], wait_s: float
) -> None:
    """
    Chance adds to it and never takes away; a date counts from the answer's own.
    """
    answer, seller, waits = get(busy(status, **asked), paid())
    assert answer.status_code == 200
    assert waits == [wait_s]
    assert len({request.headers["PAYMENT-SIGNATURE"] for request in seller.paid}) == 1


@pytest.mark.parametrize(
    "final",
    [
        busy(),
        busy(500, retry_after="1"),
        busy(retry_after="31"),
        busy(429, retry_after="soon"),
        busy(retry_after=LATER),
    ],
    ids=["no time", "another fault", "too long", "no number", "no date to count from"],
)
def test_other_answers_are_the_answer(final: httpx.Response) -> None:
    """
    Without a time that is near, the caller decides.
    """
    answer, seller, waits = get(final)
    assert answer.status_code == final.status_code
    assert (len(seller.paid), waits) == (1, [])


def test_seller_that_stays_busy_is_the_answer_in_the_end() -> None:
    """
    Its last answer is handed on, and the signature keeps its part of the cap.
    """
    answer, seller, waits = get(*[busy(retry_after="1")] * 3)
    assert answer.status_code == 503
    assert (len(seller.paid), len(waits)) == (3, 2)


def test_answer_about_the_payment_is_not_asked_for_again() -> None:
    """
    A refusal is final, whatever else stands beside it.
    """
    refusal = refused("insufficient_funds")
    refusal.headers["retry-after"] = "1"
    refusal.status_code = 429
    backoff = Backoff()
    assert backoff.after_answer(0, refusal) is None


async def test_asynchronous_transport_waits_too() -> None:
    """
    The same rules with ``await``.
    """
    waits: list[float] = []

    async def sleep(wait_s: float) -> None:
        waits.append(wait_s)

    seller = Seller(httpx.ReadError("cut"), busy(retry_after="2"), paid())
    cap = SpendCap(per_payment="0.000001")
    transport = AsyncPayingTransport(
        PaymentDesk(Wallet.generate(), network=NETWORK, cap=cap),
        httpx.MockTransport(seller),
        backoff=Backoff(chance=lambda: 0.0),
        sleep=sleep,
    )
    async with httpx.AsyncClient(transport=transport) as client:
        assert (await client.get(URL)).status_code == 200
    assert waits == [0.5, 2.0]


def test_client_hands_its_patience_to_whatever_it_signs() -> None:
    """
    A direct payment waits as a paid call does.
    """
    waits: list[float] = []
    hub = HubClient(
        "http://hub.example",
        Wallet.generate(),
        network=NETWORK,
        cap=SpendCap(per_payment="1"),
        transport=httpx.MockTransport(lambda _: busy(retry_after="1")),
        backoff=Backoff(repeats=1, chance=lambda: 0.0),
        sleep=waits.append,
    )
    with hub, pytest.raises(Exception, match="503"):
        hub.open_escrow("p", {"milestones": [{"name": "a", "amount": "0.1", "condition": "true"}]})
    assert waits == [1.0]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "1.5"}, None),
        ({"retry-after": DATE, "date": LATER}, 0.0),
        ({}, None),
    ],
)
def test_retry_after_is_read_as_the_protocol_has_it(
    headers: dict[str, str], seconds: float | None
) -> None:
    """
    Whole seconds or a date; what is past is at once.
    """
    assert retry_after_s(httpx.Response(503, headers=headers)) == seconds
