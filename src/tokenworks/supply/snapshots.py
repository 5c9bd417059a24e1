"""
What calls are routed by: all suppliers and offers as they were at one moment, in memory.

Owns: which snapshot counts, and when the next one is loaded.
Does not own: what is in one (``composing``).
Invariants: a snapshot is whole and never changed; a newer state is never replaced by an older
one; what cannot be loaded leaves the one before.
"""

from __future__ import annotations

import asyncio

from tokenworks.postgres.lending import lent
from tokenworks.postgres.pool import Connection, Pool
from tokenworks.supply import store
from tokenworks.supply.composing import compose_snapshot
from tokenworks.supply.connections import unavailable
from tokenworks.supply.errors import SupplyUnavailableError
from tokenworks.supply.model import SupplySnapshot, empty_snapshot
from tokenworks.supply.secrets import SecretBox


class Snapshots:
    """
    The snapshot of this process, loaded again whenever something changes.

    Args:
        pool: Connections to load by.
        secrets: Opens the suppliers' keys.
    """

    def __init__(self, pool: Pool, secrets: SecretBox) -> None:
        self._pool = pool
        self._secrets = secrets
        self._snapshot = empty_snapshot()
        # Loads take turns, or an older state could replace a newer one.
        self._loading = asyncio.Lock()

    @property
    def version(self) -> int:
        """
        Return the version of the snapshot; zero before the first load.
        """
        return self._snapshot.version

    def snapshot(self) -> SupplySnapshot:
        """
        Return what was loaded last; no waiting, no copying.

        Raises:
            SupplyUnavailableError: Nothing was ever loaded; call ``reload`` at the start.
        """
        if self._snapshot.version == 0:
            message = "Suppliers and offers are not loaded yet."
            raise SupplyUnavailableError(message, retry_after_s=1.0)
        return self._snapshot

    async def reload(self) -> SupplySnapshot:
        """
        Load all suppliers and offers, as they are at one moment.

        A supplier whose key cannot be opened is left out with its offers and listed in
        ``faults``; the others go on working.

        Raises:
            SupplyUnavailableError: The database does not answer; the old snapshot stays.
        """
        async with self._loading:
            async with (
                lent(self._pool, None, unavailable=unavailable) as connection,
                connection.transaction(),
            ):
                await store.read_one_state(connection)
                suppliers = await store.list_suppliers(connection)
                offers = await store.list_offers(connection)
            self._snapshot = compose_snapshot(
                version=self._snapshot.version + 1,
                suppliers=suppliers,
                offers=offers,
                secrets=self._secrets,
            )
            return self._snapshot

    async def watch(self, connection: Connection) -> None:
        """
        Load again whenever another process changes something, until this is cancelled.

        Args:
            connection: One of its own, outside any pool. When it breaks, the caller opens
                another and calls again: this begins with a load, because notifications may
                have been missed in between.

        Raises:
            psycopg.OperationalError: The connection broke.
            SupplyUnavailableError: A load failed.
        """
        await store.listen(connection)
        await self.reload()
        async for _ in connection.notifies():
            await self.reload()
