"""
Open connections to the database, always in autocommit mode and in UTC.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from psycopg import AsyncConnection, OperationalError, conninfo, waiting
from psycopg.abc import RV, PQGen
from psycopg_pool import AsyncConnectionPool

POOL_WAIT_TIMEOUT_S: Final = 5.0
CONNECT_TIMEOUT_S: Final = 5
ANSWER_TIMEOUT_S: Final = 5.0

Row = tuple[Any, ...]
Connection = AsyncConnection[Row]
Pool = AsyncConnectionPool[Connection]

_SESSION: Final = "-c timezone=UTC -c client_min_messages=warning -c jit=off"


class BoundedConnection(AsyncConnection[Row]):
    """
    A connection that does not wait for a server that has stopped answering.

    The driver would ask such a server to cancel the statement and wait for its word again;
    this one gives the connection up, and the caller gets the error of a lost one.
    """

    async def wait(  # the signature is the driver's own
        self,
        gen: PQGen[RV],
        interval: float = 0.1,
        timeout: float | None = None,  # noqa: ASYNC109 - as above
    ) -> RV:
        """
        Drive one exchange with the server, for at most ``ANSWER_TIMEOUT_S``.

        Raises:
            psycopg.OperationalError: No answer in time; the connection is closed.
        """
        try:
            async with asyncio.timeout(timeout or ANSWER_TIMEOUT_S):
                return await waiting.wait_async(gen, self.pgconn.socket, interval=interval)
        except TimeoutError as error:
            self.pgconn.finish()
            message = f"the database did not answer within {ANSWER_TIMEOUT_S:g} s"
            raise OperationalError(message) from error
        except asyncio.CancelledError:
            self.pgconn.finish()
            raise


async def open_pool(dsn: str, *, name: str, size_max: int = 4) -> Pool:
    """
    Open a pool and wait until one connection works.

    Raises:
        psycopg_pool.PoolTimeout: The server did not answer in time.
    """
    pool: Pool = AsyncConnectionPool(
        dsn,
        connection_class=BoundedConnection,
        # One that died while it waited in the pool is replaced, not handed out.
        check=AsyncConnectionPool.check_connection,
        name=name,
        min_size=1,
        max_size=size_max,
        timeout=POOL_WAIT_TIMEOUT_S,
        open=False,
        kwargs={
            "autocommit": True,
            "application_name": f"tokenworks {name}",
            "connect_timeout": CONNECT_TIMEOUT_S,
            "options": _options(dsn),
        },
    )
    await pool.open(wait=True, timeout=30.0)
    return pool


async def connect(dsn: str, *, name: str) -> Connection:
    """
    Open one connection of its own, outside any pool.
    """
    return await AsyncConnection.connect(
        dsn,
        autocommit=True,
        application_name=f"tokenworks {name}",
        connect_timeout=CONNECT_TIMEOUT_S,
        options=_options(dsn),
    )


def _options(dsn: str) -> str:
    # What the connection string itself asks for (a read-only session) stays in force.
    given = conninfo.conninfo_to_dict(dsn).get("options")
    return f"{_SESSION} {given}" if given else _SESSION
