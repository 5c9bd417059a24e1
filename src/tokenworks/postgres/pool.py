"""
Open connections to the database: in autocommit mode, in UTC, and durable on commit.

A connection string may name several servers (``host=a,b``): a primary and its standbys.
With a fence each is tried on its own, and the first that is writable and has the latest
history of the books is used; so an old primary that runs again, first in the list, does
not stand in the way of the new one.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any, Final, Protocol, Self, TypeVar

import psycopg
import structlog
from psycopg import AsyncConnection, OperationalError, conninfo, pq, waiting
from psycopg.abc import RV, PQGen
from psycopg_pool import AsyncConnectionPool

from tokenworks.foundation.errors import UnavailableError

POOL_WAIT_TIMEOUT_S: Final = 5.0
CONNECT_TIMEOUT_S: Final = 5
ANSWER_TIMEOUT_S: Final = 5.0
RECONNECT_TIMEOUT_S: Final = 4.0
"""
How long the pool tries again by itself, waiting twice as long each time; then the next
caller starts anew. Without the bound a pool would sleep through a failover.
"""
SILENCE_S: Final = 1.0
"""A connection that was silent for longer is asked before it is used."""
NETWORK_LOSS: Final = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # in milliseconds
}
"""A host that lost its power sends no farewell: over a network it is given up after this."""

Row = tuple[Any, ...]
Connection = AsyncConnection[Row]
Pool = AsyncConnectionPool[Connection]
Opened = TypeVar("Opened", bound=AsyncConnection[Row])

_NO_TRANSACTION: Final = pq.TransactionStatus.IDLE
_log = structlog.get_logger("tokenworks.postgres")
_SESSION: Final = (
    "-c timezone=UTC -c client_min_messages=warning -c jit=off -c synchronous_commit=on"
)
"""Stronger than what a server, database or role was set to: what is answered is on the disk."""


class Admission(Protocol):
    """
    Decides whether a server may be used; ``fence.py`` has the real one.
    """

    async def admit(self, connection: AsyncConnection[Row], *, server: str) -> None:
        """
        Accept a fresh connection or raise an ``UnavailableError``.
        """
        ...

    def in_order(self, servers: list[str]) -> list[str]:
        """
        Return the connection strings in the order in which they are tried.
        """
        ...


class BoundedConnection(AsyncConnection[Row]):
    """
    A connection that does not wait for a server that has stopped answering.

    The driver would ask such a server to cancel the statement and wait for its word again;
    this one gives the connection up, and the caller gets the error of a lost one.

    A warning that comes with a commit is taken for a lost connection too: a commit that was
    not confirmed by the synchronous standby is reported as a success with only a warning.
    """

    _warnings: int = 0
    _heard_at_s: float = -inf

    @classmethod
    async def connect(  # pyright: ignore[reportIncompatibleMethodOverride] - the pool's use only
        cls,
        conninfo: str = "",
        *,
        fence: Admission | None = None,
        **options: Any,  # noqa: ANN401 - the driver's own
    ) -> Self:
        """
        Connect to the one server that the fence admits.
        """

        async def open_(server: str) -> Self:
            connection = await super(BoundedConnection, cls).connect(server, **options)
            connection.add_notice_handler(connection._count_warning)  # noqa: SLF001 - its own
            return connection

        return await _first_admitted(open_, conninfo, fence)

    def _count_warning(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        self._warnings += 1

    async def wait(  # the signature is the driver's own
        self,
        gen: PQGen[RV],
        interval: float = 0.1,
        timeout: float | None = None,  # noqa: ASYNC109 - as above
    ) -> RV:
        """
        Drive one exchange with the server, for at most ``ANSWER_TIMEOUT_S``.

        Raises:
            psycopg.OperationalError: No answer in time, or a commit with a warning; the
                connection is closed.
        """
        warnings = self._warnings
        try:
            async with asyncio.timeout(timeout or ANSWER_TIMEOUT_S):
                answer = await waiting.wait_async(gen, self.pgconn.socket, interval=interval)
        except TimeoutError as error:
            self.pgconn.finish()
            message = f"the database did not answer within {ANSWER_TIMEOUT_S:g} s"
            raise OperationalError(message) from error
        except asyncio.CancelledError:
            self.pgconn.finish()
            raise
        self._heard_at_s = asyncio.get_running_loop().time()
        if self._warnings != warnings and self.pgconn.transaction_status == _NO_TRANSACTION:
            self.pgconn.finish()
            message = "the database did not confirm the commit"
            raise OperationalError(message)
        return answer

    def is_surely_open(self) -> bool:
        """
        Return whether the server answered within ``SILENCE_S`` and has said nothing since.
        """
        if self.closed or asyncio.get_running_loop().time() - self._heard_at_s > SILENCE_S:
            return False
        look = select.poll()
        look.register(self.pgconn.socket, select.POLLIN)
        return not look.poll(0)


async def open_pool(
    dsn: str, *, name: str, size_max: int = 4, fence: Admission | None = None
) -> Pool:
    """
    Open a pool and wait until one connection works.

    Args:
        dsn: The connection string; may name several servers.
        name: What the pool is called in the database.
        size_max: Connections at most.
        fence: Decides which server may be used; ``None``: any that answers.

    Raises:
        UnavailableError: The servers that answer are not admitted by the fence.
        psycopg_pool.PoolTimeout: The server did not answer in time.
    """
    if fence is not None:
        # A pool only says that it could not connect; this one says why.
        try:
            await (await connect(dsn, name=name, fence=fence)).close()
        except psycopg.OperationalError:
            _log.info("pool_waits_for_database", pool=name)
    pool: Pool = AsyncConnectionPool(
        dsn,
        connection_class=BoundedConnection,
        # One that died while it waited in the pool is replaced, not handed out.
        check=_check,
        name=name,
        min_size=1,
        max_size=size_max,
        timeout=POOL_WAIT_TIMEOUT_S,
        reconnect_timeout=RECONNECT_TIMEOUT_S,
        open=False,
        kwargs={
            "fence": fence,
            "autocommit": True,
            "application_name": f"tokenworks {name}",
            "connect_timeout": CONNECT_TIMEOUT_S,
            "options": _options(dsn),
        },
    )
    await pool.open(wait=True, timeout=30.0)
    return pool


async def _check(connection: Connection) -> None:
    """
    Raise when a connection died in the pool.

    Without a question to the server where it answered a moment ago and has said nothing since:
    one that went down says goodbye, or its host's kernel does, and that can be read. A host that
    fell silent just now is noticed by whoever asks it next: an error of the database after
    ``ANSWER_TIMEOUT_S``, and the pool drops the connection.
    """
    if isinstance(connection, BoundedConnection) and connection.is_surely_open():
        return
    await AsyncConnectionPool.check_connection(connection)


async def connect(dsn: str, *, name: str, fence: Admission | None = None) -> Connection:
    """
    Open one connection of its own, outside any pool.

    Raises:
        psycopg.OperationalError: No server answers.
        UnavailableError: Those that answer are not admitted by the fence.
    """

    async def open_(server: str) -> Connection:
        return await AsyncConnection.connect(
            server,
            autocommit=True,
            application_name=f"tokenworks {name}",
            connect_timeout=CONNECT_TIMEOUT_S,
            options=_options(dsn),
        )

    return await _first_admitted(open_, dsn, fence)


async def _first_admitted(
    open_: Callable[[str], Awaitable[Opened]], dsn: str, fence: Admission | None
) -> Opened:
    given = conninfo.conninfo_to_dict(dsn)
    bounds = {name: value for name, value in NETWORK_LOSS.items() if name not in given}
    dsn = conninfo.make_conninfo(dsn, **bounds)
    if fence is None:
        return await open_(dsn)
    refusal: UnavailableError | None = None
    failure: psycopg.Error | None = None
    for server in fence.in_order(servers_of(dsn)):
        try:
            connection = await open_(server)
        except psycopg.OperationalError as error:
            failure = error
            continue
        try:
            await fence.admit(connection, server=server)
        except (UnavailableError, psycopg.Error) as error:
            await connection.close()
            if isinstance(error, UnavailableError):
                refusal = error
            else:
                failure = error
        except BaseException:
            await connection.close()
            raise
        else:
            return connection
    if refusal is not None:
        raise refusal
    assert failure is not None, "a connection string names a server"
    raise failure


def servers_of(dsn: str) -> list[str]:
    """
    Return one connection string for each server that ``dsn`` names, in its order.
    """
    given = conninfo.conninfo_to_dict(dsn)
    lists = {
        name: str(given[name]).split(",")
        for name in ("host", "hostaddr", "port")
        if given.get(name) is not None
    }
    count = max((len(lists.get(name, ())) for name in ("host", "hostaddr")), default=0)
    if count <= 1:
        return [dsn]
    # A single port counts for every host.
    return [
        conninfo.make_conninfo(
            dsn,
            **{
                name: values[index] if len(values) == count else values[0]
                for name, values in lists.items()
            },
        )
        for index in range(count)
    ]


def _options(dsn: str) -> str:
    # What the connection string itself asks for (a read-only session) stays in force.
    given = conninfo.conninfo_to_dict(dsn).get("options")
    return f"{_SESSION} {given}" if given else _SESSION
