"""
Suppliers that fail: who else is tried, what the client hears, who pays.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio

from tests.databases import OpenDatabase
from tests.postgres.gateway_rig import (
    CONTEXT_TOKENS,
    SUPPLIER_KEY,
    Behaviour,
    Plant,
    Rig,
    heard,
    open_business,
    open_plant,
)
from tokenworks.supply.costing import axis_card
from tokenworks.supply.model import OfferState, OfferTerms
from tokenworks.testing.supplier_behaviour import Content, Malformation, UsageShape

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plant(
    open_database: OpenDatabase, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Plant]:
    """
    A hub and its suppliers.
    """
    with open_database() as dsn:
        async with open_plant(dsn, tmp_path_factory.mktemp("hub")) as plant:
            yield plant


@pytest_asyncio.fixture(loop_scope="module")
async def rig(plant: Plant) -> AsyncGenerator[Rig]:
    """
    A business of the test's own.
    """
    async with open_business(plant) as rig:
        yield rig


# ---------------------------------------------------------------------- before the first byte

BEFORE_FIRST_BYTE = {
    "cut": (Behaviour(close_before_headers=True), "supplier_cut_answer", None),
    "reset": (Behaviour(reset_before_headers=True), "supplier_cut_answer", None),
    "rate_limited": (Behaviour(status=429, retry_after_s=3), "http_429", 429),
    "broken": (Behaviour(status=500), "http_500", 500),
    "overloaded": (Behaviour(status=503), "http_503", 503),
    "rejects_our_key": (Behaviour(status=401), "http_401", 401),
    "slow": (Behaviour(hang=True), "supplier_timeout", None),
    "not_json": (Behaviour(malformation=Malformation.NOT_JSON), "supplier_bad_answer", 200),
    "wrong_json": (Behaviour(malformation=Malformation.WRONG_JSON), "supplier_bad_answer", 200),
    "redirect": (Behaviour(status=302), "supplier_redirect", None),
}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize(
    ("behaviour", "code", "status"), BEFORE_FIRST_BYTE.values(), ids=BEFORE_FIRST_BYTE
)
async def test_another_supplier_answers_before_the_first_byte(
    rig: Rig, behaviour: Behaviour, code: str, status: int | None, stream: bool
) -> None:
    """
    The buyer gets one answer and pays for one; both attempts are on the receipt.
    """
    rig.first.set_behaviour(behaviour)
    if behaviour.hang:
        await rig.be_impatient(first_byte_timeout_ms=250)

    answer = await rig.ask(stream=stream)

    assert answer.status_code == 200
    call = await rig.call()
    assert (call.status, call.outcome, call.supplier_name) == ("settled", "completed", "south")
    assert call.attempt_count == 2
    failed, served = call.attempts
    assert (failed.status, failed.error_code, failed.http_status) == ("fault", code, status)
    assert (failed.supplier_name, failed.payable_quanta) == ("north", 0)
    assert (served.status, served.error_code, served.http_status) == ("served", None, 200)
    assert served.payable_quanta == call.payable_quanta
    # The first attempt stands in the hold; the second was noted before it was sent.
    offer = rig.offers["south", "standard"]
    assert await rig.attempts(call.call_id) == [(2, offer.offer_id)]
    assert rig.second.stats()["calls"] == 1
    await rig.audit()


async def test_an_unreachable_supplier_is_passed_over(rig: Rig) -> None:
    """
    Refused connections count as a fault before the first byte, like any other.
    """
    await rig.first.refuse_connections()
    try:
        answer = await rig.ask()
    finally:
        await rig.first.accept_connections()

    assert answer.status_code == 200
    call = await rig.call()
    assert [attempt.error_code for attempt in call.attempts] == ["supplier_unreachable", None]
    await rig.audit()


async def test_a_plain_answer_cut_in_the_middle_is_no_answer(rig: Rig) -> None:
    """
    The client has seen nothing of a plain answer until it is whole.
    """
    rig.first.set_behaviour(Behaviour(cut_after_chunks=1))

    assert (await rig.ask()).status_code == 200

    call = await rig.call()
    assert [attempt.error_code for attempt in call.attempts] == ["supplier_cut_answer", None]
    await rig.audit()


async def test_an_offer_that_failed_is_tried_last_for_a_while(rig: Rig) -> None:
    """
    A fault sends the next calls elsewhere; it does not cost each of them an attempt.
    """
    rig.first.set_behaviour(Behaviour(status=500))

    for _ in range(3):
        assert (await rig.ask()).status_code == 200

    assert [call.attempt_count for call in await rig.calls()] == [2, 1, 1]
    assert rig.first.stats()["calls"] == 1
    await rig.audit()


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_when_all_suppliers_fail_nothing_is_charged(rig: Rig, stream: bool) -> None:
    """
    502 with what happened; the hold is back, the call is on record as failed.
    """
    rig.first.set_behaviour(Behaviour(status=500))
    rig.second.set_behaviour(Behaviour(status=429, retry_after_s=7))

    answer = await rig.ask(stream=stream)

    assert answer.status_code == 502
    error = answer.json()["error"]
    assert error["code"] == "all_suppliers_failed"
    assert error["details"]["attempts"] == ["http_500", "http_429"]
    call = await rig.call()
    assert str(call.call_id) == answer.headers["x-tokenworks-call-id"]
    assert (call.status, call.outcome, call.charge_quanta) == ("failed", "failed", 0)
    assert (call.attempt_count, call.error_code) == (2, "all_suppliers_failed")
    assert (await rig.cash()).available == rig.deposited
    await rig.audit()


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_request_the_supplier_refuses_is_not_tried_elsewhere(
    rig: Rig, status: int, stream: bool
) -> None:
    """
    Another supplier would refuse it too: the client hears 400, nothing is charged.
    """
    rig.first.set_behaviour(Behaviour(status=status, error_code="context_length_exceeded"))

    answer = await rig.ask(stream=stream)

    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["type"]) == ("supplier_refused_request", "invalid_request_error")
    assert "context_length_exceeded" in error["message"]
    call = await rig.call()
    assert (call.status, call.error_code, call.attempt_count) == (
        "failed",
        "supplier_refused_request",
        1,
    )
    assert rig.second.stats()["calls"] == 0
    await rig.audit()


async def test_a_supplier_cannot_tell_the_client_its_key(rig: Rig) -> None:
    """
    Some suppliers quote the credential they were sent: that part is masked.
    """
    rig.first.set_behaviour(Behaviour(status=400, error_code=f"bad key {SUPPLIER_KEY} here"))

    answer = await rig.ask()

    assert answer.status_code == 400
    assert SUPPLIER_KEY not in answer.text
    assert "bad key" in answer.json()["error"]["message"]
    await rig.audit()


# ---------------------------------------------------------------------- after the first byte

MID_STREAM = {
    "cut": (Behaviour(chunk_pace_ms=2, cut_after_chunks=5), "supplier_cut_answer"),
    "ends_early": (Behaviour(chunk_pace_ms=2, end_after_chunks=5), "supplier_cut_answer"),
    "stalls": (Behaviour(chunk_pace_ms=2, stall_after_chunks=5), "supplier_timeout"),
    "names_an_error": (Behaviour(chunk_pace_ms=2, error_after_chunks=5), "supplier_error_answer"),
}


@pytest.mark.parametrize(("behaviour", "code"), MID_STREAM.values(), ids=MID_STREAM)
async def test_a_stream_that_breaks_off_is_free(rig: Rig, behaviour: Behaviour, code: str) -> None:
    """
    What came is passed on, then an error event and no ``[DONE]``; the buyer pays nothing.
    """
    rig.first.set_behaviour(behaviour)
    if behaviour.stall_after_chunks is not None:
        # Of the chunks before it, on a busy machine too, none may seem to be the last.
        await rig.be_impatient(idle_timeout_ms=1_000)

    answer = await rig.ask(stream=True)

    stream = heard(answer.content)
    assert stream.text == "w0 w1 w2 w3 w4"
    assert stream.error is not None
    assert stream.error["code"] == code
    assert not stream.is_done
    assert stream.receipt is None
    call = await rig.call()
    assert (call.status, call.outcome, call.charge_quanta) == ("settled", "cut", 0)
    assert [(a.status, a.error_code) for a in call.attempts] == [("fault", code)]
    # What the supplier produced stays visible, as a count of the hub's own.
    assert call.is_estimate
    assert call.usage["output"] > 0
    assert rig.second.stats()["calls"] == 0
    await rig.audit()


async def test_a_supplier_that_breaks_off_cools_down(rig: Rig) -> None:
    """
    Settling the broken call does not make its supplier look healthy.
    """
    rig.first.set_behaviour(Behaviour(chunk_pace_ms=2, cut_after_chunks=3))

    await rig.ask(stream=True)
    await rig.ask(stream=True)

    assert [call.supplier_name for call in await rig.calls()] == ["north", "south"]
    await rig.audit()


async def test_a_supplier_paid_by_axis_keeps_its_cost_of_a_broken_stream(rig: Rig) -> None:
    """
    The buyer pays nothing, the platform's cost is on the books.
    """
    offer = rig.offers["north", "standard"]
    costs = dict.fromkeys(("input", "output"), 10**9)
    terms = OfferTerms(upstream_model="m", cost_card=axis_card(costs), priority=1)
    await rig.hub.supply.edit_offer(offer.offer_id, terms=terms)
    rig.first.set_behaviour(Behaviour(chunk_pace_ms=2, cut_after_chunks=9))

    await rig.ask(stream=True)

    call = await rig.call()
    assert call.charge_quanta == 0
    assert call.payable_quanta == call.total_tokens * 1_000 > 0
    await rig.audit()


# ---------------------------------------------------------------------- empty answers


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_an_empty_answer_is_free(rig: Rig, stream: bool) -> None:
    """
    No text and no output token: the answer is given as it is, and costs nothing.
    """
    rig.first.set_behaviour(Behaviour(content=Content.EMPTY))

    answer = await rig.ask(stream=stream)

    assert answer.status_code == 200
    call = await rig.call()
    assert (call.status, call.outcome, call.charge_quanta) == ("settled", "empty", 0)
    assert call.usage.get("input", 0) > 0
    if stream:
        said = heard(answer.content)
        assert said.is_done
        assert said.receipt is not None
        assert said.receipt["receipt"]["charge"] == "0"
    else:
        assert answer.headers["x-tokenworks-charge"] == "0"
    await rig.audit()


# ---------------------------------------------------------------------- wrong usage

WRONG_USAGE = {
    "missing": (Behaviour(usage=UsageShape.MISSING), "usage_missing"),
    "null": (Behaviour(usage=UsageShape.NULL), "usage_missing"),
    "negative": (Behaviour(usage=UsageShape.NEGATIVE), "usage_invalid"),
    "absurd": (Behaviour(usage=UsageShape.ABSURD), "usage_invalid"),
    "not_integer": (Behaviour(usage=UsageShape.NON_INTEGER), "usage_invalid"),
    "not_numbers": (Behaviour(usage=UsageShape.NOT_NUMBERS), "usage_invalid"),
    "more_input_than_bytes": (Behaviour(prompt_tokens=5_000), "usage_invalid"),
}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize(("behaviour", "code"), WRONG_USAGE.values(), ids=WRONG_USAGE)
async def test_usage_that_cannot_be_is_replaced_by_an_estimate(
    rig: Rig, behaviour: Behaviour, code: str, stream: bool
) -> None:
    """
    The hub counts by itself, says so on the receipt, and records the supplier's fault.
    """
    rig.first.set_behaviour(behaviour)

    answer = await rig.ask(stream=stream)

    assert answer.status_code == 200
    call = await rig.call()
    assert (call.status, call.outcome, call.is_estimate) == ("settled", "completed", True)
    assert call.error_code == code
    assert [(a.status, a.error_code) for a in call.attempts] == [("served", code)]
    assert 0 < call.charge_quanta <= call.quoted_quanta
    assert call.receipt is not None
    assert call.receipt["usage"]["is_estimate"] is True
    await rig.audit()


async def test_output_beyond_the_context_is_not_believed(rig: Rig) -> None:
    """
    No count may exceed the context that the offer names.
    """
    rig.first.set_behaviour(
        Behaviour(usage=UsageShape.CEILING, completion_tokens=5, content=Content.TEXT)
    )

    answer = await rig.ask(max_tokens=3 * CONTEXT_TOKENS)

    assert answer.json()["usage"]["completion_tokens"] == 3 * CONTEXT_TOKENS
    call = await rig.call()
    assert call.is_estimate
    assert call.error_code == "usage_invalid"
    assert call.usage["output"] < 100
    await rig.audit()


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_an_axis_without_a_price_is_free_and_blocks_the_offer(rig: Rig, stream: bool) -> None:
    """
    The buyer is not charged for it; no further call goes there until a person looks.
    """
    rig.first.set_behaviour(Behaviour(usage=UsageShape.UNKNOWN_AXIS))

    await rig.ask(stream=stream)
    await rig.ask(stream=stream)

    odd, usual = await rig.calls()
    assert odd.charge_quanta < usual.charge_quanta
    assert odd.error_code == "unpriced_axis"
    assert odd.receipt is not None
    assert odd.receipt["rate_card"]["unpriced"] == [
        "usage.completion_tokens_details.hologram_tokens"
    ]
    assert (odd.supplier_name, usual.supplier_name) == ("north", "south")
    offer = await rig.hub.supply.get_offer(rig.offers["north", "standard"].offer_id)
    assert offer.state is OfferState.BLOCKED
    assert "hologram_tokens" in (offer.blocked_reason or "")
    await rig.audit()


async def test_a_blocked_model_is_unavailable_not_unknown(rig: Rig) -> None:
    """
    When every offer is blocked the client may try again later: 503, not 404.
    """
    for offer in rig.offers.values():
        await rig.hub.supply.block_offer(offer.offer_id, "test")

    answer = await rig.ask()

    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "no_supplier_available"
    assert "retry-after" in answer.headers
