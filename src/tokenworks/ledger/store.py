"""
The ledger's named statements, and how those run that are no batch of operations.

Each statement is a transaction of its own unless the caller brings a connection in one.
Operations on value do not come this way: they go through the writer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from tokenworks.postgres.pool import Connection, Pool
from tokenworks.postgres.queries import load

QUERIES: Final = load("tokenworks.ledger")


class Store:
    """
    Run named statements on connections of a pool, or on the caller's.

    A caller that has a connection has to bring it: of a small pool a second one may never come.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def connection(self) -> AbstractAsyncContextManager[Connection]:
        """
        Lend a connection of the pool.
        """
        return self._pool.connection()

    async def execute(
        self, query: str, parameters: Mapping[str, Any], connection: Connection | None = None
    ) -> None:
        """
        Run a statement whose rows nobody wants.
        """
        if connection is None:
            async with self._pool.connection() as pooled:
                await pooled.execute(QUERIES[query], parameters)
        else:
            await connection.execute(QUERIES[query], parameters)

    async def fetch_all(
        self, query: str, parameters: Mapping[str, Any], connection: Connection | None = None
    ) -> list[Any]:
        """
        Return all rows.
        """
        if connection is None:
            async with self._pool.connection() as pooled:
                return await self.fetch_all(query, parameters, pooled)
        cursor = await connection.execute(QUERIES[query], parameters)
        return await cursor.fetchall()

    async def fetch_optional(
        self, query: str, parameters: Mapping[str, Any], connection: Connection | None = None
    ) -> Sequence[Any] | None:
        """
        Return the first row, or ``None`` when there is none.
        """
        rows = await self.fetch_all(query, parameters, connection)
        return rows[0] if rows else None

    async def fetch_one(
        self, query: str, parameters: Mapping[str, Any], connection: Connection | None = None
    ) -> Sequence[Any]:
        """
        Return the row of a statement that always gives one.
        """
        row = await self.fetch_optional(query, parameters, connection)
        assert row is not None, f"{query} always gives a row"
        return row
