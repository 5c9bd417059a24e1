"""
Parties: added to the tree, looked up, frozen, closed.

Owns: what is asked of a party and of its place (``placing`` has the rules).
Does not own: the books' accounts and scopes of a party, which the caller opens and freezes in
the same transaction.
Invariants: closed is final; the platform and the tax authority are always active; a change is
announced in its own transaction, so that every process forgets what it remembers of keys below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from uuid import UUID

from tokenworks.foundation.clock import Clock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.limits import PAGE_ROWS_DEFAULT, PAGE_ROWS_MAX
from tokenworks.identity import placing, store
from tokenworks.identity.connections import Connections
from tokenworks.identity.errors import (
    InvalidPartyError,
    PartyExistsError,
    PartyNotFoundError,
    PartyStateError,
)
from tokenworks.identity.model import PLATFORM_ID, TAX_ID, Level, Party, PartyKind, PartyState
from tokenworks.postgres.pool import Connection


class Parties:
    """
    The parties of a hub.

    Args:
        connections: Where statements run.
        clock: When a party was added.
        ids: Mints the ids of parties.
        forget_all: Called after a change: what this process remembers of keys may be wrong.
    """

    def __init__(
        self,
        connections: Connections,
        *,
        clock: Clock,
        ids: IdentifierSource,
        forget_all: Callable[[], None],
    ) -> None:
        self._connections = connections
        self._clock = clock
        self._ids = ids
        self._forget_all = forget_all

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
        async with self._connections.changing(connection) as open_connection:
            parent_party = None
            if parent is not None:
                parent_party = await party_of(open_connection, parent, param="parent")
            level = level or placing.default_level(parent_party)
            placing.check_place(kind=kind, level=level, parent=parent_party)
            if parent_party is not None:
                await require_open(open_connection, parent_party)
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
        async with self._connections.reading(connection) as open_connection:
            return await party_of(open_connection, reference)

    async def get_chain(
        self, reference: UUID | str, *, connection: Connection | None = None
    ) -> tuple[Party, ...]:
        """
        Return a party and its ancestors, the organisation first.

        Raises:
            PartyNotFoundError: There is no such party.
        """
        async with self._connections.reading(connection) as open_connection:
            party = await party_of(open_connection, reference)
            return (await store.read_chains(open_connection, [party.party_id]))[party.party_id]

    async def get_chains(self, party_ids: Iterable[UUID]) -> dict[UUID, tuple[Party, ...]]:
        """
        Return some parties, each with its ancestors, the organisation first; one query.

        Who is unknown is left out.
        """
        async with self._connections.reading() as connection:
            return await store.read_chains(connection, list(party_ids))

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
        async with self._connections.reading(connection) as open_connection:
            parties = await store.list_parties(
                open_connection,
                kind=kind,
                level=level,
                organisation_id=organisation_id,
                after=after,
                count=page_rows(count),
            )
            return tuple(parties)

    async def list_tree(self, party_id: UUID | None, *, count: int) -> tuple[Party, ...]:
        """
        Return a party and those below it, or all buyers (``None``); parents first.

        Args:
            party_id: Where the tree begins.
            count: At most so many, those nearest to the top.
        """
        async with self._connections.reading() as connection:
            return tuple(await store.read_tree(connection, party_id, count=count))

    async def stopped(self, party_ids: Iterable[UUID]) -> dict[UUID, PartyState]:
        """
        Return which of some parties may not act now, as they or somebody above is not active.

        Read at this moment, for what no hold would stop: who is paid is on no spend path.

        Returns:
            ``CLOSED`` or ``FROZEN`` for each of them; who may act, or is unknown, is left out.
        """
        async with self._connections.reading() as connection:
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
        async with self._connections.changing(connection) as open_connection:
            party = await party_of(open_connection, reference)
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
        self._forget_all()
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
        async with self._connections.changing(connection) as open_connection:
            party = await party_of(open_connection, reference)
            changed = await store.update_party_tier(
                open_connection, party_id=party.party_id, default_tier=default_tier
            )
            await store.notify(open_connection, store.EVERYTHING)
        self._forget_all()
        return changed


async def party_of(
    connection: Connection, reference: UUID | str, *, param: str | None = None
) -> Party:
    """
    Return a party by id, by the text of an id, or by name.

    Args:
        connection: The caller's.
        reference: Id or name.
        param: The parameter that named it, for the error.

    Raises:
        PartyNotFoundError: There is none.
    """
    if isinstance(reference, str):
        reference = placing.parse_party_id(reference) or reference
    party = await store.find_party(connection, reference)
    if party is None:
        message = f"There is no party {str(reference)[:64]!r}."
        raise PartyNotFoundError(message, param=param)
    return party


async def require_open(connection: Connection, party: Party) -> None:
    """
    Keep a party as it is until the transaction ends.

    Raises:
        PartyStateError: It is closed.
    """
    if await store.lock_party(connection, party.party_id) is PartyState.CLOSED:
        message = f"The party {party.name!r} is closed."
        raise PartyStateError(message)


def page_rows(count: int) -> int:
    """
    Return how many rows a page has.

    Raises:
        InvalidPartyError: Not 1 to ``PAGE_ROWS_MAX``.
    """
    if not 1 <= count <= PAGE_ROWS_MAX:
        message = f"A page has 1 to {PAGE_ROWS_MAX} rows."
        raise InvalidPartyError(message, code="invalid_page", param="limit")
    return count
