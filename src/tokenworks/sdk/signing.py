"""
Compact JWS with Ed25519, base64url and UUIDv7: what the hub's verification reads.

RFC 7515, RFC 8037, RFC 9562 §5.7. One spelling of everything: JSON without spaces and with
sorted members, base64url without padding.
"""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from typing import Any, Final, cast
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PAYMENT_TYPE: Final = "tokenworks-payment+jwt"
REQUEST_TYPE: Final = "tokenworks-request+jwt"
MANDATE_TYPE: Final = "tokenworks-mandate+jwt"

_VERSION_7: Final = 0x7 << 76
_VARIANT: Final = 0b10 << 62
_RANDOM_BITS: Final = 74
_PAYMENT_ID_PURPOSE: Final = b"tokenworks-payment-id-1\n"


def to_base64url(content: bytes) -> str:
    """
    Return base64url without padding.
    """
    return urlsafe_b64encode(content).rstrip(b"=").decode()


def from_base64url(text: str) -> bytes:
    """
    Return the bytes of base64url without padding; raises ``ValueError``.
    """
    return urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))


def body_sha256(body: bytes) -> str:
    """
    Return the hash of a request's body as it is signed.
    """
    return to_base64url(hashlib.sha256(body).digest())


def to_canonical_json(value: Mapping[str, object]) -> bytes:
    """
    Return the one spelling in which this package signs JSON.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def sign_compact(
    key: Ed25519PrivateKey, claims: Mapping[str, object], *, address: str, jws_type: str
) -> str:
    """
    Return the compact JWS of some claims.
    """
    header = to_canonical_json({"alg": "EdDSA", "kid": address, "typ": jws_type})
    signed = f"{to_base64url(header)}.{to_base64url(to_canonical_json(claims))}"
    return f"{signed}.{to_base64url(key.sign(signed.encode()))}"


def payload_of(jws: str) -> dict[str, Any]:
    """
    Return the claims of a compact JWS, unverified: for one's own; raises ``ValueError``.
    """
    parts = jws.split(".")
    if len(parts) != 3:
        raise ValueError("A compact JWS has three parts.")
    claims: object = json.loads(from_base64url(parts[1]))
    if not isinstance(claims, dict):
        raise ValueError("The claims of a JWS are an object.")  # noqa: TRY004 - not of a type
    return cast("dict[str, Any]", claims)


def make_uuid7(moment_s: float, random: bytes) -> UUID:
    """
    Return the UUIDv7 of a moment and ten random bytes.
    """
    assert len(random) == 10, "ten bytes are enough for 74 bits"
    bits = int.from_bytes(random) & ((1 << _RANDOM_BITS) - 1)
    high, low = bits >> 62, bits & ((1 << 62) - 1)
    return UUID(int=int(moment_s * 1000) << 80 | _VERSION_7 | high << 64 | _VARIANT | low)


def payment_id_of(payer: str, nonce: UUID) -> UUID:
    """
    Return the payment's id at the hub: the nonce's milliseconds, the rest from both.
    """
    content = _PAYMENT_ID_PURPOSE + payer.encode() + b"\n" + nonce.bytes
    mixed = int.from_bytes(hashlib.sha256(content).digest()[:16])
    random = mixed & (0xFFF << 64 | (1 << 62) - 1)
    return UUID(int=(nonce.int >> 80 << 80) | _VERSION_7 | _VARIANT | random)
