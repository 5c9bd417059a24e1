"""
Agents and mandates through the hub API: who manages, who reads, what a wallet's signature opens.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

import httpx
import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.postgres.test_hub_api.conftest import Hub
from tests.unit.test_ap2_signed import EDWARDS_JWK, ELLIPTIC_JWK, edwards
from tokenworks.agents.mandates.ap2_signed import jwk_thumbprint
from tokenworks.agents.mandates.signed_request import sign_request
from tokenworks.agents.mandates.signing import address_of, sign_by_wallet
from tokenworks.agents.mandates.terms import terms_from_object
from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.identifiers import IdentifierSource

ROOT = "http://hub/hub/v1/"


@dataclass(kw_only=True)
class Family:
    """
    An organisation, a team with an agent, another team, and keys for each.
    """

    hub: Hub
    clock: FakeClock
    ids: IdentifierSource
    wallet: Ed25519PrivateKey
    agent: dict[str, Any]
    owner: httpx.AsyncClient
    team: httpx.AsyncClient
    other_team: httpx.AsyncClient
    own: httpx.AsyncClient

    async def mandate(self, **terms: object) -> dict[str, Any]:
        """
        Issue a mandate of the agent.
        """
        answer = await self.hub.admin.post("mandates", json={"agent": "bot", "terms": terms})
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def signed(
        self,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        sent: bytes | None = None,
        key: Ed25519PrivateKey | None = None,
        network: str | None = None,
        signed_path: str | None = None,
        header: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        """
        Send a request that a wallet signed; each part may differ from what was signed.
        """
        header = header or self.header(
            method, signed_path or path, body=body, key=key, network=network
        )
        client = httpx.AsyncClient(transport=self.owner._transport, base_url=ROOT)
        return await client.request(
            method,
            path,
            content=body if sent is None else sent,
            headers={
                "x-tokenworks-wallet": header,
                "content-type": "application/json",
                **(headers or {}),
            },
        )

    def header(
        self,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        key: Ed25519PrivateKey | None = None,
        network: str | None = None,
    ) -> str:
        """
        Sign a request.
        """
        return sign_request(
            key or self.wallet,
            network=network or self.hub.services.agents.network,
            method=method,
            url=ROOT + path,
            body=body,
            request_id=self.ids.mint(),
            now=self.clock.now(),
        )


@pytest.fixture
async def family(hub: Hub, clock: FakeClock, ids: IdentifierSource) -> Family:
    """
    Parties, keys and an agent with a wallet.
    """
    await hub.make("parties", name="acme", kind="buyer")
    await hub.make("parties", name="research", kind="buyer", parent="acme")
    await hub.make("parties", name="sales", kind="buyer", parent="acme")
    await hub.make("parties", name="shop", kind="buyer")
    wallet = Ed25519PrivateKey.generate()
    agent = await hub.make(
        "agents", name="bot", owner="research", public_key=address_of(wallet), label="first"
    )
    keys = {
        name: (await hub.make("keys", party=name))["secret"]
        for name in ("acme", "research", "sales", "bot")
    }
    return Family(
        hub=hub,
        clock=clock,
        ids=ids,
        wallet=wallet,
        agent=agent,
        owner=hub.client(keys["acme"]),
        team=hub.client(keys["research"]),
        other_team=hub.client(keys["sales"]),
        own=hub.client(keys["bot"]),
    )


async def test_agent_stands_below_its_owner_with_its_wallet(family: Family) -> None:
    """
    An agent is a party of its level; its public key speaks for it.
    """
    agent = family.agent
    assert (agent["owner"]["name"], agent["organisation"]["name"]) == ("research", "acme")
    assert [wallet["address"] for wallet in agent["wallets"]] == [address_of(family.wallet)]
    listed = (await family.team.get("agents")).json()["items"]
    assert [row["name"] for row in listed] == ["bot"]
    assert (await family.other_team.get("agents")).json()["items"] == []
    again = await family.hub.admin.get("agents/bot")
    assert again.json() == agent


async def test_page_of_agents_costs_the_same_queries_however_many_they_are(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Parents and wallets are read for all of them at once, and a page ends where it is full.
    """
    asked: list[object] = []
    execute = cast("Callable[..., Awaitable[object]]", psycopg.AsyncConnection.execute)

    async def count(connection: object, query: object, *args: object, **options: object) -> object:
        asked.append(query)
        return await execute(connection, query, *args, **options)

    async def listed(**query: str | int) -> tuple[int, dict[str, Any]]:
        asked.clear()
        page = (await family.hub.admin.get("agents", params=query)).json()
        return len(asked), page

    await listed()
    monkeypatch.setattr(psycopg.AsyncConnection, "execute", count)
    for_one, _ = await listed()
    names = ["bot", *(f"bot-{number}" for number in range(2, 7))]
    for name in names[1:]:
        await family.hub.make("agents", name=name, owner="research")
    await family.hub.make("agents", name="elsewhere", owner="shop")
    for_seven, page = await listed()

    assert [row["name"] for row in page["items"]] == [*names, "elsewhere"]
    assert for_seven == for_one
    _, first = await listed(owner="acme", limit=4)
    _, second = await listed(owner="acme", limit=4, cursor=first["next_cursor"])
    assert [row["name"] for row in first["items"] + second["items"]] == names
    assert second["next_cursor"] is None
    assert [len(row["wallets"]) for row in first["items"]] == [1, 0, 0, 0]


async def test_owners_at_or_above_manage_and_nobody_beside_them(family: Family) -> None:
    """
    A key at or above the agent issues; a sibling's does not even see it.
    """
    body = {"agent": "bot", "terms": {"amount_max": "1"}}
    for client in (family.owner, family.team):
        assert (await client.post("mandates", json=body)).status_code == 201
    refused = await family.other_team.post("mandates", json=body)
    assert (refused.status_code, refused.json()["code"]) == (404, "party_not_found")
    added = await family.team.post("agents", json={"name": "bot-2", "owner": "research"})
    assert added.status_code == 201
    refused = await family.team.post("agents", json={"name": "bot-3", "owner": "acme"})
    assert refused.status_code == 404


async def test_agent_reads_its_own_and_changes_nothing(family: Family) -> None:
    """
    By its key and by its wallet: its mandates are shown, management is refused.
    """
    mandate = await family.mandate(budgets=[{"window": "day", "amount": "5"}])
    path = f"mandates/{mandate['mandate_id']}"
    assert (await family.own.get(path)).json()["limits"][0]["remaining"] == "5"
    assert (await family.signed("GET", path)).json()["mandate_id"] == mandate["mandate_id"]
    assert (await family.signed("GET", "agents/self")).json()["name"] == "bot"
    assert (await family.signed("GET", "whoami")).json()["prefix"].startswith("wallet:")
    for verb in ("revoke", "freeze", "thaw"):
        refused = await family.own.post(f"{path}/{verb}")
        assert (refused.status_code, refused.json()["code"]) == (403, "owner_required")
        refused = await family.signed("POST", f"{path}/{verb}")
        assert (refused.status_code, refused.json()["code"]) == (403, "owner_required")
    refused = await family.own.post("agents/bot/freeze")
    assert refused.json()["code"] == "owner_required"
    assert (await family.signed("GET", "parties/sales")).status_code == 404


async def test_wallets_signature_covers_the_whole_request(family: Family) -> None:
    """
    Another body, path, method, hub, key, or a late one: each is refused, and nothing is done.
    """
    stranger = Ed25519PrivateKey.generate()
    for answer, code in (
        (await family.signed("GET", "whoami", key=stranger), "wallet_unknown"),
        (await family.signed("GET", "whoami", signed_path="balance"), "wallet_request_refused"),
        (await family.signed("GET", "whoami", network="hub:other"), "wallet_request_refused"),
        (await family.signed("GET", "whoami", sent=b"{}"), "wallet_request_refused"),
        (
            await family.signed("GET", "agents/self%3F", signed_path="agents/self"),
            "wallet_request_refused",
        ),
        (
            await family.signed("GET", "agents/self%23/x", signed_path="agents/self"),
            "wallet_request_refused",
        ),
        (
            await family.signed("POST", "whoami", header=family.header("GET", "whoami")),
            "wallet_request_refused",
        ),
        (await family.signed("GET", "whoami", header="a.b.c"), "wallet_request_refused"),
        (await family.signed("GET", "whoami", header="x" * 5_000), "wallet_request_refused"),
        (
            await family.signed("GET", "whoami", headers={"authorization": "Bearer tw_x"}),
            "wallet_request_refused",
        ),
    ):
        assert (answer.status_code, answer.json()["code"]) == (401, code)
    old = family.header("GET", "whoami")
    family.clock.advance(timedelta(seconds=61))
    assert (await family.signed("GET", "whoami", header=old)).status_code == 401
    early = family.header("GET", "whoami")
    family.clock.advance(timedelta(seconds=-90))
    assert (await family.signed("GET", "whoami", header=early)).status_code == 401


async def test_revoked_wallet_signs_no_request(family: Family) -> None:
    """
    The next request is refused; the agent's key still reads.
    """
    address = address_of(family.wallet)
    assert (await family.signed("GET", "whoami")).status_code == 200
    revoked = await family.team.delete(f"agents/bot/wallets/{address}")
    assert revoked.json()["revoked_at"] is not None
    refused = await family.signed("GET", "whoami")
    assert (refused.status_code, refused.json()["code"]) == (401, "wallet_revoked")
    missing = await family.team.delete("agents/bot/wallets/nobody")
    assert missing.json()["code"] == "wallet_unknown"


async def test_wallet_delegates_once_by_a_signed_request(family: Family) -> None:
    """
    A delegation comes with the agent's own signature; the same signed request again is
    answered with the first answer.
    """
    await family.hub.make("agents", name="worker", owner="acme")
    root = await family.mandate(amount_max="2", delegations_max=1)
    worker = (await family.hub.admin.get("agents/worker")).json()
    jws = sign_by_wallet(
        family.wallet,
        mandate_id=family.ids.mint(),
        agent_id=UUID(worker["party_id"]),
        terms=terms_from_object({"currency": "USD", "amount_max": "1"}),
        issued_at=family.clock.now(),
        expires_at=None,
        agent_address=None,
        parent_id=UUID(root["mandate_id"]),
        parent_jws=root["chain"][-1],
    )
    path = f"mandates/{root['mandate_id']}/delegate"
    body = json.dumps({"jws": jws}).encode()
    header = family.header("POST", path, body=body)
    first = await family.signed("POST", path, body=body, header=header)
    assert first.status_code == 201, first.text
    again = await family.signed("POST", path, body=body, header=header)
    assert (again.json(), again.headers["idempotent-replay"]) == (first.json(), "true")
    child = first.json()
    assert (child["depth"], child["agent"]["name"], child["issuer"]["name"]) == (2, "worker", "bot")
    assert len(child["chain"]) == 2
    elsewhere = f"mandates/{child['mandate_id']}/delegate"
    assert (await family.hub.admin.post(elsewhere, json={"jws": jws})).json()["code"] == (
        "mandate_parent"
    )


async def test_characters_that_no_book_can_hold_are_refused(family: Family) -> None:
    """
    A NUL, which JSON and addresses can say, is the caller's fault and no error of the hub.
    """
    for method, path, body in (
        ("GET", "agents/%00", None),
        ("GET", "payments?agent=%00", None),
        ("POST", "agents", {"name": "other", "owner": "acme\0"}),
        ("POST", "agents", {"name": "other", "owner": "acme", "label": "a\nb"}),
        ("POST", "mandates", {"agent": "bot", "terms": {"payees": ["\0"]}}),
        ("POST", "mandates", {"agent": "bot", "terms": {"reference": "\0"}}),
    ):
        answer = await family.hub.admin.request(method, path, json=body)
        assert answer.status_code == 400, (path, answer.text)


async def test_kill_switch_is_in_the_tree_at_once(family: Family) -> None:
    """
    An owner freezes all below it with one call; an agent cannot; only who stands above thaws.
    """
    root = await family.mandate(budgets=[{"window": "hour", "amount": "3"}], delegations_max=1)
    tree = (await family.team.get("agents/tree")).json()
    assert [(party["name"], party["level"]) for party in tree["parties"]] == [
        ("research", "team"),
        ("bot", "agent"),
    ]
    assert tree["mandates"][0]["is_usable"] is True
    assert tree["mandates"][0]["limits"][0] | {"resets_at": None} == {
        "unit": "USD",
        "per": "hour",
        "amount": "3",
        "spent": "0",
        "held": "0",
        "remaining": "3",
        "resets_at": None,
    }
    frozen = await family.owner.post("agents/research/freeze")
    assert (frozen.json()["name"], frozen.json()["state"]) == ("research", "frozen")
    tree = (await family.hub.admin.get("agents/tree", params={"owner": "bot"})).json()
    assert [party["is_frozen"] for party in tree["parties"]] == [True]
    assert tree["mandates"][0]["is_usable"] is False
    detail = (await family.own.get(f"mandates/{root['mandate_id']}")).json()
    assert (detail["state"], detail["status"]) == ("active", "mandate_frozen")
    # The frozen team cannot thaw itself; its organisation can.
    assert (await family.team.post("agents/research/thaw")).status_code == 403
    assert (await family.owner.post("agents/research/thaw")).json()["state"] == "active"
    tree = (await family.hub.admin.get("agents/tree")).json()
    assert [party["name"] for party in tree["parties"]] == ["acme", "research", "bot"]
    assert tree["mandates"][0]["is_usable"] is True


async def test_tree_knows_what_stops_a_delegation_from_outside_it(family: Family) -> None:
    """
    Whoever sees only its own agents is told the truth: a frozen delegator, a team above it, or
    a frozen mandate of another owner stops what was passed on.
    """
    await family.hub.make("parties", name="desk", kind="buyer", parent="acme", level="team")
    await family.hub.make("agents", name="helper", owner="desk")
    desk = await family.hub.key_of("desk", role="buyer")
    root = await family.mandate(delegations_max=1)
    child = await family.hub.make(
        "mandates", agent="helper", parent=root["mandate_id"], terms={"currency": "USD"}
    )
    frozen = f"mandates/{root['mandate_id']}"

    async def is_usable() -> tuple[bool, str]:
        tree = (await desk.get("agents/tree")).json()
        assert [m["mandate_id"] for m in tree["mandates"]] == [child["mandate_id"]]
        detail = (await desk.get(f"mandates/{child['mandate_id']}")).json()
        return tree["mandates"][0]["is_usable"], detail["status"]

    assert await is_usable() == (True, "active")
    for place in ("agents/bot", "agents/research", frozen):
        assert (await family.owner.post(f"{place}/freeze")).status_code == 200
        assert await is_usable() == (False, "mandate_frozen")
        assert (await family.owner.post(f"{place}/thaw")).status_code == 200
        assert await is_usable() == (True, "active")


async def test_mandate_is_narrowed_raised_frozen_and_revoked(family: Family) -> None:
    """
    The whole life of a mandate through its routes, with its history.
    """
    root = await family.mandate(
        budgets=[{"window": "month", "amount": "10"}], payees=["shop"], delegations_max=1
    )
    body = {
        "agent": "bot",
        "parent": root["mandate_id"],
        "label": "small",
        "terms": {"budgets": [{"window": "day", "amount": "1"}]},
    }
    child = (await family.team.post("mandates", json=body)).json()
    path = f"mandates/{child['mandate_id']}"
    raised = await family.team.post(f"{path}/raise", json={"window": "day", "amount": "2"})
    assert raised.json()["limits"][0]["amount"] == "2"
    above = await family.team.post(f"{path}/raise", json={"window": "day", "amount": "11"})
    assert (above.status_code, above.json()["code"]) == (403, "mandate_not_attenuated")
    assert (await family.team.post(f"{path}/freeze")).json()["state"] == "frozen"
    assert (await family.team.post(f"{path}/thaw")).json()["state"] == "active"
    await family.team.post(f"mandates/{root['mandate_id']}/revoke")
    detail = (await family.team.get(path)).json()
    assert (detail["state"], detail["status"]) == ("active", "mandate_revoked")
    assert [event["kind"] for event in detail["events"]] == [
        "issued",
        "raised",
        "frozen",
        "thawed",
    ]
    listed = (await family.own.get("mandates")).json()["items"]
    assert [row["state"] for row in listed] == ["revoked", "active"]
    assert (await family.other_team.get("mandates")).json()["items"] == []
    assert (await family.other_team.get(path)).json()["code"] == "mandate_not_found"


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"agent": "nobody", "terms": {}}, 404, "party_not_found", None),
        ({"agent": "research", "terms": {}}, 400, "party_is_no_agent", "agent"),
        ({"agent": "shop", "terms": {}}, 400, "party_is_no_agent", "agent"),
        ({"agent": "bot", "terms": {"budget": "5"}}, 400, "invalid_request", "terms.budget"),
        (
            {"agent": "bot", "terms": {"amount_max": "0.0000000001"}},
            400,
            "amount_too_fine",
            "amount_max",
        ),
        (
            {"agent": "bot", "terms": {"amount_max": "99999999999999"}},
            400,
            "amount_too_large",
            "amount_max",
        ),
        ({"agent": "bot", "terms": {"currency": "CNY"}}, 400, "invalid_terms", "currency"),
        ({"agent": "bot", "terms": {"currency": "EUR"}}, 400, "invalid_terms", "currency"),
        (
            {"agent": "bot", "terms": {"not_after": "2030-01-01T00:00:00"}},
            400,
            "invalid_terms",
            "not_after",
        ),
        (
            {
                "agent": "bot",
                "terms": {
                    "not_before": "2030-01-02T00:00:00Z",
                    "not_after": "2030-01-02T00:00:00+01:00",
                },
            },
            400,
            "invalid_terms",
            "not_after",
        ),
        ({"agent": "bot", "terms": {"payees": ["nobody"]}}, 404, "party_not_found", "payees"),
        ({"agent": "bot", "terms": {"payees": []}}, 400, "invalid_request", "terms.payees"),
        (
            {"agent": "bot", "terms": {"tools": ["t"] * 1_001}},
            400,
            "invalid_request",
            "terms.tools",
        ),
        (
            {"agent": "bot", "terms": {}, "expires_at": "2020-01-01T00:00:00Z"},
            400,
            "invalid_terms",
            "expires_at",
        ),
        (
            {"agent": "bot", "terms": {"delegations_max": 8}},
            400,
            "invalid_terms",
            "delegations_max",
        ),
        (
            {"agent": "bot", "terms": {}, "parent": "00000000-0000-0000-0000-000000000009"},
            404,
            "mandate_not_found",
            None,
        ),
    ],
)
async def test_bad_mandates_are_refused_by_name(
    family: Family, body: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    """
    What is wrong is named, and nothing is issued.
    """
    answer = await family.hub.admin.post("mandates", json=body)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code), problem
    if param is not None:
        assert problem["param"] == param
    assert (await family.hub.admin.get("mandates")).json()["items"] == []


@pytest.mark.parametrize(
    ("public_key", "code"),
    [
        ("short", "invalid_wallet"),
        ("A" * 43, "invalid_wallet"),  # a key of small order
        ("A" * 42 + "B", "invalid_wallet"),  # another spelling of the same bytes
        ("A" * 86, "invalid_wallet"),
    ],
)
async def test_bad_wallets_are_refused_and_leave_no_agent(
    family: Family, public_key: str, code: str
) -> None:
    """
    A key that cannot sign is refused before the agent is made.
    """
    body = {"name": "second", "owner": "acme", "public_key": public_key}
    answer = await family.hub.admin.post("agents", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert (await family.hub.admin.get("agents/second")).status_code == 404
    taken = await family.hub.admin.post("agents/bot/wallets", json={"public_key": public_key})
    assert taken.json()["code"] == code


async def test_ap2_mandate_is_imported_whole_and_said_back(family: Family) -> None:
    """
    An open payment mandate becomes a mandate; a merchant that nobody resolved refuses it.
    """
    document = {
        "vct": "mandate.payment.open.1",
        "constraints": [
            {"type": "payment.amount_range", "currency": "USD", "max": 500, "min": 1},
            {"type": "payment.budget", "currency": "USD", "max": 2_000},
            {"type": "payment.allowed_payees", "allowed": [{"id": "m-1", "name": "The Shop"}]},
        ],
    }
    body = {"agent": "bot", "mandate": document}
    refused = await family.team.post("mandates/import-ap2", json=body)
    assert (refused.status_code, refused.json()["code"]) == (400, "ap2_refused")
    assert refused.json()["details"]["merchants"] == ["m-1"]
    answer = await family.team.post("mandates/import-ap2", json={**body, "payees": {"m-1": "shop"}})
    mandate = answer.json()
    assert mandate["terms"]["amount_max"] == "5"
    assert mandate["terms"]["budgets"] == [{"window": "ever", "amount": "20"}]
    assert mandate["events"][0]["details"] == {"ap2_signature": "NOT CHECKED"}
    signed = edwards(document)
    named = {"agent": "bot", "payees": {"m-1": "shop"}, "sd_jwt": signed}
    checked = await family.team.post(
        "mandates/import-ap2", json={**named, "issuer_key": EDWARDS_JWK}
    )
    assert checked.json()["terms"] == mandate["terms"]
    assert checked.json()["events"][0]["details"] == {
        "ap2_signature": "checked",
        "ap2_issuer_key": jwk_thumbprint(EDWARDS_JWK),
    }
    unchecked = await family.team.post("mandates/import-ap2", json=named)
    assert unchecked.json()["events"][0]["details"] == {"ap2_signature": "NOT CHECKED"}
    for wrong in (
        {**named, "issuer_key": ELLIPTIC_JWK},
        {**named, "mandate": document},
        {**body, "issuer_key": EDWARDS_JWK},
        {"agent": "bot"},
    ):
        answer = await family.team.post("mandates/import-ap2", json=wrong)
        assert answer.status_code == 400, answer.text
    back = (await family.team.get(f"mandates/{mandate['mandate_id']}/ap2")).json()
    assert back["not_expressed"] == []
    assert back["mandate"]["constraints"][1] == document["constraints"][1]


async def test_key_of_a_mandate_is_narrowed_by_it(family: Family) -> None:
    """
    A key spends through its mandate: models narrowed, and refused where calls cannot keep it.
    """
    root = await family.mandate(
        models=["m", "n@fast"],
        amount_max="2",
        delegations_max=1,
        payee_budgets=[{"window": "day", "amount": "1"}],
    )
    body = {"party": "bot", "mandate": root["mandate_id"], "models": ["m@slow", "o"]}
    key = (await family.hub.admin.post("keys", json=body)).json()
    assert (key["models"], key["mandate_id"]) == (["m@slow"], root["mandate_id"])
    principal = await family.hub.services.identity.authenticate(key["secret"])
    assert principal.call_quanta_max == 2 * 10**9
    limits = (await family.hub.client(key["secret"]).get("limits")).json()["items"]
    assert limits == [], "the platform's part of the payee budget is no limit of the mandate's own"
    for terms, param in (
        ({"payees": ["shop"]}, "payees"),
        ({"reference": "r"}, "reference"),
        ({"tools": ["quote"]}, "tools"),
        ({"providers": ["p"]}, "providers"),
        ({"instruments": ["hub:other"]}, "instruments"),
        ({"amount_min": "1"}, "amount_min"),
        ({"models": ["x"]}, "models"),
    ):
        narrow = await family.mandate(**terms)
        refused = await family.hub.admin.post(
            "keys", json={**body, "mandate": narrow["mandate_id"]}
        )
        assert (refused.json()["code"], refused.json()["param"]) == ("mandate_not_for_calls", param)
    refused = await family.hub.admin.post("keys", json={**body, "party": "research"})
    assert refused.json()["code"] == "mandate_not_found"
