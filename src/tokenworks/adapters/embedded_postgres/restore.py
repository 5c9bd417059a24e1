"""
Make a cluster from a base backup and the archived log, as it was at one moment.

Order: choose, verify, copy into ``DATA/restoring``, recover there, and only then give the
cluster its place. So a restore that fails, or is interrupted, leaves ``DATA`` without a
cluster, never with half of one; the next attempt begins anew.

The archive is only read. What a restored server writes is another history (a new
timeline), which must not mix with the one it was taken from: give it a backup folder of
its own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

from tokenworks.adapters.embedded_postgres.archiving import (
    BASE_FOLDER,
    WAL_FOLDER,
    archived_segments,
    missing_segments,
    restore_command,
)
from tokenworks.adapters.embedded_postgres.backup import (
    CLUSTER_FOLDER,
    BackupFacts,
    choose_backup,
    verify_cluster,
)
from tokenworks.adapters.embedded_postgres.errors import BackupUnusableError, PostgresStartError
from tokenworks.adapters.embedded_postgres.server import RunningPostgres, launch
from tokenworks.adapters.embedded_postgres.server_settings import SETTINGS
from tokenworks.adapters.embedded_postgres.session import open_session
from tokenworks.adapters.embedded_postgres.system_user import ServerUser, let_through, server_user
from tokenworks.adapters.embedded_postgres.tool import Progressed
from tokenworks.adapters.operating_system.private_file import sync_directory

RECOVERY_TIMEOUT_S: Final = 86_400.0

_STAGING: Final = "restoring"
_OF_ANOTHER_SERVER: Final = (
    "synchronous_standby_names",
    "primary_conninfo",
    "primary_slot_name",
)
"""Settings that the copied server had and the restored one, which stands alone, has not."""


@contextmanager
def restored_server(
    folder: Path,
    data_dir: Path,
    *,
    until: datetime | None,
    on_step: Callable[[str], None],
    on_progress: Progressed | None = None,
) -> Generator[tuple[RunningPostgres, BackupFacts]]:
    """
    Restore, yield the running server for a look, then stop it and give it its place.

    The caller holds the lock of ``data_dir``. When the block raises, nothing is put in place.

    Args:
        folder: The backup folder.
        data_dir: Gets ``postgres/``; must have none yet.
        until: Transactions that committed later are left out; ``None``: all there is.
        on_step: Told ``verify``, ``copy`` and ``recover``.
        on_progress: Told how much is copied, in percent.

    Raises:
        BackupUnusableError: No backup reaches that moment, it is damaged, or the log has a
            hole.
    """
    folder, data_dir = folder.absolute(), data_dir.absolute()
    cluster = data_dir / CLUSTER_FOLDER
    if cluster.exists():
        message = f"There are books in {data_dir} already: restore into another directory."
        raise BackupUnusableError(message)
    facts = choose_backup(folder, until=until)
    source = folder / BASE_FOLDER / facts.name / CLUSTER_FOLDER
    _refuse_holes(folder / WAL_FOLDER, facts, until=until)
    on_step("verify")
    verify_cluster(source)
    staging = data_dir / _STAGING
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(mode=0o700)
    try:
        user = server_user(cluster)
        let_through(user, staging / CLUSTER_FOLDER)
        on_step("copy")
        _copy(source, staging / CLUSTER_FOLDER, user, facts.size_bytes, on_progress)
        on_step("recover")
        running = _recover(staging, folder / WAL_FOLDER, user, until=until)
        try:
            _forget_other_servers(running)
            yield running, facts
        finally:
            running.stop()
        (staging / CLUSTER_FOLDER).rename(cluster)
        sync_directory(data_dir)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _refuse_holes(archive: Path, facts: BackupFacts, *, until: datetime | None) -> None:
    missing = missing_segments(archived_segments(archive), first=facts.first)
    if missing and until is None:
        message = (
            f"{archive} lacks {missing[0].name}: nothing behind it can be restored. Name a "
            f"moment before it with --to, or take a newer base backup."
        )
        raise BackupUnusableError(message, details={"missing": [m.name for m in missing[:20]]})


def _copy(
    source: Path, target: Path, user: ServerUser, size_bytes: int, on_progress: Progressed | None
) -> None:
    copied_bytes = 0

    def copy_file(one: str, other: str) -> str:
        nonlocal copied_bytes
        shutil.copyfile(one, other)
        Path(other).chmod(0o600)
        user.own(Path(other))
        copied_bytes += Path(other).stat().st_size
        if on_progress is not None:
            on_progress(min(100, copied_bytes * 100 // max(1, size_bytes)))
        return other

    shutil.copytree(source, target, copy_function=copy_file)
    for directory in (target, *(path for path in target.rglob("*") if path.is_dir())):
        directory.chmod(0o700)
        user.own(directory)
    # PostgreSQL makes durable what it writes itself, not what was copied before it started.
    os.sync()


def _recover(
    staging: Path, archive: Path, user: ServerUser, *, until: datetime | None
) -> RunningPostgres:
    # A copy of a standby would go on following its primary.
    (staging / CLUSTER_FOLDER / "standby.signal").unlink(missing_ok=True)
    signal_file = staging / CLUSTER_FOLDER / "recovery.signal"
    signal_file.touch(mode=0o600)
    user.own(signal_file)
    settings = {
        **SETTINGS,
        # No connections before the moment is reached.
        "hot_standby": "off",
        "archive_mode": "off",
        "restore_command": restore_command(archive, user) if archive.exists() else "false",
        "recovery_target_timeline": "latest",
        "recovery_target_action": "promote",
        **dict.fromkeys(_OF_ANOTHER_SERVER, ""),
    }
    if until is not None:
        settings["recovery_target_time"] = until.isoformat(sep=" ")
    running = launch(staging, settings=settings)
    try:
        running.wait_until_ready(RECOVERY_TIMEOUT_S)
    except PostgresStartError as error:
        if "before configured recovery target" not in error.message:
            raise
        message = (
            f"The archive ends before {until}: nothing in it was committed at or after that "
            f"moment. Without --to everything there is gets restored.\n{error.message}"
        )
        raise BackupUnusableError(message) from error
    return running


def _forget_other_servers(running: RunningPostgres) -> None:
    with open_session(running.dsn_owner) as connection:
        for name in _OF_ANOTHER_SERVER:
            connection.execute(f"ALTER SYSTEM RESET {name}".encode())
