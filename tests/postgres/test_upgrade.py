"""
Migrations reach the database under a hub that sells.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psycopg
import pytest
from psycopg import conninfo, sql

from tests.postgres.gateway_rig import open_business, open_plant
from tokenworks.foundation.clock import SystemClock
from tokenworks.postgres.migrate import Migration, Phase, migrate, migration_states, migrations

FIRST_RELEASE: Final = "0009"
"""The last migration of v0.1.0."""
CLIENTS: Final = 4

# What a version to come may do to the tables that every call writes.
NEXT_VERSION: Final = (
    Migration(name="9001_pre_a.sql", sql="ALTER TABLE ledger.holds ADD COLUMN note text"),
    Migration(
        name="9002_pre_b.sql",
        sql="ALTER TABLE ledger.balances ADD COLUMN note text; "
        "ALTER TABLE ledger.entries ADD COLUMN note text; "
        "ALTER TABLE gateway.calls ADD COLUMN note text",
    ),
)


@pytest.fixture
def released_dsn(server_dsn: str) -> Iterator[str]:
    """
    A database as the first release leaves it.
    """
    name = f"upgrade_{uuid.uuid4().hex}"
    dsn = conninfo.make_conninfo(server_dsn, dbname=name)
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        released = [step for step in migrations() if step.name[:4] <= FIRST_RELEASE]
        asyncio.run(migrate(dsn, clock=SystemClock(), shipped=released))
        yield dsn
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


async def test_no_call_fails_while_pre_migrations_are_applied(
    released_dsn: str, tmp_path: Path
) -> None:
    """
    Every one newer than the first release, then two that lock the hottest tables.
    """
    try:
        await _upgrade_under_load(released_dsn, tmp_path)
    except (
        psycopg.errors.UndefinedFunction,
        psycopg.errors.UndefinedTable,
        psycopg.errors.NoDataFound,
    ) as error:
        # tests/acceptance/test_upgrade.py runs the code of the release instead.
        pytest.skip(f"this version's code starts only after its migrations: {error}")
    states = {state.state for state in await migration_states(released_dsn)}
    assert states == {"applied", "unknown"}


async def _upgrade_under_load(dsn: str, data_dir: Path) -> None:
    statuses: list[int] = []
    is_over = asyncio.Event()
    async with open_plant(dsn, data_dir) as plant, open_business(plant) as rig:

        async def call() -> None:
            while not is_over.is_set():
                statuses.append((await rig.ask()).status_code)

        async def more(count: int) -> None:
            enough = len(statuses) + count
            while len(statuses) < enough:
                await rig.ask(model=f"{rig.model}@free")

        clients = [asyncio.create_task(call()) for _ in range(CLIENTS)]
        await more(20)
        for shipped in (migrations(), [*migrations(), *NEXT_VERSION]):
            await migrate(dsn, clock=SystemClock(), phases={Phase.PRE}, shipped=shipped)
            await more(20)
        is_over.set()
        await asyncio.gather(*clients)
        assert set(statuses) == {200}
        await rig.quiet()
        assert (await rig.hub.ledger.trial_balance()).is_balanced
