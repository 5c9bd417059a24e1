"""
Make, certify, publish and retire the keys that sign receipts.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from typing import Final
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import TokenworksError
from tokenworks.postgres.pool import Connection, Pool
from tokenworks.receipts import store
from tokenworks.receipts.certificates import issue_certificate
from tokenworks.receipts.errors import SigningKeyNotFoundError, SigningKeysUnreadableError
from tokenworks.receipts.jws import Jwk, from_base64url, thumbprint, to_base64url, to_jwk
from tokenworks.receipts.model import SALT_KEY_BYTES
from tokenworks.receipts.ports import SecretBox
from tokenworks.receipts.signing import LaneSigner
from tokenworks.receipts.store import PublishedKeyRow, SigningKeyRow

_SALT_OWNER: Final = UUID(bytes=b"receipt-salt-key")


class ReceiptKeys:
    """
    The hub's signing keys: one root, and one key for each writer's lane.

    Args:
        pool: Connections to the hub's database.
        box: Seals private keys under the master key.
        clock: Dates keys.
        random_bytes: Returns that many unpredictable (or, in a simulation, seeded) bytes.
    """

    def __init__(
        self,
        pool: Pool,
        box: SecretBox,
        clock: Clock,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._pool = pool
        self._box = box
        self._clock = clock
        self._random_bytes = random_bytes

    async def ensure_root(self) -> Jwk:
        """
        Return the root's public key, made now if there is none yet.

        Safe when several processes start at once: all return the one that was stored.
        """
        async with self._pool.connection() as connection:
            return (await self._ensure_root(connection)).jwk

    async def ensure_lane_key(self, lane: int) -> LaneSigner:
        """
        Return the signer of a lane, its key made and certified now if there is none yet.

        Safe when several processes ask at once. Keep the result: nothing is cached here.

        Raises:
            SigningKeysUnreadableError: The stored key does not open.
        """
        assert lane >= 0, "lanes are counted from zero"
        async with self._pool.connection() as connection:
            row = await store.active_lane_key(connection, lane)
            if row is None:
                row = await self._add_lane_key(connection, lane)
            return self._to_signer(row)

    async def rotate_lane_key(self, lane: int) -> LaneSigner:
        """
        Retire a lane's key and return the signer with its successor.

        To be called by the process that holds the lane: another one would go on signing
        with the retired key. The retired key stays published, with the time it ended.
        """
        async with self._pool.connection() as connection, connection.transaction():
            row = await store.active_lane_key(connection, lane)
            if row is not None:
                await self._retire(connection, row)
            return self._to_signer(await self._add_lane_key(connection, lane))

    async def signer(self, kid: str) -> LaneSigner:
        """
        Return the signer of a key, in use or retired, to sign an old receipt again.

        Raises:
            SigningKeyNotFoundError: No lane's key has this ``kid``.
            SigningKeysUnreadableError: The stored key does not open.
        """
        async with self._pool.connection() as connection:
            row = await store.key_by_kid(connection, kid)
        if row is None or row.lane is None:
            raise SigningKeyNotFoundError(f"No lane's key is called {kid!r}.")
        return self._to_signer(row)

    async def ensure_salt_key(self) -> bytes:
        """
        Return the 32-byte key of the salts, made now if there is none yet.

        It never changes: every receipt's root depends on it.

        Raises:
            SigningKeysUnreadableError: The stored key does not open.
        """
        async with self._pool.connection() as connection:
            sealed = await store.salt_key(connection)
            if sealed is None:
                await store.insert_salt_key(
                    connection,
                    key_encrypted=self._seal(self._random_bytes(SALT_KEY_BYTES), _SALT_OWNER),
                    created_at=self._clock.now(),
                )
                sealed = await store.salt_key(connection)
        assert sealed is not None, "the key was stored, by us or by another process"
        return self._unseal(sealed, _SALT_OWNER)

    async def jwks(self) -> dict[str, object]:
        """
        Return all public keys, in use and retired, as a JSON Web Key Set (RFC 7517 §5).
        """
        async with self._pool.connection() as connection:
            return await published_keys(connection)

    async def _ensure_root(self, connection: Connection) -> SigningKeyRow:
        row = await store.active_root(connection)
        if row is None:
            private = self._new_private_key()
            await store.insert_key(connection, self._new_row(private, root=private, lane=None))
            row = await store.active_root(connection)
        assert row is not None, "a root was stored, by us or by another process"
        return row

    async def _add_lane_key(self, connection: Connection, lane: int) -> SigningKeyRow:
        root = self._open(await self._ensure_root(connection))
        fresh = self._new_row(self._new_private_key(), root=root, lane=lane)
        await store.insert_key(connection, fresh)
        row = await store.active_lane_key(connection, lane)
        assert row is not None, "a key was stored, by us or by another process"
        return row

    async def _retire(self, connection: Connection, row: SigningKeyRow) -> None:
        # The clock may stand behind the key's own date; a key never ends before it began.
        retired_at = max(self._clock.now(), row.valid_from)
        root = await store.key_by_kid(connection, row.root_kid)
        assert root is not None, "a key's root is never deleted"
        certificate = issue_certificate(
            self._open(root),
            self._open(row).public_key(),
            lane=row.lane,
            valid_from=row.valid_from,
            retired_at=retired_at,
        )
        await store.retire_key(
            connection, kid=row.kid, certificate=certificate, retired_at=retired_at
        )

    def _new_private_key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self._random_bytes(32))

    def _new_row(
        self, private: Ed25519PrivateKey, *, root: Ed25519PrivateKey, lane: int | None
    ) -> SigningKeyRow:
        now = self._clock.now()
        jwk = to_jwk(private.public_key())
        return SigningKeyRow(
            jwk=jwk,
            lane=lane,
            private_encrypted=self._seal(private.private_bytes_raw(), _owner_of(jwk)),
            certificate=issue_certificate(
                root, private.public_key(), lane=lane, valid_from=now, retired_at=None
            ),
            root_kid=_kid(root),
            valid_from=now,
            retired_at=None,
        )

    def _open(self, row: SigningKeyRow) -> Ed25519PrivateKey:
        private = Ed25519PrivateKey.from_private_bytes(
            self._unseal(row.private_encrypted, _owner_of(row.jwk))
        )
        assert to_jwk(private.public_key()) == row.jwk, "the box binds a key to its public key"
        return private

    def _seal(self, key: bytes, owner_id: UUID) -> bytes:
        return self._box.encrypt(to_base64url(key), owner_id=owner_id)

    def _unseal(self, sealed: bytes, owner_id: UUID) -> bytes:
        try:
            return from_base64url(self._box.decrypt(sealed, owner_id=owner_id))
        except TokenworksError as error:
            message = "The receipts' keys cannot be opened: is this the hub's master key?"
            raise SigningKeysUnreadableError(message) from error

    def _to_signer(self, row: SigningKeyRow) -> LaneSigner:
        assert row.lane is not None, "a root never signs receipts"
        return LaneSigner(
            self._open(row), lane=row.lane, root_kid=row.root_kid, certificate=row.certificate
        )


async def published_keys(connection: Connection) -> dict[str, object]:
    """
    Return all public keys of a hub as a JSON Web Key Set; no secret is needed for it.
    """
    return {"keys": [_to_published(row) for row in await store.published_keys(connection)]}


def _owner_of(jwk: Jwk) -> UUID:
    # A sealed private key put beside another public key does not open.
    return UUID(bytes=from_base64url(thumbprint(jwk))[:16])


def _kid(private: Ed25519PrivateKey) -> str:
    return thumbprint(to_jwk(private.public_key()))


def _to_published(row: PublishedKeyRow) -> dict[str, object]:
    return {
        "kty": row.jwk.kty,
        "crv": row.jwk.crv,
        "x": row.jwk.x,
        "kid": thumbprint(row.jwk),
        "alg": "EdDSA",
        "use": "sig",
        "kind": row.kind,
        "lane": row.lane,
        "valid_from": _seconds(row.valid_from),
        "retired_at": None if row.retired_at is None else _seconds(row.retired_at),
        "certificate": row.certificate,
    }


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())
