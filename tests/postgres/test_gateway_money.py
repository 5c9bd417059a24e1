"""
Money while a call runs: clients that leave, holds that grow or run out, overruns.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from datetime import timedelta

import httpx
import pytest
import pytest_asyncio

from tests.databases import OpenDatabase
from tests.patience import PATIENCE_S, until
from tests.postgres.gateway_rig import (
    DOLLAR,
    HELLO,
    Behaviour,
    Plant,
    Rig,
    completion,
    heard,
    nano,
    open_business,
    open_plant,
    serving,
)
from tests.postgres.stepping import SteppingUpstream
from tokenworks.foundation.money import LIMIT_TOKENS
from tokenworks.ledger.errors import LedgerUnavailableError

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


def chat(rig: Rig, **members: object) -> bytes:
    """
    Return the body of a call of the rig's model.
    """
    return json.dumps({"model": rig.model, "messages": list(HELLO), **members}).encode()


@pytest.fixture
def stepping(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Let the hub see each event of a stream alone.
    """
    attempts = rig.hub.gateway.attempts
    monkeypatch.setattr(attempts, "_upstream", SteppingUpstream(rig.hub.upstream))


async def was_aborted(rig: Rig) -> None:
    """
    Return when the first supplier has seen that the hub dropped its answer.
    """

    async def is_aborted() -> object:
        return rig.first.stats()["aborted"]

    await until(is_aborted, otherwise="the answer goes on")


# ---------------------------------------------------------------------- clients that leave


async def read_and_leave(rig: Rig, body: bytes) -> None:
    """
    Read the begin of a stream on a real connection, drop it, and let the supplier go on.
    """
    headers = {"authorization": f"Bearer {rig.secret}"}
    async with (
        serving(rig) as url,
        httpx.AsyncClient(timeout=PATIENCE_S) as client,
    ):
        async with client.stream(
            "POST", f"{url}/v1/chat/completions", content=body, headers=headers
        ) as answer:
            assert answer.status_code == 200
            await anext(answer.aiter_raw())
            await rig.first.wait_until_waiting(1)
        # The hub is told of it before anything that is sent from now on.
        rig.first.release()
        await rig.quiet()


async def test_a_client_that_leaves_a_stream_pays_for_what_was_produced(rig: Rig) -> None:
    """
    The supplier is read to its end: the usage it reports is the bill, and no estimate.
    """
    rig.first.set_behaviour(Behaviour(gate_after_chunks=3, chunk_pace_ms=4))

    await read_and_leave(rig, chat(rig, stream=True, max_tokens=40))

    call = await rig.call()
    assert (call.status, call.outcome, call.is_estimate) == ("settled", "disconnected", False)
    assert call.usage["output"] == 32
    assert call.error_code is None
    assert [attempt.status for attempt in call.attempts] == ["served"]
    assert rig.first.stats()["answered"] == 1
    await rig.audit()


async def test_a_supplier_is_read_only_so_long_after_the_client_left(rig: Rig) -> None:
    """
    Beyond the cap the connection is dropped; what had come by then is counted and charged.
    """
    rig.set_rules(drain_after_disconnect_s=0.06)
    tokens = 4_000  # a minute
    rig.first.set_behaviour(
        Behaviour(gate_after_chunks=3, chunk_pace_ms=15, completion_tokens=tokens)
    )

    await read_and_leave(rig, chat(rig, stream=True, max_tokens=tokens))

    call = await rig.call()
    assert (call.outcome, call.is_estimate) == ("disconnected", True)
    assert 0 < call.usage["output"] < tokens
    assert 0 < call.charge_quanta < call.quoted_quanta
    # Ended by the hub, so a missing report is nobody's fault.
    assert call.error_code is None
    await was_aborted(rig)
    await rig.audit()


async def test_a_supplier_that_breaks_off_after_the_client_left_is_paid_for_its_part(
    rig: Rig,
) -> None:
    """
    The client had its answer as far as it wanted: what was produced is charged.
    """
    rig.first.set_behaviour(Behaviour(gate_after_chunks=3, chunk_pace_ms=4, cut_after_chunks=20))

    await read_and_leave(rig, chat(rig, stream=True, max_tokens=40))

    call = await rig.call()
    assert (call.outcome, call.is_estimate) == ("disconnected", True)
    assert call.charge_quanta > 0
    await rig.audit()


async def test_a_client_that_leaves_a_plain_call_is_charged(rig: Rig) -> None:
    """
    The answer was made for it; the hold is closed like any other.
    """
    rig.first.set_behaviour(Behaviour(gate=True))
    body = chat(rig, max_tokens=40)
    async with serving(rig) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: hub\r\n"
            b"authorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b"
            % (rig.secret.encode(), len(body), body)
        )
        await rig.first.wait_until_waiting(1)
        writer.transport.abort()
        rig.first.release()
        await rig.quiet()

    call = await rig.call()
    assert (call.status, call.outcome) == ("settled", "completed")
    assert call.charge_quanta > 0
    await rig.audit()


async def test_a_client_that_leaves_while_it_sends_costs_nothing(rig: Rig) -> None:
    """
    Half a request is no call: nothing is held, nobody is asked.
    """
    async with serving(rig) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: hub\r\n"
            b"authorization: Bearer %b\r\ncontent-length: 500\r\n\r\n{" % rig.secret.encode()
        )
        await writer.drain()
        writer.write_eof()
        await reader.read()
        writer.close()

    assert await rig.calls() == []
    assert rig.first.stats()["requests"] == 0
    await rig.audit()


# ---------------------------------------------------------------------- holds that grow

ENDLESS = Behaviour(stall_after_chunks=100, completion_tokens=200)
"""More words than are paid for, and never an end."""


@pytest.mark.usefixtures("stepping")
async def test_a_stream_without_a_limit_grows_its_hold(rig: Rig) -> None:
    """
    At 80 % of the grant the hold takes another grant; the answer comes whole.
    """
    rig.set_rules(granted_output_tokens=10)

    answer = await rig.ask(stream=True, max_tokens=...)

    stream = heard(answer.content)
    assert stream.finish_reasons == ["stop"]
    assert stream.is_done
    call = await rig.call()
    assert (call.outcome, call.usage["output"]) == ("completed", 32)
    entries = await rig.hub.ledger.entries_of(call.call_id)
    grown = [entry for entry in entries if entry.operation == "extend"]
    # At 8 of 10, 16 of 20, 24 of 30 and 32 of 40.
    assert len(grown) == 4
    assert call.charge_quanta < call.quoted_quanta
    await rig.audit()


@pytest.mark.usefixtures("stepping")
@pytest.mark.parametrize("spare", [0, 5], ids=["nothing_left", "too_little_left"])
async def test_a_hold_that_cannot_grow_ends_the_stream_cleanly(plant: Plant, spare: int) -> None:
    """
    The words end at the grant with ``finish_reason`` length, receipt and ``[DONE]``.
    """
    async with open_business(plant, deposit=0) as rig:
        rig.set_rules(granted_output_tokens=12)
        rig.first.set_behaviour(ENDLESS)
        body = chat(rig, stream=True)
        quote = await rig.quote(body)
        await rig.deposit(quote.quanta + spare * 3_000)

        answer = await rig.post(body)

        stream = heard(answer.content)
        assert stream.error is None
        assert stream.is_done
        assert stream.finish_reasons == ["length"]
        assert stream.text.split() == [f"w{index}" for index in range(12)]
        assert stream.receipt is not None
        assert stream.receipt["receipt"]["outcome"] == "hold_exhausted"
        call = await rig.call()
        assert call.outcome == "hold_exhausted"
        assert call.is_estimate
        assert call.usage["output"] <= 12
        assert 0 < call.charge_quanta <= quote.quanta
        assert nano(stream.receipt["receipt"]["overrun"]) == 0
        await was_aborted(rig)
        await rig.audit()


async def test_a_stream_that_is_whole_is_not_ended_for_its_length(plant: Plant) -> None:
    """
    An answer that ends by itself at the grant is complete, although no more could be held.
    """
    async with open_business(plant, deposit=0) as rig:
        rig.set_rules(granted_output_tokens=12)
        rig.first.set_behaviour(
            Behaviour(is_sent_singly=False, completion_tokens=12, tokens_per_chunk=12)
        )
        body = chat(rig, stream=True)
        await rig.deposit((await rig.quote(body)).quanta)

        stream = heard((await rig.post(body)).content)

        assert stream.finish_reasons == ["stop"]
        call = await rig.call()
        assert (call.outcome, call.is_estimate) == ("completed", False)
        await rig.audit()


@pytest.mark.usefixtures("stepping")
async def test_a_token_limit_that_is_used_up_ends_the_stream_too(rig: Rig) -> None:
    """
    Money and tokens grow together or not at all.
    """
    rig.set_rules(granted_output_tokens=12)
    rig.first.set_behaviour(ENDLESS)
    body = chat(rig, stream=True)
    quote = await rig.quote(body)
    await rig.hub.ledger.set_limit(
        scope_id=rig.user.party_id,
        asset=LIMIT_TOKENS,
        quanta=quote.tokens + 5,
        window="day",
        actor="test",
    )

    stream = heard((await rig.post(body)).content)

    assert stream.finish_reasons == ["length"]
    call = await rig.call()
    (limit,) = await rig.hub.ledger.limits([rig.user.party_id])
    assert limit.quanta - limit.remaining == call.total_tokens
    assert limit.held == 0
    await rig.audit()


@pytest.mark.usefixtures("stepping")
async def test_books_that_do_not_answer_end_a_growing_stream_at_its_grant(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A hold that could not grow in time is one that cannot grow: no error after good words.
    """
    rig.set_rules(granted_output_tokens=12)
    rig.first.set_behaviour(ENDLESS)

    async def extend(*_: object, **__: object) -> bool:
        message = "simulated"
        raise LedgerUnavailableError(message)

    monkeypatch.setattr(rig.hub.gateway.holding, "extend", extend)

    stream = heard((await rig.ask(stream=True, max_tokens=...)).content)

    assert stream.finish_reasons == ["length"]
    assert stream.is_done
    await rig.audit()


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_a_long_call_keeps_its_hold(rig: Rig, stream: bool) -> None:
    """
    The heartbeat moves a hold's expiry on, also while the first byte is awaited.
    """
    rig.set_rules(hold_lifetime_s=0.3)
    rig.first.set_behaviour(Behaviour(gate=True))

    asked = asyncio.ensure_future(rig.ask(stream=stream))
    await rig.first.wait_until_waiting(1)
    (placed,) = await rig.hub.ledger.open_holds()
    kept = placed
    while kept.expires_at <= placed.expires_at + timedelta(seconds=0.3):
        await asyncio.sleep(0.01)
        (kept,) = await rig.hub.ledger.open_holds()
    rig.first.release()

    assert (await asked).status_code == 200
    call = await rig.call()
    assert (call.status, call.outcome) == ("settled", "completed")
    entries = await rig.hub.ledger.entries_of(call.call_id)
    assert [entry.operation for entry in entries].count("extend") >= 2
    await rig.audit()


async def test_a_hold_nobody_keeps_expires_and_charges_nothing(rig: Rig) -> None:
    """
    A crash between hold and settle: the hold ends by the worker, the buyer pays nothing.
    """
    rig.set_rules(hold_lifetime_s=0.01)
    principal = await rig.hub.identity.authenticate(rig.secret)
    call = await rig.hub.gateway.open(principal, chat(rig, max_tokens=5))
    await rig.audit(open_holds=1)

    await rig.expire_one()

    assert await rig.calls() == []
    hold = await rig.hub.ledger.hold(call.call_id)
    assert hold is not None
    assert hold.state == "expired"
    await rig.audit()


# ---------------------------------------------------------------------- overruns


async def test_a_supplier_that_ignores_the_cap_is_at_fault(rig: Rig) -> None:
    """
    With money at hand the hold grows by all that was used; the fault is on record.
    """
    await rig.add_odd_supplier(completion(prompt_tokens=10, completion_tokens=500))

    answer = await rig.ask(max_tokens=40)

    call = await rig.call()
    assert call.charge_quanta == 10 * 750 + 500 * 3_000
    assert nano(answer.headers["x-tokenworks-charge"]) == call.charge_quanta
    assert call.error_code == "output_cap_exceeded"
    assert call.receipt is not None
    assert call.receipt["overrun"] == "0"
    await rig.audit()


async def test_what_no_hold_covers_is_borne_by_the_platform(plant: Plant) -> None:
    """
    A settle is never refused: the buyer pays what was held, the receipt says the rest.
    """
    async with open_business(plant, deposit=0) as rig:
        await rig.add_odd_supplier(completion(prompt_tokens=10, completion_tokens=5_000))
        body = chat(rig, max_tokens=40)
        quote = await rig.quote(body)
        await rig.deposit(quote.quanta + 700)

        answer = await rig.post(body)

        used = 10 * 750 + 5_000 * 3_000
        assert answer.status_code == 200
        assert nano(answer.headers["x-tokenworks-charge"]) == quote.quanta
        call = await rig.call()
        assert call.charge_quanta == quote.quanta
        assert call.receipt is not None
        assert nano(call.receipt["overrun"]) == used - quote.quanta
        assert call.error_code == "output_cap_exceeded"
        assert (await rig.cash()).available == 700
        await rig.audit()


async def test_money_that_comes_in_meanwhile_does_not_change_the_receipt(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Between a refused extension and the capture a deposit arrives: the buyer still pays what
    its receipt says.
    """
    async with open_business(plant, deposit=0) as rig:
        await rig.add_odd_supplier(completion(prompt_tokens=10, completion_tokens=5_000))
        body = chat(rig, max_tokens=40)
        quote = await rig.quote(body)
        await rig.deposit(quote.quanta)
        extend = rig.hub.gateway.holding.extend

        async def extend_before_a_deposit(*args: object, **options: object) -> bool:
            has_grown = await extend(*args, **options)  # type: ignore[arg-type] - plain JSON, checked above
            await rig.deposit(DOLLAR)
            return has_grown

        monkeypatch.setattr(rig.hub.gateway.holding, "extend", extend_before_a_deposit)

        assert (await rig.post(body)).status_code == 200

        call = await rig.call()
        assert call.charge_quanta == quote.quanta
        assert (await rig.cash()).available == DOLLAR
        await rig.audit()


async def test_an_overrun_spends_limits_only_as_far_as_the_buyer_pays(rig: Rig) -> None:
    """
    A token limit that cannot grow lets the platform bear the money beyond the hold too.
    """
    await rig.add_odd_supplier(completion(prompt_tokens=10, completion_tokens=5_000))
    body = chat(rig, max_tokens=40)
    quote = await rig.quote(body)
    await rig.hub.ledger.set_limit(
        scope_id=rig.key.key_id,
        asset=LIMIT_TOKENS,
        quanta=quote.tokens,
        window="ever",
        actor="test",
    )

    assert (await rig.post(body)).status_code == 200

    call = await rig.call()
    assert call.charge_quanta == quote.quanta
    (limit,) = await rig.hub.ledger.limits([rig.key.key_id])
    assert (limit.remaining, limit.held) == (0, 0)
    await rig.audit()
