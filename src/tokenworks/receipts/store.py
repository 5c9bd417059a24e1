"""
Rows of the signing keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
from psycopg.types.json import Jsonb

from tokenworks.postgres.pool import Connection
from tokenworks.postgres.queries import load
from tokenworks.receipts.jws import Jwk, thumbprint

_QUERIES: Final = load("tokenworks.receipts")


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKeyRow:
    """
    A key as stored; its private part is sealed.
    """

    jwk: Jwk
    lane: int | None  # None: a root
    private_encrypted: bytes
    certificate: str
    root_kid: str
    valid_from: datetime
    retired_at: datetime | None

    @property
    def kid(self) -> str:
        """
        Return the key's identifier.
        """
        return thumbprint(self.jwk)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedKeyRow:
    """
    What everybody may know of a key.
    """

    kind: str
    lane: int | None
    jwk: Jwk
    certificate: str
    valid_from: datetime
    retired_at: datetime | None


async def insert_key(connection: Connection, row: SigningKeyRow) -> None:
    """
    Store a key unless one for the same use is there; read back which one won.
    """
    await connection.execute(
        _QUERIES["insert_key"],
        {
            "kid": row.kid,
            "kind": "root" if row.lane is None else "lane",
            "lane": row.lane,
            "public_jwk": Jsonb(msgspec.to_builtins(row.jwk)),
            "private_encrypted": row.private_encrypted,
            "certificate": row.certificate,
            "root_kid": row.root_kid,
            "valid_from": row.valid_from,
        },
    )


async def active_root(connection: Connection) -> SigningKeyRow | None:
    """
    Return the root key in use.
    """
    cursor = await connection.execute(_QUERIES["active_root"])
    return _to_key(await cursor.fetchone())


async def active_lane_key(connection: Connection, lane: int) -> SigningKeyRow | None:
    """
    Return the key in use of a lane.
    """
    cursor = await connection.execute(_QUERIES["active_lane_key"], {"lane": lane})
    return _to_key(await cursor.fetchone())


async def key_by_kid(connection: Connection, kid: str) -> SigningKeyRow | None:
    """
    Return a key, in use or retired.
    """
    cursor = await connection.execute(_QUERIES["key_by_kid"], {"kid": kid})
    return _to_key(await cursor.fetchone())


async def published_keys(connection: Connection) -> list[PublishedKeyRow]:
    """
    Return every key's public side, oldest first.
    """
    cursor = await connection.execute(_QUERIES["published_keys"])
    return [
        PublishedKeyRow(
            kind=kind,
            lane=lane,
            jwk=msgspec.convert(public_jwk, Jwk),
            certificate=certificate,
            valid_from=valid_from,
            retired_at=retired_at,
        )
        for kind, lane, public_jwk, certificate, valid_from, retired_at in await cursor.fetchall()
    ]


async def retire_key(
    connection: Connection, *, kid: str, certificate: str, retired_at: datetime
) -> bool:
    """
    End a key's use; return whether it still was in use.
    """
    cursor = await connection.execute(
        _QUERIES["retire_key"],
        {"kid": kid, "certificate": certificate, "retired_at": retired_at},
    )
    return cursor.rowcount == 1


async def insert_salt_key(
    connection: Connection, *, key_encrypted: bytes, created_at: datetime
) -> None:
    """
    Store the salt key unless there is one; read back which one won.
    """
    await connection.execute(
        _QUERIES["insert_salt_key"],
        {"key_encrypted": key_encrypted, "created_at": created_at},
    )


async def salt_key(connection: Connection) -> bytes | None:
    """
    Return the sealed salt key.
    """
    cursor = await connection.execute(_QUERIES["salt_key"])
    row = await cursor.fetchone()
    return None if row is None else bytes(row[0])


def _to_key(row: tuple[Any, ...] | None) -> SigningKeyRow | None:
    if row is None:
        return None
    _, _, lane, public_jwk, private, certificate, root_kid, valid_from, retired_at = row
    return SigningKeyRow(
        jwk=msgspec.convert(public_jwk, Jwk),
        lane=lane,
        private_encrypted=bytes(private),
        certificate=certificate,
        root_kid=root_kid,
        valid_from=valid_from,
        retired_at=retired_at,
    )
