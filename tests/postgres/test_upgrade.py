"""
Migrations reach the database under a hub that sells.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from tests.postgres.gateway_rig import open_business, open_plant
from tokenworks.foundation.clock import SystemClock
from tokenworks.postgres.migrate import Migration, Phase, migrate, migration_states, migrations

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


async def test_no_call_fails_while_pre_migrations_are_applied(dsn: str, tmp_path: Path) -> None:
    """
    Two that lock the hottest tables, as a version to come may bring them.

    From the first release to this version: tests/acceptance/test_upgrade.py, which runs the code
    of that release.
    """
    await _upgrade_under_load(dsn, tmp_path)
    states = {state.state for state in await migration_states(dsn)}
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
        shipped = [*migrations(), *NEXT_VERSION]
        await migrate(dsn, clock=SystemClock(), phases={Phase.PRE}, shipped=shipped)
        await more(20)
        is_over.set()
        await asyncio.gather(*clients)
        assert set(statuses) == {200}
        await rig.quiet()
        assert (await rig.hub.ledger.trial_balance()).is_balanced
