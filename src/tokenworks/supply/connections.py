"""
Where a statement about suppliers and offers runs, in which transaction, and who is told.

In the caller's transaction a change is a savepoint, so a refusal leaves the transaction usable;
every process that watches hears of it at the commit.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

from psycopg.errors import ForeignKeyViolation

from tokenworks.postgres.lending import lent
from tokenworks.postgres.pool import Connection, Pool
from tokenworks.supply import store
from tokenworks.supply.errors import LegPartyNotFoundError, SupplyUnavailableError


class Connections:
    """
    Connections of a pool, lent where the caller brings none.

    Args:
        pool: Lends them.
        reload: Called after a transaction of our own, so that this process need not wait to
            hear of its own change.
    """

    def __init__(self, pool: Pool, *, reload: Callable[[], Awaitable[object]]) -> None:
        self._pool = pool
        self._reload = reload

    def reading(
        self, connection: Connection | None = None
    ) -> AbstractAsyncContextManager[Connection]:
        """
        Lend a connection for as long as the block lasts.

        Raises:
            SupplyUnavailableError: The database does not answer (on a connection of the pool).
        """
        return lent(self._pool, connection, unavailable=unavailable)

    @asynccontextmanager
    async def changing(self, connection: Connection | None = None) -> AsyncGenerator[Connection]:
        """
        Run the block in a transaction (in the caller's: a savepoint), and tell of the change.

        Raises:
            LegPartyNotFoundError: A party that the block named does not exist.
            SupplyUnavailableError: As ``reading``.
        """
        try:
            async with (
                self.reading(connection) as open_connection,
                open_connection.transaction(),
            ):
                yield open_connection
                await store.notify(open_connection)
        except ForeignKeyViolation as error:
            raise LegPartyNotFoundError(_missing_party(error)) from error
        if connection is None:
            # The change is committed; if loading fails, the watch loads it later.
            with suppress(SupplyUnavailableError):
                await self._reload()


def unavailable() -> SupplyUnavailableError:
    """
    Return the error for a database that does not answer.
    """
    message = "Suppliers and offers cannot be read or changed right now."
    return SupplyUnavailableError(message, retry_after_s=1.0)


def _missing_party(error: ForeignKeyViolation) -> str:
    who = {
        "suppliers_party_is_a_supplier": "the supplier; it must be of kind supplier",
        "offer_terms_reseller": "the reseller share",
        "offer_terms_rights": "the rights share",
        "offer_terms_power": "the power share",
    }.get(error.diag.constraint_name or "", "one of the legs")
    return f"There is no such party for {who}."
