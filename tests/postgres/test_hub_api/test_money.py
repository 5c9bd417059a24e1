"""
Deposits, balances, limits, the books.
"""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from tests.postgres.test_hub_api.conftest import Hub


async def test_a_deposit_is_in_the_balance_and_in_the_books(hub: Hub) -> None:
    """
    Balance and trial balance agree after a deposit.
    """
    await hub.make("parties", name="acme", kind="buyer")
    booked = await hub.make("deposits", party="acme", amount="12.50", reference="wire-1")
    buyer = await hub.key_of("acme")

    balance = (await buyer.get("balance")).json()
    trial = (await hub.admin.get("ledger/trial-balance")).json()
    entries = (await hub.admin.get(f"ledger/entries/{booked['fact_id']}")).json()["items"]

    assert booked["amount"] == "12.5"
    assert balance["cash"] == [
        {"currency": "USD", "available": "12.5", "held": "0", "posted": "12.5"}
    ]
    assert balance["accounts"] is None
    assert trial["is_balanced"]
    cash = [row for row in trial["rows"] if row["purpose"] == "cash"]
    assert [row["available"] for row in cash] == ["12.5"]
    assert cash[0]["party"]["name"] == "acme"
    legs = entries[0]["legs"]
    assert sorted((leg["purpose"], leg["debit"], leg["credit"]) for leg in legs) == [
        ("cash", "0", "12.5"),
        ("safeguarded", "12.5", "0"),
    ]


async def test_a_reference_is_booked_once_for_ever(hub: Hub) -> None:
    """
    The same payment under another Idempotency-Key moves nothing; other content is a conflict.
    """
    await hub.make("parties", name="acme", kind="buyer")
    first = await hub.make("deposits", party="acme", amount="5", reference="wire-1")
    again = await hub.make("deposits", party="acme", amount="5", reference="wire-1")
    other = await hub.admin.post(
        "deposits", json={"party": "acme", "amount": "6", "reference": "wire-1"}
    )

    balance = (await hub.admin.get("balance", params={"party": "acme"})).json()

    assert (first["replayed"], again["replayed"]) == (False, True)
    assert again["fact_id"] == first["fact_id"]
    assert other.status_code == 409
    assert balance["cash"][0]["posted"] == "5"


async def test_the_idempotency_key_stands_for_a_reference(hub: Hub) -> None:
    """
    A deposit without either cannot be told from its repeat, and is refused.
    """
    await hub.make("parties", name="acme", kind="buyer")
    body = {"party": "acme", "amount": "5"}

    refused = await hub.admin.post("deposits", json=body)
    booked = await hub.admin.post("deposits", json=body, headers={"idempotency-key": "k1"})

    assert (refused.status_code, refused.json()["code"]) == (400, "reference_required")
    assert booked.json()["reference"] == "k1"


@pytest.mark.parametrize(
    ("amount", "code"),
    [("0", "invalid_amount"), ("0.0000000001", "amount_too_fine"), ("-1", "invalid_request")],
)
async def test_amounts_are_exact_or_refused(hub: Hub, amount: str, code: str) -> None:
    """
    Nothing is ever rounded on its way in.
    """
    await hub.make("parties", name="acme", kind="buyer")
    answer = await hub.admin.post(
        "deposits", json={"party": "acme", "amount": amount, "reference": "x"}
    )

    assert (answer.status_code, answer.json()["code"]) == (400, code)


async def test_a_limit_is_set_replaced_and_removed(hub: Hub) -> None:
    """
    One limit per scope, unit and window; setting it again changes it.
    """
    await hub.make("parties", name="acme", kind="buyer")
    first = await hub.make("limits", party="acme", amount="100", per="month")
    again = await hub.make("limits", party="acme", amount="50", per="month")
    tokens = await hub.make("limits", party="acme", amount="1000", unit="tokens", per="ever")

    listed = (await hub.admin.get("limits", params={"party": "acme"})).json()["items"]
    removed = await hub.admin.delete(f"limits/{first['limit_id']}")
    left = (await hub.admin.get("limits", params={"party": "acme"})).json()["items"]

    assert again["limit_id"] == first["limit_id"]
    assert (again["amount"], again["remaining"], again["unit"]) == ("50", "50", "USD")
    assert again["resets_at"] is not None
    assert (tokens["amount"], tokens["resets_at"]) == ("1000", None)
    assert {row["limit_id"] for row in listed} == {first["limit_id"], tokens["limit_id"]}
    assert removed.json() == {"limit_id": first["limit_id"], "removed": True}
    assert [row["limit_id"] for row in left] == [tokens["limit_id"]]


async def test_a_key_sees_only_its_own_tightest_limit(hub: Hub) -> None:
    """
    A buyer learns what stops it first, and nothing of the other limits above it.
    """
    await hub.make("parties", name="acme", kind="buyer")
    await hub.make("parties", name="research", kind="buyer", parent="acme")
    await hub.make("limits", party="acme", amount="1000", per="year")
    await hub.make("limits", party="research", amount="10", per="month")
    key = await hub.make("keys", party="research")
    await hub.make("limits", key=key["key_id"], amount="20", per="ever")
    buyer = hub.client(key["secret"])

    listed = (await buyer.get("limits")).json()["items"]
    balance = (await buyer.get("balance")).json()
    seen_by_admin = (await hub.admin.get("balance", params={"party": "research"})).json()
    on_key = (await hub.admin.get("limits", params={"key": key["key_id"]})).json()["items"]

    assert [row["scope"]["name"] for row in listed] == ["research"]
    assert balance["limits"] == listed
    assert balance["tightest"] == listed[0]
    assert [row["scope"]["name"] for row in seen_by_admin["limits"]] == ["acme", "research"]
    assert on_key[0]["scope"] == {"kind": "key", "id": key["key_id"], "name": key["prefix"]}


@pytest.mark.parametrize(
    "body",
    [
        {"amount": "1", "per": "day"},
        {"party": "acme", "key": str(UUID(int=5)), "amount": "1", "per": "day"},
        {"party": "acme", "amount": "1", "per": "fortnight"},
        {"party": "acme", "amount": "1", "per": "day", "time_zone": "Mars/Olympus"},
        {"party": "acme", "amount": "1.5", "per": "day", "unit": "tokens"},
    ],
)
async def test_a_wrong_limit_is_refused(hub: Hub, body: dict[str, str]) -> None:
    """
    A limit names one scope, a known window, zone and a whole amount.
    """
    await hub.make("parties", name="acme", kind="buyer")

    assert (await hub.admin.post("limits", json=body)).status_code == 400


async def test_unknown_facts_are_404(hub: Hub) -> None:
    """
    Nothing booked is not an empty answer.
    """
    answer = await hub.admin.get(f"ledger/entries/{uuid4()}")

    assert (answer.status_code, answer.json()["code"]) == (404, "fact_not_found")
    assert (await hub.admin.get("ledger/holds")).json() == {"items": []}


async def test_a_deposit_is_reversed_with_reason_and_actor(hub: Hub) -> None:
    """
    A reversal is an entry beside the deposit's; only an admin books one.
    """
    await hub.make("parties", name="acme", kind="buyer")
    booked = await hub.make("deposits", party="acme", amount="12.50", reference="wire-1")
    path = f"ledger/entries/{booked['fact_id']}/reversal"
    buyer = await hub.key_of("acme")

    denied = await buyer.post(path, json={"reason": "mine"})
    done = await hub.make(path, reason="typed twice", actor="ann")
    again = await hub.make(path, reason="typed twice")
    other = await hub.admin.post(path, json={"reason": "else"})
    missing = await hub.admin.post(
        f"ledger/entries/{uuid4()}/reversal", json={"reason": "typed twice"}
    )
    balance = (await buyer.get("balance")).json()
    entries = (await hub.admin.get(f"ledger/entries/{booked['fact_id']}")).json()["items"]

    assert denied.status_code == 403
    assert (done["replayed"], done["owed"], again["replayed"]) == (False, "0", True)
    assert (other.status_code, other.json()["code"]) == (409, "already_reversed")
    assert (missing.status_code, missing.json()["code"]) == (404, "fact_not_found")
    assert balance["cash"][0]["posted"] == "0"
    assert entries[1]["meta"]["reason"] == "typed twice"
    assert entries[1]["meta"]["actor"].startswith("ann (key ")


async def test_a_refund_needs_a_call_a_reference_and_an_admin(hub: Hub) -> None:
    """
    What it moves is tested on real calls elsewhere.
    """
    await hub.make("parties", name="acme", kind="buyer")
    buyer = await hub.key_of("acme")
    path, body = f"calls/{uuid4()}/refunds", {"amount": "1", "reason": "late"}
    unnamed = await hub.admin.post(path, json=body)
    unknown = await hub.admin.post(path, json={**body, "reference": "r-1"})
    wrong = await hub.admin.post(path, json={**body, "borne_by": "nobody"})
    denied = await buyer.post(path, json={**body, "reference": "r-1"})
    assert unnamed.json()["code"] == "reference_required"
    assert (unknown.status_code, unknown.json()["code"]) == (404, "call_not_found")
    assert wrong.status_code == 400
    assert denied.status_code == 403
