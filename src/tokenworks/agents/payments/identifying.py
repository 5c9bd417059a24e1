"""
The id of a payment and the digest of what was signed; pure.

Both are functions of the authorisation alone, so every process that sees it, now or after a
crash, asks the ledger about the same fact with the same content.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Final
from uuid import UUID

import msgspec

_MILLISECONDS_MASK: Final = ((1 << 48) - 1) << 80
_RANDOM_A_MASK: Final = ((1 << 12) - 1) << 64
_RANDOM_B_MASK: Final = (1 << 62) - 1
_VERSION_7: Final = 0x7 << 76
_VARIANT: Final = 0b10 << 62
_ID_PURPOSE: Final = b"tokenworks-payment-id-1\n"

_encode = msgspec.json.Encoder().encode


def payment_id_of(payer: str, nonce: UUID) -> UUID:
    """
    Return a payment's id: the nonce's milliseconds, then 74 bits of SHA-256 over both.

    Two wallets that use the same nonce have different payments, and nobody can choose an id
    that is another one's.

    Args:
        payer: The wallet's address.
        nonce: A UUIDv7.
    """
    mixed = int.from_bytes(sha256(_ID_PURPOSE + payer.encode() + b"\n" + nonce.bytes).digest()[:16])
    random = (mixed & _RANDOM_A_MASK) | (mixed & _RANDOM_B_MASK)
    return UUID(int=(nonce.int & _MILLISECONDS_MASK) | _VERSION_7 | _VARIANT | random)


def digest_of(parts: Sequence[str | None]) -> bytes:
    """
    Return the SHA-256 of what was signed, in the order of the claims.

    A JSON array of texts has one spelling here, so parts can never run into each other.
    """
    return sha256(_encode(parts)).digest()


def request_digest_of(method: str, url: str, body_sha256: str) -> bytes:
    """
    Return the digest by which equal requests are told from others.
    """
    return digest_of((method, url, body_sha256))


def is_uuid7(identifier: UUID) -> bool:
    """
    Tell whether an identifier is a UUIDv7 of RFC 9562.
    """
    return identifier.int & (0xF << 76) == _VERSION_7 and identifier.int & (0b11 << 62) == _VARIANT
