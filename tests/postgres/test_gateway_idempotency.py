"""
Idempotency keys: of all tries with one key a single call is charged.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime

import pytest
import pytest_asyncio

from tests.databases import OpenDatabase
from tests.postgres.gateway_rig import (
    DOLLAR,
    Behaviour,
    Plant,
    Rig,
    heard,
    open_business,
    open_plant,
)
from tokenworks.gateway.orphans import Orphans
from tokenworks.ledger.leases import Leases

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plant(
    open_database: OpenDatabase, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Plant]:
    """
    A hub with patience: a call whose answer is held back stays in flight.
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


async def test_a_settled_call_is_not_made_twice(rig: Rig) -> None:
    """
    The same key and body: 409 with the receipt's address, whatever is left to spend.
    """
    headers = {"idempotency-key": "order-1"}
    first = await rig.ask(headers=headers)

    again = await rig.ask(headers=headers)
    other = await rig.ask(headers=headers, max_tokens=9)
    fresh = await rig.ask(headers={"idempotency-key": "order-2"})

    call_id = first.headers["x-tokenworks-call-id"]
    assert again.status_code == 409
    error = again.json()["error"]
    assert error["code"] == "call_already_settled"
    assert error["details"] == {"call_id": call_id, "receipt": f"/hub/v1/receipts/{call_id}"}
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_conflict")
    assert fresh.status_code == 200
    assert len(await rig.calls()) == 2
    assert rig.first.stats()["calls"] == 2
    await rig.audit()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_in_flight_is_not_made_twice(rig: Rig, stream: bool) -> None:
    """
    409 until it has ended, and the second try holds nothing.
    """
    rig.first.set_behaviour(Behaviour(gate=True))
    headers = {"idempotency-key": "order-1"}
    asked = asyncio.ensure_future(rig.ask(headers=headers, stream=stream))
    await rig.first.wait_until_waiting(1)

    again = await rig.ask(headers=headers, stream=stream)
    rig.first.release()
    answer = await asked
    after = await rig.ask(headers=headers, stream=stream)

    assert (again.status_code, again.json()["error"]["code"]) == (409, "call_in_flight")
    assert "retry-after" in again.headers
    assert answer.status_code == 200
    assert after.json()["error"]["code"] == "call_already_settled"
    assert rig.first.stats()["calls"] == 1
    await rig.audit()


@pytest.mark.parametrize("stream", [False, True])
async def test_key_of_a_process_that_is_gone_is_free_before_its_hold_expires(
    rig: Rig, stream: bool
) -> None:
    """
    Should the process live after all, its late answer is refused and charged to nobody.
    """
    rig.first.set_behaviour(Behaviour(gate=True))
    headers = {"idempotency-key": "order-1"}
    late = asyncio.ensure_future(rig.ask(headers=headers, stream=stream))
    await rig.first.wait_until_waiting(1)
    refused = await rig.ask(headers=headers, stream=stream)
    (hold,) = await rig.hub.ledger.open_holds()
    held_until = refused.json()["error"]["details"]["held_until"]
    assert datetime.fromisoformat(held_until) == hold.expires_at > datetime.now(UTC)

    orphans = Orphans(
        Leases(rig.hub.pool, rig.hub.clock),
        rig.hub.ledger,
        clock=rig.hub.clock,
        holder="a worker",
        is_gone=lambda holder: holder == rig.hub.writer.holder,
    )
    assert await orphans.give_back() == 1
    rig.first.set_behaviour(Behaviour())
    again = await rig.ask(headers=headers, stream=stream)
    rig.first.release()
    answer = await late

    assert again.status_code == 200
    if stream:
        error, is_done = heard(answer.content).error, heard(answer.content).is_done
        assert error is not None
        assert (error["code"], is_done) == ("hold_closed", False)
    else:
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "hold_closed")
    call = await rig.call()
    assert (call.status, call.call_id != hold.hold_id) == ("settled", True)
    await rig.audit()


async def test_of_many_at_once_one_call_is_made(rig: Rig) -> None:
    """
    However the tries race, the key belongs to one of them and the others hold nothing.
    """
    headers = {"idempotency-key": "order-1"}

    answers = await asyncio.gather(*(rig.ask(headers=headers) for _ in range(12)))

    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [200] + [409] * 11
    assert rig.first.stats()["calls"] == 1
    assert len(await rig.calls()) == 1
    await rig.audit()


async def test_a_refused_call_may_be_tried_again_with_its_key(plant: Plant) -> None:
    """
    Refusals for funds are not stored: after a deposit the same request is made.
    """
    async with open_business(plant, deposit=1_000) as rig:
        headers = {"idempotency-key": "order-1"}
        assert (await rig.ask(headers=headers)).status_code == 402
        await rig.deposit(DOLLAR)

        assert (await rig.ask(headers=headers)).status_code == 200
        assert (await rig.ask(headers=headers)).status_code == 409
        await rig.audit()


async def test_a_failed_call_may_be_tried_again_with_its_key(rig: Rig) -> None:
    """
    What failed has cost nothing; of several tries at once still only one is made.
    """
    headers = {"idempotency-key": "order-1"}
    rig.first.set_behaviour(Behaviour(status=500))
    rig.second.set_behaviour(Behaviour(status=500))
    for _ in range(2):
        assert (await rig.ask(headers=headers)).status_code == 502
    rig.first.set_behaviour(Behaviour())
    rig.second.set_behaviour(Behaviour())

    answers = await asyncio.gather(*(rig.ask(headers=headers) for _ in range(5)))

    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409, 409]
    assert [call.status for call in await rig.calls()] == ["failed", "failed", "settled"]
    await rig.audit()


async def test_keys_are_an_organisations_own(plant: Plant, rig: Rig) -> None:
    """
    Two organisations may use the same text.
    """
    headers = {"idempotency-key": "order-1"}
    assert (await rig.ask(headers=headers)).status_code == 200
    async with open_business(plant) as other:
        assert (await other.ask(headers=headers)).status_code == 200
        await other.audit()


@pytest.mark.parametrize("key", ["", "k" * 256, "tab\there"])
async def test_a_key_that_cannot_be_is_refused(rig: Rig, key: str) -> None:
    """
    400 rather than an error of the database.
    """
    answer = await rig.ask(headers={"idempotency-key": key})

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_idempotency_key")
    assert rig.first.stats()["requests"] == 0
    assert await rig.calls() == []
    await rig.audit()
