"""
Throwaway servers in memory, and fresh databases on them: copies of a migrated template.

A database's last connections take a moment to end, and a server that shall drop it looks only
ten times a second whether they have. So nobody waits for that: what was used is dropped behind
the tests, when there is enough of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Final

import psutil
import psycopg
from psycopg import conninfo, sql

from tokenworks.adapters.embedded_postgres import start_throwaway
from tokenworks.foundation.clock import SystemClock
from tokenworks.postgres.migrate import migrate

TEMPLATE: Final = "tokenworks_template"

OpenDatabase = Callable[[], contextlib.AbstractContextManager[str]]
"""Gives a fresh, migrated database for as long as it is open."""

_MEMORY: Final = Path("/dev/shm")
_MEMORY_BYTES_MIN: Final = 4 * 2**30
"""Free in there, and in the machine; the tests use a third of it."""

_LOCK: Final = "in_use.lock"
"""Locked by whoever uses the folder; the lock ends with its process."""

_USED_DATABASES_MAX: Final = 16


def memory_folder() -> str | None:
    """
    Return where files are kept in memory; ``None``, a temporary folder, where there is none.

    A database is a thousand files: on a disk, to make and to remove them takes ten times as long.
    """
    with contextlib.suppress(OSError):
        free = min(shutil.disk_usage(_MEMORY).free, psutil.virtual_memory().available)
        if free >= _MEMORY_BYTES_MIN and os.access(_MEMORY, os.W_OK):
            return str(_MEMORY)
    return None


@contextlib.contextmanager
def throwaway_server() -> Generator[str]:
    """
    Run a PostgreSQL server; yield its owner's connection string.
    """
    with throwaway_folder("tw-test-") as folder:
        running = start_throwaway(folder)
        try:
            yield running.dsn_owner
        finally:
            running.stop()


@contextlib.contextmanager
def throwaway_folder(prefix: str) -> Generator[Path]:
    """
    Yield a folder in memory, or where there is none on the disk, for as long as it is open.

    A killed run leaves its folder behind, and with it memory: the next run removes it.
    """
    place = memory_folder()
    for left in Path(place or tempfile.gettempdir()).glob(f"{prefix}*/{_LOCK}"):
        with contextlib.suppress(OSError), left.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left.parent, ignore_errors=True)
    with (
        tempfile.TemporaryDirectory(prefix=prefix, dir=place) as directory,
        (Path(directory) / _LOCK).open("wb") as lock,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Path(directory)


def copy_cluster(cluster: Path, data_dir: Path) -> None:
    """
    Give a data directory the cluster of a server that was stopped: ``initdb`` is the slowest step.
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    # With its owner: as root a server runs as another user.
    subprocess.run(["cp", "-a", str(cluster), str(data_dir / cluster.name)], check=True)


def make_template(server_dsn: str) -> None:
    """
    Make the migrated database that all others are copies of.
    """
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(TEMPLATE)))
    asyncio.run(migrate(conninfo.make_conninfo(server_dsn, dbname=TEMPLATE), clock=SystemClock()))


def databases_of(server_dsn: str) -> OpenDatabase:
    """
    Return what copies the template of a server that runs.
    """
    numbers = iter(range(1, 10**9))
    used: list[sql.Identifier] = []

    @contextlib.contextmanager
    def open_database() -> Generator[str]:
        plain = f"test_{next(numbers)}"
        name = sql.Identifier(plain)
        with psycopg.connect(server_dsn, autocommit=True) as connection:
            if len(used) >= _USED_DATABASES_MAX:
                for old in used:
                    connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(old))
                used.clear()
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(name, sql.Identifier(TEMPLATE))
            )
        try:
            yield conninfo.make_conninfo(server_dsn, dbname=plain)
        finally:
            used.append(name)

    return open_database
