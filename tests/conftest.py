"""
Fixtures every suite shares: one throwaway server, a fresh database per test.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.databases import OpenDatabase, databases_of, make_template, throwaway_server
from tests.patience import patient_hub
from tokenworks.adapters.embedded_postgres import binaries
from tokenworks.foundation.clock import FakeClock, SystemClock
from tokenworks.foundation.identifiers import IdentifierSource
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


@pytest.fixture(scope="module", autouse=True)
def _patience() -> Iterator[None]:
    """
    Wait for a slow machine; tests of a wait that is too long set their own.
    """
    with patient_hub():
        yield


@pytest.fixture(scope="session")
def server_dsn() -> Iterator[str]:
    """
    A PostgreSQL server of the tests' own; the owner's connection string.
    """
    with throwaway_server() as dsn:
        yield dsn


@pytest.fixture(scope="session")
def open_database(server_dsn: str) -> OpenDatabase:
    """
    Fresh, migrated databases.
    """
    make_template(server_dsn)
    return databases_of(server_dsn)


@pytest.fixture
def dsn(open_database: OpenDatabase) -> Iterator[str]:
    """
    A fresh, migrated database, connected as its owner.
    """
    with open_database() as dsn:
        yield dsn


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
