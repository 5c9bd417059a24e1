"""
Open connections to the database, always in autocommit mode and in UTC.
"""

from __future__ import annotations

from typing import Any, Final

from psycopg import AsyncConnection, conninfo
from psycopg_pool import AsyncConnectionPool

POOL_WAIT_TIMEOUT_S: Final = 5.0
CONNECT_TIMEOUT_S: Final = 5

Row = tuple[Any, ...]
Connection = AsyncConnection[Row]
Pool = AsyncConnectionPool[Connection]

_SESSION: Final = "-c timezone=UTC -c client_min_messages=warning -c jit=off"


async def open_pool(dsn: str, *, name: str, size_max: int = 4) -> Pool:
    """
    Open a pool and wait until one connection works.

    Raises:
        psycopg_pool.PoolTimeout: The server did not answer in time.
    """
    pool: Pool = AsyncConnectionPool(
        dsn,
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
