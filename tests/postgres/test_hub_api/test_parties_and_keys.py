"""
Parties, keys and who may see them.
"""

from __future__ import annotations

import pytest

from tests.postgres.test_hub_api.conftest import Hub


async def test_a_party_gets_its_accounts_and_its_scope(hub: Hub) -> None:
    """
    An organisation has a cash account and can be frozen in the ledger from the start.
    """
    party = await hub.make("parties", name="acme", kind="buyer")

    balance = (await hub.admin.get("balance", params={"party": "acme"})).json()

    assert party["level"] == "organisation"
    assert party["default_tier"] == "standard"
    assert balance["cash"] == [{"currency": "USD", "available": "0", "held": "0", "posted": "0"}]


async def test_a_team_has_no_purse_of_its_own(hub: Hub) -> None:
    """
    Money belongs to the organisation; depositing on a team names it.
    """
    await hub.make("parties", name="acme", kind="buyer")
    team = await hub.make("parties", name="research", kind="buyer", parent="acme")

    refused = await hub.admin.post(
        "deposits", json={"party": "research", "amount": "1", "reference": "r"}
    )

    assert team["level"] == "team"
    assert team["parent"]["name"] == "acme"
    assert refused.status_code == 400
    assert refused.json()["code"] == "not_an_organisation"
    assert "acme" in refused.json()["detail"]


async def test_a_key_is_shown_once_and_can_spend(hub: Hub) -> None:
    """
    The secret is in one answer; the key has a spend path over its whole chain.
    """
    await hub.make("parties", name="acme", kind="buyer")
    await hub.make("parties", name="research", kind="buyer", parent="acme")

    key = await hub.make("keys", party="research", label="ci", models=["m@standard"])
    listed = (await hub.admin.get("keys", params={"party": "research"})).json()["items"]
    who = (await hub.client(key["secret"]).get("whoami")).json()

    assert key["secret"].startswith("tw_")
    assert key["role"] == "buyer"
    assert [row["secret"] for row in listed] == [None]
    assert [party["name"] for party in who["chain"]] == ["acme", "research"]
    assert who["models"] == ["m@standard"]
    principal = await hub.services.identity.authenticate(key["secret"])
    assert principal.spend_path_version >= 1


async def test_a_revoked_key_is_refused_at_once(hub: Hub) -> None:
    """
    Revoking works on the next request, and a repeat says the same.
    """
    await hub.make("parties", name="acme", kind="buyer")
    key = await hub.make("keys", party="acme")
    buyer = hub.client(key["secret"])
    assert (await buyer.get("whoami")).status_code == 200

    first = await hub.admin.delete(f"keys/{key['key_id']}")
    again = await hub.admin.delete(f"keys/{key['key_id']}")

    assert first.json()["state"] == "revoked"
    assert again.json()["revoked_at"] == first.json()["revoked_at"]
    refused = await buyer.get("whoami")
    assert refused.status_code == 401
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["code"] == "key_revoked"


async def test_rotation_replaces_the_secret_and_keeps_the_key(hub: Hub) -> None:
    """
    The id stays, the old secret stops working.
    """
    await hub.make("parties", name="acme", kind="buyer")
    key = await hub.make("keys", party="acme")

    rotated = await hub.make(f"keys/{key['key_id']}/rotate")

    assert rotated["key_id"] == key["key_id"]
    assert rotated["secret"] != key["secret"]
    assert (await hub.client(key["secret"]).get("whoami")).status_code == 401
    assert (await hub.client(rotated["secret"]).get("whoami")).status_code == 200


async def test_parties_are_listed_in_pages_and_filtered(hub: Hub) -> None:
    """
    Following the cursor gives every party once.
    """
    for name in ("a", "b", "c"):
        await hub.make("parties", name=name, kind="buyer")
    await hub.make("parties", name="s", kind="supplier")

    names: list[str] = []
    cursor = None
    while True:
        query = {"kind": "buyer", "limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = (await hub.admin.get("parties", params=query)).json()
        names += [row["name"] for row in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break

    assert sorted(names) == ["a", "b", "c"]


async def test_a_buyer_sees_only_its_own_tree(hub: Hub) -> None:
    """
    Another organisation is a 404 like a name that does not exist.
    """
    await hub.make("parties", name="acme", kind="buyer")
    await hub.make("parties", name="research", kind="buyer", parent="acme")
    await hub.make("parties", name="other", kind="buyer")
    team = await hub.key_of("research")

    listed = (await team.get("parties")).json()["items"]
    other = await team.get("parties/other")
    missing = await team.get("parties/nobody")

    assert [row["name"] for row in listed] == ["research"]
    assert (await team.get("parties/research")).status_code == 200
    assert (await team.get("parties/acme")).status_code == 404
    assert (other.status_code, other.json()["code"]) == (404, missing.json()["code"])


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "parties", {"name": "x", "kind": "buyer"}),
        ("POST", "keys", {"party": "acme"}),
        ("POST", "deposits", {"party": "acme", "amount": "1", "reference": "x"}),
        ("POST", "limits", {"party": "acme", "amount": "1", "per": "day"}),
        ("POST", "suppliers", {"name": "s", "base_url": "https://example.com/v1"}),
        ("POST", "prices", {"model": "m", "tier": "standard", "prices": {"input": "1"}}),
        ("GET", "ledger/trial-balance", None),
        ("GET", "ledger/holds", None),
        ("GET", "flow", None),
        ("GET", "receipts", None),
        ("GET", "suppliers", None),
        ("GET", "offers", None),
    ],
)
async def test_only_an_admin_may(hub: Hub, method: str, path: str, body: object) -> None:
    """
    A buyer's key is refused with 403 where it has no business.
    """
    await hub.make("parties", name="acme", kind="buyer")
    buyer = await hub.key_of("acme")

    answer = await buyer.request(method, path, json=body)

    assert answer.status_code == 403
    assert answer.json()["code"] == "role_not_allowed"


async def test_freezing_stops_writes_but_not_reading(hub: Hub) -> None:
    """
    A frozen party may still look at its books.
    """
    await hub.make("parties", name="acme", kind="buyer")
    buyer = await hub.key_of("acme")

    frozen = await hub.admin.patch("parties/acme", json={"state": "frozen"})
    seen = await buyer.get("balance")
    thawed = await hub.admin.patch("parties/acme", json={"state": "active"})

    assert frozen.json()["state"] == "frozen"
    assert seen.status_code == 200
    assert thawed.json()["state"] == "active"


async def test_no_key_and_unknown_paths(hub: Hub) -> None:
    """
    Every error is a problem document.
    """
    nobody = hub.client("nonsense")
    unknown = await hub.admin.get("nothing")
    method = await hub.admin.delete("parties")

    refused = await nobody.get("whoami")
    described = await nobody.get("openapi.json")

    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert (unknown.status_code, unknown.json()["code"]) == (404, "path_not_found")
    assert (method.status_code, method.json()["code"]) == (405, "method_not_allowed")
    assert described.status_code == 200
    assert described.json()["openapi"].startswith("3.1")


async def test_unknown_fields_are_refused_without_repeating_values(hub: Hub) -> None:
    """
    A misspelt field is an error, and what was sent is not in it.
    """
    answer = await hub.admin.post(
        "suppliers",
        json={"name": "s", "base_url": "https://example.com/v1", "apikey": "sk-very-secret"},
    )

    assert answer.status_code == 400
    assert answer.json()["param"] == "apikey"
    assert "sk-very-secret" not in answer.text
