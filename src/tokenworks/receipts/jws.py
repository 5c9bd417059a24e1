"""
Compact JWS with Ed25519, and nothing else of JOSE.

RFC 7515 (JWS), RFC 8037 (Ed25519 in JOSE), RFC 7638 (key thumbprints). Reading is
strict: one algorithm, exactly the three header members we write, and one spelling of
every base64url text, so that no altered character can mean the same.
"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from tokenworks.receipts.errors import JwsMalformedError

PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

JwsType: TypeAlias = Literal[
    "tokenworks-receipt+sd-jwt",
    "tokenworks-key+jwt",
    "tokenworks-statement+jws",
    "tokenworks-addendum+jws",
    "tokenworks-mandate+jwt",
    "tokenworks-payment+jwt",
    "tokenworks-request+jwt",
]
RECEIPT_TYPE: Final = "tokenworks-receipt+sd-jwt"
STATEMENT_TYPE: Final = "tokenworks-statement+jws"
ADDENDUM_TYPE: Final = "tokenworks-addendum+jws"
CERTIFICATE_TYPE: Final = "tokenworks-key+jwt"

Content = TypeVar("Content")

_THUMBPRINT_URI: Final = "urn:ietf:params:oauth:jwk-thumbprint:sha-256:"


class Jwk(msgspec.Struct, frozen=True):
    """
    A public Ed25519 key as JSON (RFC 8037 §2); other members are ignored.
    """

    crv: Literal["Ed25519"]
    kty: Literal["OKP"]
    x: str


class JwsHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    The protected header.
    """

    alg: Literal["EdDSA"]
    kid: str
    typ: JwsType


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactJws:
    """
    A compact JWS taken apart; nothing is verified yet.
    """

    header: JwsHeader
    payload: bytes
    signed: bytes  # header and payload as they were signed
    signature: bytes

    def is_signed_by(self, key: Ed25519PublicKey) -> bool:
        """
        Tell whether ``key`` made the signature.
        """
        try:
            key.verify(self.signature, self.signed)
        except InvalidSignature:
            return False
        return True


def to_base64url(content: bytes) -> str:
    """
    Return base64url without padding.
    """
    return urlsafe_b64encode(content).rstrip(b"=").decode()


def from_base64url(text: str) -> bytes:
    """
    Decode base64url without padding, in its one canonical spelling.

    Raises:
        JwsMalformedError: Not base64url, or another spelling of the same bytes.
    """
    try:
        content = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except ValueError as error:
        raise JwsMalformedError("A part is not base64url.") from error
    if to_base64url(content) != text:
        raise JwsMalformedError("A part is not in the one spelling base64url allows.")
    return content


def decode_json(content: bytes, content_type: type[Content]) -> Content:
    """
    Return signed JSON as the type it must have.

    Raises:
        JwsMalformedError: Not UTF-8, not JSON, or not of that type.
    """
    try:
        return msgspec.json.decode(content, type=content_type)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"A part of the JWS is not as it must be: {error}."
        raise JwsMalformedError(message) from error


def header_part(*, kid: str, jws_type: JwsType) -> bytes:
    """
    Return the encoded header and its dot, ready to stand before any payload.
    """
    header = JwsHeader(alg="EdDSA", kid=kid, typ=jws_type)
    return to_base64url(msgspec.json.encode(header)).encode() + b"."


def sign_compact(key: Ed25519PrivateKey, header: bytes, payload: bytes) -> str:
    """
    Return the compact JWS of ``payload`` under a header from ``header_part``.
    """
    signed = header + urlsafe_b64encode(payload).rstrip(b"=")
    return f"{signed.decode()}.{to_base64url(key.sign(signed))}"


def read_compact(text: str, jws_type: JwsType) -> CompactJws:
    """
    Take a compact JWS apart.

    Raises:
        JwsMalformedError: Not three base64url parts, another algorithm or type, or an
            unknown header member.
    """
    parts = text.split(".")
    if len(parts) != 3:
        raise JwsMalformedError("A compact JWS has three parts.")
    header = decode_json(from_base64url(parts[0]), JwsHeader)
    if header.typ != jws_type:
        raise JwsMalformedError(f"The JWS is a {header.typ}, not a {jws_type}.")
    signature = from_base64url(parts[2])
    if len(signature) != SIGNATURE_BYTES:
        raise JwsMalformedError("An Ed25519 signature has 64 bytes.")
    return CompactJws(
        header=header,
        payload=from_base64url(parts[1]),
        signed=f"{parts[0]}.{parts[1]}".encode(),
        signature=signature,
    )


def to_jwk(key: Ed25519PublicKey) -> Jwk:
    """
    Return a public key as JSON members.
    """
    return Jwk(crv="Ed25519", kty="OKP", x=to_base64url(key.public_bytes_raw()))


def from_jwk(jwk: Jwk) -> Ed25519PublicKey:
    """
    Return the key of JSON members.

    Raises:
        JwsMalformedError: ``x`` is not a public key.
    """
    content = from_base64url(jwk.x)
    if len(content) != PUBLIC_KEY_BYTES:
        raise JwsMalformedError("An Ed25519 public key has 32 bytes.")
    return Ed25519PublicKey.from_public_bytes(content)


def thumbprint(jwk: Jwk) -> str:
    """
    Return the key's identifier, the ``kid`` (RFC 7638: members sorted, no spaces).
    """
    return to_base64url(hashlib.sha256(msgspec.json.encode(jwk)).digest())


def issuer_of(root_kid: str) -> str:
    """
    Return the issuer's name: the root key's thumbprint as a URI (RFC 9278).
    """
    return _THUMBPRINT_URI + root_kid
