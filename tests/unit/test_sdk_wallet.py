"""
The SDK's wallet: its file, and what it signs.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tokenworks.sdk import Binding, Requirements, Wallet, WalletFileError
from tokenworks.sdk.signing import from_base64url

NOW_S = 1_900_000_000.25
NONCE = UUID("019c0000-0000-7000-8000-0000000000aa")
BINDING = Binding(method="POST", url="http://hub/x?y=1", body_sha256="h" * 43)
ASKED = Requirements(
    scheme="upto",
    network="hub:0123456789abcdef",
    amount=1_234,
    asset="USD",
    pay_to="019c0000-0000-7000-8000-000000000001",
    max_timeout_s=60,
    binding=BINDING,
    document={},
)


def read(jws: str, address: str) -> tuple[dict[str, object], dict[str, object]]:
    """
    Return header and claims of a JWS whose signature is the address's.
    """
    header, claims, signature = jws.split(".")
    key = Ed25519PublicKey.from_public_bytes(from_base64url(address))
    key.verify(from_base64url(signature), f"{header}.{claims}".encode())
    return json.loads(from_base64url(header)), json.loads(from_base64url(claims))


def test_wallet_survives_its_file(tmp_path: Path) -> None:
    """
    A saved wallet is the same when it is read; only its owner can read it.
    """
    wallet = Wallet.generate()
    path = tmp_path / "wallet.json"
    wallet.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Wallet.load(path).address == wallet.address
    assert len(wallet.address) == 43


def test_file_is_never_replaced(tmp_path: Path) -> None:
    """
    A second wallet does not overwrite the first: its money would be out of reach.
    """
    path = tmp_path / "wallet.json"
    first = Wallet.generate()
    first.save(path)
    with pytest.raises(WalletFileError):
        Wallet.generate().save(path)
    assert Wallet.load(path).address == first.address


def test_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """
    A key that others could have read is not used silently.
    """
    path = tmp_path / "wallet.json"
    Wallet.generate().save(path)
    path.chmod(0o640)
    with pytest.raises(WalletFileError, match="0600"):
        Wallet.load(path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"kty":"OKP","crv":"Ed25519","d":"AA"}',
        '{"kty":"EC","crv":"P-256","d":"' + "A" * 43 + '"}',
        '{"kty":"OKP","crv":"Ed25519","x":"' + "A" * 43 + '","d":"' + "A" * 43 + '"}',
    ],
    ids=["empty", "list", "bare", "short", "curve", "pair"],
)
def test_file_that_is_no_wallet_is_refused(tmp_path: Path, content: str) -> None:
    """
    Whatever is no private Ed25519 key with its own public key has one clear error.
    """
    path = tmp_path / "wallet.json"
    path.touch(0o600)
    path.write_text(content)
    with pytest.raises(WalletFileError):
        Wallet.load(path)


def test_secret_is_not_shown() -> None:
    """
    The key's text is not in its ``repr``.
    """
    wallet = Wallet.from_seed(bytes(32))
    assert repr(wallet) == f"Wallet({wallet.address})"


def test_authorisation_says_what_is_paid_for() -> None:
    """
    Every claim of docs/internals/agents.md, and no other.
    """
    wallet = Wallet.generate()
    wallet = Wallet(wallet._key, now_s=lambda: NOW_S)
    jws = wallet.authorise(ASKED, BINDING, nonce=NONCE, mandate="m", reference="r")
    header, claims = read(jws, wallet.address)
    assert header == {"alg": "EdDSA", "kid": wallet.address, "typ": "tokenworks-payment+jwt"}
    assert claims == {
        "iss": wallet.address,
        "aud": ASKED.network,
        "jti": str(NONCE),
        "iat": 1_900_000_000,
        "exp": 1_900_000_060,
        "scheme": "upto",
        "amount": "1234",
        "asset": "USD",
        "pay_to": ASKED.pay_to,
        "method": "POST",
        "url": BINDING.url,
        "body_sha256": BINDING.body_sha256,
        "mandate": "m",
        "reference": "r",
    }


def test_authorisation_lives_an_hour_at_most() -> None:
    """
    A seller cannot ask for a signature that is good for a day.
    """
    wallet = Wallet.generate()
    _, claims = read(wallet.authorise(ASKED, BINDING, lifetime_s=86_400), wallet.address)
    assert claims["exp"] == int(str(claims["iat"])) + 3_600


def test_request_is_signed_with_its_body() -> None:
    """
    A signed request names method, address and the hash of its body, and lives a minute.
    """
    wallet = Wallet.generate()
    jws = wallet.sign_request("post", "http://hub/hub/v1/x", b"", network=ASKED.network)
    header, claims = read(jws, wallet.address)
    assert header["typ"] == "tokenworks-request+jwt"
    assert (claims["htm"], claims["htu"]) == ("POST", "http://hub/hub/v1/x")
    assert claims["body_sha256"] == "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"
    assert int(str(claims["exp"])) - int(str(claims["iat"])) == 60


def test_nonces_are_uuid7_of_the_clock() -> None:
    """
    A nonce's first 48 bits are milliseconds; version and variant are RFC 9562's.
    """
    wallet = Wallet.generate()
    wallet = Wallet(wallet._key, now_s=lambda: NOW_S)
    nonce = wallet.mint_nonce()
    assert nonce.version == 7
    assert nonce.variant == "specified in RFC 4122"
    assert nonce.int >> 80 == int(NOW_S * 1000)
    assert wallet.mint_nonce() != nonce
