"""
Migrations reach a busy database without stopping it, each once, in its phase.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import LiteralString

import psycopg
import pytest
from psycopg import conninfo, sql

from tokenworks.foundation.clock import FakeClock
from tokenworks.postgres.migrate import (
    DatabaseBusyError,
    Migration,
    MigrationChangedError,
    OldCodeRunningError,
    Phase,
    migrate,
    migration_states,
    migrations,
)
from tokenworks.postgres.pool import open_pool


def _added(name: str, text: LiteralString) -> list[Migration]:
    return [*migrations(), Migration(name=name, sql=text)]


SOON = timedelta(minutes=10)
PRE = _added("9001_pre_a.sql", "ALTER TABLE ledger.assets ADD COLUMN note text")
BOTH = [
    *PRE,
    Migration(name="9002_post_b.sql", sql="ALTER TABLE ledger.assets DROP COLUMN note"),
    Migration(name="9003_pre_c.sql", sql="CREATE TABLE ledger.fresh (id integer)"),
]


@pytest.fixture
def holder(dsn: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """
    Somebody who reads a table in a long transaction.
    """
    with psycopg.connect(dsn) as connection:
        connection.execute("SELECT * FROM ledger.assets")
        yield connection


async def test_pre_and_post_are_two_steps(dsn: str, clock: FakeClock) -> None:
    """
    The first step leaves out what old code may need, the second applies only that.
    """
    assert await migrate(dsn, clock=clock, phases={Phase.PRE}, shipped=BOTH) == [
        "9001_pre_a.sql",
        "9003_pre_c.sql",
    ]
    assert await migrate(dsn, clock=clock, phases={Phase.PRE}, shipped=BOTH) == []
    assert await migrate(dsn, clock=clock, phases={Phase.POST}, shipped=BOTH) == ["9002_post_b.sql"]
    assert await migrate(dsn, clock=clock, shipped=BOTH) == []


async def test_empty_database_gets_everything_in_order(server_dsn: str, clock: FakeClock) -> None:
    """
    Where no migration is, no code runs: phases do not matter.
    """
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute("CREATE DATABASE empty_one")
        try:
            dsn = conninfo.make_conninfo(server_dsn, dbname="empty_one")
            states = await migration_states(dsn)
            assert {state.state for state in states} == {"pending"}
            applied = await migrate(dsn, clock=clock, phases={Phase.PRE}, shipped=BOTH)
            assert applied == [migration.name for migration in BOTH]
        finally:
            connection.execute(
                sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier("empty_one"))
            )


async def test_migration_waits_for_a_lock_without_a_queue_behind_it(
    dsn: str, clock: FakeClock, holder: psycopg.Connection[tuple[object, ...]]
) -> None:
    """
    It gives up and comes again; in between others get through.
    """
    waits: list[int] = []

    async def pause(_seconds: float) -> None:
        with psycopg.connect(dsn, autocommit=True) as other:
            other.execute("SET statement_timeout = '2s'")
            other.execute("SELECT * FROM ledger.assets")
        if len(waits) == 3:
            holder.rollback()

    applied = await migrate(
        dsn, clock=clock, shipped=PRE, on_wait=lambda _, attempt: waits.append(attempt), pause=pause
    )
    assert applied == ["9001_pre_a.sql"]
    assert waits == [1, 2, 3]


async def test_database_that_is_busy_for_too_long_is_left_as_it_was(
    dsn: str,
    clock: FakeClock,
    holder: psycopg.Connection[tuple[object, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    Nothing of the migration is applied, and it can be run again.
    """
    monkeypatch.setattr("tokenworks.postgres.migrate.ATTEMPTS_MAX", 2)

    async def pause(_seconds: float) -> None:
        return

    with pytest.raises(DatabaseBusyError, match="9001_pre_a"):
        await migrate(dsn, clock=clock, shipped=PRE, pause=pause)
    holder.rollback()
    assert await migrate(dsn, clock=clock, shipped=PRE) == ["9001_pre_a.sql"]


async def test_migration_that_fails_leaves_nothing_behind(dsn: str, clock: FakeClock) -> None:
    """
    Each is one transaction: those before it stay, it is gone whole.
    """
    broken = [
        *PRE,
        Migration(name="9002_pre_b.sql", sql="CREATE TABLE ledger.half (id integer); SELECT 1/0"),
    ]
    with pytest.raises(psycopg.errors.DivisionByZero):
        await migrate(dsn, clock=clock, shipped=broken)
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT to_regclass('ledger.half')").fetchone()
    assert row == (None,)
    assert await migrate(dsn, clock=clock, shipped=PRE) == []


async def test_post_migration_is_refused_while_old_code_may_run(dsn: str, clock: FakeClock) -> None:
    """
    Who is connected since before the last pre-migration is named; after a restart it goes.
    """
    old = await open_pool(dsn, name="gateway-0")
    clock.advance(SOON)
    await migrate(dsn, clock=clock, phases={Phase.PRE}, shipped=BOTH)
    with pytest.raises(OldCodeRunningError, match="gateway-0"):
        await migrate(dsn, clock=clock, phases={Phase.POST}, shipped=BOTH)
    await old.close()
    _return_when_gone(dsn)
    assert await migrate(dsn, clock=clock, phases={Phase.POST}, shipped=BOTH)


def _return_when_gone(dsn: str) -> None:
    query = (
        "SELECT FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name = 'tokenworks gateway-0'"
    )
    with psycopg.connect(dsn, autocommit=True) as connection:
        while connection.execute(query).fetchall():
            pass  # the server has yet to notice that the client left


async def test_status_names_what_is_pending_changed_or_newer(dsn: str, clock: FakeClock) -> None:
    """
    A database of a newer version is no fault: its pre-migrations suit this code.
    """
    assert {state.state for state in await migration_states(dsn)} == {"applied"}
    await migrate(dsn, clock=clock, shipped=PRE)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("DELETE FROM public.tokenworks_migrations WHERE name LIKE '0008%'")
        connection.execute(
            "UPDATE public.tokenworks_migrations SET sha256 = 'x' WHERE name LIKE '0007%'"
        )
    states = {state.name[:4]: state.state for state in await migration_states(dsn)}
    assert (states["0007"], states["0008"], states["9001"]) == ("changed", "pending", "unknown")
    with pytest.raises(MigrationChangedError, match="0007"):
        await migrate(dsn, clock=clock)
