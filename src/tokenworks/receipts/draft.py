"""
Commit to the fields of a receipt; runs once per call, before the ledger's commit.

Each field becomes an SD-JWT disclosure (RFC 9901 §4.2): the base64url text of the JSON
array ``[salt, name, value]``. Its digest is the SHA-256 of that text, as the RFC asks,
not of the JSON inside. Salts are 128 bits, keyed BLAKE2b over call id and field name, so
that nothing but the fields needs to be stored to draft the same receipt again.

Known limit: whoever holds the salt key and a signed receipt can confirm guesses of
hidden fields; the key is as secret as the signing keys.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Iterable, Mapping
from hashlib import blake2b, sha256
from typing import Final
from uuid import UUID

import msgspec

from tokenworks.receipts.model import (
    FIELDS_MAX,
    RESERVED_NAMES,
    SALT_KEY_BYTES,
    Draft,
    JsonValue,
    Readers,
    root_of,
)

_SALT_BYTES: Final = 16
_SALT_PURPOSE: Final = b"tw-receipt-salt"  # BLAKE2b "person": no other use shares it
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")

_encode = msgspec.json.Encoder(order="sorted").encode


def draft(
    call_id: UUID, fields: Mapping[str, JsonValue], readers: Readers, salt_key: bytes
) -> Draft:
    """
    Return the commitments to ``fields``.

    O(fields). A field that ``readers`` does not name is seen by the auditor only.
    """
    assert len(salt_key) == SALT_KEY_BYTES, "the salt key is 32 bytes"
    assert 0 < len(fields) <= FIELDS_MAX, "a receipt has some fields, not any number"
    assert RESERVED_NAMES.isdisjoint(fields), "a field never takes a reserved name"
    salts = _salts(call_id, fields, salt_key)
    disclosures = _base64url_each(
        _encode((salt, name, value))
        for salt, (name, value) in zip(salts, fields.items(), strict=True)
    )
    digests = _base64url_each(sha256(disclosure.encode()).digest() for disclosure in disclosures)
    digests.sort()
    return Draft(
        call_id=call_id,
        root=root_of(digests),
        digests=tuple(digests),
        disclosures=dict(zip(fields, disclosures, strict=True)),
        fields=fields,
        readers=readers,
    )


def _salts(call_id: UUID, names: Iterable[str], salt_key: bytes) -> list[str]:
    of_call = blake2b(call_id.bytes, digest_size=_SALT_BYTES, key=salt_key, person=_SALT_PURPOSE)
    salts: list[bytes] = []
    for name in names:
        of_field = of_call.copy()
        of_field.update(name.encode())
        salts.append(of_field.digest())
    return _base64url_each(salts)


def _base64url_each(parts: Iterable[bytes]) -> list[str]:
    # One translation of all parts together is half the cost of one for each.
    joined = b"~".join([b2a_base64(part, newline=False) for part in parts])
    return joined.translate(_URL_SAFE, b"=").decode().split("~")
