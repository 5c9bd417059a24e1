"""
Fixtures every suite shares: one throwaway server, a fresh database per test.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from psycopg import conninfo, sql

from tokenworks.adapters.embedded_postgres import binaries, start_throwaway
from tokenworks.foundation.clock import FakeClock, SystemClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.postgres.migrate import migrate
from tokenworks.postgres.pool import Pool, open_pool

# How long an example takes says something about the machine, not about the law.
settings.register_profile(
    "tokenworks",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("tokenworks")

# The programs of another PostgreSQL than the wheel's: `make test-postgres15`.
OTHER_PROGRAMS = os.environ.get("TEST_POSTGRES_BIN", "")
if OTHER_PROGRAMS:
    binaries.install_directory = lambda: Path(OTHER_PROGRAMS).parent


def pytest_report_header() -> str:
    """
    Say which PostgreSQL the tests run on.
    """
    return f"PostgreSQL {binaries.installed_version()} of {binaries.install_directory()}"


@pytest.fixture(scope="session")
def server_dsn() -> Iterator[str]:
    """
    A PostgreSQL server of the tests' own; the owner's connection string.
    """
    with tempfile.TemporaryDirectory(prefix="tw-test-") as directory:
        running = start_throwaway(Path(directory))
        try:
            yield running.dsn_owner
        finally:
            running.stop()


@pytest.fixture(scope="session")
def template_database(server_dsn: str) -> str:
    """
    The name of a migrated database that tests copy.
    """
    name = "tokenworks_template"
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    asyncio.run(migrate(conninfo.make_conninfo(server_dsn, dbname=name), clock=SystemClock()))
    return name


@pytest.fixture
def dsn(server_dsn: str, template_database: str) -> Iterator[str]:
    """
    A fresh, migrated database, connected as its owner; dropped afterwards.
    """
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                sql.Identifier(name), sql.Identifier(template_database)
            )
        )
    yield conninfo.make_conninfo(server_dsn, dbname=name)
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
async def pool(dsn: str) -> AsyncIterator[Pool]:
    """
    A pool on the fresh database.
    """
    pool = await open_pool(dsn, name="test", size_max=4)
    yield pool
    await pool.close()


@pytest.fixture
def clock() -> FakeClock:
    """
    A clock that stands at the moment the test began.
    """
    return FakeClock(SystemClock().now())


@pytest.fixture
def ids(clock: FakeClock) -> IdentifierSource:
    """
    Identifiers minted from the test's clock.
    """
    return IdentifierSource(clock)
