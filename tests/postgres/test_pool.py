"""
Every connection of the hub is durable on commit, whatever the server was told.
"""

from __future__ import annotations

import psycopg
import pytest
from psycopg import conninfo, sql

from tokenworks.postgres.pool import BoundedConnection, Connection, Pool, connect, open_pool


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


async def test_connection_that_died_in_the_pool_is_replaced(dsn: str) -> None:
    """
    Also right after its last answer, when the server is not asked whether it is there.
    """
    pool = await open_pool(dsn, name="test", size_max=1)
    try:
        for _ in range(3):
            async with pool.connection() as pooled:
                process_id = await _process_id_of(pooled)
            assert isinstance(pooled, BoundedConnection)
            assert pooled.is_surely_open()
            _terminate(dsn, process_id)
            assert not pooled.is_surely_open()
            async with pool.connection() as pooled:
                assert await _process_id_of(pooled) != process_id
    finally:
        await pool.close()


async def test_connection_that_dies_in_use_is_an_error_and_the_pool_recovers(dsn: str) -> None:
    """
    Who uses it gets the error of a lost connection, who comes next a new connection.
    """
    pool = await open_pool(dsn, name="test", size_max=1)
    try:
        with pytest.raises(psycopg.OperationalError):
            await _die_in_a_transaction(pool, dsn)
        async with pool.connection() as pooled:
            assert await _process_id_of(pooled)
    finally:
        await pool.close()


async def _die_in_a_transaction(pool: Pool, dsn: str) -> None:
    async with pool.connection() as pooled, pooled.pipeline(), pooled.transaction():
        _terminate(dsn, await _process_id_of(pooled))
        await _process_id_of(pooled)


async def _process_id_of(connection: Connection) -> int:
    row = await (await connection.execute("SELECT pg_backend_pid()")).fetchone()
    assert row is not None, "a statement without a table has one row"
    return row[0]


def _terminate(dsn: str, process_id: int) -> None:
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute("SELECT pg_terminate_backend(%s, 5000)", [process_id])
