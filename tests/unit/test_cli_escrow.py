"""
``tokenworks escrow`` on this machine: a condition is run, a receipt is run again.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner, Result

from tokenworks.adapters.cel_sandbox.sandbox import CelSandbox
from tokenworks.agents.escrow.attestation import judge_attestation, sign_attestation
from tokenworks.agents.escrow.condition import condition_sha256
from tokenworks.agents.escrow.errors import ResultInvalidError
from tokenworks.agents.escrow.result import canonical, sha256_hex
from tokenworks.agents.payments.authorising import read_authorisation
from tokenworks.cli.client import CommandError
from tokenworks.cli.escrow import parse_part
from tokenworks.cli.escrow_offline import run_again, sign_escrow
from tokenworks.cli.main import app
from tokenworks.receipts.jws import to_base64url, to_jwk

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
ESCROW = UUID(int=7)
CONDITION = "result.ok && result.attested.ci.passed >= 3 ? [2, 3] : [0, 1]"
RESULT = {"ok": True, "n": 1.5}
VERIFIER = Ed25519PrivateKey.generate()


def run(*arguments: str) -> Result:
    """
    Run a command.
    """
    return CliRunner().invoke(app, ["escrow", *arguments])


def _write(path: Path, content: object) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_condition_is_checked_here_before_anybody_agrees_to_it(tmp_path: Path) -> None:
    """
    Met: exit 0; not met, waiting for a verifier, or against a rule: exit 1 and why.
    """
    condition = _write(tmp_path / "c.cel", CONDITION + "\n")
    result = _write(tmp_path / "r.json", RESULT)
    claims = _write(tmp_path / "ci.json", {"passed": 3})
    met = run(
        "check-condition", condition, "--result", result, "--attested", f"ci={claims}", "--json"
    )
    assert met.exit_code == 0, met.output
    assert json.loads(met.stdout)["share"] == "2/3"
    waiting = run("check-condition", condition, "--result", result, "--json")
    assert waiting.exit_code == 1
    row = json.loads(waiting.stdout)
    assert (row["is_met"], row["waits_for"]) == (False, ["ci"])
    counted = _write(tmp_path / "m.cel", "[result.metered.output, 200]")
    metered = _write(tmp_path / "metered.json", {"output": 50})
    paid = run("check-condition", counted, "--result", result, "--metered", metered, "--json")
    assert json.loads(paid.stdout)["share"] == "50/200"
    assert run("check-condition", counted, "--result", result).exit_code == 1
    nested = _write(tmp_path / "n.cel", "result.a.all(x, result.b.all(y, y == x))")
    refused = run("check-condition", nested, "--result", result)
    assert refused.exit_code != 0
    twice = _write(tmp_path / "t.json", '{"a":1,"a":2}')
    assert run("check-condition", condition, "--result", twice).exit_code != 0


def _receipt(statement: str, **changes: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever JSON has
    address = to_base64url(VERIFIER.public_key().public_bytes_raw())
    said = judge_attestation(
        statement,
        escrow_id=ESCROW,
        milestone="all",
        result_sha256=sha256_hex(canonical(RESULT)),
        verifiers={"ci": address},
        now=NOON,
    )
    escrow = {
        "terms_sha256": "",
        "milestone": "all",
        "of": "0.0001",
        "condition": CONDITION,
        "condition_sha256": condition_sha256(CONDITION),
        "verifiers": {"ci": address},
        "ground": "condition_met",
        "reason": "",
        "decided_at": NOON.isoformat(),
        "submission": {
            "number": 1,
            "submitted_at": NOON.isoformat(),
            "result_sha256": sha256_hex(canonical(RESULT)),
            "attestations": [{"verifier": "ci", "sha256": said.sha256, "refusal": said.refusal}],
            "verdict": {
                "is_met": True,
                "share": "2/3",
                "error": None,
                "engine": CelSandbox().engine,
            },
        },
    }
    return {
        "call_id": str(ESCROW),
        "amount": "0.000066666",
        "currency": "USD",
        "escrow": escrow | changes,
    }


async def test_receipt_is_run_again_and_every_difference_is_named() -> None:
    """
    Another result, another amount, a statement that is missing or of somebody else.
    """
    statement = sign_attestation(
        VERIFIER,
        escrow_id=ESCROW,
        milestone="all",
        result_sha256=sha256_hex(canonical(RESULT)),
        claims={"passed": 3},
        now=NOON,
    )
    receipt = _receipt(statement)
    good = await run_again(receipt, RESULT, [statement])
    assert (good["problems"], good["share"]) == ([], "2/3")
    altered = await run_again(receipt, RESULT | {"n": 2}, [statement])
    assert any("hash differs" in problem for problem in altered["problems"])
    missing = await run_again(receipt, RESULT, [])
    assert any("is missing" in problem for problem in missing["problems"])
    assert any("the receipt says 2/3" in problem for problem in missing["problems"])
    cheaper = await run_again(receipt | {"amount": "0.00005"}, RESULT, [statement])
    assert cheaper["problems"] == ["50000 quanta were paid, the share is worth 66666"]
    swapped = _receipt(statement, condition="true")
    found = await run_again(swapped, RESULT, [statement])
    assert any("not the one its hash names" in problem for problem in found["problems"])
    with pytest.raises(ResultInvalidError):
        await run_again({"call_id": str(ESCROW)}, RESULT, [])


async def test_what_was_metered_is_run_again_from_the_receipt() -> None:
    """
    The condition sees it; facts that are not their hash's, or of other calls, are named.
    """
    condition = "[result.metered.output, 3]"
    metered = {"calls": 1, "output": 2}
    receipt = _receipt("a.b.c", condition=condition, condition_sha256=condition_sha256(condition))
    said: dict[str, Any] = receipt["escrow"]["submission"]
    said |= {
        "attestations": [],
        "calls": [str(UUID(int=9))],
        "metered": metered,
        "metered_sha256": sha256_hex(canonical(metered)),
    }
    good = await run_again(receipt, RESULT, [])
    assert (good["problems"], good["share"]) == ([], "2/3")
    said["calls"] = []
    found = await run_again(receipt, RESULT, [])
    assert found["problems"] == ["1 calls were metered, the receipt names others"]
    said |= {"calls": [str(UUID(int=9))], "metered": metered | {"output": 3}}
    found = await run_again(receipt, RESULT, [])
    assert "what was metered is not what its hash names" in found["problems"]
    said |= {"metered": None}
    found = await run_again(receipt, RESULT, [])
    assert any("comes to 0/1" in problem for problem in found["problems"])


def test_verify_needs_a_receipt_that_somebody_signed(tmp_path: Path) -> None:
    """
    A receipt that anybody could have written is not good, whatever its condition says.
    """
    key = Ed25519PrivateKey.generate()
    keys = _write(
        tmp_path / "root.json", {"crv": "Ed25519", "kty": "OKP", "x": to_jwk(key.public_key()).x}
    )
    receipt = _write(tmp_path / "receipt.json", {"receipt": _receipt("a.b.c"), "jws": "a.b.c"})
    result = _write(tmp_path / "result.json", RESULT)
    found = run("verify", receipt, "--result", result, "--keys", keys, "--json")
    assert found.exit_code == 1
    assert json.loads(found.stdout)["ok"] is False


def test_terms_are_signed_for_one_hub() -> None:
    """
    The authorisation binds the terms, the amount, the payee and the hub's network.
    """
    key, root = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    terms = {
        "milestones": [{"name": "a", "amount": "1.5", "condition": "true"}],
        "result_schema": {},
        "submit_by": "2026-12-01T00:00:00Z",
        "decide_by_s": 60,
    }
    jwk = to_jwk(root.public_key())
    jws = sign_escrow(
        key,
        terms,
        keys=json.dumps({"crv": jwk.crv, "kty": jwk.kty, "x": jwk.x}),
        payee=str(ESCROW),
        mandate=None,
        currency="USD",
        valid_s=60,
    )
    from tokenworks.agents.services import network_of
    from tokenworks.receipts.jws import thumbprint

    signed = read_authorisation(jws, network=network_of(thumbprint(jwk)))
    assert (signed.amount, signed.pay_to, signed.binding.method) == (
        1_500_000_000,
        ESCROW,
        "ESCROW",
    )


def test_part_is_an_amount_or_ppm() -> None:
    """
    Anything else is refused with an example.
    """
    assert parse_part("a=0.25") == {"milestone": "a", "amount": "0.25"}
    assert parse_part("a=500000ppm") == {"milestone": "a", "ppm": 500_000}
    with pytest.raises(CommandError):
        parse_part("a")
