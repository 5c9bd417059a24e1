"""
Closes of dates at the door; what they prove is tested on the ledger itself.
"""

from __future__ import annotations

import json
from datetime import timedelta

from tests.postgres.test_hub_api.conftest import Hub


async def test_a_date_is_closed_once_and_listed(hub: Hub) -> None:
    """
    The statement and its signature are given as they are stored.
    """
    yesterday = (hub.now - timedelta(days=1)).date().isoformat()
    closed = await hub.make("ledger/closings", date=yesterday, actor="ann")
    again = await hub.make("ledger/closings", date=yesterday)
    listed = (await hub.admin.get("ledger/closings")).json()["items"]

    assert (closed["date"], closed["replayed"], again["replayed"]) == (yesterday, False, True)
    assert closed["actor"].startswith("ann (key ")
    assert (closed["entries"], closed["rows"], closed["totals"]) == (0, [], [])
    assert json.loads(closed["statement"])["date"] == yesterday
    assert closed["signature"] == f"signed:{len(closed['statement'])}"
    assert listed == [closed]


async def test_a_close_that_cannot_be_is_refused(hub: Hub) -> None:
    """
    Today is not over, an older date is closed with a later one, and only an admin closes.
    """
    await hub.make("parties", name="acme", kind="buyer")
    buyer = await hub.key_of("acme")
    today = hub.now.date()
    await hub.make("ledger/closings", date=(today - timedelta(days=1)).isoformat())
    cases = {
        (today.isoformat(), 400, "date_not_over"),
        ((today - timedelta(days=2)).isoformat(), 409, "date_closed"),
        ("yesterday", 400, "invalid_request"),
        ("0001-01-01", 400, "invalid_request"),  # an id of that time cannot be
    }
    for day, status, code in cases:
        answer = await hub.admin.post("ledger/closings", json={"date": day})
        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert (await buyer.post("ledger/closings", json={"date": "2026-01-01"})).status_code == 403
    assert (await buyer.get("ledger/closings")).status_code == 403


async def test_a_reversal_names_an_open_date(hub: Hub) -> None:
    """
    A closed date, and one that has not begun, are refused.
    """
    await hub.make("parties", name="acme", kind="buyer")
    booked = await hub.make("deposits", party="acme", amount="5", reference="wire-1")
    today = hub.now.date()
    await hub.make("ledger/closings", date=(today - timedelta(days=1)).isoformat())
    path = f"ledger/entries/{booked['fact_id']}/reversal"
    for days, code in ((-1, "date_closed"), (1, "date_not_over")):
        day = (today + timedelta(days=days)).isoformat()
        body = {"reason": "wrong", "accounting_date": day}
        assert (await hub.admin.post(path, json=body)).json()["code"] == code
    await hub.make(path, reason="wrong", accounting_date=today.isoformat())
