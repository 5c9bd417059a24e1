"""
Where a statement about parties and keys runs, and in which transaction.

In the caller's transaction a change is a savepoint, so a refusal leaves the transaction usable.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from tokenworks.identity.errors import IdentityUnavailableError
from tokenworks.postgres.lending import lent
from tokenworks.postgres.pool import Connection, Pool


class Connections:
    """
    Connections of a pool, lent where the caller brings none.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def reading(
        self, connection: Connection | None = None
    ) -> AbstractAsyncContextManager[Connection]:
        """
        Lend a connection for as long as the block lasts.

        Raises:
            IdentityUnavailableError: The database does not answer (on a connection of the pool).
        """
        return lent(self._pool, connection, unavailable=_unavailable)

    @asynccontextmanager
    async def changing(self, connection: Connection | None = None) -> AsyncGenerator[Connection]:
        """
        Run the block in a transaction, or in a savepoint of the caller's.

        Raises:
            IdentityUnavailableError: As ``reading``.
        """
        async with self.reading(connection) as open_connection, open_connection.transaction():
            yield open_connection


def _unavailable() -> IdentityUnavailableError:
    message = "Parties and keys cannot be read or changed right now."
    return IdentityUnavailableError(message, retry_after_s=1.0)
