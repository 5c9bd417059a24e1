"""
What a key may spend from: scopes of the spend tree, and the paths through them.

Owns: scopes (their states) and spend paths (their versions).
Does not own: the limits of a scope (``limits.py``). A hold's checks along its path are the
database's, in the hold's own transaction, so no process has a cache that could be stale.
Invariants: opening is safe to repeat and never thaws or widens what is there; a path is never
changed, a new version takes its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from tokenworks.foundation.clock import Clock
from tokenworks.ledger.accounts import Accounts
from tokenworks.ledger.model import ScopeOpening
from tokenworks.ledger.store import Store
from tokenworks.postgres.pool import Connection


class SpendPaths:
    """
    Open, freeze and close scopes; publish paths.
    """

    def __init__(self, store: Store, *, accounts: Accounts, clock: Clock) -> None:
        self._store = store
        self._accounts = accounts
        self._clock = clock

    async def open_scope(self, scope_id: UUID, *, expires_at: datetime | None = None) -> None:
        """
        Make a party or key a node of the spend tree; safe to repeat.

        Args:
            scope_id: The party's or key's id.
            expires_at: When nothing new may be held below it; ``None``: never.
        """
        await self._set_scope(scope_id, "active", expires_at, None)

    async def set_scope_state(
        self, scope_id: UUID, state: str, *, connection: Connection | None = None
    ) -> None:
        """
        Freeze, thaw or close a node: effective on the next hold below it.

        Args:
            scope_id: The node.
            state: ``active``, ``frozen`` or ``closed``.
            connection: The caller's, in a transaction; ``None`` takes one of the pool.
        """
        await self._set_scope(scope_id, state, None, connection)

    async def open_path(
        self,
        *,
        path_id: UUID | None,
        scope_ids: Sequence[UUID],
        funding_account: int,
        opens: Sequence[ScopeOpening],
        actor: str,
        connection: Connection,
    ) -> int:
        """
        Open the scopes of a path that are not there yet, publish it, and return its version.

        What exists keeps its state and its limits, so a repeat never thaws or widens anything.

        Args:
            path_id: Whose path it is; ``None``: only open the scopes.
            scope_ids: The whole path, root first.
            funding_account: The cash that is spent.
            opens: Those of the scopes that may be new, with the limits they begin with.
            actor: Who set these limits.
            connection: The caller's, in a transaction or not.
        """
        row = await self._store.fetch_one(
            "open_path",
            {
                "path_id": path_id,
                "scope_ids": list(scope_ids),
                "funding": [funding_account],
                "opened": [opening.scope_id for opening in opens],
                "expiries": [opening.expires_at for opening in opens],
                "limit_scopes": [o.scope_id for o in opens for _ in o.limits],
                "limit_assets": [limit.asset for o in opens for limit in o.limits],
                "limit_quanta": [limit.quanta for o in opens for limit in o.limits],
                "limit_windows": [limit.window for o in opens for limit in o.limits],
                "actor": actor,
                "now": self._clock.now(),
            },
            connection,
        )
        return int(row[0])

    async def publish_path(
        self, *, path_id: UUID, scope_ids: Sequence[UUID], funding_party_id: UUID
    ) -> int:
        """
        Publish what a key spends from, root first; return the path's version.
        """
        funding = await self._accounts.account(funding_party_id, "cash")
        row = await self._store.fetch_one(
            "publish_path",
            {
                "path_id": path_id,
                "scope_ids": list(scope_ids),
                "funding": [funding],
                "now": self._clock.now(),
            },
        )
        return int(row[0])

    async def path_version(self, path_id: UUID) -> int | None:
        """
        Return the current version of a path, or ``None`` when there is none.
        """
        row = await self._store.fetch_optional("path_version", {"path_id": path_id})
        return None if row is None else int(row[0])

    async def _set_scope(
        self,
        scope_id: UUID,
        state: str,
        expires_at: datetime | None,
        connection: Connection | None,
    ) -> None:
        await self._store.execute(
            "set_scope",
            {
                "scope_id": scope_id,
                "state": state,
                "expires_at": expires_at,
                "now": self._clock.now(),
            },
            connection,
        )
