"""
``tokenworks backup``: copies of the books, on disk and provably whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from tokenworks.adapters.embedded_postgres import database_address
from tokenworks.adapters.embedded_postgres.archiving import (
    BASE_FOLDER,
    WAL_FOLDER,
    archived_segments,
    missing_segments,
)
from tokenworks.adapters.embedded_postgres.backup import (
    CLUSTER_FOLDER,
    BackupFacts,
    list_backups,
    take_backup,
    verify_cluster,
)
from tokenworks.adapters.embedded_postgres.errors import BackupUnusableError
from tokenworks.adapters.embedded_postgres.session import open_session
from tokenworks.adapters.embedded_postgres.wal_archive import store
from tokenworks.cli.client import EXIT_REFUSED, DataOption, JsonOption
from tokenworks.cli.long_work import LongWork
from tokenworks.cli.rendering import Output, column, short_moment
from tokenworks.settings import HubNotRunningError, Settings, load_settings

app: Final = typer.Typer(help="Backups of the books.", no_args_is_help=True)

FolderOption = Annotated[
    Path | None,
    typer.Option("--folder", help="The backup folder; else TOKENWORKS_BACKUP_DIR."),
]

STEPS: Final = {
    "copy": "Copying the books",
    "verify": "Comparing every file with the manifest",
}
BACKUP_COLUMNS: Final = (
    column("Name"),
    column("Complete at", short_moment("finished_at")),
    column("Bytes", "size_bytes", right=True),
    column("PostgreSQL", "server_version"),
    column("Keys", "has_keys"),
)
STATUS_COLUMNS: Final = (
    column("Folder"),
    column("Backups"),
    column("Latest backup", short_moment("latest_backup_at")),
    column("Archives", "is_archiving"),
    column("Segments"),
    column("Missing segments", "missing"),
    column("Last archived", "last_archived"),
    column("Last archived at", short_moment("last_archived_at")),
    column("Failing", "is_failing"),
    column("Last failure", short_moment("last_failed_at")),
)

_ARCHIVER: Final = b"""
SELECT json_build_object(
    'is_archiving', current_setting('archive_mode') = 'on',
    'last_archived', last_archived_wal,
    'last_archived_at', last_archived_time,
    'last_failed_at', last_failed_time,
    'is_failing', coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false)
)
FROM pg_stat_archiver
"""


@app.command("create")
def create(
    data: DataOption = None,
    folder: FolderOption = None,
    as_json: JsonOption = False,
    *,
    with_keys: Annotated[
        bool,
        typer.Option(
            "--with-keys", help="Copy DATA/keys too: whoever has it can read supplier keys."
        ),
    ] = False,
) -> None:
    """
    Copy the books of a running hub, and compare the copy with its manifest.

    Calls go on meanwhile. Without the keys of DATA/keys the books cannot be used: save them
    too, elsewhere, or here with --with-keys.
    """
    settings = load_settings({"data_dir": data, "backup_dir": folder})
    target = backup_folder(settings)
    keys = settings.data_dir.absolute() / "keys"
    if with_keys and not keys.is_dir():
        message = f"There are no keys in {settings.data_dir}: name the directory with --data."
        raise BackupUnusableError(message)
    output = Output(as_json=as_json)
    work = LongWork(output, STEPS)
    with work:
        facts = take_backup(
            owner_dsn(settings),
            target,
            keys=keys if with_keys else None,
            on_step=work.begin,
            on_progress=work.advance,
        )
    output.record({**_shown(facts), "folder": str(target)}, (column("Folder"), *BACKUP_COLUMNS))
    if not with_keys:
        output.note(f"The keys in {keys} are not in it: save them too, in another place.")


@app.command("list")
def list_(
    data: DataOption = None, folder: FolderOption = None, as_json: JsonOption = False
) -> None:
    """
    List the base backups of a folder, oldest first.
    """
    target = backup_folder(load_settings({"data_dir": data, "backup_dir": folder}))
    rows = [_shown(facts) for facts in list_backups(target)]
    Output(as_json=as_json).records(rows, BACKUP_COLUMNS, empty=f"No backup in {target}.")


@app.command("verify")
def verify(
    data: DataOption = None, folder: FolderOption = None, as_json: JsonOption = False
) -> None:
    """
    Read every backup again and look for holes in the log; exit 1 when something is wrong.
    """
    target = backup_folder(load_settings({"data_dir": data, "backup_dir": folder}))
    output = Output(as_json=as_json)
    backups = list_backups(target)
    segments = archived_segments(target / WAL_FOLDER)
    problems: list[str] = [] if backups else [f"There is no backup in {target}."]
    work = LongWork(output, {facts.name: f"Reading {facts.name}" for facts in backups})
    with work:
        for facts in backups:
            work.begin(facts.name)
            try:
                verify_cluster(target.absolute() / BASE_FOLDER / facts.name / CLUSTER_FOLDER)
            except BackupUnusableError as error:
                problems.append(error.message)
    if backups:
        missing = missing_segments(segments, first=backups[0].first)
        problems += [f"{target / WAL_FOLDER} lacks {segment.name}." for segment in missing]
    document = {"backups": len(backups), "segments": len(segments), "problems": problems}
    output.record(document, (column("Backups"), column("Segments"), column("Problems")))
    if problems:
        raise typer.Exit(EXIT_REFUSED)


@app.command("status")
def status(
    data: DataOption = None, folder: FolderOption = None, as_json: JsonOption = False
) -> None:
    """
    Tell whether the log is being archived; exit 1 when it is not, or fails.
    """
    settings = load_settings({"data_dir": data, "backup_dir": folder})
    target = backup_folder(settings)
    with open_session(owner_dsn(settings)) as session:
        row = session.execute(_ARCHIVER).fetchone()
    assert row is not None, "the view has one row"
    backups = list_backups(target)
    segments = archived_segments(target / WAL_FOLDER)
    missing = missing_segments(segments, first=backups[0].first) if backups else []
    document: dict[str, Any] = {
        "folder": str(target),
        "backups": len(backups),
        "latest_backup_at": backups[-1].finished_at.isoformat() if backups else None,
        "segments": len(segments),
        "missing": len(missing),
        **row[0],
    }
    Output(as_json=as_json).record(document, STATUS_COLUMNS)
    if missing or not backups or not document["is_archiving"] or document["is_failing"]:
        raise typer.Exit(EXIT_REFUSED)


@app.command("archive-wal")
def archive_wal(
    segment: Annotated[Path, typer.Argument(help="The segment: %p in archive_command.")],
    folder: FolderOption = None,
) -> None:
    """
    Store one segment of the log; for the archive_command of a server of your own.

    The embedded server archives by itself once TOKENWORKS_BACKUP_DIR is set. The segment is
    durable when this returns, and never overwrites another.
    """
    target = backup_folder(load_settings({"backup_dir": folder})) / WAL_FOLDER
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        store(segment, target)
    except OSError as error:
        message = f"Cannot archive {segment}: {error}"
        raise BackupUnusableError(message) from error


def backup_folder(settings: Settings) -> Path:
    """
    Return the backup folder.

    Raises:
        BackupUnusableError: None was named.
    """
    if settings.backup_dir is None:
        message = "Which backup folder? Name it with --folder or TOKENWORKS_BACKUP_DIR."
        raise BackupUnusableError(message, code="backup_folder_missing")
    return settings.backup_dir


def owner_dsn(settings: Settings) -> str:
    """
    Return the connection string of the owner of the books, whoever runs their server.

    Raises:
        HubNotRunningError: No server of one's own is named and none runs on the directory.
    """
    address = settings.database_url or database_address(settings.data_dir)
    if address is None:
        message = (
            f"No database runs on {settings.data_dir}: start the hub, or name its server with "
            f"TOKENWORKS_DATABASE_URL."
        )
        raise HubNotRunningError(message)
    return address


def _shown(facts: BackupFacts) -> Mapping[str, object]:
    return {
        "name": facts.name,
        "finished_at": facts.finished_at.isoformat(),
        "size_bytes": facts.size_bytes,
        "server_version": facts.server_version,
        "system_identifier": facts.system_identifier,
        "first_segment": facts.first_segment,
        "has_keys": facts.has_keys,
    }
