"""
A chain of signed mandates is verified with the root's key alone; each fault has its own code.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from tests.unit.receipt_samples import NOW, ROOT_KEY, STRANGER_KEY, signer_of
from tokenworks.agents.mandates.errors import InvalidWalletError, KeyCurveError
from tokenworks.agents.mandates.model import Terms
from tokenworks.agents.mandates.signing import address_of, sign_by_hub, sign_by_wallet
from tokenworks.agents.mandates.verifying import verify_chain
from tokenworks.cli import mandate_offline
from tokenworks.cli.main import app
from tokenworks.cli.wallet_file import new_wallet, read_address, read_wallet
from tokenworks.foundation.clock import FakeClock
from tokenworks.receipts.jws import from_base64url, to_base64url, to_jwk
from tokenworks.receipts.trust import TrustedKeys

WALLET = Ed25519PrivateKey.from_private_bytes(b"w" * 32)
SECOND = Ed25519PrivateKey.from_private_bytes(b"v" * 32)
AGENT, HELPER = UUID(int=11), UUID(int=12)
ROOT_ID, CHILD_ID = UUID(int=21), UUID(int=22)
KEYS = TrustedKeys([to_jwk(ROOT_KEY.public_key())])


def _root(
    terms: Terms | None = None, *, address: str | None = address_of(WALLET), lives_s: int = 3_600
) -> str:
    return sign_by_hub(
        signer_of(),
        mandate_id=ROOT_ID,
        agent_id=AGENT,
        terms=terms or Terms(amount_max=100, delegations_max=2),
        issued_at=NOW,
        expires_at=NOW + timedelta(seconds=lives_s),
        agent_address=address,
        parent_id=None,
        parent_jws=None,
    )


def _child(
    parent: str,
    terms: Terms | None = None,
    *,
    key: Ed25519PrivateKey = WALLET,
    parent_id: UUID = ROOT_ID,
    lives_s: int | None = None,
) -> str:
    return sign_by_wallet(
        key,
        mandate_id=CHILD_ID,
        agent_id=HELPER,
        terms=terms or Terms(amount_max=50, delegations_max=1),
        issued_at=NOW,
        expires_at=None if lives_s is None else NOW + timedelta(seconds=lives_s),
        agent_address=address_of(SECOND),
        parent_id=parent_id,
        parent_jws=parent,
    )


def _codes(texts: Sequence[str], *, keys: TrustedKeys = KEYS, later_s: int = 60) -> list[str]:
    report = verify_chain(texts, keys, now=NOW + timedelta(seconds=later_s))
    return [f"{finding.position} {finding.code}" for finding in report.findings]


def _tampered(text: str, **changes: object) -> str:
    head, body, signature = text.split(".")
    claims = json.loads(from_base64url(body))
    claims["terms"] |= changes
    return f"{head}.{to_base64url(json.dumps(claims).encode())}.{signature}"


def test_chain_of_three_is_good() -> None:
    """
    Root by the hub, then two wallets in turn.
    """
    root = _root()
    child = _child(root)
    grandchild = _child(child, Terms(amount_max=10), key=SECOND, parent_id=CHILD_ID, lives_s=600)
    report = verify_chain([root, child, grandchild], KEYS, now=NOW)
    assert report.is_good, report.findings
    assert [signed.claims.sub for signed in report.mandates] == [AGENT, HELPER, HELPER]


def test_each_fault_has_its_own_code() -> None:
    """
    Tampering, a wrong key, parent, root, wider terms, a late date: none passes for another.
    """
    root = _root()
    child = _child(root)
    other_root = _root(Terms(amount_max=99, delegations_max=2))
    strangers = TrustedKeys([to_jwk(STRANGER_KEY.public_key())])
    lane_only = sign_by_hub(
        signer_of(certified_lane=None),
        mandate_id=ROOT_ID,
        agent_id=AGENT,
        terms=Terms(),
        issued_at=NOW,
        expires_at=None,
        agent_address=None,
        parent_id=None,
        parent_jws=None,
    )
    assert _codes([root, child]) == []
    assert _codes([_tampered(root, amount_max="9")]) == ["1 mandate_signature"]
    assert _codes([root, _tampered(child, amount_max="0.00000004")]) == ["2 mandate_signature"]
    assert _codes([root, _child(root, key=SECOND)]) == ["2 mandate_signature"]
    assert _codes([_root(address=None), _child(_root(address=None))]) == ["2 mandate_signature"]
    assert _codes([root, child], keys=strangers) == ["1 mandate_signature"]
    assert _codes([lane_only]) == ["1 mandate_signature"]
    assert _codes([child]) == ["1 mandate_parent", "1 mandate_signature"]
    assert _codes([other_root, child]) == ["2 mandate_parent"]
    assert _codes([root, root]) == ["2 mandate_parent", "2 mandate_not_attenuated"]
    assert _codes([root, _child(root, Terms(amount_max=101))]) == ["2 mandate_not_attenuated"]
    assert _codes([root, _child(root, lives_s=7_200)]) == ["2 mandate_not_attenuated"]
    assert _codes([root, child], later_s=3_600) == ["1 mandate_expired"]
    assert _codes([_root(Terms(not_before=NOW + timedelta(days=1)))]) == ["1 mandate_not_yet_valid"]
    assert _codes(["not a token"]) == ["1 mandate_malformed"]
    assert _codes([]) == ["0 mandate_too_deep"]
    assert _codes([root] * 9) == ["0 mandate_too_deep"]


def test_key_that_was_not_in_use_signs_nothing() -> None:
    """
    A lane's key that was retired before, or certified later, is no signature.
    """
    for signer in (
        signer_of(retired_at=NOW - timedelta(hours=1)),
        signer_of(valid_from=NOW + timedelta(hours=1)),
    ):
        text = sign_by_hub(
            signer,
            mandate_id=ROOT_ID,
            agent_id=AGENT,
            terms=Terms(),
            issued_at=NOW,
            expires_at=None,
            agent_address=None,
            parent_id=None,
            parent_jws=None,
        )
        assert _codes([text]) == ["1 mandate_signature"]


def test_command_verifies_a_file_without_a_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Lines of JWS or a shown mandate; exit 0 good, 1 not.
    """
    monkeypatch.setattr(mandate_offline, "SystemClock", lambda: FakeClock(NOW))
    root = _root()
    key_file, chain_file = tmp_path / "root.json", tmp_path / "chain.txt"
    jwk = to_jwk(ROOT_KEY.public_key())
    key_file.write_text(json.dumps({"kty": jwk.kty, "crv": jwk.crv, "x": jwk.x}))
    chain_file.write_text(f"{root}\n{_child(root)}\n")
    arguments = ["mandate", "verify", str(chain_file), "--key", str(key_file), "--json"]
    good = CliRunner().invoke(app, arguments)
    assert (good.exit_code, json.loads(good.stdout)["is_good"]) == (0, True), good.output
    chain_file.write_text(json.dumps({"chain": [root, _child(root, Terms(amount_max=101))]}))
    bad = CliRunner().invoke(app, arguments)
    found = json.loads(bad.stdout)["findings"]
    assert (bad.exit_code, found[0]["code"]) == (1, "mandate_not_attenuated")


def test_wallet_file_is_private_and_never_overwritten(tmp_path: Path) -> None:
    """
    A new key is for its owner's eyes; a file of others, or of another curve, is refused.
    """
    path = tmp_path / "keys" / "bot.wallet.json"
    key = new_wallet(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert address_of(read_wallet(path)) == read_address(path) == address_of(key)
    with pytest.raises(InvalidWalletError):
        new_wallet(path)
    document = json.loads(path.read_text())
    path.chmod(0o640)
    with pytest.raises(InvalidWalletError):
        read_wallet(path)
    path.chmod(0o600)
    for changed, error in (
        ({**document, "crv": "X25519"}, KeyCurveError),
        ({**document, "kty": "EC", "crv": "P-256"}, KeyCurveError),
        ({**document, "x": address_of(WALLET)}, InvalidWalletError),
        ({**document, "d": "short"}, InvalidWalletError),
        ([], InvalidWalletError),
    ):
        path.write_text(json.dumps(changed))
        with pytest.raises(error):
            read_wallet(path)
