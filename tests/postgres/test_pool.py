"""
Every connection of the hub is durable on commit, whatever the server was told.
"""

from __future__ import annotations

import psycopg
from psycopg import conninfo, sql

from tokenworks.postgres.pool import connect, open_pool


async def test_commits_are_on_the_disk_although_the_database_says_otherwise(dsn: str) -> None:
    """
    A server, a database or a role may be set to answer before that; the hub's sessions are not.
    """
    name = str(conninfo.conninfo_to_dict(dsn)["dbname"])
    with psycopg.connect(dsn, autocommit=True) as owner:
        weaken = sql.SQL("ALTER DATABASE {} SET synchronous_commit = off")
        owner.execute(weaken.format(sql.Identifier(name)))
    pool = await open_pool(dsn, name="test", size_max=1)
    try:
        async with pool.connection() as pooled:
            shown = await (await pooled.execute("SHOW synchronous_commit")).fetchone()
            assert shown == ("on",)
    finally:
        await pool.close()
    async with await connect(dsn, name="test") as single:
        shown = await (await single.execute("SHOW synchronous_commit")).fetchone()
        assert shown == ("on",)
