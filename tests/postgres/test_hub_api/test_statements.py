"""
Statements and payouts at the door; what they find out is tested on real calls elsewhere.
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from tests.postgres.test_hub_api.conftest import Hub
from tokenworks.foundation.limits import STATEMENT_BYTES_MAX
from tokenworks.ledger.model import Posting, PostingKind, Transfer
from tokenworks.ledger.service import PLATFORM_ID

FILE = "Row,Cost,When\nr-1,2.5,{moment}\n=r-2,1,{moment}\n"
COLUMNS = {"reference": "Row", "amount": "Cost", "time": "When"}


async def _supplier(hub: Hub) -> dict[str, Any]:
    return await hub.make("suppliers", name="north", base_url="https://north.example/v1")


def _statement(hub: Hub, **more: object) -> dict[str, Any]:
    content = FILE.format(moment=hub.now.isoformat())
    body = {"supplier": "north", "file_name": "nov.csv", "content": content, "columns": COLUMNS}
    return {**body, "currency": "USD", "until": hub.now.isoformat()} | more


async def test_a_statement_is_imported_reported_and_accepted(hub: Hub) -> None:
    """
    What bills nothing that the hub knows is listed, and proposes no entry.
    """
    await _supplier(hub)
    since = hub.now.replace(year=hub.now.year - 1).isoformat()
    report = await hub.make("statements", **_statement(hub, since=since))
    again = await hub.make("statements", **_statement(hub))
    statement_id = report["statement"]["statement_id"]
    shown = (await hub.admin.get(f"statements/{statement_id}")).json()
    listed = (await hub.admin.get("statements", params={"supplier": "north"})).json()
    csv = await hub.admin.get(f"statements/{statement_id}/differences")
    accepted = await hub.admin.post(f"statements/{statement_id}/accept", json={"actor": "ann"})

    assert (report["replayed"], again["replayed"]) == (False, True)
    assert report["statement"]["supplier"] == "north"
    assert report["statement"]["total"] == "3.5"
    assert [(t["verdict"], t["lines"], t["billed"]) for t in report["totals"]] == [
        ("missing_here", 2, "3.5")
    ]
    assert report["days"][0]["day"] == hub.now.date().isoformat()
    assert shown["statement"] == listed["items"][0] == report["statement"]
    assert csv.headers["content-type"].startswith("text/csv")
    rows = csv.text.splitlines()
    assert rows[1].startswith("missing_here,2,r-1,")
    assert ",'=r-2," in rows[2], "a spreadsheet must not run it"
    assert (accepted.status_code, accepted.json()["code"]) == (409, "nothing_proposed")


async def test_a_faulty_statement_names_its_rows(hub: Hub) -> None:
    """
    The answer lists what to mend; nothing is stored.
    """
    await _supplier(hub)
    refused = await hub.admin.post(
        "statements", json=_statement(hub, content="Row,Cost,When\na,1,\nb,two,\n")
    )
    problem = refused.json()
    assert (refused.status_code, problem["code"]) == (400, "statement_invalid")
    assert [(row["line"], row["column"]) for row in problem["details"]["rows"]] == [(3, "amount")]
    assert (await hub.admin.get("statements")).json()["items"] == []


async def test_bad_requests_about_statements_are_refused(hub: Hub) -> None:
    """
    Each with its own code; only an admin may ask at all.
    """
    await _supplier(hub)
    await hub.make("parties", name="acme", kind="buyer")
    buyer = await hub.key_of("acme")
    wrong = {
        "invalid_request": _statement(hub, currency="EUR"),
        "supplier_not_found": _statement(hub, supplier="nobody"),
        "time_zone_unknown": _statement(hub, time_zone="Mars/Olympus"),
        "statement_period_invalid": _statement(hub, since=hub.now.isoformat()),
    }
    for code, body in wrong.items():
        answer = await hub.admin.post("statements", json=body)
        assert answer.json()["code"] == code, answer.text
    assert (await buyer.post("statements", json=_statement(hub))).status_code == 403
    assert (await buyer.get("statements")).status_code == 403
    missing = await hub.admin.get(f"statements/{uuid4()}")
    assert missing.json()["code"] == "statement_not_found"


async def test_only_an_admin_may_send_a_large_file(hub: Hub) -> None:
    """
    A statement may be larger than other bodies, up to a bound.
    """
    await _supplier(hub)
    await hub.make("parties", name="acme", kind="buyer")
    buyer = await hub.key_of("acme")
    large = _statement(hub, content="x" * (2 * 1024 * 1024))
    assert (await buyer.post("statements", json=large)).status_code == 413
    assert (await hub.admin.post("statements", json=large)).status_code == 400
    beyond = _statement(hub, content="x" * (STATEMENT_BYTES_MAX + 1))
    assert (await hub.admin.post("statements", json=beyond)).status_code == 413


async def test_a_supplier_is_paid_what_is_payable(hub: Hub) -> None:
    """
    A reference is booked once; more than is owed is refused.
    """
    supplier = await _supplier(hub)
    ledger = hub.services.corrections._ledger
    payable = await ledger.account(
        (await hub.services.supply.get_supplier("north")).party_id, "supplier_payable"
    )
    purchases = await ledger.account(PLATFORM_ID, "purchases")
    await ledger.post(
        Posting(
            kind=PostingKind.POST,
            fact_id=hub.services.ids.mint(),
            transfers=(Transfer(debit=purchases, credit=payable, quanta=5 * 10**9),),
        )
    )
    shown = (await hub.admin.get("suppliers/north/payable")).json()
    first = await hub.make("suppliers/north/payouts", amount="3", reference="p-1", actor="ann")
    again = await hub.make("suppliers/north/payouts", amount="3", reference="p-1", actor="ann")
    beyond = await hub.admin.post(
        "suppliers/north/payouts", json={"amount": "3", "reference": "p-2"}
    )
    unnamed = await hub.admin.post("suppliers/north/payouts", json={"amount": "1"})

    assert shown == {
        "party": supplier["party"],
        "currency": "USD",
        "owed": "5",
        "on_hold": "0",
        "kept_back": "0",
        "payable": "5",
    }
    assert (first["replayed"], again["replayed"]) == (False, True)
    assert beyond.status_code == 402
    assert unnamed.json()["code"] == "reference_required"
    assert (await hub.admin.get("suppliers/north/payable")).json()["payable"] == "2"
