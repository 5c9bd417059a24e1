"""
The embedded server: durable, private, and back after every kind of end.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.databases import copy_cluster, throwaway_folder
from tokenworks.adapters.embedded_postgres import (
    PostgresStartError,
    PostgresVersionError,
    attach,
    start,
    start_throwaway,
)
from tokenworks.adapters.embedded_postgres.postmaster import processes_of, running_postmaster
from tokenworks.adapters.embedded_postgres.server_settings import SETTINGS, THROWAWAY_SETTINGS


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """
    A data directory outside pytest's own folder, whose modes pytest insists on.
    """
    with throwaway_folder("tw-pg-") as directory:
        yield directory / "data"
        for pid in processes_of(directory / "data" / "postgres"):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    """
    A cluster whose server was stopped.
    """
    with throwaway_folder("tw-pg-") as directory:
        start_throwaway(directory / "data").stop()
        yield directory / "data" / "postgres"


@pytest.fixture
def used_dir(data_dir: Path, cluster: Path) -> Path:
    """
    A data directory that has a cluster.
    """
    copy_cluster(cluster, data_dir)
    return data_dir


def _execute(dsn: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def test_settings_promise_durability() -> None:
    """
    What is acknowledged is on the disk: nobody may weaken this by accident.
    """
    assert SETTINGS["fsync"] == "on"
    assert SETTINGS["synchronous_commit"] == "on"
    assert SETTINGS["full_page_writes"] == "on"
    assert SETTINGS["listen_addresses"] == ""


def test_books_survive_a_stop_and_a_start(data_dir: Path) -> None:
    """
    Starting again finds the same books, under the same connection string.
    """
    first = start(data_dir)
    _execute(first.dsn_owner, "CREATE TABLE kept (value int)")
    _execute(first.dsn_owner, "INSERT INTO kept VALUES (42)")
    first.stop()
    assert not first.is_alive
    second = start(data_dir)
    try:
        assert second.dsn_owner == first.dsn_owner
        assert _execute(second.dsn_owner, "SELECT value FROM kept") == [(42,)]
        shown = "SELECT current_setting('fsync'), current_setting('data_checksums')"
        assert _execute(second.dsn_owner, shown) == [("on", "on")]
    finally:
        second.stop()
    second.stop()


def test_committed_rows_survive_kill_9(data_dir: Path) -> None:
    """
    A killed server leaves a stale pid file; the next start recovers from its log.
    """
    first = start(data_dir)
    _execute(first.dsn_owner, "CREATE TABLE kept (value int)")
    _execute(first.dsn_owner, "INSERT INTO kept VALUES (42)")
    os.kill(first.pid, signal.SIGKILL)
    first.process.wait(10)
    assert (data_dir / "postgres" / "postmaster.pid").exists()
    second = start(data_dir)
    try:
        assert _execute(second.dsn_owner, "SELECT value FROM kept") == [(42,)]
    finally:
        second.stop()


def test_pid_file_that_names_a_stranger_is_ignored(used_dir: Path) -> None:
    """
    After a crash the number may belong to anybody; that process is left alone.
    """
    (used_dir / "postgres" / "postmaster.pid").write_text(
        f"{os.getpid()}\n{used_dir}/postgres\n1700000000\n5432\n{used_dir}/run\n\n1 1\nready\n"
    )
    assert attach(used_dir) is None
    running = start_throwaway(used_dir)
    assert running.pid != os.getpid()
    running.stop()


def test_server_left_by_a_killed_hub_is_replaced(used_dir: Path) -> None:
    """
    The next start stops what still runs there, and owns its own server.
    """
    left_behind = start_throwaway(used_dir)
    running = start_throwaway(used_dir)
    try:
        assert running.pid != left_behind.pid
        assert left_behind.process.wait(10) == 0
    finally:
        running.stop()


def test_server_stops_when_its_hub_is_killed(used_dir: Path) -> None:
    """
    ``kill -9`` of the hub does not leave a server behind (Linux).
    """
    program = (
        "import sys, time; from pathlib import Path;"
        "from tokenworks.adapters.embedded_postgres import start_throwaway;"
        "print(start_throwaway(Path(sys.argv[1])).pid, flush=True); time.sleep(600)"
    )
    hub = subprocess.Popen(
        [sys.executable, "-c", program, str(used_dir)], stdout=subprocess.PIPE, text=True
    )
    assert hub.stdout is not None
    with hub, hub.stdout:
        assert int(hub.stdout.readline()) > 0
        assert attach(used_dir) is not None
        hub.kill()
    deadline = time.monotonic() + 60
    while running_postmaster(used_dir / "postgres") is not None:
        assert time.monotonic() < deadline, "the server outlived its hub"
        time.sleep(0.02)


def test_attach_reads_and_cannot_write(used_dir: Path) -> None:
    """
    A check of a live hub cannot change its books.
    """
    assert attach(used_dir) is None
    running = start_throwaway(used_dir)
    try:
        dsn = attach(used_dir)
        assert dsn is not None
        assert _execute(dsn, "SELECT 1") == [(1,)]
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            _execute(dsn, "CREATE TABLE forbidden (value int)")
    finally:
        running.stop()
    assert attach(used_dir) is None


@pytest.mark.parametrize("name", ["d" * 150, "a, b 'c"])
def test_data_directory_may_have_any_path(data_dir: Path, cluster: Path, name: str) -> None:
    """
    A Unix socket's path has a limit and libpq its commas; a data directory has not.
    """
    copy_cluster(cluster, data_dir / name)
    running = start_throwaway(data_dir / name)
    try:
        assert _execute(running.dsn_owner, "SELECT 1") == [(1,)]
        os.kill(running.pid, signal.SIGKILL)
        running.process.wait(10)
        again = start_throwaway(data_dir / name)
        assert again.dsn_owner == running.dsn_owner, "pools must find the server again"
        again.stop()
    finally:
        running.stop()
    assert not running.socket_directory.exists() or name in str(running.socket_directory)


def test_nobody_else_reaches_the_books(data_dir: Path) -> None:
    """
    The socket's folder and the cluster are closed to other users; keys stay private.
    """
    keys = data_dir / "keys"
    data_dir.mkdir(mode=0o700)
    keys.mkdir(mode=0o700)
    (keys / "master.key").write_bytes(b"secret")
    (keys / "master.key").chmod(0o600)
    running = start_throwaway(data_dir)
    try:
        for path in (running.socket_directory, running.cluster, keys):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert stat.S_IMODE((keys / "master.key").stat().st_mode) == 0o600
        assert stat.S_IMODE(data_dir.stat().st_mode) & 0o066 == 0, "not to be listed"
        address = _execute(running.dsn_owner, "SELECT inet_server_addr()")
        assert address == [(None,)]
    finally:
        running.stop()


def test_interrupted_first_start_begins_anew(data_dir: Path) -> None:
    """
    Half a cluster is never taken for a whole one.
    """
    unfinished = data_dir / "postgres.unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")
    running = start_throwaway(data_dir)
    running.stop()
    assert not unfinished.exists()


def test_cluster_of_another_version_is_refused(used_dir: Path) -> None:
    """
    The message says who wrote it; nothing is touched.
    """
    (used_dir / "postgres" / "PG_VERSION").write_text("13\n")
    with pytest.raises(PostgresVersionError, match="PostgreSQL 13"):
        start_throwaway(used_dir)


def test_failed_start_shows_the_log(used_dir: Path) -> None:
    """
    The end of the server's log is in the message.
    """
    shutil.rmtree(used_dir / "postgres" / "global")
    with pytest.raises(PostgresStartError, match="global"):
        start_throwaway(used_dir)


def test_throwaway_server_says_that_it_is_not_durable() -> None:
    """
    Only the throwaway settings trade durability for speed.
    """
    weakened = {name for name in SETTINGS if SETTINGS[name] != THROWAWAY_SETTINGS[name]}
    assert weakened == {"fsync", "synchronous_commit", "full_page_writes", "shared_buffers"}
