"""
The inbox, rules and webhooks through the hub API.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from tests.postgres.test_hub_api.conftest import Hub
from tokenworks.agents.brake.model import Action, Subject
from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.identity.model import PLATFORM_ID

DOLLAR = 10**9
HOLD_NEW_PAYEES = {"rules": {"new_payee": {"action": "hold", "above": "0"}}}


@dataclass(kw_only=True)
class Family:
    """
    An organisation with an agent, a key of each level, and another organisation's key.
    """

    hub: Hub
    ids: IdentifierSource
    chain: tuple[UUID, ...]
    shop: UUID
    keys: dict[str, httpx.AsyncClient]

    async def held(self, *, quanta: int = DOLLAR) -> dict[str, Any]:
        """
        A payment of the agent that waits, as the operator sees it.
        """
        payment_id = self.ids.mint()
        subject = Subject(
            payment_id=payment_id,
            digest=hashlib.sha256(payment_id.bytes).digest(),
            agent_id=self.chain[-1],
            mandate_id=self.ids.mint(),
            organisation_id=self.chain[0],
            party_chain=self.chain,
            payee_id=self.shop,
            quanta=quanta,
            currency="USD",
            resource="GET https://shop.example/",
            request_digest=payment_id.bytes * 2,
            description="a report",
        )
        brake = self.hub.services.agents.brake
        decision = await brake.judge(subject)
        assert decision.action is Action.HOLD
        await brake.open_review(subject, decision)
        answer = await self.hub.admin.get(f"reviews/{payment_id}")
        assert answer.is_success, answer.text
        return answer.json()

    async def decide(
        self, who: str, word: str, review: dict[str, Any], **body: object
    ) -> httpx.Response:
        """
        One key's decision.
        """
        return await self.keys[who].post(
            f"reviews/{review['review_id']}/{word}",
            json={"digest": review["digest"], **body},
            headers={"idempotency-key": str(uuid4())},
        )


@pytest.fixture
async def family(hub: Hub, ids: IdentifierSource) -> Family:
    """
    Parties and keys; the organisation wants to see every new payee.
    """
    chain: list[UUID] = []
    parent = None
    for name, level in (("acme", None), ("lab", "team"), ("ann", "user"), ("bot", "agent")):
        fields = {"level": level, "parent": parent} if level else {}
        party = await hub.make("parties", name=name, kind="buyer", **fields)
        chain.append(UUID(party["party_id"]))
        parent = name
    await hub.make("parties", name="rival", kind="buyer")
    shop = await hub.make("parties", name="shop", kind="supplier")
    keys = {
        "acme": await hub.key_of("acme"),
        "lab": await hub.key_of("lab"),
        "ann": await hub.key_of("ann"),
        "ann's other": await hub.key_of("ann"),
        "bot": await hub.key_of("bot"),
        "rival": await hub.key_of("rival"),
        "shop": await hub.key_of("shop", role="supplier"),
        "admin": hub.admin,
    }
    answer = await keys["acme"].put("parties/acme/brake", json=HOLD_NEW_PAYEES)
    assert answer.is_success, answer.text
    shop_id = UUID(shop["party_id"])
    return Family(hub=hub, ids=ids, chain=tuple(chain), shop=shop_id, keys=keys)


def code_of(answer: httpx.Response) -> tuple[int, str]:
    """
    Return status and code of a refusal.
    """
    return answer.status_code, answer.json()["code"]


async def test_owner_sees_and_approves(family: Family) -> None:
    """
    A review names the payload's digest, the reasons in plain words, and who decided why.
    """
    review = await family.held()
    listed = (await family.keys["ann"].get("reviews", params={"state": "pending"})).json()
    assert [row["review_id"] for row in listed["items"]] == [review["review_id"]]
    assert review["agent"]["name"] == "bot"
    assert (review["amount"], review["currency"], review["state"]) == ("1", "USD", "pending")
    assert review["reasons"][0]["text"] == (
        "The first payment to this payee is 1 USD; the rule says at most 0 USD."
    )

    for field, text in (
        ("actor", f"Bob (key {uuid4()}) and Ann"),
        ("actor", "Ann\u202e"),
        ("note", "approved\x1b[2J"),
        ("note", "\0"),
    ):
        forged = await family.decide("ann", "approve", review, **{field: text})
        assert forged.status_code == 400, (field, text)

    answer = await family.decide("ann", "approve", review, note="we know them", actor="Ann")

    assert answer.status_code == 200, answer.text
    approved = answer.json()
    assert approved["state"] == "approved"
    assert approved["decisions"][0]["person"]["name"] == "ann"
    assert approved["decisions"][0]["actor"].startswith("Ann (key ")
    assert approved["decisions"][0]["note"] == "we know them"
    pending = await family.keys["ann"].get("reviews", params={"state": "pending"})
    assert pending.json()["items"] == []


async def test_who_may_see_and_decide(family: Family) -> None:
    """
    A table: an agent reads and never decides, others' keys see nothing.
    """
    review = await family.held()
    path = f"reviews/{review['review_id']}"
    table = [
        ("bot", 200, "approver_not_allowed"),
        ("rival", 404, "review_not_found"),
        ("shop", 403, "role_not_allowed"),
    ]
    for who, reads, code in table:
        assert (await family.keys[who].get(path)).status_code == reads, who
        for word in ("approve", "deny"):
            assert (await family.decide(who, word, review)).json()["code"] == code, who
    assert (await family.keys["rival"].get("reviews")).json()["items"] == []
    assert len((await family.keys["bot"].get("reviews")).json()["items"]) == 1


async def test_two_persons(family: Family) -> None:
    """
    Two keys of one person are one person; another person's is the second.
    """
    review = await family.held(quanta=101 * DOLLAR)
    first = await family.decide("ann", "approve", review)
    assert (first.json()["state"], first.json()["approvals_needed"]) == ("pending", 2)

    again = await family.decide("ann's other", "approve", review)
    assert code_of(again) == (409, "review_same_person")
    second = await family.decide("admin", "approve", review)

    assert second.json()["state"] == "approved"
    assert second.json()["decisions"][1]["person"]["party_id"] == str(PLATFORM_ID)


async def test_bad_decisions(family: Family, clock: FakeClock) -> None:
    """
    Wrong digest, twice, too late, malformed: each has its code, and none changes anything.
    """
    first, second = await family.held(), await family.held()
    mixed = {**first, "digest": second["digest"]}
    assert code_of(await family.decide("ann", "approve", mixed)) == (
        409,
        "review_digest_mismatch",
    )
    for body in (
        {"digest": "00"},
        {"digest": None},
        {"scope": "for ever"},
        {"raise_limit": {"per": "day", "amount": "-1"}},
        {"note": "x" * 1_001},
        {"unknown": 1},
    ):
        answer = await family.decide("ann", "approve", first, **body)
        assert code_of(answer) == (400, "invalid_request"), body
    raised = {"scope": "raise"}
    assert code_of(await family.decide("ann", "approve", first, **raised)) == (
        400,
        "raise_not_possible",
    )
    unknown = {**first, "review_id": str(uuid4())}
    assert code_of(await family.decide("ann", "deny", unknown)) == (404, "review_not_found")

    assert (await family.decide("ann", "deny", first)).json()["state"] == "denied"
    assert code_of(await family.decide("ann", "deny", first)) == (409, "review_decided")
    assert code_of(await family.decide("lab", "approve", first)) == (409, "review_decided")
    clock.advance(timedelta(minutes=15))
    assert code_of(await family.decide("ann", "approve", second)) == (409, "review_expired")
    shown = await family.keys["ann"].get(f"reviews/{second['review_id']}")
    assert (shown.json()["state"], shown.json()["decisions"]) == ("expired", [])


async def test_repeated_decision_is_answered_again(family: Family) -> None:
    """
    The same Idempotency-Key has the same answer; a decision is made once.
    """
    review = await family.held()
    path = f"reviews/{review['review_id']}/approve"
    headers = {"idempotency-key": "one"}
    body = {"digest": review["digest"]}

    first = await family.keys["ann"].post(path, json=body, headers=headers)
    second = await family.keys["ann"].post(path, json=body, headers=headers)

    assert second.headers["idempotent-replay"] == "true"
    assert first.json() == second.json()
    assert len(second.json()["decisions"]) == 1


async def test_list_has_pages(family: Family) -> None:
    """
    Newest first, each once.
    """
    made = [(await family.held())["review_id"] for _ in range(3)]
    seen: list[str] = []
    cursor = None
    while True:
        query: dict[str, Any] = {"limit": 2, "agent": "bot"}
        if cursor is not None:
            query["cursor"] = cursor
        page = (await family.keys["acme"].get("reviews", params=query)).json()
        seen.extend(row["review_id"] for row in page["items"])
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == sorted(made, reverse=True)
    bad = await family.keys["acme"].get("reviews", params={"cursor": "!"})
    assert code_of(bad) == (400, "invalid_cursor")


async def test_rules_are_set_shown_and_versioned(family: Family) -> None:
    """
    What counts for an agent is every set above it; the catalogue fills what is not set.
    """
    stricter = {"rules": {"velocity": {"action": "deny", "payments_per_minute": 10}}}
    answer = await family.keys["ann"].put("parties/ann/brake", json=stricter)

    assert answer.status_code == 200, answer.text
    shown = (await family.keys["bot"].get("parties/bot/brake")).json()
    assert shown["own"] is None
    assert [set(document["rules"]) for document in shown["effective"]] == [
        {"velocity", "new_payee", "price_jump", "loop", "night", "burn_rate", "score"},
        {"velocity"},
    ]
    assert shown["effective"][0]["rules"]["new_payee"] == {"action": "hold", "above": "0"}
    own = (await family.keys["ann"].get("parties/ann/brake")).json()["own"]
    assert (own["version"], own["document"]) == (2, stricter)


async def test_bad_rules(family: Family) -> None:
    """
    A table: each fault is named with its place, and nothing is stored.
    """
    table: list[tuple[object, str, str]] = [
        ({}, "invalid_brake_rules", "'rules' is a required property"),
        ({"rules": {"speed": {"action": "hold"}}}, "invalid_brake_rules", "'speed'"),
        ({"rules": {"loop": {"action": "stop"}}}, "invalid_brake_rules", "rules.loop.action"),
        (
            {"rules": {"velocity": {"action": "hold", "payments_per_minute": -1}}},
            "invalid_brake_rules",
            "rules.velocity.payments_per_minute: -1 is less than the minimum of 0",
        ),
        (
            {"rules": {"new_payee": {"action": "hold", "above": "-5"}}},
            "invalid_brake_rules",
            "rules.new_payee.above",
        ),
        (
            {"rules": {"new_payee": {"action": "hold", "above": "0.0000000001"}}},
            "invalid_brake_rules",
            "finer than the smallest unit",
        ),
        (
            {"rules": {"night": {"action": "hold", "from": "22:00", "until": "25:00"}}},
            "invalid_brake_rules",
            "rules.night",
        ),
        (
            {
                "rules": {
                    "night": {
                        "action": "hold",
                        "from": "22:00",
                        "until": "06:00",
                        "time_zone": "Mars/Olympus",
                    }
                }
            },
            "invalid_brake_rules",
            "not a time zone",
        ),
        ({"rules": {"score": {"action": "deny"}}}, "invalid_brake_rules", "rules.score.action"),
        ({"rules": {"new_payee": {"action": "off"}}}, "brake_rules_looser", "new_payee"),
        ({"rules": {}, "two_persons_above": "1000"}, "brake_rules_looser", "Two persons"),
    ]
    before = (await family.keys["ann"].get("parties/ann/brake")).json()
    for document, code, says in table:
        answer = await family.keys["ann"].put("parties/ann/brake", json=document)
        assert code_of(answer) == (400, code), answer.text
        assert says in answer.json()["detail"], answer.text
    assert (await family.keys["ann"].get("parties/ann/brake")).json() == before
    answer = await family.keys["ann"].put("parties/ann/brake", json=[1])
    assert code_of(answer) == (400, "invalid_request")


async def test_who_may_set_rules(family: Family) -> None:
    """
    Owners above set rules; agents and strangers do not; the operator's hold for everybody.
    """
    body = {"rules": {"loop": {"action": "hold", "times": 5, "within_s": 60}}}
    for who, party, expected in (
        ("bot", "bot", (403, "rules_owner_required")),
        ("rival", "acme", (404, "party_not_found")),
        ("ann", "acme", (404, "party_not_found")),
        ("shop", "shop", (403, "role_not_allowed")),
        ("acme", str(PLATFORM_ID), (404, "party_not_found")),
    ):
        answer = await family.keys[who].put(f"parties/{party}/brake", json=body)
        assert code_of(answer) == expected, who
    floor = await family.keys["admin"].put(f"parties/{PLATFORM_ID}/brake", json=body)
    assert floor.status_code == 200, floor.text
    looser = {"rules": {"loop": {"action": "off"}}}
    answer = await family.keys["acme"].put("parties/acme/brake", json=looser)
    assert code_of(answer) == (400, "brake_rules_looser")


async def test_webhook_is_set_once_with_its_secret(family: Family) -> None:
    """
    The secret is in the first answer only, also when that answer is given again.
    """
    body = {"url": "https://93.184.216.34/hook"}
    headers = {"idempotency-key": "hook"}
    path = "parties/acme/webhook"

    first = await family.keys["acme"].put(path, json=body, headers=headers)
    again = await family.keys["acme"].put(path, json=body, headers=headers)
    shown = await family.keys["acme"].get(path)

    assert first.json()["secret"].startswith("whsec_")
    assert again.json()["secret"] is None
    assert shown.json()["secret"] is None
    await family.held()
    [delivery] = (await family.keys["acme"].get(path)).json()["deliveries"]
    assert (delivery["event"], delivery["state"], delivery["attempts"]) == ("opened", "waiting", 0)
    assert (await family.keys["acme"].delete(path)).json()["removed"] is True
    assert code_of(await family.keys["acme"].get(path)) == (404, "webhook_not_found")


async def test_private_webhook_needs_the_operator(family: Family) -> None:
    """
    An owner cannot have the hub call its own network; agents set no webhook at all.
    """
    private = {"url": "http://127.0.0.1:9/hook"}
    path = "parties/acme/webhook"
    assert code_of(await family.keys["acme"].put(path, json=private)) == (400, "invalid_webhook")
    allowed = {**private, "allow_private": True}
    assert code_of(await family.keys["acme"].put(path, json=allowed)) == (403, "role_not_allowed")
    assert (await family.keys["admin"].put(path, json=allowed)).status_code == 200
    answer = await family.keys["bot"].put("parties/bot/webhook", json=allowed)
    assert code_of(answer) == (403, "rules_owner_required")
