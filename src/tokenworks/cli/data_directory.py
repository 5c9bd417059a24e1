"""
One hub per data directory: its lock, its private files, its runtime record.

The lock is ``flock`` on DATA/hub.lock, which the kernel releases with its holder; the
file's text (pid and start time) says who holds it, and tells a clean stop (empty) from a
crash (a record of a process that is gone).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from tokenworks.adapters.embedded_postgres import attach, start
from tokenworks.adapters.embedded_postgres.archiving import WAL_FOLDER
from tokenworks.adapters.operating_system.private_file import write_private
from tokenworks.adapters.operating_system.process import (
    ProcessIdentity,
    end_processes,
    this_process,
)
from tokenworks.foundation.errors import ConflictError, InvalidError
from tokenworks.settings import (
    RUNTIME_FILE_NAME,
    HubNotRunningError,
    Runtime,
    Settings,
    read_runtime,
)

LOCK_FILE_NAME: Final = "hub.lock"
POSTGRES_NAME: Final = "postgres"
"""The one child whose end is not asked with SIGTERM."""
LEFTOVERS_PATIENCE_S: Final = 10.0
_PRIVATE_FOLDERS: Final = ("keys", "logs")


class DataDirectoryBusyError(ConflictError):
    """
    Another hub runs on this data directory; the message names its pid.
    """

    code = "data_directory_busy"


class DataDirectoryUnusableError(InvalidError):
    """
    The data directory cannot be made or written to.
    """

    code = "data_directory_unusable"


class _LockRecord(msgspec.Struct, frozen=True, kw_only=True):
    pid: int
    started_at_s: float


class DataDirectoryLock:
    """
    The right to run a hub on a data directory; held until ``release``.
    """

    def __init__(self, file_number: int, notice: str | None) -> None:
        self._file_number: int | None = file_number
        self.notice = notice
        """A sentence when a crashed hub's lock was taken over."""

    @classmethod
    def acquire(cls, data_dir: Path) -> DataDirectoryLock:
        """
        Make the data directory if needed and take its lock.

        Raises:
            DataDirectoryBusyError: A living hub holds it.
            DataDirectoryUnusableError: It cannot be made or written to.
        """
        path = data_dir / LOCK_FILE_NAME
        try:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name in _PRIVATE_FOLDERS:
                (data_dir / name).mkdir(mode=0o700, exist_ok=True)
            file_number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            message = f"Cannot use the data directory {data_dir}: {error.strerror}."
            raise DataDirectoryUnusableError(message) from error
        try:
            notice = _claim(file_number, data_dir)
        except BaseException:
            os.close(file_number)
            raise
        return cls(file_number, notice)

    def release(self) -> None:
        """
        Give the directory up, as a clean stop. Calling it again does nothing.
        """
        if self._file_number is not None:
            os.ftruncate(self._file_number, 0)
            os.close(self._file_number)
            self._file_number = None


def _claim(file_number: int, data_dir: Path) -> str | None:
    record = _read_record(file_number)
    try:
        fcntl.flock(file_number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _busy(data_dir, record) from None
    record = _read_record(file_number)
    notice = None
    if record is not None:
        holder = ProcessIdentity(pid=record.pid, started_at_s=record.started_at_s)
        if holder.is_alive and record.pid != os.getpid():
            # A file system without working locks, or a copy of a live directory.
            raise _busy(data_dir, record)
        notice = (
            f"The last hub on {data_dir} (pid {record.pid}) did not stop cleanly; "
            f"taking over its lock."
        )
    own = this_process()
    content = msgspec.json.encode(_LockRecord(pid=own.pid, started_at_s=own.started_at_s))
    os.ftruncate(file_number, 0)
    os.pwrite(file_number, content, 0)
    return notice


def _read_record(file_number: int) -> _LockRecord | None:
    try:
        return msgspec.json.decode(os.pread(file_number, 4096, 0), type=_LockRecord)
    except msgspec.DecodeError:
        return None


def _busy(data_dir: Path, record: _LockRecord | None) -> DataDirectoryBusyError:
    who = "another process" if record is None else f"the process {record.pid}"
    return DataDirectoryBusyError(
        f"A hub already runs on {data_dir}: {who}. Stop it first, or choose another "
        f"directory with --data.",
        details={} if record is None else {"pid": record.pid},
    )


def write_runtime(data_dir: Path, runtime: Runtime) -> None:
    """
    Leave DATA/runtime.json for the hub's children and for commands on this machine.
    """
    write_private(data_dir / RUNTIME_FILE_NAME, msgspec.json.encode(runtime))


def remove_runtime(data_dir: Path) -> None:
    """
    Take the record away: the hub has stopped.
    """
    (data_dir / RUNTIME_FILE_NAME).unlink(missing_ok=True)


def end_leftovers(data_dir: Path) -> int:
    """
    End the children a killed hub left behind; return how many there were.

    The caller holds the lock. PostgreSQL is not among them: its start deals with it.
    """
    try:
        runtime = read_runtime(data_dir)
    except HubNotRunningError:
        return 0
    ended = end_processes(
        [
            ProcessIdentity(pid=child.pid, started_at_s=child.started_at_s)
            for child in runtime.children
            if child.name != POSTGRES_NAME
        ],
        patience_s=LEFTOVERS_PATIENCE_S,
    )
    remove_runtime(data_dir)
    return ended


def wal_archive(settings: Settings) -> Path | None:
    """
    Return where the embedded server archives its log; every start of it must know.
    """
    return settings.backup_dir / WAL_FOLDER if settings.backup_dir else None


@contextmanager
def database_for_checks(settings: Settings) -> Generator[str]:
    """
    Yield a connection string to the books, whether the hub runs or not.

    A running hub's server is attached to, read-only; else the embedded server is started
    for the time of the check, under the directory's lock.

    Raises:
        HubNotRunningError: There are no books in the data directory.
        DataDirectoryBusyError: A hub is just starting or stopping here.
    """
    if settings.database_url is not None:
        yield settings.posting_database_url or settings.database_url
        return
    attached = attach(settings.data_dir)
    if attached is not None:
        yield attached
        return
    if not (settings.data_dir / "postgres" / "PG_VERSION").exists():
        message = f"There are no books in {settings.data_dir}: name the directory with --data."
        raise HubNotRunningError(message, code="no_books")
    lock = DataDirectoryLock.acquire(settings.data_dir)
    try:
        running = start(settings.data_dir, wal_archive=wal_archive(settings))
        try:
            yield running.dsn_owner
        finally:
            running.stop()
    finally:
        lock.release()
