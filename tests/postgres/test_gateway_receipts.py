"""
Receipts of real calls: who sees what, how they verify, and what never leaks anywhere.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any
from uuid import UUID

import psycopg
import pytest
import pytest_asyncio
from psycopg import conninfo, sql

from tests.databases import OpenDatabase
from tests.postgres.gateway_rig import (
    POSTING_ROLE,
    SUPPLIER_KEY,
    UPSTREAM_MODEL,
    Behaviour,
    Plant,
    Rig,
    heard,
    open_business,
    open_plant,
)
from tokenworks.bootstrap.hub import open_hub
from tokenworks.gateway.errors import CallNotFoundError
from tokenworks.receipts.lane_chain import check_links
from tokenworks.receipts.trust import TrustedKeys
from tokenworks.receipts.verify import verify_receipt
from tokenworks.receipts.views import AUDITOR, BUYER, leg_owner_view, supplier_view
from tokenworks.settings import Settings

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


async def trusted(rig: Rig) -> TrustedKeys:
    """
    Return what the hub publishes.
    """
    return TrustedKeys.from_json(json.dumps(await rig.hub.keys.jwks()))


async def test_a_receipt_is_shown_again_as_it_was_first(rig: Rig) -> None:
    """
    The stored receipt gives the same signature and the same fields as the stream did.
    """
    stream = heard((await rig.ask(stream=True)).content)
    assert stream.receipt is not None

    again = await rig.hub.receipts.receipt_document((await rig.call()).call_id, BUYER)

    assert again["jws"] == stream.receipt["jws"]
    assert again["receipt"] == stream.receipt["receipt"]
    assert list(again["receipt"]) == list(stream.receipt["receipt"])
    await rig.audit()


async def test_another_process_shows_the_same_receipt(
    rig: Rig, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """
    A gateway that did not make the call signs with the key of the lane that did.
    """
    await rig.ask()
    call_id = (await rig.call()).call_id
    mine = await rig.hub.receipts.receipt_document(call_id, BUYER)
    posting = conninfo.make_conninfo(rig.dsn, user=POSTING_ROLE)
    settings = Settings(data_dir=rig.hub.settings.data_dir)

    async with open_hub(settings, posting, name="second") as other:
        assert other.ledger.lane != rig.hub.ledger.lane
        theirs = await other.receipts.receipt_document(call_id, BUYER)

    assert theirs == mine


async def test_every_view_verifies_with_the_published_keys(rig: Rig) -> None:
    """
    Buyer, auditor, supplier and leg owner each hold a document that proves itself.
    """
    rig.first.set_behaviour(Behaviour(status=500))
    await rig.ask()
    call = await rig.call()
    north, south = (supplier.party_id for supplier in rig.plant.suppliers)
    power = rig.plant.split.power_id
    assert power is not None
    views = {
        BUYER: {"charge", "usage", "tax"},
        AUDITOR: {"charge", "caller", "attempt.1", "attempt.2", "leg.1"},
        supplier_view(north): {"attempt.1"},
        supplier_view(south): {"attempt.2"},
        leg_owner_view(power): set[str](),
    }
    keys = await trusted(rig)

    for view, names in views.items():
        document = await rig.hub.receipts.receipt_document(call.call_id, view)
        verified = verify_receipt(json.loads(json.dumps(document)), keys)
        assert verified.ok, (view, verified.problems)
        assert names <= set(verified.fields), view
        assert verified.call_id == str(call.call_id)


async def test_a_buyer_does_not_see_what_the_hub_pays(rig: Rig) -> None:
    """
    Suppliers, their names of models, legs, and other limits are not in the buyer's view.
    """
    stream = heard((await rig.ask(stream=True)).content)

    assert stream.receipt is not None
    receipt = stream.receipt["receipt"]
    assert not [name for name in receipt if name.startswith(("leg.", "attempt."))]
    for private in ("north", UPSTREAM_MODEL, str(rig.plant.suppliers[0].party_id)):
        assert private.encode() not in stream.raw


async def test_a_leg_owner_sees_its_leg_alone(rig: Rig) -> None:
    """
    Nothing of the other legs, the usage or the buyer is opened to it.
    """
    await rig.ask()
    call = await rig.call()
    rights = rig.plant.split.rights_id
    assert rights is not None

    document = await rig.hub.receipts.receipt_document(call.call_id, leg_owner_view(rights))

    receipt: dict[str, Any] = document["receipt"]
    (leg,) = [value for name, value in receipt.items() if name.startswith("leg.")]
    assert (leg["kind"], leg["payee"]) == ("rights", str(rights))
    assert "usage" not in receipt
    assert str(rig.organisation.party_id) not in json.dumps(receipt)


async def test_consecutive_receipts_link(rig: Rig) -> None:
    """
    Plain, streamed, free, empty or broken off: each names the one before, without a gap.
    """
    await rig.ask()
    await rig.ask(stream=True)
    await rig.ask(model=f"{rig.model}@free")
    rig.first.set_behaviour(Behaviour(chunk_pace_ms=2, cut_after_chunks=3), times=1)
    await rig.ask(stream=True)
    await rig.ask(max_tokens="wrong")
    await rig.ask()
    calls = await rig.calls()
    assert len(calls) == 5

    documents = [await rig.hub.receipts.receipt_document(call.call_id, AUDITOR) for call in calls]

    keys = await trusted(rig)
    checked = check_links([verify_receipt(document, keys) for document in documents])
    assert all(receipt.ok for receipt in checked), [receipt.problems for receipt in checked]
    assert not any(receipt.notes for receipt in checked), "none is missing in between"
    sequences = [receipt.sequence for receipt in checked]
    assert sequences == sorted(sequences, key=lambda place: place or 0)
    await rig.audit()


async def test_a_changed_receipt_is_found_out(rig: Rig) -> None:
    """
    A cheaper charge on the same signature does not verify.
    """
    await rig.ask()
    document = await rig.hub.receipts.receipt_document((await rig.call()).call_id, BUYER)
    document["receipt"]["charge"] = "0.000000001"

    verified = verify_receipt(document, await trusted(rig))

    assert [problem.code.value for problem in verified.problems] == ["field_differs"]


async def test_a_call_that_sold_nothing_has_no_receipt(rig: Rig) -> None:
    """
    A failed call is on the list of calls, with no receipt to show.
    """
    for stub in rig.plant.stubs:
        stub.set_behaviour(Behaviour(status=500))
    await rig.ask()

    with pytest.raises(CallNotFoundError):
        await rig.hub.receipts.receipt_document((await rig.call()).call_id, BUYER)
    with pytest.raises(CallNotFoundError):
        await rig.hub.receipts.receipt_document(UUID(int=5), BUYER)


async def test_secrets_are_nowhere(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    """
    Neither the buyer's key nor the supplier's is in logs, answers, receipts or the database.
    """
    answers: list[bytes] = []
    await rig.be_impatient(first_byte_timeout_ms=250)
    for behaviour in (
        Behaviour(),
        Behaviour(status=401),
        Behaviour(status=400, error_code=f"your key {SUPPLIER_KEY}"),
        Behaviour(status=500, error_code=SUPPLIER_KEY),
        Behaviour(hang=True),
        Behaviour(chunk_pace_ms=1, cut_after_chunks=3),
        Behaviour(close_before_headers=True),
    ):
        rig.first.set_behaviour(behaviour)
        rig.hub.gateway.health.of(rig.offers["north", "standard"].offer_id).cooling_until_s = 0
        for stream in (False, True):
            answer = await rig.ask(stream=stream)
            answers += [answer.content, repr(answer.headers).encode()]
    wrong = rig.secret[:-1] + ("a" if rig.secret[-1] != "a" else "b")
    answers.append((await rig.ask(secret=wrong)).content)
    documents = [
        await rig.hub.receipts.receipt_document(call.call_id, AUDITOR)
        for call in await rig.calls()
        if call.receipt is not None
    ]

    output = capsys.readouterr()
    places = {
        "answers": b"\n".join(answers).decode("utf-8", "replace"),
        "logs": output.out + output.err,
        "receipts": json.dumps(documents),
        "database": "\n".join(await _every_text(rig)),
    }
    assert "supplier_fault" in places["logs"], "the logs were seen"
    assert "settled" in places["database"], "the rows were seen"
    for place, text in places.items():
        for secret in (SUPPLIER_KEY, rig.secret, wrong):
            assert secret not in text, place


async def _every_text(rig: Rig) -> list[str]:
    """
    Return every row of every table of the hub, as text.
    """
    found: list[str] = []
    async with await psycopg.AsyncConnection.connect(rig.dsn, autocommit=True) as connection:
        tables = await (
            await connection.execute(
                "SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) FROM pg_tables"
                " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
            )
        ).fetchall()
        for (table,) in tables:
            query = sql.SQL("SELECT t::text FROM {} AS t").format(sql.SQL(table))
            rows = await (await connection.execute(query)).fetchall()
            found += [row[0] for row in rows]
    return found
