"""
Apply the migrations that a database does not have yet, in order, once.

File names are the rule: ``NNNN_{pre,post}_<what>.sql``. A ``pre`` migration suits the code
that is already running and comes before the new code starts; a ``post`` one only removes what
no running code uses, and comes when no old code runs any more. Applied files are remembered
with their hash, and a changed file is refused.

A hub may be busy meanwhile. Each migration is one transaction; a lock that is not free within
``LOCK_TIMEOUT_MS`` is given up with everything, so nobody queues behind it for longer, and the
migration is tried again.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from importlib import resources
from typing import Final, LiteralString, cast

import psycopg

from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import ConflictError, UnavailableError
from tokenworks.postgres.fence import Fence
from tokenworks.postgres.pool import Connection, connect

LOCK_TIMEOUT_MS: Final = 250
ATTEMPTS_MAX: Final = 120
PAUSE_S: Final = 0.5

_FILE: Final = re.compile(r"(?P<number>\d{4})_(?P<phase>pre|post)_[a-z0-9_]+\.sql")
_LOCK_KEY: Final = 0x746F6B656E77  # "tokenw": one migrator at a time
_GIVE_WAY: Final = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)

_CREATE_TABLE: Final = """
CREATE TABLE IF NOT EXISTS public.tokenworks_migrations (
    name text PRIMARY KEY,
    sha256 text NOT NULL,
    applied_at timestamptz NOT NULL
)
"""

# Who connected before the last pre-migration may run code that was there before it.
_OLD_CONNECTIONS: Final = """
SELECT application_name
FROM pg_stat_activity
WHERE datname = current_database()
    AND application_name LIKE 'tokenworks %%'
    AND pid <> pg_backend_pid()
    AND backend_start < (SELECT max(applied_at) FROM public.tokenworks_migrations WHERE name LIKE '%%\\_pre\\_%%')
ORDER BY application_name
"""  # noqa: E501 - a condition is read best on one line


class Phase(StrEnum):
    """
    When a migration may be applied.
    """

    PRE = "pre"
    POST = "post"


ALL_PHASES: Final = frozenset(Phase)


class MigrationChangedError(ConflictError):
    """
    A migration that is already applied has a different text in this version.
    """

    code = "migration_changed"


class DatabaseBusyError(UnavailableError):
    """
    A migration did not get its locks; nothing of it was applied. Run it again.
    """

    code = "database_busy"


class OldCodeRunningError(ConflictError):
    """
    A post-migration was asked for while processes run that may still need what it removes.
    """

    code = "old_code_running"


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """
    One SQL file.
    """

    name: str
    sql: LiteralString

    @property
    def phase(self) -> Phase:
        """
        Return when it may be applied.
        """
        return Phase.POST if self.name[5:].startswith("post_") else Phase.PRE

    @property
    def sha256(self) -> str:
        """
        Return the hash by which a later change of the file is noticed.
        """
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations() -> list[Migration]:
    """
    Return the migrations shipped with this version, in order.
    """
    folder = resources.files("tokenworks.postgres").joinpath("migrations")
    files = sorted(
        (file for file in folder.iterdir() if _FILE.fullmatch(file.name)),
        key=lambda file: file.name,
    )
    return [
        Migration(name=file.name, sql=cast("LiteralString", file.read_text(encoding="utf-8")))
        for file in files
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationState:
    """
    A migration as a database knows it.
    """

    name: str
    state: str  # applied, pending, changed (edited after it was applied), or unknown here (newer)
    applied_at: datetime | None

    def to_json(self) -> dict[str, object]:
        """
        Return plain fields.
        """
        at = None if self.applied_at is None else self.applied_at.isoformat()
        return {"name": self.name, "state": self.state, "applied_at": at}


async def migrate(
    dsn: str,
    *,
    clock: Clock,
    phases: Collection[Phase] = ALL_PHASES,
    shipped: Sequence[Migration] | None = None,
    on_wait: Callable[[str, int], None] | None = None,
    fence: Fence | None = None,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> list[str]:
    """
    Bring the database up to this version; return the names newly applied.

    The caller connects as the owner of the schema. Safe to run from several processes at
    once: an advisory lock lets one go first. A database without any migration gets all of
    them, whatever the phases: no code runs on it.

    Args:
        dsn: The owner's connection string.
        clock: When a migration was applied.
        phases: ``PRE`` alone while old code runs.
        shipped: Other migrations than this version's.
        on_wait: Told the migration that waits for a lock, and how often it was tried.
        fence: Decides whether the server may be used.
        pause: Waits before it is tried again.

    Raises:
        DatabaseBusyError: The locks were not free for a minute.
        MigrationChangedError: An applied file was edited afterwards.
        OldCodeRunningError: Only post-migrations were asked for, and somebody is connected
            since before the last pre-migration.
        ServerRefusedError: The fence does not admit the server.
    """
    connection = await connect(dsn, name="migrate", fence=fence)
    try:
        await connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK_KEY,))
        await connection.execute(_CREATE_TABLE)
        known = migrations() if shipped is None else shipped
        missing = await _missing(connection, known)
        if len(missing) < len(known):
            missing = [migration for migration in missing if migration.phase in phases]
        if missing and set(phases) == {Phase.POST}:
            await _refuse_old_code(connection)
        for migration in missing:
            await _apply_patiently(connection, migration, clock=clock, on_wait=on_wait, pause=pause)
        return [migration.name for migration in missing]
    finally:
        await connection.close()


async def migration_states(dsn: str) -> list[MigrationState]:
    """
    Return every migration that this version ships or the database knows, in order.
    """
    connection = await connect(dsn, name="migration status")
    async with connection:
        rows = await connection.execute("SELECT to_regclass('public.tokenworks_migrations')")
        applied: dict[str, tuple[str, datetime]] = {}
        if (await rows.fetchall())[0][0] is not None:
            rows = await connection.execute(
                "SELECT name, sha256, applied_at FROM public.tokenworks_migrations"
            )
            applied = {row[0]: (row[1], row[2]) for row in await rows.fetchall()}
    shipped = {migration.name: migration.sha256 for migration in migrations()}
    states: list[MigrationState] = []
    for name in sorted(shipped.keys() | applied.keys()):
        sha256, applied_at = applied.get(name, (None, None))
        if name not in shipped:
            state = "unknown"
        elif sha256 is None:
            state = "pending"
        else:
            state = "applied" if sha256 == shipped[name] else "changed"
        states.append(MigrationState(name=name, state=state, applied_at=applied_at))
    return states


async def _missing(connection: Connection, known: Sequence[Migration]) -> list[Migration]:
    rows = await connection.execute("SELECT name, sha256 FROM public.tokenworks_migrations")
    applied = {str(name): str(sha256) for name, sha256 in await rows.fetchall()}
    for migration in known:
        if applied.get(migration.name, migration.sha256) != migration.sha256:
            message = f"Migration {migration.name} was changed after it had been applied."
            raise MigrationChangedError(message)
    return [migration for migration in known if migration.name not in applied]


async def _refuse_old_code(connection: Connection) -> None:
    rows = await connection.execute(_OLD_CONNECTIONS, ())
    names = [str(row[0]) for row in await rows.fetchall()]
    if names:
        message = (
            "These processes are connected since before the last pre-migration, so they may run "
            f"old code: {', '.join(sorted(set(names)))}. Restart them first."
        )
        raise OldCodeRunningError(message)


async def _apply_patiently(
    connection: Connection,
    migration: Migration,
    *,
    clock: Clock,
    on_wait: Callable[[str, int], None] | None,
    pause: Callable[[float], Awaitable[None]],
) -> None:
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            await _apply(connection, migration, clock=clock)
        except _GIVE_WAY as error:
            if attempt == ATTEMPTS_MAX:
                message = f"Migration {migration.name} did not get its locks: {error}"
                raise DatabaseBusyError(message) from error
            if on_wait:
                on_wait(migration.name, attempt)
            await pause(PAUSE_S)
        else:
            return


async def _apply(connection: Connection, migration: Migration, *, clock: Clock) -> None:
    async with connection.transaction():
        await connection.execute(
            "SELECT set_config('lock_timeout', %s, true)", (f"{LOCK_TIMEOUT_MS}ms",)
        )
        await connection.execute(migration.sql)
        await connection.execute(
            "INSERT INTO public.tokenworks_migrations (name, sha256, applied_at)"
            " VALUES (%s, %s, %s)",
            (migration.name, migration.sha256, clock.now()),
        )
