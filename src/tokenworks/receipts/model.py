"""
The words of a receipt: its fields, its readers, its draft and its place in the chain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias
from uuid import UUID

import msgspec

JsonValue: TypeAlias = "str | int | bool | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
"""What a field may hold. No floats; amounts are decimal strings."""

Readers: TypeAlias = "Mapping[str, frozenset[str]]"
"""The views that may see each field, by field name; the auditor sees every field."""

FIELDS_MAX: Final = 256
LINK_BYTES: Final = 32
SALT_KEY_BYTES: Final = 32

DIGEST_ALGORITHM: Final = "sha-256"

# The words of our own document and payload, of SD-JWT and of JWT (RFC 7519 §4.1): a field
# of that name could be taken for something the hub signed in the clear.
_DOCUMENT_NAMES: Final = frozenset({"view", "call_id", "disclosures"})
_PAYLOAD_NAMES: Final = frozenset({"iss", "iat", "lane", "seq", "prev", "root"})
_STANDARD_NAMES: Final = frozenset(
    {"_sd", "_sd_alg", "...", "cnf", "sub", "aud", "exp", "nbf", "jti"}
)
RESERVED_NAMES: Final = _DOCUMENT_NAMES | _PAYLOAD_NAMES | _STANDARD_NAMES


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainPosition:
    """
    Where the ledger put a receipt, known after commit.
    """

    lane: int
    sequence: int  # gapless within the lane
    previous: bytes  # the link of the receipt before, 32 bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """
    A receipt before it is signed: every field, and the commitments to them.
    """

    call_id: UUID
    root: bytes  # SHA-256 over ``digests`` joined, 32 bytes
    digests: tuple[str, ...]  # sorted, so that their order says nothing
    disclosures: Mapping[str, str]  # by field name, in SD-JWT's encoding
    fields: Mapping[str, JsonValue]
    readers: Readers


class ReceiptPayload(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    rename={
        "issued_at_s": "iat",
        "issuer": "iss",
        "sequence": "seq",
        "previous": "prev",
        "digest_algorithm": "_sd_alg",
        "digests": "_sd",
    },
):
    """
    What the lane's key signs; the order of the members is part of the format.
    """

    issuer: str  # RFC 9278 thumbprint URI of the root key
    issued_at_s: int  # ledger time, whole seconds since 1970
    call_id: UUID
    lane: int
    sequence: int
    previous: str  # base64url
    root: str  # base64url
    digest_algorithm: str
    digests: tuple[str, ...]


def root_of(digests: Sequence[str]) -> bytes:
    """
    Return the one hash that stands for sorted digests of equal length.
    """
    return hashlib.sha256("".join(digests).encode()).digest()


def link_after(previous: bytes, root: bytes) -> bytes:
    """
    Return a receipt's link: the hash the next receipt of the lane names as previous.
    """
    return hashlib.sha256(previous + root).digest()
