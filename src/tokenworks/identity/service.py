"""
Parties and keys as the rest of the hub uses them.

Writes run in a transaction of their own, or in the caller's when a connection is passed:
then the caller commits, and what other processes remember is dropped at that moment by a
notification.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from uuid import UUID

import psycopg

from tokenworks.foundation.clock import Clock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.limits import PAGE_ROWS_DEFAULT, PAGE_ROWS_MAX
from tokenworks.identity import issuing, placing, store
from tokenworks.identity.authentication import Authenticator
from tokenworks.identity.errors import (
    IdentityUnavailableError,
    InvalidPartyError,
    KeyNotActiveError,
    KeyNotFoundError,
    PartyExistsError,
    PartyNotFoundError,
    PartyStateError,
)
from tokenworks.identity.model import (
    PLATFORM_ID,
    TAX_ID,
    ApiKey,
    Level,
    Party,
    PartyKind,
    PartyState,
    Principal,
    Role,
)
from tokenworks.identity.secret import digest_secret, mint_secret, prefix_of
from tokenworks.postgres.pool import Connection, Pool


class Identity:
    """
    Know every party and key, and turn a presented secret into a principal.

    Args:
        pool: Connections to the database.
        clock: The time, for expiries, and monotonic seconds, for rates and the cache.
        ids: Mints the ids of parties and keys.
        random_bytes: Makes the secrets; unpredictable outside simulations.
    """

    def __init__(
        self,
        pool: Pool,
        clock: Clock,
        ids: IdentifierSource,
        *,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._ids = ids
        self._random_bytes = random_bytes
        self._authenticator = Authenticator(pool, clock)

    # ----------------------------------------------------------------- authentication

    async def authenticate(
        self, presented: str, *, address: str | None = None, may_be_frozen: bool = False
    ) -> Principal:
        """
        Return who a presented secret stands for; see ``Authenticator.authenticate``.
        """
        return await self._authenticator.authenticate(
            presented, address=address, may_be_frozen=may_be_frozen
        )

    def count_request(self, principal: Principal) -> None:
        """
        Count one request against the key's own rate; see ``Authenticator.count_request``.
        """
        self._authenticator.count_request(principal)

    def invalidate(self, key_id: UUID) -> None:
        """
        Forget what is remembered of one key.
        """
        self._authenticator.invalidate(key_id)

    def invalidate_all(self) -> None:
        """
        Forget what is remembered of every key.
        """
        self._authenticator.invalidate_all()

    async def watch(self, connection: Connection) -> None:
        """
        Forget what other processes change, for ever; see ``Authenticator.watch``.
        """
        await self._authenticator.watch(connection)

    # ------------------------------------------------------------------------ parties

    async def add_party(
        self,
        name: str,
        *,
        kind: PartyKind,
        level: Level | None = None,
        parent: UUID | str | None = None,
        default_tier: str | None = None,
        connection: Connection | None = None,
    ) -> Party:
        """
        Add a party to the tree.

        Args:
            name: Unique in the hub; ``[a-z0-9][a-z0-9._-]{0,62}`` and no UUID.
            kind: Anything but the platform and the tax authority, which exist.
            level: ``None``: an organisation without a parent, else one below the parent.
            parent: Id or name; ``None`` for an organisation.
            default_tier: ``None``: the parent's.
            connection: The caller's, in a transaction; ``None`` opens one.

        Raises:
            InvalidPartyError: Name, tier or place break a rule.
            PartyNotFoundError: There is no such parent.
            PartyStateError: The parent is closed.
            PartyExistsError: The name is taken.
        """
        placing.check_name(name)
        placing.check_tier_name(default_tier)
        async with self._transaction(connection) as open_connection:
            parent_party = None
            if parent is not None:
                parent_party = await _party_of(open_connection, parent, param="parent")
            level = level or placing.default_level(parent_party)
            placing.check_place(kind=kind, level=level, parent=parent_party)
            if parent_party is not None:
                await _require_open(open_connection, parent_party)
            party = await store.insert_party(
                open_connection,
                party_id=self._ids.mint(),
                kind=kind,
                level=level,
                name=name,
                parent=parent_party,
                default_tier=default_tier,
                created_at=self._clock.now(),
            )
            if party is None:
                message = f"There is already a party named {name!r}."
                raise PartyExistsError(message, param="name")
            return party

    async def get_party(
        self, reference: UUID | str, *, connection: Connection | None = None
    ) -> Party:
        """
        Return a party by id, by the text of an id, or by name.

        Raises:
            PartyNotFoundError: There is none.
        """
        async with self._reader(connection) as open_connection:
            return await _party_of(open_connection, reference)

    async def get_chain(
        self, reference: UUID | str, *, connection: Connection | None = None
    ) -> tuple[Party, ...]:
        """
        Return a party and its ancestors, the organisation first.

        Raises:
            PartyNotFoundError: There is no such party.
        """
        async with self._reader(connection) as open_connection:
            party = await _party_of(open_connection, reference)
            return (await store.read_chains(open_connection, [party.party_id]))[party.party_id]

    async def get_chains(
        self, party_ids: Iterable[UUID], *, connection: Connection | None = None
    ) -> dict[UUID, tuple[Party, ...]]:
        """
        Return some parties, each with its ancestors, the organisation first; one query.

        Who is unknown is left out.
        """
        async with self._reader(connection) as open_connection:
            return await store.read_chains(open_connection, list(party_ids))

    async def list_parties(
        self,
        *,
        kind: PartyKind | None = None,
        level: Level | None = None,
        organisation_id: UUID | None = None,
        after: UUID | None = None,
        count: int = PAGE_ROWS_DEFAULT,
        connection: Connection | None = None,
    ) -> tuple[Party, ...]:
        """
        Return one page of parties, oldest first (the hub's own two come before all others).

        Args:
            kind: Only of this kind.
            level: Only on this level.
            organisation_id: Only the tree of this organisation, itself included.
            after: The last id of the page before.
            count: Rows of a page, 1 to ``PAGE_ROWS_MAX``.
            connection: The caller's.
        """
        async with self._reader(connection) as open_connection:
            parties = await store.list_parties(
                open_connection,
                kind=kind,
                level=level,
                organisation_id=organisation_id,
                after=after,
                count=_page_rows(count),
            )
            return tuple(parties)

    async def list_tree(self, party_id: UUID | None, *, count: int) -> tuple[Party, ...]:
        """
        Return a party and those below it, or all buyers (``None``); parents first.

        Args:
            party_id: Where the tree begins.
            count: At most so many, those nearest to the top.
        """
        async with self._pool.connection() as connection:
            return tuple(await store.read_tree(connection, party_id, count=count))

    async def stopped(self, party_ids: Iterable[UUID]) -> dict[UUID, PartyState]:
        """
        Return which of some parties may not act now, as they or somebody above is not active.

        Read at this moment, for what no hold would stop: who is paid is on no spend path.

        Returns:
            ``CLOSED`` or ``FROZEN`` for each of them; who may act, or is unknown, is left out.
        """
        async with self._reader(None) as connection:
            return await store.read_stopped(connection, list(party_ids))

    async def set_party_state(
        self, reference: UUID | str, state: PartyState, *, connection: Connection | None = None
    ) -> Party:
        """
        Freeze, thaw or close a party; keys below it follow at once.

        Setting the state it already has changes nothing. This judges callers only: the
        caller freezes the ledger's scope of the same id in the same transaction.

        Raises:
            PartyNotFoundError: There is no such party.
            PartyStateError: It is closed, or it is the platform or the tax authority.
        """
        async with self._transaction(connection) as open_connection:
            party = await _party_of(open_connection, reference)
            if party.party_id in (PLATFORM_ID, TAX_ID) and state is not PartyState.ACTIVE:
                message = f"The {party.kind} of the hub is always active."
                raise PartyStateError(message)
            changed = await store.update_party_state(
                open_connection, party_id=party.party_id, state=state
            )
            if changed is None:
                message = f"The party {party.name!r} is closed, and that is final."
                raise PartyStateError(message)
            await store.notify(open_connection, store.EVERYTHING)
        self.invalidate_all()
        return changed

    async def set_default_tier(
        self,
        reference: UUID | str,
        default_tier: str | None,
        *,
        connection: Connection | None = None,
    ) -> Party:
        """
        Set the tier that serves a party's calls when they name none.

        Args:
            reference: Id or name.
            default_tier: ``None``: the parent's.
            connection: The caller's, in a transaction; ``None`` opens one.

        Raises:
            InvalidPartyError: Not a tier's name.
            PartyNotFoundError: There is no such party.
        """
        placing.check_tier_name(default_tier)
        async with self._transaction(connection) as open_connection:
            party = await _party_of(open_connection, reference)
            changed = await store.update_party_tier(
                open_connection, party_id=party.party_id, default_tier=default_tier
            )
            await store.notify(open_connection, store.EVERYTHING)
        self.invalidate_all()
        return changed

    # --------------------------------------------------------------------------- keys

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
        async with self._transaction(connection) as open_connection:
            owner = await _party_of(open_connection, party, param="party")
            issuing.check_role(role, owner)
            await _require_open(open_connection, owner)
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
        async with self._reader(connection) as open_connection:
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
        async with self._reader(connection) as open_connection:
            keys = await store.list_keys(
                open_connection,
                party_id=party_id,
                organisation_id=organisation_id,
                after=after,
                count=_page_rows(count),
            )
            return tuple(keys)

    async def revoke_key(self, key_id: UUID, *, connection: Connection | None = None) -> ApiKey:
        """
        Revoke a key for good; a repeat returns it with the time of the first.

        Raises:
            KeyNotFoundError: There is no such key.
        """
        async with self._transaction(connection) as open_connection:
            await store.revoke_key(open_connection, key_id=key_id, revoked_at=self._clock.now())
            key = await _key_of(open_connection, key_id)
            await store.notify(open_connection, str(key_id))
        self.invalidate(key_id)
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
        async with self._transaction(connection) as open_connection:
            await store.lock_key(open_connection, key_id)
            _require_active(await _key_of(open_connection, key_id), now=now)
            await store.retire_secrets(open_connection, key_id=key_id, valid_until=now + grace)
            minted = await self._insert_secret(open_connection, key_id, now=now)
            key = await _key_of(open_connection, key_id)
            await store.notify(open_connection, str(key_id))
        self.invalidate(key_id)
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
        async with self._transaction(connection) as open_connection:
            await store.update_spend_path_version(open_connection, key_id=key_id, version=version)
            key = await _key_of(open_connection, key_id)
            await store.notify(open_connection, str(key_id))
        self.invalidate(key_id)
        return key

    # ----------------------------------------------------------------------- privates

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

    @asynccontextmanager
    async def _transaction(self, connection: Connection | None) -> AsyncGenerator[Connection]:
        # In the caller's transaction this is a savepoint: a refusal leaves it usable.
        async with self._reader(connection) as open_connection, open_connection.transaction():
            yield open_connection

    @asynccontextmanager
    async def _reader(self, connection: Connection | None) -> AsyncGenerator[Connection]:
        if connection is not None:
            yield connection
            return
        try:
            async with self._pool.connection() as own:
                yield own
        except psycopg.OperationalError as error:
            message = "Parties and keys cannot be read or changed right now."
            raise IdentityUnavailableError(message, retry_after_s=1.0) from error


async def _party_of(
    connection: Connection, reference: UUID | str, *, param: str | None = None
) -> Party:
    if isinstance(reference, str):
        reference = placing.parse_party_id(reference) or reference
    party = await store.find_party(connection, reference)
    if party is None:
        message = f"There is no party {str(reference)[:64]!r}."
        raise PartyNotFoundError(message, param=param)
    return party


async def _key_of(connection: Connection, key_id: UUID) -> ApiKey:
    key = await store.find_key(connection, key_id)
    if key is None:
        message = f"There is no API key {key_id}."
        raise KeyNotFoundError(message)
    return key


async def _require_open(connection: Connection, party: Party) -> None:
    if await store.lock_party(connection, party.party_id) is PartyState.CLOSED:
        message = f"The party {party.name!r} is closed."
        raise PartyStateError(message)


def _require_active(key: ApiKey, *, now: datetime) -> None:
    if key.revoked_at is not None:
        message = "This API key is revoked; add a new one."
        raise KeyNotActiveError(message)
    if key.expires_at is not None and now >= key.expires_at:
        message = "This API key has expired; add a new one."
        raise KeyNotActiveError(message)


def _page_rows(count: int) -> int:
    if not 1 <= count <= PAGE_ROWS_MAX:
        message = f"A page has 1 to {PAGE_ROWS_MAX} rows."
        raise InvalidPartyError(message, code="invalid_page", param="limit")
    return count
