"""
API keys: added, rotated, revoked.

Owns: what is asked of a key and of its secret (``issuing`` has the rules).
Does not own: who a presented secret is (``authentication``), the spend path of a key (the ledger).
Invariants: a secret is told once and never stored, only its hash is; a rotation leaves id, limits
and history; a change is announced in its own transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from uuid import UUID

from tokenworks.foundation.clock import Clock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.limits import PAGE_ROWS_DEFAULT
from tokenworks.identity import issuing, store
from tokenworks.identity.connections import Connections
from tokenworks.identity.errors import KeyNotActiveError, KeyNotFoundError
from tokenworks.identity.model import ApiKey, Role
from tokenworks.identity.parties import page_rows, party_of, require_open
from tokenworks.identity.secret import digest_secret, mint_secret, prefix_of
from tokenworks.postgres.pool import Connection


class Keys:
    """
    The keys of a hub.

    Args:
        connections: Where statements run.
        clock: When something was done, and what has expired.
        ids: Mints the ids of keys.
        random_bytes: Makes the secrets; unpredictable outside simulations.
        forget: Called after a change: what this process remembers of the key may be wrong.
    """

    def __init__(
        self,
        connections: Connections,
        *,
        clock: Clock,
        ids: IdentifierSource,
        random_bytes: Callable[[int], bytes],
        forget: Callable[[UUID], None],
    ) -> None:
        self._connections = connections
        self._clock = clock
        self._ids = ids
        self._random_bytes = random_bytes
        self._forget = forget

    async def add_key(
        self,
        party: UUID | str,
        *,
        role: Role = Role.BUYER,
        label: str = "",
        models: Iterable[str] | None = None,
        requests_per_minute: int | None = None,
        expires_at: datetime | None = None,
        mandate_id: UUID | None = None,
        call_quanta_max: int | None = None,
        connection: Connection | None = None,
    ) -> tuple[ApiKey, str]:
        """
        Add a key; return it with its secret, which exists nowhere else.

        The order of the checks: label, models, rate, expiry, party, role, state.

        Args:
            party: Id or name of the party that will act with it.
            role: One that the party's kind may have (``ROLES_BY_KIND``).
            label: For people, up to 200 printable characters.
            models: ``model`` or ``model@tier``; ``None``: every model.
            requests_per_minute: ``None``: no rate of its own.
            expires_at: The first moment that is refused; ``None``: never.
            mandate_id: The mandate that it spends through; the caller publishes the path.
            call_quanta_max: What one call may cost at most; ``None``: no bound.
            connection: The caller's, in a transaction; ``None`` opens one.

        Raises:
            InvalidKeyError: A value breaks a rule.
            PartyNotFoundError: There is no such party.
            PartyStateError: The party is closed.
        """
        now = self._clock.now()
        allowed = None if models is None else frozenset(models)
        issuing.check_label(label)
        issuing.check_models(allowed)
        issuing.check_rate(requests_per_minute)
        issuing.check_expiry(expires_at, now=now)
        async with self._connections.changing(connection) as open_connection:
            owner = await party_of(open_connection, party, param="party")
            issuing.check_role(role, owner)
            await require_open(open_connection, owner)
            key_id = self._ids.mint()
            await store.insert_key(
                open_connection,
                key_id=key_id,
                party_id=owner.party_id,
                role=role,
                label=label,
                models=allowed,
                requests_per_minute=requests_per_minute,
                expires_at=expires_at,
                created_at=now,
                mandate_id=mandate_id,
                call_quanta_max=call_quanta_max,
            )
            minted = await self._insert_secret(open_connection, key_id, now=now)
            return await _key_of(open_connection, key_id), minted

    async def get_key(self, key_id: UUID, *, connection: Connection | None = None) -> ApiKey:
        """
        Return a key.

        Raises:
            KeyNotFoundError: There is none.
        """
        async with self._connections.reading(connection) as open_connection:
            return await _key_of(open_connection, key_id)

    async def list_keys(
        self,
        *,
        party_id: UUID | None = None,
        organisation_id: UUID | None = None,
        after: UUID | None = None,
        count: int = PAGE_ROWS_DEFAULT,
        connection: Connection | None = None,
    ) -> tuple[ApiKey, ...]:
        """
        Return one page of keys, oldest first, revoked and expired ones included.

        Args:
            party_id: Only of this party itself.
            organisation_id: Only of this organisation's whole tree.
            after: The last id of the page before.
            count: Rows of a page, 1 to ``PAGE_ROWS_MAX``.
            connection: The caller's.
        """
        async with self._connections.reading(connection) as open_connection:
            keys = await store.list_keys(
                open_connection,
                party_id=party_id,
                organisation_id=organisation_id,
                after=after,
                count=page_rows(count),
            )
            return tuple(keys)

    async def revoke_key(self, key_id: UUID, *, connection: Connection | None = None) -> ApiKey:
        """
        Revoke a key for good; a repeat returns it with the time of the first.

        Raises:
            KeyNotFoundError: There is no such key.
        """
        async with self._connections.changing(connection) as open_connection:
            await store.revoke_key(open_connection, key_id=key_id, revoked_at=self._clock.now())
            key = await _key_of(open_connection, key_id)
            await store.notify(open_connection, str(key_id))
        self._forget(key_id)
        return key

    async def rotate_key(
        self,
        key_id: UUID,
        *,
        grace: timedelta = timedelta(0),
        connection: Connection | None = None,
    ) -> tuple[ApiKey, str]:
        """
        Give a key a new secret; its id, limits and history stay.

        Args:
            key_id: The key.
            grace: How long the secret before still works, up to 30 days; none by default.
            connection: The caller's, in a transaction; ``None`` opens one.

        Raises:
            InvalidKeyError: The grace is negative or too long.
            KeyNotFoundError: There is no such key.
            KeyNotActiveError: It is revoked or expired.
        """
        issuing.check_grace(grace)
        now = self._clock.now()
        async with self._connections.changing(connection) as open_connection:
            await store.lock_key(open_connection, key_id)
            _require_active(await _key_of(open_connection, key_id), now=now)
            await store.retire_secrets(open_connection, key_id=key_id, valid_until=now + grace)
            minted = await self._insert_secret(open_connection, key_id, now=now)
            key = await _key_of(open_connection, key_id)
            await store.notify(open_connection, str(key_id))
        self._forget(key_id)
        return key, minted

    async def set_spend_path_version(
        self, key_id: UUID, version: int, *, connection: Connection | None = None
    ) -> ApiKey:
        """
        Remember which version of the key's spend path the ledger holds; never goes back.

        Raises:
            KeyNotFoundError: There is no such key.
        """
        assert version >= 1, "the ledger counts versions from one"
        async with self._connections.changing(connection) as open_connection:
            await store.update_spend_path_version(open_connection, key_id=key_id, version=version)
            key = await _key_of(open_connection, key_id)
            await store.notify(open_connection, str(key_id))
        self._forget(key_id)
        return key

    async def _insert_secret(self, connection: Connection, key_id: UUID, *, now: datetime) -> str:
        minted = mint_secret(self._random_bytes)
        await store.insert_secret(
            connection,
            key_id=key_id,
            secret_sha256=digest_secret(minted),
            prefix=prefix_of(minted),
            created_at=now,
        )
        return minted


async def _key_of(connection: Connection, key_id: UUID) -> ApiKey:
    key = await store.find_key(connection, key_id)
    if key is None:
        message = f"There is no API key {key_id}."
        raise KeyNotFoundError(message)
    return key


def _require_active(key: ApiKey, *, now: datetime) -> None:
    if key.revoked_at is not None:
        message = "This API key is revoked; add a new one."
        raise KeyNotActiveError(message)
    if key.expires_at is not None and now >= key.expires_at:
        message = "This API key has expired; add a new one."
        raise KeyNotActiveError(message)
