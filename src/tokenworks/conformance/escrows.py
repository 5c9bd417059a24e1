"""
Attacks on conditions: a verifier that is none, and conditions that never end. Hubs only.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tokenworks.conformance.authority import needs_hub
from tokenworks.conformance.ground import Ground
from tokenworks.conformance.hub_business import Agent, HubAnswer, HubBusiness, to_text
from tokenworks.conformance.hub_rail import hub_wallet, sign_jws
from tokenworks.conformance.model import (
    Check,
    Group,
    JsonObject,
    Outcome,
    failed,
    not_applicable,
    survived,
)

ATTESTATION_TYPE: Final = "tokenworks-attestation+jwt"
MILESTONE: Final = "all"
SUBMIT_BY: Final = timedelta(hours=1)
DECIDE_BY_S: Final = 3_600
_NOT_FOUND: Final = 404
_FAULT: Final = 500

TEXT_BYTES: Final = 60_000
NUMBERS: Final = 9_000
HARMLESS: Final = "size(result.text) > 0"
"""Over the same result, to show that the result is not why the others are refused."""
EXPLODING: Final = {
    "a text that doubles": f"size({'+'.join(['result.text'] * 300)}) > 0",
    "a pattern that backtracks": 'result.text.matches("^(a|aa|a*)*b$")',
    "a list of long texts": "size(result.numbers.map(n, result.text + result.text)) > 0",
    "a list of lists": "result.numbers.all(n, result.numbers.all(m, n + m >= 0))",
    "a division by nothing": "1 / (result.numbers[0] - result.numbers[0]) == 1",
    "a bracket without end": "(" * 2_000 + "true" + ")" * 2_000,
}
"""Each is met, broken or endless when it is evaluated without bounds; none may pay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deal:
    """
    An escrow to be opened and what belongs to it.
    """

    agent: Agent
    payee: str
    key: str  # the payee's, to submit with
    verifier: Ed25519PrivateKey


async def forged_verifier(ground: Ground, hub: HubBusiness) -> Outcome:
    """
    Submit results whose tests passed as somebody else says, then as the verifier says.
    """
    deal = await _deal(hub)
    result: JsonObject = {"status": 200}
    condition = "result.attested.tests.passed == true"
    opened = await _open(ground, hub, deal, condition)
    if opened.status == _NOT_FOUND:
        return not_applicable("This hub has no escrows.")
    if not opened.is_done:
        return failed(f"An honest escrow was not opened: {opened.code}.")
    escrow_id = str(opened.document["escrow_id"])
    other = await _open(ground, hub, deal, f"{condition} // another")
    stranger = Ed25519PrivateKey.generate()
    statements = {
        "stranger": _attest(ground, stranger, escrow_id, result),
        "stranger_in_its_name": _attest(
            ground, stranger, escrow_id, result, issuer=_address(deal.verifier)
        ),
        "for_another_escrow": _attest(
            ground, deal.verifier, str(other.document.get("escrow_id")), result
        ),
        "for_another_result": _attest(ground, deal.verifier, escrow_id, {"status": 500}),
    }
    evidence: JsonObject = {}
    paid: list[str] = []
    for name, statement in statements.items():
        answer = await _submit(hub, deal, escrow_id, result, [statement])
        evidence[name] = _captured(answer)
        if _captured(answer) != "0":
            paid.append(name)
    honest = _attest(ground, deal.verifier, escrow_id, result)
    answer = await _submit(hub, deal, escrow_id, result, [honest])
    evidence["verifier"] = _captured(answer)
    if paid:
        return failed(f"Paid on a statement that is none: {', '.join(paid)}.", **evidence)
    if _captured(answer) == "0":
        return failed("Not paid although the verifier itself said so.", **evidence)
    return survived("Only what the verifier signed for this result was believed.", **evidence)


async def exploding_condition(ground: Ground, hub: HubBusiness) -> Outcome:
    """
    Agree to conditions that never end, and look whether others are served meanwhile.
    """
    result: JsonObject = {"text": "a" * TEXT_BYTES, "numbers": list(range(NUMBERS))}
    deal = await _deal(hub)
    opened = await _open(ground, hub, deal, HARMLESS)
    if opened.status == _NOT_FOUND:
        return not_applicable("This hub has no escrows.")
    answer = await _submit(hub, deal, str(opened.document.get("escrow_id")), result, [])
    evidence: JsonObject = {"harmless": f"captured {_captured(answer)}"}
    if _captured(answer) == "0":
        return failed(f"A harmless condition pays nothing: {opened.code}, {answer.code}.")
    paid: list[str] = []
    broken: list[str] = []
    for name, condition in EXPLODING.items():
        deal = await _deal(hub)
        opened = await _open(ground, hub, deal, condition)
        if not opened.is_done:
            evidence[name] = f"refused: {opened.code}"
            if opened.status >= _FAULT:
                broken.append(name)
            continue
        escrow_id = str(opened.document["escrow_id"])
        answer, others = await asyncio.gather(
            _submit(hub, deal, escrow_id, result, []), _pay_meanwhile(ground)
        )
        evidence[name] = f"captured {_captured(answer)}" if answer.is_done else answer.code
        if _captured(answer) != "0":
            paid.append(name)
        if answer.status >= _FAULT or others:
            broken.append(name if not others else f"{name} (others: {others})")
    if broken:
        return failed(f"Broke, or served nobody else: {', '.join(broken)}.", **evidence)
    if paid:
        return failed(f"Paid although it explodes: {', '.join(paid)}.", **evidence)
    return survived("Refused, or cut off and not met; others were served meanwhile.", **evidence)


async def _pay_meanwhile(ground: Ground) -> str:
    order = ground.order(await ground.purse.funded(), ground.sale_at("meanwhile"))
    settled = await ground.facilitator.settle(order)
    return "" if settled.is_settled else settled.reason


# Deals


async def _deal(hub: HubBusiness) -> Deal:
    payee, key = await hub.payee_with_key()
    agent = await hub.agent(await hub.organisation(10))
    return Deal(agent=agent, payee=payee, key=key, verifier=Ed25519PrivateKey.generate())


async def _open(ground: Ground, hub: HubBusiness, deal: Deal, condition: str) -> HubAnswer:
    price = int(ground.sale.amount)
    terms: JsonObject = {
        "milestones": [{"name": MILESTONE, "amount": to_text(price), "condition": condition}],
        "result_schema": {"type": "object"},
        "submit_by": (ground.clock.now() + SUBMIT_BY).isoformat(timespec="seconds"),
        "decide_by_s": DECIDE_BY_S,
        "verifiers": {"tests": _address(deal.verifier)},
    }
    sale = replace(
        ground.sale,
        scheme="upto",
        method="ESCROW",
        url=f"escrow:{_sha256(terms)}",
        body=b"",
        pay_to=deal.payee,
    )
    signed = ground.rail.sign(deal.agent.wallet, sale, ground.times())
    body = {"authorisation": signed["authorization"], "terms": terms}
    return await hub.ask("POST", "escrows", body)


async def _submit(
    hub: HubBusiness, deal: Deal, escrow_id: str, result: JsonObject, statements: Sequence[str]
) -> HubAnswer:
    body = {"milestone": MILESTONE, "result": result, "attestations": list(statements)}
    return await hub.ask("POST", f"escrows/{escrow_id}/submit", body, key=deal.key)


def _attest(
    ground: Ground,
    key: Ed25519PrivateKey,
    escrow_id: str,
    result: JsonObject,
    *,
    issuer: str | None = None,
) -> str:
    address = issuer or _address(key)
    claims: JsonObject = {
        "iss": address,
        "escrow": escrow_id,
        "milestone": MILESTONE,
        "result_sha256": _sha256(result),
        "iat": ground.now_s(),
        "claims": {"passed": True},
    }
    return sign_jws(key.private_bytes_raw(), claims, address=address, jws_type=ATTESTATION_TYPE)


def _captured(answer: HubAnswer) -> str:
    """
    Return what was paid, as the hub says; ``"0"`` where it refused.
    """
    amount = Decimal(str(answer.document.get("captured") or "0"))
    return "0" if not amount else format(amount, "f")


def _address(key: Ed25519PrivateKey) -> str:
    return hub_wallet(key.private_bytes_raw()).address


def _sha256(document: JsonObject) -> str:
    # RFC 8785, for what the suite writes: plain text and small whole numbers.
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


CHECKS: Final = (
    Check(
        check_id="forged-verifier",
        group=Group.AUTHORITY,
        proves="A condition believes its verifier, about this result, and nobody else.",
        attack=needs_hub(forged_verifier),
    ),
    Check(
        check_id="exploding-condition",
        group=Group.AUTHORITY,
        proves="A condition that never ends is cut off, pays nothing and stops nobody else.",
        attack=needs_hub(exploding_condition),
    ),
)
