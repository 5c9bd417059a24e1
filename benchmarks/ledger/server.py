"""
The PostgreSQL that is measured: the product's own, on a disk, with databases copied from one.

Invariants: fsync and synchronous_commit are the product's settings and are read back from the
server; every scenario begins on a fresh copy of the same database, after a checkpoint; CPU
time is that of the server's whole process tree.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, LiteralString, cast

import psutil
import psycopg
from psycopg import conninfo, sql

from benchmarks.rig import data_root
from tokenworks.adapters.embedded_postgres import RunningPostgres, start
from tokenworks.adapters.embedded_postgres.server_settings import SETTINGS
from tokenworks.foundation.clock import SystemClock
from tokenworks.ledger.check import check_books
from tokenworks.ledger.findings import CheckReport
from tokenworks.postgres.migrate import migrate

EMPTY: Final = "tokenworks"
"""The database that is only migrated; nobody stays connected to it, so it can be copied."""

PROFILE_SETTINGS: Final[Mapping[str, str]] = {
    **SETTINGS,
    "shared_preload_libraries": "pg_stat_statements",
    "pg_stat_statements.track": "all",
    "pg_stat_statements.max": "5000",
}

_SHOWN: Final = (
    "server_version",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_sync_method",
    "shared_buffers",
    "max_wal_size",
)
_PARTITION: Final = re.compile(r"_\d{4}_\d{2}$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """
    What the server has used so far.
    """

    cpu_s: float
    wal_bytes: int

    def __sub__(self, earlier: Counters) -> Counters:
        return Counters(
            cpu_s=self.cpu_s - earlier.cpu_s, wal_bytes=self.wal_bytes - earlier.wal_bytes
        )


@dataclass(slots=True, kw_only=True)
class Database:
    """
    One database of the server.
    """

    name: str
    dsn_owner: str
    dsn_posting: str

    def rows_written(self) -> dict[str, int]:
        """
        Return rows inserted and updated so far, e.g. ``entries inserted``, months summed.

        Exact once every other session has ended: sessions report now and then.
        """
        counts: dict[str, int] = {}
        with psycopg.connect(self.dsn_owner, autocommit=True) as connection:
            for table, inserted, updated in connection.execute(
                "SELECT relname, n_tup_ins, n_tup_upd FROM pg_stat_user_tables"
            ):
                whole = _PARTITION.sub("", table)
                for word, count in (("inserted", inserted), ("updated", updated)):
                    if count:
                        name = f"{whole} {word}"
                        counts[name] = counts.get(name, 0) + count
        return counts

    def size_bytes(self) -> int:
        """
        Return what it takes on the disk, without the log.
        """
        with psycopg.connect(self.dsn_owner, autocommit=True) as connection:
            row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
        assert row is not None, "a database has a size"
        return row[0]

    def vacuum(self) -> None:
        """
        Do what autovacuum does within a minute or two: without statistics plans are guesses.
        """
        with psycopg.connect(self.dsn_owner, autocommit=True) as connection:
            connection.execute("VACUUM (ANALYZE)")

    def checkpoint(self) -> None:
        """
        Write everything out: the next change of each page is logged with the whole page.
        """
        with psycopg.connect(self.dsn_owner, autocommit=True) as connection:
            connection.execute("CHECKPOINT")

    def stop_autovacuum(self) -> None:
        """
        Keep this database as it is: no statistics, however long it waits to be copied.
        """
        with psycopg.connect(self.dsn_owner, autocommit=True) as connection:
            tables = connection.execute(
                "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND "
                "relnamespace IN ('ledger'::regnamespace, 'gateway'::regnamespace)"
            ).fetchall()
            for (table,) in tables:
                alter = f"ALTER TABLE {table} SET (autovacuum_enabled = off)"
                connection.execute(cast("LiteralString", alter))

    def check_books(self) -> dict[str, Any]:
        """
        Rebuild the books of this database from their records.

        Raises:
            BooksBrokenError: They do not agree.
        """
        report = asyncio.run(check_books(self.dsn_posting, clock=SystemClock()))
        if not report.is_clean:
            raise BooksBrokenError(f"The books of {self.name} are broken: {_problems(report)}")
        return report.to_json()


class BooksBrokenError(Exception):
    """
    What was measured does not count: the books after it are not clean.
    """


def _problems(report: CheckReport) -> str:
    return "; ".join(f"{p.where}: {p.message}" for p in report.problems[:5])


@dataclass(slots=True, kw_only=True)
class Server:
    """
    The running server.
    """

    running: RunningPostgres
    folder: Path
    _copies: int = field(default=0)

    @property
    def data_dir(self) -> Path:
        """
        Return the folder in which a hub on this server keeps its keys.
        """
        return self.folder / "hub"

    def database(self, name: str) -> Database:
        """
        Return a database that exists, by name.
        """
        return Database(
            name=name,
            dsn_owner=conninfo.make_conninfo(self.running.dsn_owner, dbname=name),
            dsn_posting=conninfo.make_conninfo(self.running.dsn_posting, dbname=name),
        )

    @contextmanager
    def copy(self, template: str) -> Generator[Database]:
        """
        Copy a database, and drop the copy when the block ends.
        """
        self._copies += 1
        name = f"copy_{self._copies}"
        self.create(name, template=template)
        try:
            yield self.database(name)
        finally:
            drop = sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
            self._execute(drop)

    def create(self, name: str, *, template: str) -> None:
        """
        Copy a database, then write everything out, so that each scenario begins alike.
        """
        create = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        self._execute(create.format(sql.Identifier(name), sql.Identifier(template)))
        self._execute(sql.SQL("CHECKPOINT"))

    def counters(self) -> Counters:
        """
        Return CPU time of all of the server's processes, and bytes of WAL ever written.
        """
        with psycopg.connect(self.running.dsn_owner, autocommit=True) as connection:
            row = connection.execute(
                "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint"
            ).fetchone()
        assert row is not None, "a server has a log position"
        return Counters(cpu_s=self.cpu_s(), wal_bytes=row[0])

    def cpu_s(self) -> float:
        """
        Return the CPU time of all of the server's processes so far, ended ones included.
        """
        root = psutil.Process(self.running.pid)
        total_s = 0.0
        for process in (root, *root.children(recursive=True)):
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            total_s += times.user + times.system + times.children_user + times.children_system
        return total_s

    def settings(self) -> dict[str, str]:
        """
        Return the settings that decide what a commit costs, as the server has them.
        """
        with psycopg.connect(self.running.dsn_owner, autocommit=True) as connection:
            rows = connection.execute(
                "SELECT name, current_setting(name) FROM unnest(%s::text[]) AS name",
                (list(_SHOWN),),
            )
            return dict(rows.fetchall())

    def _execute(self, statement: sql.Composable) -> None:
        dsn = conninfo.make_conninfo(self.running.dsn_owner, dbname="postgres")
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(statement)


@contextmanager
def running_server(*, is_profiled: bool = False) -> Generator[Server]:
    """
    Start a server below ``data_root`` and migrate its first database; remove it all at the end.

    Args:
        is_profiled: Load pg_stat_statements, which costs some per cent.
    """
    with tempfile.TemporaryDirectory(prefix="tokenworks-bench-", dir=data_root()) as folder:
        settings = PROFILE_SETTINGS if is_profiled else SETTINGS
        running = start(Path(folder) / "server", settings=settings)
        try:
            asyncio.run(migrate(running.dsn_owner, clock=SystemClock()))
            yield Server(running=running, folder=Path(folder))
        finally:
            running.stop()
