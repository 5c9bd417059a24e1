"""
Connections that wait for their next request, and how many are open at all.

Owns: the bound on open connections, and the end of those that were idle for too long.
Does not own: how one is opened (``relay_client``), what happens on it (``connection``).

Invariant: a connection in a pool is idle, and its pool belongs to one scheme, host, port and
permission for private addresses.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Generator
from typing import Final

from tokenworks.adapters.openai_compatible.connection import Connection, PoolKey
from tokenworks.gateway.ports import ConnectFaultError

KEEPALIVE_S: Final = 15.0
CLOSE_TIMEOUT_S: Final = 1.0


class ConnectionPool:
    """
    Keep the connections of one event loop.

    Args:
        connections_max: Open at once; an idle one makes room for a request beyond.
    """

    def __init__(self, connections_max: int) -> None:
        self._connections_max = connections_max
        self._open: set[Connection] = set()
        self._opening = 0
        self._idle: dict[PoolKey, deque[Connection]] = {}
        self._sweep: asyncio.TimerHandle | None = None

    def take_idle(self, key: PoolKey) -> Connection | None:
        """
        Return a connection for the next request, the one used last; ``None``: none is idle.
        """
        idle = self._idle.get(key)
        while idle:
            # The newest is the likeliest to be alive.
            connection = idle.pop()
            if connection.is_usable(KEEPALIVE_S):
                return connection
            connection.abort()
        return None

    @contextlib.contextmanager
    def room(self) -> Generator[None]:
        """
        Count one more connection in while it is being opened.

        Raises:
            ConnectFaultError: As many as may be are open, and none of them is idle.
        """
        self._make_room()
        self._opening += 1
        try:
            yield
        finally:
            self._opening -= 1

    async def close(self) -> None:
        """
        Close every connection; answers still open are cut.
        """
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        self._idle.clear()
        ended = [connection.ended for connection in self._open]
        for connection in list(self._open):
            connection.abort()
        if ended:
            await asyncio.wait(ended, timeout=CLOSE_TIMEOUT_S)

    # What connections tell

    def opened(self, connection: Connection) -> None:
        """
        Count a connection in.
        """
        self._open.add(connection)

    def released(self, connection: Connection) -> None:
        """
        Keep a connection whose answer is complete for the next request.
        """
        self._idle.setdefault(connection.key, deque()).append(connection)
        if self._sweep is None:
            self._sweep = connection.loop.call_later(KEEPALIVE_S, self._drop_expired)

    def ended(self, connection: Connection) -> None:
        """
        Forget a closed connection.
        """
        self._open.discard(connection)
        idle = self._idle.get(connection.key)
        if idle is not None and connection in idle:
            idle.remove(connection)

    # Room

    def _drop_expired(self) -> None:
        self._sweep = None
        for key, idle in list(self._idle.items()):
            while idle and not idle[0].is_usable(KEEPALIVE_S):
                idle.popleft().abort()
            if not idle:
                del self._idle[key]
        if self._idle:
            loop = asyncio.get_running_loop()
            self._sweep = loop.call_later(KEEPALIVE_S, self._drop_expired)

    def _make_room(self) -> None:
        if len(self._open) + self._opening < self._connections_max:
            return
        for idle in self._idle.values():
            if idle:
                idle.popleft().abort()
                return
        raise ConnectFaultError("The hub has too many connections to suppliers open.")
