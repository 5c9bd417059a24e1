"""
The doors of escrows: signed terms in, strict JSON, each side its own part, everything shown.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.postgres.test_hub_api.conftest import Hub
from tokenworks.adapters.cel_sandbox.sandbox import CelSandbox
from tokenworks.agents.escrow.attestation import sign_attestation
from tokenworks.agents.escrow.result import canonical, sha256_hex
from tokenworks.agents.escrow.service import Escrows
from tokenworks.agents.escrow.terms import terms_sha256, terms_url
from tokenworks.agents.mandates.model import Terms
from tokenworks.foundation.money import USD, Amount
from tokenworks.gateway.calls import CallStore
from tokenworks.receipts.jws import to_base64url

NOTHING = to_base64url(hashlib.sha256(b"").digest())


@dataclass
class Business:
    """
    Two organisations with a key each, an agent with a wallet, and a verifier.
    """

    hub: Hub
    payer: httpx.AsyncClient
    payee: httpx.AsyncClient
    stranger: httpx.AsyncClient
    payee_id: UUID
    wallet: Ed25519PrivateKey = field(repr=False)
    verifier: Ed25519PrivateKey = field(repr=False)

    def terms(self, condition: str = "result.ok", **changes: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever JSON has
        """
        Return terms of one milestone worth 0.5 dollars.
        """
        return {
            "milestones": [{"name": "all", "amount": "0.5", "condition": condition}],
            "result_schema": {"type": "object"},
            "submit_by": (self.hub.now + timedelta(hours=1)).isoformat(),
            "review_window_s": 60,
            "decide_by_s": 600,
            "verifiers": {"ci": to_base64url(self.verifier.public_key().public_bytes_raw())},
        } | changes

    def sign(self, terms: dict[str, Any]) -> str:
        """
        Return the wallet's authorisation.
        """
        services = self.hub.services
        address = to_base64url(self.wallet.public_key().public_bytes_raw())
        now_s = int(self.hub.now.timestamp())
        claims = {
            "iss": address,
            "aud": services.agents.network,
            "jti": str(services.ids.mint()),
            "iat": now_s,
            "exp": now_s + 600,
            "scheme": "upto",
            "amount": "500000000",
            "asset": "USD",
            "pay_to": str(self.payee_id),
            "method": "ESCROW",
            "url": terms_url(terms_sha256(terms)),
            "body_sha256": NOTHING,
        }
        header = {"alg": "EdDSA", "kid": address, "typ": "tokenworks-payment+jwt"}
        parts = [to_base64url(json.dumps(part).encode()) for part in (header, claims)]
        signed = ".".join(parts)
        return f"{signed}.{to_base64url(self.wallet.sign(signed.encode()))}"

    async def open(self, **changes: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever JSON has
        """
        Open an escrow as the payer.
        """
        terms = self.terms(**changes)
        answer = await self.payer.post(
            "escrows", json={"authorisation": self.sign(terms), "terms": terms}
        )
        assert answer.status_code == 201, answer.text
        return answer.json()


@pytest.fixture
async def business(hub: Hub) -> AsyncIterator[Business]:
    """
    Everybody, with a real sandbox behind the doors.
    """
    agents = hub.services.agents
    sandbox = CelSandbox()
    object.__setattr__(
        agents,
        "escrows",
        Escrows(
            hub.services.pool,
            purse=agents.payments,
            mandates=agents.mandates,
            parties=hub.services.identity,
            evaluator=sandbox,
            calls=CallStore(hub.services.pool, hub.services.clock),
            clock=hub.services.clock,
        ),
    )
    await agents.payments.ensure_partitions()
    for name in ("acme", "shop", "other"):
        await hub.make("parties", name=name, kind="buyer")
    await hub.make("parties", name="bot", kind="buyer", level="agent", parent="acme")
    identity = hub.services.identity
    acme, shop = await identity.get_party("acme"), await identity.get_party("shop")
    bot = await identity.get_party("bot")
    await hub.services.ledger.deposit(
        party_id=acme.party_id,
        amount=Amount(quanta=10**10, asset=USD),
        rail="bank",
        reference="1",
        actor="test",
    )
    wallet = Ed25519PrivateKey.generate()
    address = to_base64url(wallet.public_key().public_bytes_raw())
    await agents.mandates.add_wallet(bot.party_id, address, label="bot")
    await agents.mandates.issue(bot.party_id, Terms(), actor="test")
    yield Business(
        hub=hub,
        payer=await hub.key_of("acme"),
        payee=await hub.key_of("shop"),
        stranger=await hub.key_of("other"),
        payee_id=shop.party_id,
        wallet=wallet,
        verifier=Ed25519PrivateKey.generate(),
    )
    await sandbox.close()


async def test_escrow_lives_through_its_doors(business: Business) -> None:
    """
    Open, submit with a verifier's statement, dispute, arbitrate; shown with all that happened.
    """
    opened = await business.open(condition="result.ok && result.attested.ci.passed > 1")
    path = f"escrows/{opened['escrow_id']}"
    assert (opened["state"], opened["amount"], opened["captured"]) == ("funded", "0.5", "0")
    submitted = await business.payee.post(
        f"{path}/submit", json={"milestone": "all", "result": {"ok": True}}
    )
    assert submitted.json()["milestones"][0]["submission"]["waits_for"] == ["ci"]
    jws = sign_attestation(
        business.verifier,
        escrow_id=UUID(opened["escrow_id"]),
        milestone="all",
        result_sha256=sha256_hex(canonical({"ok": True})),
        claims={"passed": 2},
        now=business.hub.now,
    )
    stated = await business.payer.post(
        f"{path}/attest", json={"milestone": "all", "attestations": [jws]}
    )
    [milestone] = stated.json()["milestones"]
    assert (milestone["state"], milestone["submission"]["verdict"]["share"]) == ("met", "1/1")
    result = await business.payer.get(f"{path}/result", params={"milestone": "all"})
    assert result.json() == {"ok": True}
    evidence = [{"sha256": "0" * 64, "uri": "https://example.com/log"}]
    disputed = await business.payer.post(
        f"{path}/dispute",
        json={"milestones": ["all"], "reason": "late", "evidence": evidence},
    )
    assert disputed.json()["state"] == "disputed"
    refused = await business.payee.post(
        f"{path}/arbitrate", json={"parts": [{"milestone": "all", "ppm": 1}], "reason": "x"}
    )
    assert (refused.status_code, refused.json()["code"]) == (403, "escrow_forbidden")
    decided = await business.hub.admin.post(
        f"{path}/arbitrate",
        json={"parts": [{"milestone": "all", "amount": "0.2"}], "reason": "a part of it"},
    )
    assert (decided.json()["state"], decided.json()["captured"]) == ("settled", "0.2")
    shown = (await business.payee.get(path)).json()
    assert shown["sides"] == ["payee"]
    assert [event["kind"] for event in shown["events"]] == [
        "opened",
        "submitted",
        "evaluated",
        "attested",
        "evaluated",
        "disputed",
        "decided",
        "carried_out",
    ]
    assert shown["events"][5]["evidence"] == evidence
    [milestone] = shown["milestones"]
    assert milestone["decision"]["reason"] == "a part of it"
    assert milestone["decision"]["receipt"].startswith("/hub/v1/payments/")
    late = await business.payer.post(f"{path}/cancel")
    assert (late.status_code, late.json()["code"]) == (409, "escrow_state")


async def test_what_was_sent_means_one_thing(business: Business) -> None:
    """
    A member twice, NaN, depth, an unknown member: refused before anything is looked at.
    """
    opened = await business.open()
    path = f"escrows/{opened['escrow_id']}/submit"
    bodies = {
        b'{"milestone":"all","result":{"ok":false,"ok":true}}': "result_invalid",
        b'{"milestone":"all","result":{"ok":NaN}}': "result_invalid",
        b'{"milestone":"all","result":{"ok":' + b"[" * 40 + b"]" * 40 + b"}}": "result_invalid",
        b'{"milestone":"all","result":{"ok":9007199254740993}}': "result_invalid",
        b'{"milestone":"all","result":{"ok":true},"more":1}': "invalid_request",
        b'{"milestone":"all"}': "result_invalid",
        b'{"milestone":1,"result":{}}': "invalid_request",
        b'{"milestone":"all","result":{},"attestations":[1]}': "invalid_request",
        b"[]": "invalid_request",
        b"": "result_invalid",
    }
    for body, code in bodies.items():
        answer = await business.payee.post(path, content=body)
        assert (answer.status_code, answer.json()["code"]) == (400, code), body[:60]
    large = json.dumps({"milestone": "all", "result": {"x": "a" * 270_000}}).encode()
    answer = await business.payee.post(path, content=large)
    assert (answer.status_code, answer.json()["code"]) == (413, "result_too_large")
    answer = await business.payer.post("escrows", json={"authorisation": "x", "terms": []})
    assert answer.status_code == 400
    shown = (await business.payee.get(f"escrows/{opened['escrow_id']}")).json()
    assert [event["kind"] for event in shown["events"]] == ["opened"]


async def test_lists_show_each_side_its_own(business: Business) -> None:
    """
    Payer, payee and an admin see it; a stranger is told there is none.
    """
    opened = await business.open()
    path = f"escrows/{opened['escrow_id']}"
    for client in (business.payer, business.payee, business.hub.admin):
        listed = (await client.get("escrows", params={"state": "funded"})).json()
        assert [item["escrow_id"] for item in listed["items"]] == [opened["escrow_id"]]
    assert (await business.stranger.get("escrows")).json()["items"] == []
    for answer in (
        await business.stranger.get(path),
        await business.stranger.post(f"{path}/cancel"),
        await business.stranger.post(
            f"{path}/submit", json={"milestone": "all", "result": {"ok": True}}
        ),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "escrow_not_found")
