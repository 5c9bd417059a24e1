"""
``tokenworks restore``: the books as they were at one moment, in a directory of their own.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from tokenworks.adapters.embedded_postgres.archiving import BASE_FOLDER
from tokenworks.adapters.embedded_postgres.backup import (
    KEYS_FOLDER,
    BackupFacts,
    copy_private,
)
from tokenworks.adapters.embedded_postgres.restore import restored_server
from tokenworks.cli.backup import backup_folder
from tokenworks.cli.client import EXIT_REFUSED, JsonOption
from tokenworks.cli.data_directory import DataDirectoryLock
from tokenworks.cli.long_work import LongWork
from tokenworks.cli.rendering import Output, column
from tokenworks.foundation.clock import SystemClock
from tokenworks.foundation.errors import InvalidError
from tokenworks.settings import Settings, load_settings

app: Final = typer.Typer(help="Restore the books from a backup.")

STEPS: Final = {
    "verify": "Comparing every file of the backup with its manifest",
    "copy": "Copying the books",
    "recover": "Reading the archived log",
    "check": "Rebuilding the books from their entries",
}
RESTORED_COLUMNS: Final = (
    column("Data directory", "data_dir"),
    column("Backup"),
    column("Restored to", "until"),
    column("Promotion"),
    column("Timeline"),
    column("Keys"),
    column("Books clean", "is_clean"),
)


class MomentInvalidError(InvalidError):
    """
    A moment was not understood, or lies in the future.
    """

    code = "moment_invalid"


@app.command()
def restore(
    data: Annotated[Path, typer.Option("--data", help="A directory without books.")],
    folder: Annotated[
        Path | None,
        typer.Option("--folder", help="The backup folder; else TOKENWORKS_BACKUP_DIR."),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option("--to", help="ISO time with its zone, e.g. 2026-01-31T12:00:00Z; else all."),
    ] = None,
    as_json: JsonOption = False,
    *,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Do not check the books afterwards.")
    ] = False,
) -> None:
    """
    Restore the books, all of them or up to a moment, and check them.

    Exit 1: the restored books are broken; they are left in place to be looked at.
    """
    settings = load_settings({"data_dir": data, "backup_dir": folder})
    until = None if to is None else parse_moment(to, now=SystemClock().now())
    output = Output(as_json=as_json)
    work = LongWork(output, STEPS)
    with work:
        document = _restore(settings, backup_folder(settings), until, work, with_check=not no_check)
    output.record(document, RESTORED_COLUMNS)
    output.note("Take a base backup of it into a folder of its own before you sell from it.")
    if document["is_clean"] is False:
        raise typer.Exit(EXIT_REFUSED)


def parse_moment(text: str, *, now: datetime) -> datetime:
    """
    Return a moment in UTC.

    Raises:
        MomentInvalidError: It is no ISO time, has no zone, or has not come yet.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        message = f"{text!r} is no time: write it as 2026-01-31T12:00:00Z."
        raise MomentInvalidError(message, param="to") from error
    if moment.tzinfo is None:
        message = f"{text!r} has no zone: add Z for UTC, or an offset as +02:00."
        raise MomentInvalidError(message, param="to")
    if moment > now:
        message = f"{text} has not come yet; without --to everything there is gets restored."
        raise MomentInvalidError(message, param="to")
    return moment.astimezone(UTC)


def _restore(
    settings: Settings,
    folder: Path,
    until: datetime | None,
    work: LongWork,
    *,
    with_check: bool,
) -> dict[str, Any]:
    from tokenworks.bootstrap.books import check_ledger
    from tokenworks.postgres.promotion import record_promotion

    lock = DataDirectoryLock.acquire(settings.data_dir)
    try:
        with restored_server(
            folder,
            settings.data_dir,
            until=until,
            on_step=work.begin,
            on_progress=work.advance,
        ) as (running, facts):
            standing = asyncio.run(
                record_promotion(running.dsn_owner, cause="restore", clock=SystemClock())
            )
            report = None
            if with_check:
                work.begin("check")
                report = asyncio.run(check_ledger(settings, dsn=running.dsn_owner))
            keys = _restore_keys(folder, facts, settings.data_dir)
    finally:
        lock.release()
    return {
        "data_dir": str(settings.data_dir),
        "backup": facts.name,
        "until": until.isoformat() if until else None,
        "promotion": standing.promotion,
        "timeline": standing.timeline,
        "keys": keys,
        "is_clean": report.is_clean if report else None,
        "check": report.to_json() if report else None,
    }


def _restore_keys(folder: Path, facts: BackupFacts, data_dir: Path) -> str:
    """
    Put the backup's keys in place, but never over keys that are there.
    """
    target = data_dir / KEYS_FOLDER
    if any(target.iterdir()):
        return "kept as they are"
    if not facts.has_keys:
        return "not in the backup: copy them to DATA/keys before you start the hub"
    copy_private(folder / BASE_FOLDER / facts.name / KEYS_FOLDER, target)
    return "restored"
