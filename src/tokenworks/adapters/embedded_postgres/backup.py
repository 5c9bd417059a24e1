"""
Take base backups into ``FOLDER/base/``, list and verify them.

Invariants: a backup appears under its name only when every file of it has been compared
with its manifest; its name is the time at which it was complete, by the server's clock.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from tokenworks.adapters.embedded_postgres.archiving import BASE_FOLDER, Segment, segment_of
from tokenworks.adapters.embedded_postgres.errors import BackupUnusableError, PostgresToolError
from tokenworks.adapters.embedded_postgres.session import open_session
from tokenworks.adapters.embedded_postgres.tool import Progressed, run_tool
from tokenworks.adapters.operating_system.private_file import sync_directory, write_private

CLUSTER_FOLDER: Final = "postgres"
KEYS_FOLDER: Final = "keys"
FACTS_FILE: Final = "backup.json"

_UNFINISHED: Final = ".unfinished"
_NAME: Final = "%Y%m%dT%H%M%S.%fZ"
_SEGMENT_BYTES: Final = 16 * 1024 * 1024


class BackupFacts(msgspec.Struct, frozen=True, kw_only=True):
    """
    What is known of one base backup; kept beside it.
    """

    name: str
    finished_at: datetime  # by the server's clock: nothing earlier can be restored from it
    system_identifier: str
    server_version: str
    first_segment: str  # of the log that is needed to use it
    size_bytes: int
    has_keys: bool

    @property
    def first(self) -> Segment:
        """
        Return the first segment of the log that is needed.
        """
        segment = segment_of(self.first_segment)
        assert segment is not None, "written by this module"
        return segment


def take_backup(
    dsn: str,
    folder: Path,
    *,
    keys: Path | None = None,
    on_step: Callable[[str], None],
    on_progress: Progressed | None = None,
) -> BackupFacts:
    """
    Copy a running server's cluster, check the copy, and return what is known of it.

    Args:
        dsn: The server, as a role that may replicate.
        folder: The backup folder; made when missing.
        keys: A folder of keys to copy along (mode 0600); ``None`` leaves them out.
        on_step: Told ``copy`` and ``verify``.
        on_progress: Told how much is copied, in percent.

    Raises:
        PostgresToolError: The copy failed or does not match its manifest.
    """
    base = folder.absolute() / BASE_FOLDER
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = base / _UNFINISHED
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    cluster = draft / CLUSTER_FOLDER
    on_step("copy")
    run_tool(
        "pg_basebackup",
        f"--pgdata={cluster}",
        "--wal-method=stream",
        "--checkpoint=fast",
        "--manifest-checksums=SHA256",
        "--label=tokenworks backup",
        "--progress",
        dsn=dsn,
        on_progress=on_progress,
    )
    on_step("verify")
    verify_cluster(cluster)
    if keys is not None:
        copy_private(keys, draft / KEYS_FOLDER)
    facts = _facts(dsn, cluster, has_keys=keys is not None)
    write_private(draft / FACTS_FILE, msgspec.json.format(msgspec.json.encode(facts)))
    draft.rename(base / facts.name)
    sync_directory(base)
    return facts


def list_backups(folder: Path) -> list[BackupFacts]:
    """
    Return the finished base backups of a backup folder, oldest first.
    """
    found = [
        msgspec.json.decode(path.read_bytes(), type=BackupFacts)
        for path in (folder / BASE_FOLDER).glob(f"*/{FACTS_FILE}")
        if not path.parent.name.startswith(".")
    ]
    return sorted(found, key=lambda facts: facts.finished_at)


def choose_backup(folder: Path, *, until: datetime | None) -> BackupFacts:
    """
    Return the latest base backup from which a moment can be reached.

    Args:
        folder: The backup folder.
        until: The moment; ``None``: as late as possible.

    Raises:
        BackupUnusableError: There is none, or none that is early enough.
    """
    backups = list_backups(folder)
    if not backups:
        message = f"There is no backup in {folder}: 'tokenworks backup create' makes one."
        raise BackupUnusableError(message)
    early_enough = [b for b in backups if until is None or b.finished_at <= until]
    if not early_enough:
        message = (
            f"The oldest backup in {folder} was complete at {backups[0].finished_at.isoformat()}; "
            f"no earlier moment can be restored."
        )
        raise BackupUnusableError(message)
    return early_enough[-1]


def verify_cluster(cluster: Path) -> None:
    """
    Compare every file of a copied cluster with its manifest, and read its log.

    Raises:
        BackupUnusableError: A file is missing, was changed, or the log has a hole.
    """
    try:
        run_tool("pg_verifybackup", "--exit-on-error", str(cluster))
    except PostgresToolError as error:
        message = f"The backup {cluster.parent} is damaged: {error.message}"
        raise BackupUnusableError(message) from error


def copy_private(source: Path, target: Path) -> None:
    """
    Copy a folder of plain files, readable by their owner only, durably.
    """
    target.mkdir(mode=0o700, exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.is_file() and not path.is_symlink():
            write_private(target / path.name, path.read_bytes())


def _facts(dsn: str, cluster: Path, *, has_keys: bool) -> BackupFacts:
    with open_session(dsn) as connection:
        row = connection.execute(
            "SELECT clock_timestamp(), system_identifier::text, current_setting('server_version') "
            "FROM pg_control_system()"
        ).fetchone()
    assert row is not None, "a server answers"
    finished_at, system_identifier, server_version = row
    files = [path for path in cluster.rglob("*") if path.is_file()]
    return BackupFacts(
        name=finished_at.strftime(_NAME),
        finished_at=finished_at,
        system_identifier=system_identifier,
        server_version=server_version,
        first_segment=_first_segment(cluster).name,
        size_bytes=sum(path.stat().st_size for path in files),
        has_keys=has_keys,
    )


class _LogRange(msgspec.Struct, frozen=True, rename={"start": "Start-LSN", "timeline": "Timeline"}):
    start: str
    timeline: int


class _Manifest(msgspec.Struct, frozen=True, rename={"ranges": "WAL-Ranges"}):
    ranges: list[_LogRange]


def _first_segment(cluster: Path) -> Segment:
    manifest = msgspec.json.decode((cluster / "backup_manifest").read_bytes(), type=_Manifest)
    first = manifest.ranges[0]
    high, low = (int(text, 16) for text in first.start.split("/"))
    return Segment(index=((high << 32) + low) // _SEGMENT_BYTES, timeline=first.timeline)
