"""
Start, attach to and stop the server of a data directory.

Invariants:
    * A new cluster appears under its final name only when ``initdb`` has finished.
    * A server left behind by a killed hub is stopped, never shared: the new hub's
      server is its own child, with this version's settings.
    * ``postmaster.pid`` is removed only when no process of the cluster is alive.
    * The socket keeps its path over restarts, so that pools find the server again.

Known limits: without Linux's parent-death signal (macOS) a killed hub leaves its
server running until the next start.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tokenworks.adapters.embedded_postgres.archiving import archive_settings
from tokenworks.adapters.embedded_postgres.binaries import installed_version, program
from tokenworks.adapters.embedded_postgres.errors import (
    PostgresStartError,
    PostgresVersionError,
)
from tokenworks.adapters.embedded_postgres.network import network_settings
from tokenworks.adapters.embedded_postgres.postmaster import (
    FILE_NAME,
    processes_of,
    read_postmaster,
    running_postmaster,
)
from tokenworks.adapters.embedded_postgres.server_settings import SETTINGS, THROWAWAY_SETTINGS
from tokenworks.adapters.embedded_postgres.system_user import (
    ServerUser,
    let_through,
    server_user,
)
from tokenworks.adapters.operating_system.launch import launch_command

DATABASE: Final = "tokenworks"
OWNER_ROLE: Final = "postgres"
POSTING_ROLE: Final = "tokenworks_posting"
PORT: Final = 5432

START_TIMEOUT_S: Final = 300.0
"""A crash's log is read again first: a gigabyte of it took half a minute on a busy machine, and
who gives up would begin anew."""
STOP_TIMEOUT_S: Final = 30.0
INITDB_TIMEOUT_S: Final = 120.0
ORPHANS_TIMEOUT_S: Final = 10.0

_PORT_MAX: Final = 65_535
_SOCKET_PATH_BYTES_MAX: Final = 107
_SHORT_DIRECTORY_BYTES_MAX: Final = 60
_POLL_S: Final = 0.01
_LOG_TAIL_BYTES: Final = 2_000
_ENVIRONMENT: Final[Mapping[str, str]] = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LC_ALL": "C",
    "TZ": "UTC",
}
"""All the server sees of the environment: no key of the hub reaches it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """
    A network address of a server.
    """

    address: str
    port: int = PORT


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningPostgres:
    """
    A server that was launched; it accepts connections after ``wait_until_ready``.
    """

    dsn_owner: str
    dsn_posting: str  # works once the migrations have made the role
    pid: int
    cluster: Path
    socket_directory: Path
    port: int  # of the socket, and of the network where it listens
    log_path: Path
    process: subprocess.Popen[bytes]
    notices: tuple[str, ...] = ()  # sentences for the operator

    @property
    def is_alive(self) -> bool:
        """
        Tell whether the server's process is still there.
        """
        return self.process.poll() is None

    def wait_until_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """
        Wait for connections to be accepted, crash recovery included.

        Raises:
            PostgresStartError: It ended, or took longer; the message ends with its log.
        """
        deadline = time.monotonic() + timeout_s
        while not self._accepts_connections():
            if not self.is_alive:
                message = f"PostgreSQL stopped at once:\n{_tail(self.log_path)}"
                raise PostgresStartError(message)
            if time.monotonic() > deadline:
                self.stop()
                message = f"PostgreSQL took over {timeout_s:.0f} s:\n{_tail(self.log_path)}"
                raise PostgresStartError(message)
            time.sleep(_POLL_S)
        _ensure_database(self.socket_directory, self.port)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """
        Shut down fast: open transactions are rolled back, committed ones are kept.

        Calling it again does nothing. After ``timeout_s`` the server is stopped hard;
        the next start then recovers from its log.
        """
        if self.is_alive:
            _stop_server(self.pid, self.process, timeout_s)
        if not self.socket_directory.is_relative_to(self.cluster.parent):
            shutil.rmtree(self.socket_directory, ignore_errors=True)

    def _accepts_connections(self) -> bool:
        postmaster = read_postmaster(self.cluster)
        return postmaster is not None and postmaster.pid == self.pid and postmaster.is_ready


def start(
    data_dir: Path,
    *,
    settings: Mapping[str, str] = SETTINGS,
    wal_archive: Path | None = None,
) -> RunningPostgres:
    """
    Start the server on ``data_dir/postgres`` and wait until it accepts connections.

    The caller holds the lock of ``data_dir``: a server that still runs here was left
    behind by a killed hub and is stopped first. The database is made on first use.

    Raises:
        PostgresStartError: It did not become ready; the message ends with its log.
        PostgresVersionError: The cluster belongs to another major version.
    """
    running = launch(data_dir, settings=settings, wal_archive=wal_archive)
    running.wait_until_ready()
    return running


def start_throwaway(directory: Path) -> RunningPostgres:
    """
    Start a server for tests in ``directory``: fast, not durable, no one else's.
    """
    return start(directory, settings=THROWAWAY_SETTINGS)


def launch(
    data_dir: Path,
    *,
    settings: Mapping[str, str] = SETTINGS,
    wal_archive: Path | None = None,
    listen: Listen | None = None,
) -> RunningPostgres:
    """
    Do as ``start`` does, without waiting; the caller calls ``wait_until_ready``.

    The server's messages are appended to ``data_dir/logs/postgres.log``.

    Args:
        data_dir: Where the cluster is, or is made.
        settings: Pinned on the server's command line.
        wal_archive: The folder that gets every segment of the log. A server that was
            started without it leaves a hole, behind which nothing can be restored.
        listen: A network address for standbys and hubs elsewhere; ``None``: only a socket.
    """
    data_dir = data_dir.absolute()
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    log_path = data_dir / "logs" / "postgres.log"
    log_path.parent.mkdir(mode=0o700, exist_ok=True)
    cluster = data_dir / "postgres"
    user = server_user(cluster)
    opened = let_through(user, cluster)
    _stop_leftover(cluster)
    if not (cluster / "PG_VERSION").exists():
        _make_cluster(cluster, user, with_sync=settings.get("fsync") != "off")
    _check_version(cluster)
    if wal_archive is not None:
        settings = {**settings, **archive_settings(wal_archive, user)}
    port = PORT if listen is None else listen.port
    if listen is not None:
        network = network_settings(cluster, user, listen=listen.address, port=port)
        settings = {**settings, **network}
    socket_directory = _socket_directory(data_dir, user)
    process = _spawn(cluster, socket_directory, {"port": str(port), **settings}, user, log_path)
    return RunningPostgres(
        dsn_owner=_dsn(socket_directory, OWNER_ROLE, port=port),
        dsn_posting=_dsn(socket_directory, POSTING_ROLE, port=port),
        pid=process.pid,
        cluster=cluster,
        socket_directory=socket_directory,
        port=port,
        log_path=log_path,
        process=process,
        notices=tuple(
            f"Opened {directory} for passing through (mode o+x): as root, PostgreSQL runs "
            f"as the user {user.name} and must reach its files."
            for directory in opened
        ),
    )


def attach(data_dir: Path) -> str | None:
    """
    Return a read-only connection string to the server that runs on ``data_dir``.

    ``None`` when no server runs there.
    """
    return database_address(data_dir, options="-c default_transaction_read_only=on")


def database_address(
    data_dir: Path, *, role: str = OWNER_ROLE, options: str | None = None
) -> str | None:
    """
    Return a connection string to the server that runs on ``data_dir``, standby or not.

    ``None`` when no server runs there.
    """
    postmaster = running_postmaster(data_dir.absolute() / "postgres")
    if postmaster is None or postmaster.socket_directory is None or not postmaster.is_ready:
        return None
    port = postmaster.port or PORT
    return _dsn(postmaster.socket_directory, role, port=port, options=options)


def _dsn(
    socket_directory: Path,
    role: str,
    *,
    port: int,
    database: str = DATABASE,
    options: str | None = None,
) -> str:
    return make_conninfo(
        host=str(socket_directory), port=port, user=role, dbname=database, options=options
    )


def _make_cluster(cluster: Path, user: ServerUser, *, with_sync: bool) -> None:
    unfinished = cluster.with_name("postgres.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    user.own(unfinished)
    command = [str(program("initdb")), "--pgdata", str(unfinished)]
    command += ["--username", OWNER_ROLE, "--auth", "trust", "--encoding", "UTF8"]
    command += ["--no-locale", "--no-instructions", "--data-checksums"]
    if not with_sync:
        command.append("--no-sync")
    result = subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd="/",
        env=dict(_ENVIRONMENT),
        timeout=INITDB_TIMEOUT_S,
        user=user.user_id,
        group=user.group_id,
        extra_groups=user.extra_groups,
    )
    if result.returncode != 0:
        output = (result.stdout + result.stderr).decode(errors="replace").strip()
        message = f"initdb failed for {cluster}:\n{output[-_LOG_TAIL_BYTES:]}"
        raise PostgresStartError(message)
    unfinished.rename(cluster)


def _check_version(cluster: Path) -> None:
    written_by = (cluster / "PG_VERSION").read_text(encoding="ascii").strip()
    installed = str(installed_version())
    if written_by != installed:
        message = (
            f"{cluster} was written by PostgreSQL {written_by}, and {installed} is "
            f"installed. Install the version that wrote it, or dump with that one and "
            f"restore with this one (docs/operations.md, 'Upgrading PostgreSQL')."
        )
        raise PostgresVersionError(message)


def _socket_directory(data_dir: Path, user: ServerUser) -> Path:
    directory = data_dir / "run"
    longest = os.fsencode(directory / f".s.PGSQL.{_PORT_MAX}.lock")
    if len(longest) > _SOCKET_PATH_BYTES_MAX or b"," in longest:
        # The kernel limits a socket's path, and to libpq a comma separates two hosts;
        # a data directory may have both.
        return _distant_directory(directory, user)
    if directory.is_symlink():
        directory.unlink()
    directory.mkdir(mode=0o700, exist_ok=True)
    user.own(directory)
    return directory


def _distant_directory(link: Path, user: ServerUser) -> Path:
    if link.is_symlink():
        known = link.readlink()
        owner = os.geteuid() if user.user_id is None else user.user_id
        if known.is_dir() and not known.is_symlink() and known.stat().st_uid == owner:
            return known
        link.unlink()
    directory = Path(tempfile.mkdtemp(prefix="tokenworks-", dir=_short_directory()))
    user.own(directory)
    link.symlink_to(directory)
    return directory


def _short_directory() -> str:
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    is_short = 0 < len(os.fsencode(runtime)) <= _SHORT_DIRECTORY_BYTES_MAX
    if is_short and os.geteuid() != 0 and os.access(runtime, os.W_OK):
        return runtime
    return "/tmp"  # noqa: S108 - mkdtemp makes an unguessable folder below it


def _spawn(
    cluster: Path,
    socket_directory: Path,
    settings: Mapping[str, str],
    user: ServerUser,
    log_path: Path,
) -> subprocess.Popen[bytes]:
    # Quoted, because the setting is a list and a folder's name may hold a space.
    quoted = '"' + str(socket_directory).replace('"', '""') + '"'
    command = [str(program("postgres")), "-D", str(cluster)]
    for name, value in {**settings, "unix_socket_directories": quoted}.items():
        command += ["-c", f"{name}={value}"]
    with log_path.open("ab") as log:
        return subprocess.Popen(
            launch_command(
                command,
                # The smart shutdown: it waits for the gateways to finish their calls.
                on_parent_death=signal.SIGTERM,
                user_id=user.user_id,
                group_id=user.group_id,
            ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=dict(_ENVIRONMENT),
            start_new_session=True,
            umask=0o077,
        )


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - _LOG_TAIL_BYTES))
            return log.read().decode(errors="replace").strip()
    except OSError:
        return "(no log)"


def _ensure_database(socket_directory: Path, port: int) -> None:
    dsn = _dsn(socket_directory, OWNER_ROLE, port=port, database="postgres")
    try:
        with psycopg.connect(dsn, autocommit=True) as connection:
            found = connection.execute(
                "SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)
            ).fetchone()
            if found is None:
                create = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE))
                connection.execute(create)
    except psycopg.Error as error:
        message = f"PostgreSQL started but cannot be used: {error}"
        raise PostgresStartError(message) from error


def _stop_leftover(cluster: Path) -> None:
    postmaster = running_postmaster(cluster)
    if postmaster is not None:
        _stop_server(postmaster.pid, None, STOP_TIMEOUT_S)
    deadline = time.monotonic() + ORPHANS_TIMEOUT_S
    while orphans := list(processes_of(cluster)):
        # A server process whose postmaster was killed ends by itself, but not at once.
        if time.monotonic() > deadline:
            message = f"PostgreSQL processes {orphans} still use {cluster}; end them first."
            raise PostgresStartError(message)
        time.sleep(_POLL_S)
    # No process of the cluster is left. The number in a stale file may belong to a
    # stranger by now, and PostgreSQL would then refuse to start.
    (cluster / FILE_NAME).unlink(missing_ok=True)


def _stop_server(pid: int, child: subprocess.Popen[bytes] | None, timeout_s: float) -> None:
    escalation = (
        (signal.SIGINT, timeout_s),  # fast shutdown
        (signal.SIGQUIT, 5.0),  # immediate shutdown: recovery at the next start
        (signal.SIGKILL, 5.0),
    )
    try:
        server = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return
    for which, patience_s in escalation:
        try:
            server.send_signal(which)
            if child is None:
                server.wait(patience_s)
            else:
                child.wait(patience_s)
        except psutil.NoSuchProcess:
            return
        except (psutil.TimeoutExpired, subprocess.TimeoutExpired):
            continue
        return
