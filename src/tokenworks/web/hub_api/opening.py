"""
Set up parties and keys in identity and in the ledger together.

Order: the ledger's part commits first, inside the time of identity's transaction; so a party
or key that can be seen always has its accounts, scope and spend path. When identity's part
fails, the ledger keeps an unused scope, which holds nothing and harms nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from tokenworks.agents.mandates.calling import CallBounds
from tokenworks.identity.model import ApiKey, Level, Party, PartyKind, PartyState, Role
from tokenworks.identity.service import Identity
from tokenworks.postgres.pool import Pool
from tokenworks.web.hub_api.ports import LedgerSetup


class Opening:
    """
    Add parties and keys whole, and close them whole.
    """

    def __init__(self, *, pool: Pool, identity: Identity, ledger: LedgerSetup) -> None:
        self._pool = pool
        self._identity = identity
        self._ledger = ledger
        # Each set-up holds one connection while the ledger takes another: one at a time, or
        # several could wait for each other's connections.
        self._turn = asyncio.Lock()

    async def add_party(
        self,
        name: str,
        *,
        kind: PartyKind,
        level: Level | None = None,
        parent: UUID | str | None = None,
        default_tier: str | None = None,
    ) -> Party:
        """
        Add a party with its scope, and an organisation with its accounts.

        Raises:
            TokenworksError: As ``Identity.add_party``.
        """
        async with self._turn, self._pool.connection() as connection, connection.transaction():
            party = await self._identity.add_party(
                name,
                kind=kind,
                level=level,
                parent=parent,
                default_tier=default_tier,
                connection=connection,
            )
            # Money belongs to the organisation; teams, users and agents are limits.
            if party.level is Level.ORGANISATION:
                await self._ledger.open_party(party.party_id, str(party.kind))
            await self._ledger.open_scope(party.party_id)
            return party

    async def set_party_state(self, party: Party, state: PartyState) -> Party:
        """
        Freeze, thaw or close a party, in the ledger first when it must spend less.
        """
        if state is PartyState.ACTIVE:
            changed = await self._identity.set_party_state(party.party_id, state)
            await self._ledger.set_scope_state(party.party_id, str(state))
            return changed
        async with self._turn, self._pool.connection() as connection, connection.transaction():
            changed = await self._identity.set_party_state(
                party.party_id, state, connection=connection
            )
            await self._ledger.set_scope_state(party.party_id, str(state))
        self._identity.invalidate_all()
        return changed

    async def add_key(
        self,
        party: UUID | str,
        *,
        role: Role,
        label: str = "",
        models: Iterable[str] | None = None,
        requests_per_minute: int | None = None,
        expires_at: datetime | None = None,
        bounds: CallBounds | None = None,
    ) -> tuple[ApiKey, str]:
        """
        Add a key with its scope and its spend path; return it with its secret.

        Args:
            party: Whose.
            role: What for.
            label: For people.
            models: Only these; with ``bounds`` they are in there.
            requests_per_minute: A rate of its own.
            expires_at: When it ends.
            bounds: The mandate that it spends through; ``None``: the party's tree alone.

        Raises:
            TokenworksError: As ``Identity.add_key``.
        """
        async with self._turn, self._pool.connection() as connection, connection.transaction():
            key, secret = await self._identity.add_key(
                party,
                role=role,
                label=label,
                models=models if bounds is None else bounds.models,
                requests_per_minute=requests_per_minute,
                expires_at=expires_at,
                mandate_id=None if bounds is None else bounds.mandate_id,
                call_quanta_max=None if bounds is None else bounds.call_quanta_max,
                connection=connection,
            )
            if role is not Role.BUYER:
                return key, secret
            chain = await self._identity.get_chain(key.party_id, connection=connection)
            above = [party.party_id for party in chain] if bounds is None else bounds.scope_ids
            scope_ids = [*above, key.key_id]
            await self._ledger.open_scope(key.key_id, expires_at=expires_at)
            version = await self._ledger.publish_path(
                path_id=key.key_id, scope_ids=scope_ids, funding_party_id=chain[0].party_id
            )
            key = await self._identity.set_spend_path_version(
                key.key_id, version, connection=connection
            )
            return key, secret

    async def revoke_key(self, key_id: UUID) -> ApiKey:
        """
        Revoke a key and close its scope; a repeat changes nothing.

        Raises:
            KeyNotFoundError: There is no such key.
        """
        key = await self._identity.revoke_key(key_id)
        if key.role is Role.BUYER:
            await self._ledger.set_scope_state(key_id, "closed")
        return key
