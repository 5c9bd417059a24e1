"""
Databases for simulations: a server of their own, a migrated template, a fresh copy a run.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

import psycopg
from psycopg import conninfo, sql

from tokenworks.adapters.embedded_postgres import start_throwaway
from tokenworks.foundation.clock import SystemClock
from tokenworks.foundation.errors import TokenworksError
from tokenworks.postgres.migrate import migrate

TEMPLATE = "tokenworks_simulation_template"
NO_DATABASE = (OSError, TokenworksError)
"""What it is when no server can be started."""

OpenDatabase = Callable[[], contextlib.AbstractContextManager[str]]
"""Gives a fresh, migrated database for as long as it is open."""


@contextlib.contextmanager
def open_server() -> Generator[OpenDatabase]:
    """
    Start a throwaway server and yield what makes databases on it.
    """
    with tempfile.TemporaryDirectory(prefix="tw-simulate-") as directory:
        running = start_throwaway(Path(directory))
        try:
            with psycopg.connect(running.dsn_owner, autocommit=True) as connection:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(TEMPLATE)))
            asyncio.run(
                migrate(
                    conninfo.make_conninfo(running.dsn_owner, dbname=TEMPLATE), clock=SystemClock()
                )
            )
            yield databases_of(running.dsn_owner, TEMPLATE)
        finally:
            running.stop()


def databases_of(server_dsn: str, template: str) -> OpenDatabase:
    """
    Return what copies a migrated template on a server that runs.
    """
    numbers = iter(range(1, 10**9))

    @contextlib.contextmanager
    def open_database() -> Generator[str]:
        plain = f"simulation_{next(numbers)}"
        name = sql.Identifier(plain)
        with psycopg.connect(server_dsn, autocommit=True) as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(name, sql.Identifier(template))
            )
        try:
            yield conninfo.make_conninfo(server_dsn, dbname=plain)
        finally:
            with psycopg.connect(server_dsn, autocommit=True) as connection:
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))

    return open_database
