"""
Suppliers, offers and prices.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.postgres.test_hub_api.conftest import Hub
from tests.postgres.test_hub_api.fakes import FakeAnswer

URL = "https://factory.example/v1"


async def open_supplier(hub: Hub, **body: object) -> dict[str, Any]:
    """
    Add a supplier named factory.
    """
    return await hub.make("suppliers", name="factory", base_url=URL, **body)


async def test_a_supplier_gets_its_party_and_hides_its_key(hub: Hub) -> None:
    """
    The key is stored encrypted and never answered.
    """
    supplier = await open_supplier(hub, api_key="sk-upstream-secret")
    party = (await hub.admin.get("parties/factory")).json()
    listed = await hub.admin.get("suppliers")

    assert supplier["has_api_key"]
    assert supplier["party"] == {"party_id": party["party_id"], "name": "factory"}
    assert party["kind"] == "supplier"
    assert "sk-upstream-secret" not in listed.text


async def test_a_refused_url_leaves_nothing_behind(hub: Hub) -> None:
    """
    A private address is refused unless allowed, before a party is opened.
    """
    body = {"name": "inside", "base_url": "https://10.0.0.1/v1"}

    refused = await hub.admin.post("suppliers", json=body)
    party = await hub.admin.get("parties/inside")

    assert (refused.status_code, refused.json()["code"]) == (400, "url_not_allowed")
    assert party.status_code == 404


async def test_a_supplier_is_paused_resumed_and_edited(hub: Hub) -> None:
    """
    Each change is in the next snapshot.
    """
    await open_supplier(hub)

    paused = await hub.make("suppliers/factory/pause")
    resumed = await hub.make("suppliers/factory/resume")
    edited = await hub.admin.patch("suppliers/factory", json={"base_url": f"{URL}/two"})

    assert (paused["state"], resumed["state"]) == ("paused", "active")
    assert edited.json()["base_url"] == f"{URL}/two"
    for wish in (True, False):
        asked = await hub.admin.patch("suppliers/factory", json={"sends_call_id": wish})
        assert asked.json()["sends_call_id"] is wish
        named = await hub.make(
            "suppliers", name=f"f{wish}".lower(), base_url=URL, sends_call_id=wish
        )
        assert named["sends_call_id"] is wish
    assert edited.json()["sends_call_id"] is False


async def test_testing_a_supplier_sends_its_key_and_books_nothing(hub: Hub) -> None:
    """
    Two requests with the supplier's key; usage is read as the gateway would.
    """
    await open_supplier(hub, api_key="sk-upstream-secret")

    answer = await hub.make("suppliers/factory/test")

    assert answer["ok"]
    assert answer["models"] == ["tiny"]
    assert answer["usage"] == {"input": 5, "output": 2}
    assert [step["step"] for step in answer["steps"]] == ["models", "chat"]
    sent = hub.upstream.requests
    assert [request.url for request in sent] == [f"{URL}/models", f"{URL}/chat/completions"]
    assert {request.headers["authorization"] for request in sent} == {"Bearer sk-upstream-secret"}
    assert "sk-upstream-secret" not in msgspec.json.encode(answer).decode()


@pytest.mark.parametrize(
    ("path", "answer", "detail"),
    [
        ("/models", FakeAnswer(401, b"bad key\x1b[31m"), "bad key"),
        ("/models", FakeAnswer(200, b"<html>"), "no JSON"),
        ("/chat/completions", FakeAnswer(200, b"{}"), "no choices"),
    ],
)
async def test_a_bad_supplier_fails_its_test(
    hub: Hub, path: str, answer: FakeAnswer, detail: str
) -> None:
    """
    What is wrong is said in plain text, and never raised.
    """
    await open_supplier(hub)
    hub.upstream.answers[path] = answer

    found = await hub.make("suppliers/factory/test")

    assert not found["ok"]
    assert detail in found["steps"][-1]["detail"]
    assert "\x1b" not in found["steps"][-1]["detail"]


async def test_a_supplier_that_is_down_fails_its_test(hub: Hub) -> None:
    """
    No connection is a finding, not an error of the hub.
    """
    await open_supplier(hub)
    hub.upstream.is_down = True

    found = await hub.make("suppliers/factory/test", model="tiny")

    assert not found["ok"]
    assert found["steps"][0]["detail"] == "Nobody is there."


async def test_an_offer_shares_the_charge_by_name(hub: Hub) -> None:
    """
    The only rights holder is meant when none is named.
    """
    await open_supplier(hub)
    await hub.make("parties", name="library", kind="rights_holder")

    offer = await hub.make(
        "offers",
        supplier="factory",
        model="m",
        tier="standard",
        supplier_share_ppm=600_000,
        split={"rights_ppm": 50_000, "tax_ppm": 80_000},
    )
    listed = (await hub.admin.get("offers", params={"supplier": "factory"})).json()["items"]

    assert offer["split"]["rights"] == "library"
    assert offer["upstream_model"] == "m"
    assert listed == [offer]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"supplier_share_ppm": None}, "invalid_request"),
        ({"costs": {"input": "1", "output": "1"}}, "invalid_request"),
        ({"split": {"rights_ppm": 1}}, "party_ambiguous"),
        ({"split": {"rights_ppm": 1, "rights": "factory"}}, "wrong_party_kind"),
        ({"tier": "golden"}, "tier_unknown"),
        ({"split": {"tax_ppm": 1_000_001}}, "invalid_request"),
        ({"supplier": "nobody"}, "supplier_not_found"),
    ],
)
async def test_a_wrong_offer_is_refused(hub: Hub, change: dict[str, Any], code: str) -> None:
    """
    The message says which rule it breaks.
    """
    await open_supplier(hub)
    body: dict[str, Any] = {
        "supplier": "factory",
        "model": "m",
        "tier": "standard",
        "supplier_share_ppm": 600_000,
    }

    answer = await hub.admin.post("offers", json=body | change)

    assert answer.status_code in {400, 404}
    assert answer.json()["code"] == code


async def test_an_offer_is_edited_paused_and_closed(hub: Hub) -> None:
    """
    What is not named stays.
    """
    await open_supplier(hub)
    offer = await hub.make(
        "offers", supplier="factory", model="m", tier="standard", supplier_share_ppm=600_000
    )
    path = f"offers/{offer['offer_id']}"

    edited = await hub.admin.patch(path, json={"costs": {"input": "0.1", "output": "0.5"}})
    closed = await hub.admin.delete(path)
    again = await hub.admin.patch(path, json={"state": "active"})

    assert edited.json()["supplier_share_ppm"] is None
    assert edited.json()["costs"]["input"] == "0.1"
    assert edited.json()["priority"] == offer["priority"]
    assert closed.json()["state"] == "paused"
    assert again.json()["state"] == "active"


async def test_a_supplier_sees_only_its_own(hub: Hub) -> None:
    """
    Another's supplier or offer is a 404.
    """
    await open_supplier(hub)
    await hub.make("suppliers", name="rival", base_url="https://rival.example/v1")
    offer = await hub.make(
        "offers", supplier="rival", model="m", tier="standard", supplier_share_ppm=1
    )
    factory = await hub.key_of("factory")

    listed = (await factory.get("suppliers")).json()["items"]

    assert [row["name"] for row in listed] == ["factory"]
    assert (await factory.get("suppliers/rival")).status_code == 404
    assert (await factory.get(f"offers/{offer['offer_id']}")).status_code == 404
    assert (await factory.get("offers")).json()["items"] == []


async def test_prices_are_set_and_listed(hub: Hub) -> None:
    """
    Cache and reasoning get explicit rows; amounts are exact decimal text.
    """
    prices = {"input": "0.75", "output": "3", "cache_read": "0.075"}
    made = await hub.make("prices", model="m", tier="standard", prices=prices)
    listed = (await hub.admin.get("prices", params={"model": "m"})).json()

    by_axis = {row["axis"]: row["usd_per_million"] for row in made["items"]}
    assert by_axis["cache_read"] == "0.075"
    assert by_axis["cache_write_5m"] == "0.75"
    assert by_axis["reasoning"] == "3"
    assert {row["price_id"] for row in listed["items"]} == {
        row["price_id"] for row in made["items"]
    }
    assert listed["next_cursor"] is None


async def test_prices_in_force_and_pages_of_versions(hub: Hub) -> None:
    """
    ``at`` gives one version of each; pages never cut one.
    """
    for model in ("a", "b"):
        await hub.make("prices", model=model, tier="standard", prices={"input": "1", "output": "2"})
    at = hub.services.clock.now().isoformat()

    in_force = (await hub.admin.get("prices", params={"at": at})).json()["items"]
    first = (await hub.admin.get("prices", params={"limit": 1})).json()
    rest = (await hub.admin.get("prices", params={"cursor": first["next_cursor"]})).json()

    assert {row["model"] for row in in_force} == {"a", "b"}
    assert len({row["model"] for row in first["items"]}) == 1
    assert {row["model"] for row in first["items"] + rest["items"]} == {"a", "b"}
    assert len(first["items"]) == len(rest["items"])


@pytest.mark.parametrize(
    "prices", [{"input": "1"}, {"input": "1", "output": "2", "sugar": "3"}, {"input": "x"}]
)
async def test_wrong_prices_are_refused(hub: Hub, prices: dict[str, str]) -> None:
    """
    Output is required, and an unknown axis is an error.
    """
    body = {"model": "m", "tier": "standard", "prices": prices}

    assert (await hub.admin.post("prices", json=body)).status_code == 400


async def test_tiers_come_from_the_catalogue(hub: Hub) -> None:
    """
    Anyone with a key sees the five tiers with floors.
    """
    tiers = (await hub.admin.get("tiers")).json()["items"]

    assert [tier["tier"] for tier in tiers] == [
        "free",
        "standard",
        "premium",
        "high_speed",
        "elite",
    ]
    assert tiers[1]["default_prices"]["output"] == "3"
    assert tiers[1]["speed_floor_tokens_per_s"] == 50
