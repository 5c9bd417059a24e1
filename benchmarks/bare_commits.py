"""
The yardstick of latency: two durable one-row commits on the PostgreSQL that was measured.

A call commits twice (hold, settle). Whatever else it does, it cannot be quicker than two
bare commits, so the time it adds is given as a multiple of theirs.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg.conninfo import make_conninfo

from benchmarks.loader import percentiles
from tokenworks.adapters.embedded_postgres.postmaster import running_postmaster

PAIRS_DEFAULT: Final = 2_000
_WARM_UP_PAIRS: Final = 100
_SCHEMA: Final = "tokenworks_benchmark"


def server_of(data: Path) -> str:
    """
    Return a connection string to the PostgreSQL of a data directory.
    """
    postmaster = running_postmaster((data / "postgres").absolute())
    if postmaster is None or postmaster.socket_directory is None:
        raise RuntimeError(f"No PostgreSQL runs on {data}.")
    return make_conninfo(
        host=str(postmaster.socket_directory),
        port=postmaster.port or 5432,
        user="postgres",
        dbname="postgres",
    )


def measure(dsn: str, *, pairs: int = PAIRS_DEFAULT) -> dict[str, Any]:
    """
    Insert and commit a row twice, ``pairs`` times; the table is dropped again.
    """
    with psycopg.connect(dsn, autocommit=True) as connection:
        _make_table(connection)
        try:
            durations = [_pair_ns(connection, number) for number in range(_WARM_UP_PAIRS + pairs)]
        finally:
            connection.execute(f"DROP SCHEMA {_SCHEMA} CASCADE")
        settings = {
            name: _setting(connection, name)
            for name in ("server_version", "fsync", "synchronous_commit", "wal_sync_method")
        }
    return {"pair_ms": percentiles(durations[_WARM_UP_PAIRS:]), "pairs": pairs, **settings}


def _make_table(connection: psycopg.Connection) -> None:
    connection.execute(f"DROP SCHEMA IF EXISTS {_SCHEMA} CASCADE")
    connection.execute(f"CREATE SCHEMA {_SCHEMA}")
    connection.execute(f"CREATE TABLE {_SCHEMA}.rows (id bigint PRIMARY KEY, body text NOT NULL)")


def _pair_ns(connection: psycopg.Connection, number: int) -> int:
    start_ns = time.perf_counter_ns()
    for row in (2 * number, 2 * number + 1):
        connection.execute(
            f"INSERT INTO {_SCHEMA}.rows (id, body) VALUES (%s, %s)", (row, "x" * 200)
        )
    return time.perf_counter_ns() - start_ns


def _setting(connection: psycopg.Connection, name: str) -> str:
    row = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
    assert row is not None
    return str(row[0])
