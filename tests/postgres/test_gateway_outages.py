"""
The database goes away: nothing is given for free, nothing is charged twice.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from unittest import mock

import httpx
import pytest

from tests.patience import PATIENCE_S, until
from tests.postgres.gateway_rig import HELLO, Behaviour, Outage, Rig, heard, open_rig, serving
from tokenworks.gateway import holding
from tokenworks.ledger import writer as ledger_writer
from tokenworks.ledger.batching import operation_queue

LITTLE_PATIENCE_S = 0.4


class ShortOutage(Outage):
    """
    While it lasts the hub waits a fraction of a second, so that the tests do not take minutes.
    """

    def __init__(self, server_dsn: str, dsn: str, rig: Rig) -> None:
        super().__init__(server_dsn, dsn)
        self._pool = rig.hub.pool
        self._patches = contextlib.ExitStack()

    def begin(self) -> None:
        """
        Take the database away, and the patience.
        """
        for module in (operation_queue, holding):
            self._patches.enter_context(
                mock.patch.object(module, "LEDGER_ANSWER_TIMEOUT_S", LITTLE_PATIENCE_S)
            )
        self._patches.callback(setattr, self._pool, "timeout", self._pool.timeout)
        self._pool.timeout = LITTLE_PATIENCE_S
        super().begin()

    def end(self) -> None:
        """
        Give both back.
        """
        super().end()
        self._patches.close()


@pytest.fixture
async def rig(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Rig]:
    """
    A hub of the test's own, with a call behind it.
    """
    monkeypatch.setattr(ledger_writer, "RECONNECT_DELAYS_S", (0.05,))
    async with open_rig(dsn, tmp_path) as rig:
        assert (await rig.ask()).status_code == 200
        yield rig


@pytest.fixture
def outage(server_dsn: str, dsn: str, rig: Rig) -> Generator[ShortOutage]:
    """
    A way to take the database away; it is back when the hub closes.
    """
    outage = ShortOutage(server_dsn, dsn, rig)
    yield outage
    outage.end()


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("is_known", [True, False], ids=["known_key", "new_key"])
async def test_without_books_nothing_is_sold(
    rig: Rig, outage: Outage, stream: bool, is_known: bool
) -> None:
    """
    503 with Retry-After, and no supplier is asked: a cache may refuse, never grant.
    """
    if not is_known:
        rig.hub.identity.invalidate_all()
    outage.begin()

    answer = await rig.ask(stream=stream)

    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["error"]["type"] == "service_unavailable_error"
    assert rig.first.stats()["calls"] == 1
    outage.end()
    await _sells_again(rig)
    await rig.quiet()
    assert (await rig.calls())[1:] == [] or rig.first.stats()["calls"] == 2
    await rig.audit()


async def test_a_keyed_call_without_books_is_refused_like_any_other(
    rig: Rig, outage: Outage
) -> None:
    """
    A door that looks something up first answers in the same shape, and not as for a bug.
    """
    outage.begin()

    answer = await rig.ask(headers={"idempotency-key": "order-1"})

    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "unavailable"
    assert "retry-after" in answer.headers
    assert rig.first.stats()["calls"] == 1


async def test_books_lost_in_a_stream_end_it_with_an_error_and_charge_once(
    rig: Rig, outage: Outage
) -> None:
    """
    No ``[DONE]`` and no receipt: not acknowledged. The settle stays in memory and is made
    when the books are back.
    """
    rig.first.set_behaviour(Behaviour(gate_after_chunks=3))
    body = {"model": rig.model, "messages": list(HELLO), "stream": True, "max_tokens": 40}
    headers = {"authorization": f"Bearer {rig.secret}"}
    async with (
        serving(rig) as url,
        httpx.AsyncClient(timeout=PATIENCE_S) as client,
        client.stream("POST", f"{url}/v1/chat/completions", json=body, headers=headers) as answer,
    ):
        received = answer.aiter_raw()
        raw = await anext(received)
        outage.begin()
        rig.first.release()
        async for piece in received:
            raw += piece

    stream = heard(raw)
    assert stream.text.startswith("w0 w1")
    assert stream.error is not None
    assert stream.error["type"] == "service_unavailable_error"
    assert not stream.is_done
    assert stream.receipt is None
    outage.end()
    await _reached(rig)
    await rig.quiet()
    _, call = await rig.calls()
    assert (call.status, call.outcome) == ("settled", "completed")
    assert call.usage["output"] == 32
    await rig.audit()


async def test_a_blip_of_the_books_is_not_noticed(rig: Rig, outage: Outage) -> None:
    """
    A connection lost between hold and settle is opened again; the same facts are sent again.
    """
    rig.first.set_behaviour(Behaviour(gate=True))
    asked = asyncio.ensure_future(rig.ask())
    await rig.first.wait_until_waiting(1)

    outage.begin()
    outage.end()
    rig.first.release()

    assert (await asked).status_code == 200
    await _reached(rig)
    assert [call.status for call in await rig.calls()] == ["settled", "settled"]
    await rig.audit()


async def test_a_plain_answer_that_cannot_be_booked_is_not_given(rig: Rig, outage: Outage) -> None:
    """
    The client hears 503 instead of the answer; the books hold the call once at most.
    """
    rig.first.set_behaviour(Behaviour(gate=True))
    asked = asyncio.ensure_future(rig.ask())
    await rig.first.wait_until_waiting(1)
    outage.begin()
    rig.first.release()

    answer = await asked

    assert answer.status_code == 503
    assert "w0 w1" not in answer.text
    outage.end()
    await _reached(rig)
    await rig.quiet()
    assert len(await rig.calls()) == 2
    await rig.audit()


async def test_a_failover_without_books_gives_up(rig: Rig, outage: Outage) -> None:
    """
    A second attempt is noted before it is sent: where it cannot be, it is not sent.
    """
    rig.first.set_behaviour(Behaviour(gate=True, status=500))
    asked = asyncio.ensure_future(rig.ask())
    await rig.first.wait_until_waiting(1)
    outage.begin()
    rig.first.release()

    answer = await asked

    assert answer.status_code == 503
    assert rig.second.stats()["calls"] == 0
    outage.end()
    await _reached(rig)
    await rig.quiet()
    await rig.audit()


async def _reached(rig: Rig) -> None:
    """
    Return when the pool serves again.
    """

    async def is_there() -> bool:
        try:
            await rig.hub.ledger.open_holds()
        except Exception:  # noqa: BLE001 - any failure means: not yet
            return False
        return True

    await until(is_there, otherwise="the database does not come back")


async def _sells_again(rig: Rig) -> None:
    await _reached(rig)

    async def sells() -> bool:
        return (await rig.ask()).status_code == 200

    await until(sells, otherwise="the hub does not sell again")
