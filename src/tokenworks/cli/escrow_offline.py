"""
What ``tokenworks escrow`` does on this machine: sign, run a condition, run a receipt again.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tokenworks.adapters.cel_sandbox.sandbox import CelSandbox
from tokenworks.agents.escrow.condition import check_condition, tokens_of, verifiers_named
from tokenworks.agents.escrow.evaluating import evaluate_claims
from tokenworks.agents.escrow.rerunning import rerun
from tokenworks.agents.escrow.result import check_result
from tokenworks.agents.escrow.terms import METHOD, read_terms, terms_sha256, terms_url
from tokenworks.agents.services import network_of
from tokenworks.cli.rendering import Record
from tokenworks.foundation.clock import SystemClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.money import ASSETS
from tokenworks.receipts.jws import to_base64url
from tokenworks.receipts.trust import TrustedKeys


async def checked(
    condition: str,
    result: object,
    claims: dict[str, dict[str, Any]],
    metered: dict[str, Any] | None = None,
) -> Record:
    """
    Run a condition on a result here; return what came out.

    Raises:
        ConditionInvalidError, ResultInvalidError: A rule says no.
    """
    named = verifiers_named(tokens_of(condition))
    check_condition(condition, named)
    sandbox = CelSandbox()
    try:
        judgement = await evaluate_claims(sandbox, condition, check_result(result), claims, metered)
    finally:
        await sandbox.close()
    verdict = judgement.verdict
    return {
        "is_met": verdict.is_met,
        "share": f"{verdict.share.part}/{verdict.share.whole}",
        "error": verdict.error,
        "waits_for": sorted(judgement.silent),
        "condition_sha256": verdict.condition_sha256,
        "result_sha256": verdict.result_sha256,
        "engine": verdict.engine,
    }


async def run_again(receipt: dict[str, Any], result: object, statements: list[str]) -> Record:
    """
    Run a receipt's condition again; return what came out and where it differs.

    Raises:
        ResultInvalidError: The receipt is of no escrow, or the result is none.
    """
    sandbox = CelSandbox()
    try:
        found = await rerun(receipt, result, statements, sandbox)
    finally:
        await sandbox.close()
    return {
        "milestone": receipt["escrow"]["milestone"],
        "share": f"{found.verdict.share.part}/{found.verdict.share.whole}",
        "error": found.verdict.error,
        "engine": found.verdict.engine,
        "problems": list(found.problems),
    }


def sign_escrow(
    key: Ed25519PrivateKey,
    terms: dict[str, Any],
    *,
    keys: str,
    payee: str,
    mandate: str | None,
    currency: str,
    valid_s: int,
) -> str:
    """
    Return the authorisation of an escrow, signed by a wallet.

    Args:
        key: The wallet's.
        terms: As they are sent.
        keys: What the hub publishes: the network is named after its root.
        payee: The payee's party id.
        mandate: The mandate to spend through.
        currency: Of the amounts.
        valid_s: How long the signature is good.
    """
    address = to_base64url(key.public_key().public_bytes_raw())
    [root] = TrustedKeys.from_json(keys).root_kids
    agreed = read_terms(terms, ASSETS[currency])
    clock = SystemClock()
    now_s = int(clock.now().timestamp())
    claims = {
        "iss": address,
        "aud": network_of(root),
        "jti": str(IdentifierSource(clock).mint()),
        "iat": now_s,
        "exp": now_s + valid_s,
        "scheme": "upto",
        "amount": str(sum(milestone.quanta for milestone in agreed.milestones)),
        "asset": currency,
        "pay_to": payee,
        "method": METHOD,
        "url": terms_url(terms_sha256(terms)),
        "body_sha256": to_base64url(hashlib.sha256(b"").digest()),
    }
    if mandate is not None:
        claims["mandate"] = mandate
    header = {"alg": "EdDSA", "kid": address, "typ": "tokenworks-payment+jwt"}
    parts = [to_base64url(json.dumps(part).encode()) for part in (header, claims)]
    signed = ".".join(parts)
    return f"{signed}.{to_base64url(key.sign(signed.encode()))}"
