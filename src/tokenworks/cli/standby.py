"""
``tokenworks standby``: a second copy of the books that can take over.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Final

import typer
from psycopg.conninfo import conninfo_to_dict

from tokenworks.adapters.embedded_postgres import RunningPostgres, database_address
from tokenworks.adapters.embedded_postgres.errors import DatabaseUnreachableError, StandbyError
from tokenworks.adapters.embedded_postgres.server import PORT, Listen
from tokenworks.adapters.embedded_postgres.session import Session, open_session
from tokenworks.adapters.embedded_postgres.standby import (
    create_standby,
    follow,
    forget_primary,
    join,
    read_facts,
    remove_standby,
    require_vacant,
    stand_alone,
    upstream_of,
    write_facts,
)
from tokenworks.adapters.embedded_postgres.standing import read_status
from tokenworks.cli.client import EXIT_REFUSED, DataOption, JsonOption
from tokenworks.cli.data_directory import DataDirectoryLock
from tokenworks.cli.database_server import FolderOption, ListenOption, PortOption, serve
from tokenworks.cli.long_work import LongWork
from tokenworks.cli.rendering import Output, Record, column
from tokenworks.foundation.clock import SystemClock
from tokenworks.settings import Settings, load_settings

app: Final = typer.Typer(help="A second copy that can take over.", no_args_is_help=True)

OfOption = Annotated[
    Path | None, typer.Option("--of", help="Data directory of the primary, on this machine.")
]
PrimaryOption = Annotated[
    str | None,
    typer.Option(
        "--primary",
        help="Connection string of the primary's owner, without a password (passfile=… or "
        "PGPASSFILE); else TOKENWORKS_DATABASE_URL.",
    ),
]
StandbyDataOption = Annotated[Path, typer.Option("--data", help="The standby's data directory.")]

STEPS: Final = {
    "prepare": "Making its role and its slot on the primary",
    "copy": "Copying the books",
}
PROMOTE_TIMEOUT_S: Final = 60

MADE_COLUMNS: Final = (column("Name"), column("Data directory", "data_dir"), column("Primary"))
STATUS_COLUMNS: Final = (
    column("Role"),
    column("Promotion"),
    column("Timeline"),
    column("Waits for", "waits_for"),
    column("Can acknowledge", "can_acknowledge"),
    column("Follows", "upstream"),
    column("Received up to", "received_lsn"),
    column("Replayed up to", "replayed_lsn"),
    column("Healthy", "is_healthy"),
)
STANDBY_COLUMNS: Final = (
    column("Standby", "name"),
    column("State"),
    column("Sync", "sync_state"),
    column("Bytes behind", "flush_lag_bytes", right=True),
    column("Seconds behind", "flush_lag_s", right=True),
    column("Address"),
)
SLOT_COLUMNS: Final = (
    column("Slot", "name"),
    column("Active", "is_active"),
    column("Bytes kept", "kept_bytes", right=True),
    column("Log", "log_state"),
)
PROMOTED_COLUMNS: Final = (
    column("Data directory", "data_dir"),
    column("Promotion"),
    column("Timeline"),
    column("Waits for", "waits_for"),
)


@app.command()
def create(
    data: StandbyDataOption,
    of: OfOption = None,
    primary: PrimaryOption = None,
    name: Annotated[str, typer.Option(help="Tells standbys apart: a-z, 0-9 and _.")] = "standby",
    as_json: JsonOption = False,
) -> None:
    """
    Copy a running primary; calls go on meanwhile. Then run it with 'standby run'.
    """
    settings = load_settings({"data_dir": data})
    require_vacant(settings.data_dir)
    dsn = primary_dsn(settings, of=of, primary=primary)
    output = Output(as_json=as_json)
    work = LongWork(output, STEPS)
    lock = DataDirectoryLock.acquire(settings.data_dir)
    try:
        with work:
            facts = create_standby(
                dsn,
                settings.data_dir,
                name=name,
                on_step=work.begin,
                on_progress=work.advance,
            )
    finally:
        lock.release()
    document = {
        "name": facts.name,
        "data_dir": str(settings.data_dir),
        "primary": facts.primary,
    }
    output.record(document, MADE_COLUMNS)
    output.note(
        "No commit waits for it yet: it joins when 'tokenworks standby run' has started it."
    )


@app.command()
def run(
    data: StandbyDataOption,
    listen: ListenOption = None,
    port: PortOption = PORT,
    folder: FolderOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Run a standby until Ctrl-C; the first time, commits on the primary begin to wait for it.

    Stopping it then stops sales, unless another standby confirms: see deploy/README.md. Also
    runs it on after its promotion.
    """
    settings = load_settings({"data_dir": data, "backup_dir": folder})
    if not (settings.data_dir / "postgres").exists():
        message = f"There is no standby in {data}: make it with 'tokenworks standby create'."
        raise StandbyError(message)
    serve(
        settings,
        listen=None if listen is None else Listen(address=listen, port=port),
        as_json=as_json,
        when_ready=lambda running: _join(settings.data_dir, running),
    )


def _join(data_dir: Path, running: RunningPostgres) -> str:
    facts = read_facts(data_dir)
    with open_session(running.dsn_owner) as session:
        if not _is_standby(session):
            return "This database is a primary; it follows nobody."
    if facts is None:
        message = f"{data_dir} follows a primary, and standby.json is gone: make it anew."
        raise StandbyError(message)
    if facts.is_waited_for:
        return f"The standby {facts.name} follows its primary; commits there wait for it."
    try:
        join(facts.primary, facts.name)
    except (DatabaseUnreachableError, StandbyError) as error:
        return f"The standby runs, and nobody waits for it yet: {error.message}"
    write_facts(data_dir, type(facts)(name=facts.name, primary=facts.primary, is_waited_for=True))
    return f"The standby {facts.name} has caught up; commits on the primary wait for it now."


@app.command()
def status(
    data: DataOption = None,
    primary: PrimaryOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Show a server's standbys and how far behind they are, or how far a standby has come.

    Exit 1: a primary that cannot acknowledge, since no standby confirms; a standby that does
    not receive.
    """
    settings = load_settings({"data_dir": data})
    is_here = primary is None and (data is not None or settings.database_url is None)
    dsn = primary_dsn(settings, of=settings.data_dir if is_here else None, primary=primary)
    with open_session(dsn) as session:
        document = read_status(session)
    output = Output(as_json=as_json)
    output.record(document, STATUS_COLUMNS)
    if not as_json:
        rows: list[Record] = document["standbys"]
        output.records(rows, STANDBY_COLUMNS, empty="No standby is connected.")
        if document["slots"]:
            output.records(document["slots"], SLOT_COLUMNS, empty="")
    if not document["is_healthy"]:
        raise typer.Exit(EXIT_REFUSED)


@app.command()
def promote(
    data: StandbyDataOption,
    wait_for: Annotated[
        list[str] | None,
        typer.Option("--wait-for", help="A standby that will follow it; commits wait for it."),
    ] = None,
    as_json: JsonOption = False,
    *,
    force: Annotated[
        bool,
        typer.Option("--force", help="Although the primary answers, or calls may be lost."),
    ] = False,
) -> None:
    """
    Make a running standby the primary. First make sure that the old one is stopped.

    The promotion is counted in the books: hubs that have seen it refuse the old primary.
    """
    from tokenworks.postgres.promotion import record_promotion

    settings = load_settings({"data_dir": data})
    dsn = database_address(settings.data_dir)
    if dsn is None:
        message = f"No database runs on {data}: start it with 'tokenworks standby run'."
        raise StandbyError(message)
    with open_session(dsn) as session:
        if not _is_standby(session):
            message = f"The database on {data} is a primary already."
            raise StandbyError(message)
        if not force:
            _refuse_unsafe(session, settings)
        stand_alone(session, wait_for=wait_for or [])
        row = session.execute(f"SELECT pg_promote(true, {PROMOTE_TIMEOUT_S})".encode()).fetchone()
        if not row or not row[0]:
            message = f"PostgreSQL did not promote it in {PROMOTE_TIMEOUT_S} s: look into its log."
            raise StandbyError(message)
    # After this point it is the primary; hubs may be writing to it already.
    standing = asyncio.run(record_promotion(dsn, cause="failover", clock=SystemClock()))
    with open_session(dsn) as session:
        forget_primary(session, settings.data_dir)
    document = {
        "data_dir": str(settings.data_dir),
        "promotion": standing.promotion,
        "timeline": standing.timeline,
        "waits_for": wait_for or [],
        "database_url": dsn,
    }
    output = Output(as_json=as_json)
    output.record(document, PROMOTED_COLUMNS)
    if not wait_for:
        output.note("One disk has the books now: make another standby of it.")


def _refuse_unsafe(session: Session, settings: Settings) -> None:
    facts = read_facts(settings.data_dir)
    if facts is None or not facts.is_waited_for:
        message = (
            "Commits on the primary did not wait for this standby, so acknowledged calls may be "
            "missing from it. Promote another one, or say --force."
        )
        raise StandbyError(message)
    try:
        with open_session(upstream_of(session)) as primary:
            is_standby = _is_standby(primary)
    except DatabaseUnreachableError:
        return
    if not is_standby:
        message = (
            "The primary still answers: two primaries would tell two stories. Stop it, or say "
            "--force when it can reach no hub."
        )
        raise StandbyError(message)


@app.command("follow")
def follow_(
    data: StandbyDataOption,
    of: OfOption = None,
    primary: PrimaryOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Point a running standby at the new primary, after another standby was promoted.
    """
    settings = load_settings({"data_dir": data})
    dsn = primary_dsn(settings, of=of, primary=primary)
    own = database_address(settings.data_dir)
    facts = read_facts(settings.data_dir)
    if own is None or facts is None:
        message = f"No standby runs on {data}: start it with 'tokenworks standby run'."
        raise StandbyError(message)
    facts = follow(dsn, own, facts, settings.data_dir)
    join(dsn, facts.name)
    write_facts(
        settings.data_dir,
        type(facts)(name=facts.name, primary=facts.primary, is_waited_for=True),
    )
    document = {
        "name": facts.name,
        "data_dir": str(settings.data_dir),
        "primary": facts.primary,
    }
    Output(as_json=as_json).record(document, MADE_COLUMNS)


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="The standby's name.")],
    of: OfOption = None,
    primary: PrimaryOption = None,
    as_json: JsonOption = False,
    *,
    last: Annotated[
        bool, typer.Option("--last", help="Although no other standby is left.")
    ] = False,
) -> None:
    """
    Take a standby away from its primary: nobody waits for it, its slot and role are gone.
    """
    settings = load_settings({})
    dsn = primary_dsn(settings, of=of, primary=primary)
    remove_standby(dsn, name, even_if_last=last)
    Output(as_json=as_json).record({"name": name, "is_removed": True}, (column("Name"),))


def primary_dsn(settings: Settings, *, of: Path | None, primary: str | None) -> str:
    """
    Return the connection string of the server that a command works on.

    Raises:
        StandbyError: None was named, none runs there, or a password was in the arguments.
    """
    if primary is not None:
        if conninfo_to_dict(primary).get("password"):
            message = (
                "Everybody on this machine can read a command's arguments: leave the password "
                "out and name a password file (passfile=… or PGPASSFILE)."
            )
            raise StandbyError(message, code="password_in_arguments")
        return primary
    if of is not None:
        address = database_address(of)
        if address is not None:
            return address
        message = f"No database runs on {of}."
        raise StandbyError(message)
    if settings.database_url is not None:
        return settings.database_url
    message = "Which primary? Name its data directory with --of, or the server with --primary."
    raise StandbyError(message)


def _is_standby(session: Session) -> bool:
    row = session.execute("SELECT pg_is_in_recovery()").fetchone()
    return bool(row and row[0])
