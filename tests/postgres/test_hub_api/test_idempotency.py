"""
A write with an Idempotency-Key is done once.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import uuid4

import pytest

from tests.postgres.test_hub_api.conftest import Hub
from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.postgres.pool import Pool
from tokenworks.web.hub_api.errors import IdempotencyConflictError, IdempotencyInFlightError
from tokenworks.web.hub_api.idempotency import (
    RUN_DEAD_AFTER,
    IdempotencyStore,
    Run,
    StoredAnswer,
    request_hash,
)

HASH = request_hash(method="POST", path="/x", query=b"", body=b"{}")


async def test_a_repeat_gets_the_stored_answer(hub: Hub) -> None:
    """
    Same key, same request: the first answer again, marked, and nothing done twice.
    """
    headers = {"idempotency-key": "k1"}
    body = {"name": "acme", "kind": "buyer"}

    first = await hub.admin.post("parties", json=body, headers=headers)
    again = await hub.admin.post("parties", json=body, headers=headers)

    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert "idempotent-replay" not in first.headers
    assert again.headers["idempotent-replay"] == "true"


async def test_the_same_key_for_another_request_is_422(hub: Hub) -> None:
    """
    Another body or another path under the same key is a conflict.
    """
    headers = {"idempotency-key": "k1"}
    await hub.admin.post("parties", json={"name": "a", "kind": "buyer"}, headers=headers)

    body = await hub.admin.post("parties", json={"name": "b", "kind": "buyer"}, headers=headers)
    path = await hub.admin.post("keys", json={"name": "a", "kind": "buyer"}, headers=headers)

    assert (body.status_code, body.json()["code"]) == (422, "idempotency_conflict")
    assert path.status_code == 422


async def test_a_secret_is_never_stored(hub: Hub, pool: Pool) -> None:
    """
    The replay of a new key has no secret, and the table has none either.
    """
    await hub.make("parties", name="acme", kind="buyer")
    headers = {"idempotency-key": "k1"}

    first = await hub.admin.post("keys", json={"party": "acme"}, headers=headers)
    again = await hub.admin.post("keys", json={"party": "acme"}, headers=headers)
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT string_agg(body::text, ' ') FROM hub.idempotency_keys"
        )
        stored = await cursor.fetchone()

    assert again.json() == first.json() | {"secret": None}
    assert stored is not None
    assert first.json()["secret"] not in stored[0]


async def test_a_refusal_is_not_stored(hub: Hub) -> None:
    """
    What did nothing may be tried again with the same key.
    """
    headers = {"idempotency-key": "k1"}
    refused = await hub.admin.post("keys", json={"party": "acme"}, headers=headers)
    await hub.make("parties", name="acme", kind="buyer")
    done = await hub.admin.post("keys", json={"party": "acme"}, headers=headers)

    assert (refused.status_code, done.status_code) == (404, 201)


async def test_of_parallel_repeats_one_runs(hub: Hub) -> None:
    """
    Ten at once make one party; the others get its answer or a 409.
    """
    headers = {"idempotency-key": "k1"}
    body = {"name": "acme", "kind": "buyer"}

    answers = await asyncio.gather(
        *(hub.admin.post("parties", json=body, headers=headers) for _ in range(10))
    )

    codes = [answer.status_code for answer in answers]
    fresh = [a for a in answers if a.status_code == 201 and "idempotent-replay" not in a.headers]
    assert len(fresh) == 1
    assert set(codes) <= {201, 409}


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\tbed"])
async def test_a_malformed_key_is_refused(hub: Hub, key: str) -> None:
    """
    A key is 1 to 255 printable ASCII characters.
    """
    answer = await hub.admin.post(
        "parties", json={"name": "a", "kind": "buyer"}, headers={"idempotency-key": key}
    )

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_idempotency_key")


async def test_a_body_is_bounded(hub: Hub) -> None:
    """
    More than a megabyte is 413 before any route runs.
    """
    answer = await hub.admin.post("parties", content=b"x" * (1024 * 1024 + 1))

    assert answer.status_code == 413


async def test_a_running_key_is_in_flight_until_its_run_is_dead(
    pool: Pool, clock: FakeClock, ids: IdentifierSource
) -> None:
    """
    A run that died with its process is taken over later, and then cannot store its answer.
    """
    store = IdempotencyStore(pool, clock=clock, ids=ids)
    party = uuid4()
    first = await store.begin(party_id=party, key="k", request_hash=HASH)
    assert isinstance(first, Run)

    with pytest.raises(IdempotencyInFlightError):
        await store.begin(party_id=party, key="k", request_hash=HASH)
    clock.advance(RUN_DEAD_AFTER + timedelta(seconds=1))
    second = await store.begin(party_id=party, key="k", request_hash=HASH)
    assert isinstance(second, Run)
    await store.finish(second, status=200, body=b'{"by":"second"}')
    await store.finish(first, status=200, body=b'{"by":"first"}')
    await store.release(first)

    answer = await store.begin(party_id=party, key="k", request_hash=HASH)
    assert isinstance(answer, StoredAnswer)
    assert b"second" in answer.body


async def test_keys_of_parties_are_apart(
    pool: Pool, clock: FakeClock, ids: IdentifierSource
) -> None:
    """
    Two parties may use the same key for different requests.
    """
    store = IdempotencyStore(pool, clock=clock, ids=ids)
    mine, theirs = uuid4(), uuid4()
    await store.begin(party_id=mine, key="k", request_hash=HASH)

    assert isinstance(await store.begin(party_id=theirs, key="k", request_hash=HASH[::-1]), Run)
    with pytest.raises(IdempotencyConflictError):
        await store.begin(party_id=mine, key="k", request_hash=HASH[::-1])
