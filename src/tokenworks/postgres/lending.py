"""
Where a service's statement runs: on the caller's connection, or on one of the pool.

Who is in a transaction brings its connection, so that all it asks for happens in that one; of a
small pool a second connection may never come.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import psycopg

from tokenworks.foundation.errors import UnavailableError
from tokenworks.postgres.pool import Connection, Pool


@asynccontextmanager
async def lent(
    pool: Pool, connection: Connection | None, *, unavailable: Callable[[], UnavailableError]
) -> AsyncGenerator[Connection]:
    """
    Lend a connection for as long as the block lasts.

    Args:
        pool: Lends one where the caller has none.
        connection: The caller's, passed on as it is; whatever it raises is the caller's too.
        unavailable: Makes the concept's error when the database does not answer.

    Raises:
        UnavailableError: The one that ``unavailable`` makes.
    """
    if connection is not None:
        yield connection
        return
    try:
        async with pool.connection() as own:
            yield own
    except psycopg.OperationalError as error:
        raise unavailable() from error
