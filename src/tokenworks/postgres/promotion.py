"""
Which history of the books a server continues, and how a new one is declared.

A promoted standby and a restored backup both go on from a copy. From then on the server
they were copied from, if it ever runs again, tells another story. Two numbers tell them
apart: PostgreSQL's own *timeline*, which rises at every promotion, and the *promotion
number* in ``ledger.promotions``, which is part of the books and so of every copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, LiteralString

import psycopg

from tokenworks.foundation.clock import Clock
from tokenworks.postgres.pool import Connection, connect

_SERVER: Final[LiteralString] = """
SELECT
    system_identifier::text,
    pg_is_in_recovery(),
    CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_walfile_name(pg_current_wal_insert_lsn()) END,
    to_regclass('ledger.promotions') IS NOT NULL
FROM pg_control_system()
"""
_NUMBER: Final[LiteralString] = "SELECT coalesce(max(number), 0) FROM ledger.promotions"
_RECORD: Final[LiteralString] = """
INSERT INTO ledger.promotions (number, cause, timeline, promoted_at)
SELECT coalesce(max(number), 0) + 1, %s, %s, %s
FROM ledger.promotions
RETURNING number
"""
_TIMELINE_DIGITS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """
    Which server this is, and how far its history of the books has come.
    """

    system_identifier: str  # made with the cluster; copies share it
    is_standby: bool
    timeline: int  # 0: a standby, which writes none
    promotion: int  # 0: never promoted, or the books are older than the count


async def read_standing(connection: psycopg.AsyncConnection[tuple[object, ...]]) -> Standing:
    """
    Ask a server, through any of the hub's roles.
    """
    row = await (await connection.execute(_SERVER)).fetchone()
    assert row is not None, "a server answers"
    system_identifier, is_standby, segment, is_counted = row
    promotion = 0
    if is_counted:
        counted = await (await connection.execute(_NUMBER)).fetchone()
        assert counted is not None, "an aggregate has a row"
        promotion = int(str(counted[0]))
    return Standing(
        system_identifier=str(system_identifier),
        is_standby=bool(is_standby),
        timeline=int(str(segment)[:_TIMELINE_DIGITS], 16) if segment is not None else 0,
        promotion=promotion,
    )


async def record_promotion(dsn: str, *, cause: str, clock: Clock) -> Standing:
    """
    Declare, in the books themselves, that their history goes on at this server.

    Args:
        dsn: The owner's connection string.
        cause: ``failover`` or ``restore``.
        clock: When.

    Returns:
        Where the server stands now; the number is unchanged in books that do not count yet.
    """
    connection = await connect(dsn, name="promotion")
    async with connection:
        standing = await read_standing(connection)
        assert not standing.is_standby, "promoted before it is recorded"
        if await _is_counting(connection):
            # The standbys that will follow are told where to only after this.
            await connection.execute("SET synchronous_commit = local")
            await connection.execute(_RECORD, (cause, standing.timeline, clock.now()))
        return await read_standing(connection)


async def _is_counting(connection: Connection) -> bool:
    cursor = await connection.execute("SELECT to_regclass('ledger.promotions') IS NOT NULL")
    row = await cursor.fetchone()
    return bool(row and row[0])
