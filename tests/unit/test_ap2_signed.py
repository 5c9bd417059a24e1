"""
AP2 mandates as their issuers sign them: the signature, and every claim disclosed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from tokenworks.agents.mandates.ap2_signed import jwk_thumbprint, read_signed_ap2
from tokenworks.agents.mandates.errors import Ap2RefusedError
from tokenworks.receipts.jws import from_base64url, to_base64url

BUDGET = {"type": "payment.budget", "currency": "USD", "max": 2_000}
RANGE = {"type": "payment.amount_range", "currency": "USD", "max": 500}
ELLIPTIC = ec.generate_private_key(ec.SECP256R1())
EDWARDS = Ed25519PrivateKey.generate()


def part(content: object) -> str:
    """
    JSON as a part of a JWS.
    """
    return to_base64url(json.dumps(content).encode())


def digest_of(disclosure: str) -> str:
    """
    The name of a disclosure.
    """
    return to_base64url(hashlib.sha256(disclosure.encode()).digest())


def elliptic(claims: object, header: dict[str, Any] | None = None) -> str:
    """
    A JWS by the P-256 key.
    """
    signed = f"{part(header or {'alg': 'ES256', 'typ': 'dc+sd-jwt'})}.{part(claims)}"
    r, s = decode_dss_signature(ELLIPTIC.sign(signed.encode(), ec.ECDSA(SHA256())))
    return f"{signed}.{to_base64url(r.to_bytes(32) + s.to_bytes(32))}"


def edwards(claims: object, header: dict[str, Any] | None = None) -> str:
    """
    A JWS by the Ed25519 key.
    """
    signed = f"{part(header or {'alg': 'EdDSA'})}.{part(claims)}"
    return f"{signed}.{to_base64url(EDWARDS.sign(signed.encode()))}"


NUMBERS = ELLIPTIC.public_key().public_numbers()
ELLIPTIC_JWK = {
    "kty": "EC",
    "crv": "P-256",
    "x": to_base64url(NUMBERS.x.to_bytes(32)),
    "y": to_base64url(NUMBERS.y.to_bytes(32)),
}
EDWARDS_JWK = {
    "kty": "OKP",
    "crv": "Ed25519",
    "x": to_base64url(EDWARDS.public_key().public_bytes_raw()),
}


@pytest.mark.parametrize(
    ("sign", "key"), [(elliptic, ELLIPTIC_JWK), (edwards, EDWARDS_JWK)], ids=["ES256", "EdDSA"]
)
def test_disclosed_claims_stand_in_their_places(
    sign: Callable[[object], str], key: dict[str, str]
) -> None:
    """
    Members and entries of lists, one within another; the digests are gone.
    """
    entry = part(["salt-1", BUDGET])
    member = part(["salt-2", "constraints", [RANGE, {"...": digest_of(entry)}]])
    jws = sign({"vct": "mandate.payment.open.1", "_sd": [digest_of(member)], "_sd_alg": "sha-256"})

    claims = read_signed_ap2(f"{jws}~{member}~{entry}~", issuer_key=key)

    assert claims == {"vct": "mandate.payment.open.1", "constraints": [RANGE, BUDGET]}
    assert read_signed_ap2(sign({"a": 1}), issuer_key=key) == {"a": 1}
    assert len(from_base64url(jwk_thumbprint(key))) == 32


def test_another_key_another_algorithm_and_altered_text_are_refused() -> None:
    """
    ``none``, a key of another kind and a signature of zeros included.
    """
    claims = {"constraints": [BUDGET]}
    good = elliptic(claims)
    head, payload, signature = good.split(".")
    forged = [
        (good, EDWARDS_JWK),
        (edwards(claims), ELLIPTIC_JWK),
        (edwards(claims), EDWARDS_JWK | {"x": ELLIPTIC_JWK["x"]}),
        (elliptic(claims, {"alg": "none"}), ELLIPTIC_JWK),
        (elliptic(claims, {"alg": "HS256"}), ELLIPTIC_JWK),
        (elliptic(claims, {"alg": "ES256", "crit": ["b64"]}), ELLIPTIC_JWK),
        (f"{head}.{part({'constraints': []})}.{signature}", ELLIPTIC_JWK),
        (f"{head}.{payload}.{to_base64url(bytes(64))}", ELLIPTIC_JWK),
        (f"{head}.{payload}.", ELLIPTIC_JWK),
        (good, ELLIPTIC_JWK | {"y": ELLIPTIC_JWK["x"]}),
        (good, ELLIPTIC_JWK | {"crv": "P-384"}),
        (good, {}),
    ]
    for text, key in forged:
        with pytest.raises(Ap2RefusedError):
            read_signed_ap2(text, issuer_key=key)


def test_what_is_not_shown_or_was_not_signed_is_refused() -> None:
    """
    A hidden claim may narrow; a disclosure that nobody signed may widen.
    """
    hidden = part(["salt", "constraints", [BUDGET]])
    other = part(["salt", "exp", 1])
    jws = elliptic({"_sd": [digest_of(hidden)], "vct": "v"})
    twice = elliptic({"_sd": [digest_of(hidden), digest_of(hidden)]})
    over = part(["salt", "vct", "other"])
    for text in (
        f"{jws}~",
        jws,
        f"{jws}~{hidden}~{other}~",
        f"{jws}~{hidden}~{hidden}~",
        f"{jws}~{other}~",
        f"{jws}~{hidden}~{edwards({'nonce': 'n'})}",
        f"{twice}~{hidden}~",
        f"{elliptic({'_sd': [digest_of(over)], 'vct': 'v'})}~{over}~",
        f"{elliptic({'_sd': digest_of(hidden)})}~{hidden}~",
        f"{elliptic({'_sd_alg': 'md5'})}~",
        elliptic([1]),
        "a.b",
        "é.é.é",
        "",
    ):
        with pytest.raises(Ap2RefusedError):
            read_signed_ap2(text, issuer_key=ELLIPTIC_JWK)


def test_size_and_depth_are_bounded() -> None:
    """
    Before anything is hashed or walked.
    """
    deep: dict[str, Any] = {}
    for _ in range(40):
        deep = {"a": [deep]}
    jws = elliptic({"a": 1})
    many = "~".join(part(["s", str(number), 1]) for number in range(1_001))
    for text in (elliptic(deep), f"{jws}~{many}~", "a" * 300_000):
        with pytest.raises(Ap2RefusedError):
            read_signed_ap2(text, issuer_key=ELLIPTIC_JWK)
