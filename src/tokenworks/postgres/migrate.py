"""
Apply the migrations that a database does not have yet, in order, once.

File names are the rule: ``NNNN_{pre,post}_<what>.sql``. A ``pre`` migration suits the
code already running; a ``post`` one only removes what no running code uses. Applied
files are remembered with their hash, and a changed file is refused.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib import resources
from typing import Final, LiteralString, cast

from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import ConflictError
from tokenworks.postgres.pool import Connection, connect

_FILE: Final = re.compile(r"(?P<number>\d{4})_(?P<phase>pre|post)_[a-z0-9_]+\.sql")
_LOCK_KEY: Final = 0x746F6B656E77  # "tokenw": one migrator at a time

_CREATE_TABLE: Final = """
CREATE TABLE IF NOT EXISTS public.tokenworks_migrations (
    name text PRIMARY KEY,
    sha256 text NOT NULL,
    applied_at timestamptz NOT NULL
)
"""


class MigrationChangedError(ConflictError):
    """
    A migration that is already applied has a different text in this version.
    """

    code = "migration_changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """
    One SQL file.
    """

    name: str
    sql: LiteralString

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


async def migrate(dsn: str, *, clock: Clock) -> list[str]:
    """
    Bring the database up to this version; return the names newly applied.

    The caller connects as the owner of the schema. Safe to run from several processes at
    once: an advisory lock lets one go first.

    Raises:
        MigrationChangedError: An applied file was edited afterwards.
    """
    connection = await connect(dsn, name="migrate")
    try:
        await connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK_KEY,))
        await connection.execute(_CREATE_TABLE)
        return await _apply_missing(connection, clock=clock)
    finally:
        await connection.close()


async def _apply_missing(connection: Connection, *, clock: Clock) -> list[str]:
    rows = await connection.execute("SELECT name, sha256 FROM public.tokenworks_migrations")
    applied = {str(name): str(sha256) for name, sha256 in await rows.fetchall()}
    fresh: list[str] = []
    for migration in migrations():
        known = applied.get(migration.name)
        if known is None:
            await _apply(connection, migration, clock=clock)
            fresh.append(migration.name)
        elif known != migration.sha256:
            message = f"Migration {migration.name} was changed after it had been applied."
            raise MigrationChangedError(message)
    return fresh


async def _apply(connection: Connection, migration: Migration, *, clock: Clock) -> None:
    async with connection.transaction():
        await connection.execute("SET LOCAL lock_timeout = '4s'")
        await connection.execute(migration.sql)
        await connection.execute(
            "INSERT INTO public.tokenworks_migrations (name, sha256, applied_at)"
            " VALUES (%s, %s, %s)",
            (migration.name, migration.sha256, clock.now()),
        )
