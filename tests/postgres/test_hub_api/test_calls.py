"""
Calls, receipts, spend and flow, each in its reader's view.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from tests.postgres.test_hub_api.conftest import Hub
from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.money import USD
from tokenworks.gateway.ended_calls import (
    AttemptRow,
    CallRow,
    FlowLeg,
    FlowView,
    RatedLineRow,
    SpendRow,
)


@dataclass
class Business:
    """
    Two buyers, two suppliers, three calls of the first and one of the second.
    """

    rows: list[CallRow]
    acme: httpx.AsyncClient
    research: httpx.AsyncClient
    factory: httpx.AsyncClient
    power: httpx.AsyncClient


@pytest.fixture
async def business(hub: Hub, clock: FakeClock) -> Business:
    """
    A small business with calls on record.
    """
    acme = await hub.make("parties", name="acme", kind="buyer")
    research = await hub.make("parties", name="research", kind="buyer", parent="acme")
    other = await hub.make("parties", name="other", kind="buyer")
    await hub.make("parties", name="river", kind="power_producer")
    factory = await hub.make("suppliers", name="factory", base_url="https://f.example/v1")
    rival = await hub.make("suppliers", name="rival", base_url="https://r.example/v1")

    def call(
        organisation: dict[str, Any], party: dict[str, Any], suppliers: list[dict[str, Any]]
    ) -> CallRow:
        row_id = hub.services.ids.mint()
        clock.advance(timedelta(seconds=1))
        return make_call(hub, row_id, organisation, party, suppliers)

    rows = [
        call(acme, research, [factory]),
        call(acme, acme, [rival]),
        call(acme, research, [rival, factory]),
        call(other, other, [factory]),
    ]
    hub.calls.rows = rows
    return Business(
        rows=rows,
        acme=await hub.key_of("acme"),
        research=await hub.key_of("research"),
        factory=await hub.key_of("factory"),
        power=await hub.key_of("river"),
    )


def make_call(
    hub: Hub,
    call_id: UUID,
    organisation: dict[str, Any],
    party: dict[str, Any],
    suppliers: list[dict[str, Any]],
) -> CallRow:
    """
    Return a settled call of 7 tokens for 0.003 USD; the last supplier answered.
    """
    now = hub.services.clock.now()
    attempts = [
        AttemptRow(
            ordinal=ordinal,
            supplier_id=UUID(supplier["supplier_id"]),
            supplier_name=supplier["name"],
            offer_id=UUID(int=9),
            status="answered" if ordinal == len(suppliers) else "failed",
            http_status=200 if ordinal == len(suppliers) else 503,
            error_code=None,
            started_at=now,
            duration_ms=3.5,
            payable_quanta=1_000_000 * ordinal,
        )
        for ordinal, supplier in enumerate(suppliers, start=1)
    ]
    return CallRow(
        call_id=call_id,
        status="settled",
        outcome="complete",
        is_stream=False,
        model="=m",
        tier="standard",
        party_id=UUID(party["party_id"]),
        organisation_id=UUID(organisation["party_id"]),
        team_id=None,
        key_id=UUID(int=8),
        key_prefix="tw_abcdefg",
        key_label="ci",
        supplier_id=attempts[-1].supplier_id,
        supplier_name=attempts[-1].supplier_name,
        usage={"input": 5, "output": 2},
        total_tokens=7,
        input_tokens=5,
        output_tokens=2,
        is_estimate=False,
        asset=USD,
        charge_quanta=3_000_000,
        payable_quanta=sum(row.payable_quanta or 0 for row in attempts),
        quoted_quanta=9_000_000,
        started_at=now,
        ended_at=now + timedelta(milliseconds=5),
        duration_ms=5.0,
        first_token_ms=2.0,
        attempt_count=len(attempts),
        error_code=None,
        lines=[
            RatedLineRow(axis="input", count=5, nano_per_million=750_000_000, price_id=UUID(int=7))
        ],
        attempts=attempts,
    )


async def listed(client: httpx.AsyncClient, **query: str) -> list[dict[str, Any]]:
    """
    Return all calls a client sees, page by page.
    """
    rows: list[dict[str, Any]] = []
    cursor: str | None = None
    for _ in range(20):
        parameters = query | {"limit": "1"} | ({"cursor": cursor} if cursor else {})
        page = (await client.get("calls", params=parameters)).json()
        rows += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    return rows


async def test_an_admin_sees_every_call_whole(hub: Hub, business: Business) -> None:
    """
    Newest first, with the supplier and what it is owed.
    """
    rows = await listed(hub.admin)
    detail = (await hub.admin.get(f"calls/{business.rows[2].call_id}")).json()

    assert [row["call_id"] for row in rows] == [str(r.call_id) for r in reversed(business.rows)]
    assert rows[0]["supplier"] == "factory"
    assert rows[0]["charge"] == "0.003"
    assert rows[0]["payable"] == "0.001"
    assert rows[0]["key"]["prefix"] == "tw_abcdefg"
    assert [row["supplier"] for row in detail["attempts"]] == ["rival", "factory"]
    assert detail["lines"][0]["usd_per_million"] == "0.75"
    assert detail["quoted"] == "0.009"


async def test_a_buyer_sees_its_tree_without_suppliers(hub: Hub, business: Business) -> None:
    """
    A team sees its own calls, its organisation all of the tree; nobody another's.
    """
    of_acme = await listed(business.acme)
    of_research = await listed(business.research)
    other = await business.acme.get(f"calls/{business.rows[3].call_id}")
    above = await business.research.get(f"calls/{business.rows[1].call_id}")
    detail = (await business.acme.get(f"calls/{business.rows[2].call_id}")).json()

    assert len(of_acme) == 3
    assert {row["party"]["name"] for row in of_research} == {"research"}
    assert {(row["supplier"], row["payable"]) for row in of_acme} == {(None, None)}
    assert (other.status_code, above.status_code) == (404, 404)
    assert {row["supplier"] for row in detail["attempts"]} == {None}
    assert (await business.acme.get("calls", params={"party": "other"})).status_code == 404


async def test_a_supplier_sees_its_attempts_without_buyers(hub: Hub, business: Business) -> None:
    """
    Its own payable and nothing of who called, what they paid, or who else was tried.
    """
    rows = await listed(business.factory)
    shared = (await business.factory.get(f"calls/{business.rows[2].call_id}")).json()
    rivals = await business.factory.get(f"calls/{business.rows[1].call_id}")

    assert len(rows) == 3
    hidden = ("party", "organisation", "team", "key", "charge")
    assert all(row[name] is None for row in [*rows, shared] for name in hidden)
    assert [row["payable"] for row in rows] == ["0.001", None, "0.001"]
    assert shared["payable"] == "0.002"
    assert [row["supplier"] for row in shared["attempts"]] == ["factory"]
    assert (shared["lines"], shared["quoted"]) == ([], None)
    assert rivals.status_code == 404
    assert await listed(business.power) == []


async def test_calls_are_filtered(hub: Hub, business: Business) -> None:
    """
    Filters reach the gateway's records as ids.
    """
    await hub.admin.get(
        "calls",
        params={"party": "acme", "supplier": "factory", "since": "2026-01-31", "status": "settled"},
    )
    wanted = hub.calls.asked[-1]

    assert wanted.within_party_id == business.rows[0].organisation_id
    assert wanted.supplier_id == business.rows[0].supplier_id
    assert wanted.since.isoformat() == "2026-01-31T00:00:00+00:00"
    assert (await hub.admin.get("calls", params={"status": "odd"})).status_code == 400


async def test_calls_as_csv(hub: Hub, business: Business) -> None:
    """
    One line a call in the reader's view; no text runs as a formula.
    """
    answer = await business.acme.get("calls", params={"format": "csv"})
    rows = list(csv.DictReader(io.StringIO(answer.text)))

    assert answer.headers["content-type"].startswith("text/csv")
    assert len(rows) == 3
    assert rows[0]["model"] == "'=m"
    assert rows[0]["charge"] == "0.003"
    assert (rows[0]["input_tokens"], rows[0]["output_tokens"]) == ("5", "2")
    assert {row["supplier"] for row in rows} == {""}


async def test_a_receipt_comes_in_the_readers_view(hub: Hub, business: Business) -> None:
    """
    The role decides the view; only an admin may ask for another.
    """
    path = f"receipts/{business.rows[0].call_id}"
    views = [
        (await client.get(path)).json()["receipt"]["view"]
        for client in (hub.admin, business.acme, business.factory, business.power)
    ]
    as_buyer = (await hub.admin.get(path, params={"view": "buyer"})).json()
    forbidden = await business.acme.get(path, params={"view": "auditor"})
    other = await business.acme.get(f"receipts/{business.rows[3].call_id}")

    assert views[:2] == ["auditor", "buyer"]
    assert views[2].startswith("supplier:")
    assert views[3].startswith("leg_owner:")
    assert as_buyer["receipt"]["view"] == "buyer"
    assert forbidden.status_code == 400
    assert other.status_code == 404


async def test_receipts_are_exported_as_lines(hub: Hub, business: Business) -> None:
    """
    One document a line; calls without a receipt are left out.
    """
    hub.receipts.missing = {business.rows[1].call_id}

    answer = await hub.admin.get("receipts")

    assert answer.headers["content-type"] == "application/x-ndjson"
    assert len(answer.text.splitlines()) == 3


async def test_spend_is_summed_with_labels(hub: Hub, business: Business) -> None:
    """
    The total is the sum of the groups, and ids have names.
    """
    research = business.rows[0].party_id
    hub.calls.spend_rows = [
        SpendRow(
            group=str(research),
            calls=2,
            input_tokens=10,
            output_tokens=4,
            total_tokens=14,
            charge_quanta=6_000_000,
        ),
        SpendRow(
            group="", calls=1, input_tokens=5, output_tokens=2, total_tokens=7, charge_quanta=1
        ),
    ]

    answer = (await business.acme.get("spend", params={"by": "team"})).json()
    by_supplier = await business.acme.get("spend", params={"by": "supplier"})
    by_nothing = await business.acme.get("spend", params={"by": "mood"})

    assert [row["label"] for row in answer["items"]] == ["research", ""]
    assert answer["total"]["calls"] == 3
    assert answer["total"]["charge"] == "0.006000001"
    asked = next(item for item in hub.calls.asked if isinstance(item, tuple))
    assert asked[3] == business.rows[0].organisation_id
    assert by_supplier.status_code == 403
    assert by_nothing.status_code == 400


async def test_flow_balances_at_the_sale(hub: Hub, business: Business) -> None:
    """
    What goes into the sale leaves it, power included, whatever the suppliers cost.
    """
    rows = business.rows
    factory = (await hub.admin.get("suppliers/factory")).json()["party"]["party_id"]
    river = (await hub.admin.get("parties/river")).json()["party_id"]
    hub.calls.flow_view = FlowView(
        asset=USD,
        calls=2,
        tokens=14,
        charge_quanta=100,
        legs=[
            FlowLeg(kind="sale", party_id=rows[0].organisation_id, quanta=100),
            FlowLeg(kind="tax", party_id=UUID(int=2), quanta=8),
            FlowLeg(kind="platform", party_id=UUID(int=1), quanta=92),
            FlowLeg(kind="supplier", party_id=UUID(factory), quanta=45),
            FlowLeg(kind="power", party_id=UUID(river), payer_id=UUID(factory), quanta=15),
        ],
        last_calls=rows[:1],
    )

    flow = (await hub.admin.get("flow", params={"seconds": 10})).json()
    links = {(link["source"], link["target"]): link["amount"] for link in flow["links"]}

    assert links["buyer:acme", "sale"] == "0.0000001"
    assert links["sale", "tax"] == "0.000000008"
    assert links["sale", "supplier:factory"] == "0.00000006"
    assert links["supplier:factory", "power:river"] == "0.000000015"
    assert links["sale", "platform"] == "0.000000032"
    assert {node["id"] for node in flow["nodes"]} >= {"sale", "platform", "power:river"}
    assert flow["calls_per_s"] == 0.2
    assert flow["charge_per_s"] == "0.00000001"
    assert len(flow["last_calls"]) == 1
