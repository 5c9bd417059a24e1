"""
Refuse a server whose history of the books has ended: an old primary that runs again.

At every connection, before anything else is done with it, the server's promotion number
and timeline are compared with the highest this hub has ever seen; lower ones are refused.
The highest is kept in the hub's data directory and is on the disk before the connection
is used, so that no restart forgets it.

**Why that covers every batch.** A connection is bound to one server process, and that to
one server. While it runs, a primary never changes its timeline, and a standby is refused
here; it becomes a primary only by a promotion, which ends nothing the hub is connected
to. So what was true when the connection was opened is true for each of its transactions,
and another server can only be reached by another connection.

**What it cannot know.** A hub that has not yet connected to the promoted server still takes
the old primary for the right one. There the second lock holds: the old primary waits for
its synchronous standby before it acknowledges a commit, and that standby follows it no
more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import msgspec
import psycopg
import structlog

from tokenworks.foundation.errors import UnavailableError
from tokenworks.postgres.promotion import Standing, read_standing

RETRY_AFTER_S: Final = 2

_log = structlog.get_logger("tokenworks.postgres")


class ServerRefusedError(UnavailableError):
    """
    This server must not be used for the books; nothing was done on it.
    """

    code = "ledger_refused"


class ServerDemotedError(ServerRefusedError):
    """
    Another server has taken the books over since: this one tells an old story.
    """

    code = "ledger_demoted"


class ServerReplacedError(ServerRefusedError):
    """
    This server's cluster is not a copy of the books this hub has worked on.
    """

    code = "ledger_replaced"


class ServerIsStandbyError(ServerRefusedError):
    """
    This server follows another one and cannot be written.
    """

    code = "ledger_standby"


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """
    The furthest history this hub has seen.
    """

    system_identifier: str
    promotion: int
    timeline: int


class MarkStore(Protocol):
    """
    Keeps the mark, shared by the processes of a hub and durable.
    """

    def update(self, decide: Callable[[bytes | None], bytes | None]) -> None:
        """
        Replace the content with what ``decide`` makes of it, one process at a time.

        ``decide`` returns ``None`` to leave it; what it raises is passed on.
        """
        ...


class Fence:
    """
    Admits connections to the latest server only.

    Args:
        store: Where the mark is kept.
        place: How to name that to people.
    """

    def __init__(self, store: MarkStore, *, place: str) -> None:
        self._store = store
        self._place = place
        self._latest: str | None = None

    async def admit(
        self, connection: psycopg.AsyncConnection[tuple[object, ...]], *, server: str
    ) -> None:
        """
        Accept a fresh connection, and remember what was seen; cost: two small queries.

        Args:
            connection: In autocommit mode.
            server: The connection string it was opened with.

        Raises:
            ServerRefusedError: The server was demoted, is another one, or is a standby.
        """
        standing = await read_standing(connection)
        if standing.is_standby:
            message = f"{_name(connection)} is a standby; the books are written at its primary."
            raise ServerIsStandbyError(message, retry_after_s=RETRY_AFTER_S)

        def decide(content: bytes | None) -> bytes | None:
            known = None if content is None else msgspec.json.decode(content, type=Mark)
            mark = self._compare(standing, known, _name(connection))
            return None if mark == known else msgspec.json.encode(mark)

        self._store.update(decide)
        self._latest = server

    def in_order(self, servers: list[str]) -> list[str]:
        """
        Return connection strings with the one that was last admitted first.

        A dead host may take its whole timeout to say so.
        """
        return sorted(servers, key=lambda server: server != self._latest)

    def _compare(self, standing: Standing, known: Mark | None, name: str) -> Mark:
        mark = Mark(
            system_identifier=standing.system_identifier,
            promotion=standing.promotion,
            timeline=standing.timeline,
        )
        if known is None:
            return mark
        if mark.system_identifier != known.system_identifier:
            message = (
                f"{name} keeps other books (cluster {mark.system_identifier}) than this hub has "
                f"worked on ({known.system_identifier}). If they were moved on purpose, remove "
                f"{self._place}."
            )
            raise ServerReplacedError(message, retry_after_s=RETRY_AFTER_S)
        if mark.promotion < known.promotion or mark.timeline < known.timeline:
            message = (
                f"{name} is at promotion {mark.promotion}, timeline {mark.timeline}; the books "
                f"have gone on elsewhere, to promotion {known.promotion}, timeline "
                f"{known.timeline}. Stop it, and make it a standby of the new primary."
            )
            _log.error("ledger_demoted", server=name, promotion=mark.promotion)
            raise ServerDemotedError(message, retry_after_s=RETRY_AFTER_S)
        return mark


def _name(connection: psycopg.AsyncConnection[tuple[object, ...]]) -> str:
    return f"The server {connection.info.host}:{connection.info.port}"
