"""
Read and check the signature of a receipt: a compact JWS with Ed25519 (RFC 7515, RFC 8037).

This checks that the hub's published key of that lane signed the payload. The whole check
(certificates, disclosures, links to the neighbours) is ``tokenworks receipt verify``, which
needs no hub: a page of the hub's own console proves less than a file in the reader's hands.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode
from binascii import Error as Base64Error
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tokenworks.web.console.model import Document

_PARTS: Final = 3


class SealState(StrEnum):
    """
    What checking a signature found.
    """

    VALID = "valid"
    WRONG = "wrong"
    UNCHECKED = "unchecked"  # the key is not published, or the keys could not be read


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """
    What a receipt's signature says about itself, and whether it holds.
    """

    state: SealState
    kid: str
    lane: int | None
    sequence: int | None
    issued_at: str | None
    issuer: str
    previous: str


class _Header(msgspec.Struct, frozen=True):
    alg: str = ""
    kid: str = ""


class _Payload(msgspec.Struct, frozen=True, rename={"sequence": "seq", "previous": "prev"}):
    iss: str = ""
    iat: int | None = None
    lane: int | None = None
    sequence: int | None = None
    previous: str = ""


class _Key(msgspec.Struct, frozen=True):
    kid: str = ""
    crv: str = ""
    x: str = ""


class _KeySet(msgspec.Struct, frozen=True):
    keys: tuple[_Key, ...] = ()


def read_seal(jws: str, published: Document | None) -> Seal | None:
    """
    Return what the signature says, checked against the published keys when they are at hand.

    ``None`` when the text is no JWS at all.
    """
    parts = jws.split(".")
    if len(parts) != _PARTS or not jws.isascii():
        return None
    try:
        header = msgspec.json.decode(_from_base64url(parts[0]), type=_Header)
        payload = msgspec.json.decode(_from_base64url(parts[1]), type=_Payload)
        signature = _from_base64url(parts[2])
    except (Base64Error, msgspec.DecodeError, UnicodeDecodeError, ValueError):
        return None
    issued_at = None if payload.iat is None else _moment_text(payload.iat)
    return Seal(
        state=_check(header, f"{parts[0]}.{parts[1]}".encode(), signature, published),
        kid=header.kid,
        lane=payload.lane,
        sequence=payload.sequence,
        issued_at=issued_at,
        issuer=payload.iss,
        previous=payload.previous,
    )


def _check(
    header: _Header, signed: bytes, signature: bytes, published: Document | None
) -> SealState:
    try:
        key_set = msgspec.convert(published or {}, _KeySet)
        key = next(key for key in key_set.keys if header.kid and key.kid == header.kid)
        public = Ed25519PublicKey.from_public_bytes(_from_base64url(key.x))
    except (StopIteration, msgspec.ValidationError, Base64Error, ValueError):
        return SealState.UNCHECKED
    if header.alg != "EdDSA" or key.crv != "Ed25519":
        return SealState.WRONG
    try:
        public.verify(signature, signed)
    except InvalidSignature:
        return SealState.WRONG
    return SealState.VALID


def _moment_text(seconds: int) -> str | None:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat()
    except (OverflowError, OSError, ValueError):
        return None


def _from_base64url(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
