"""
``tokenworks database run``: the server of the books alone, without a hub.

For hubs that reach it by ``TOKENWORKS_DATABASE_URL``, on this machine or another: so that
the books, their standby and the hubs can each fail alone.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated, Final

import typer

from tokenworks.adapters.embedded_postgres import RunningPostgres, launch
from tokenworks.adapters.embedded_postgres.network import ensure_passwords
from tokenworks.adapters.embedded_postgres.server import OWNER_ROLE, PORT, POSTING_ROLE, Listen
from tokenworks.cli.client import DataOption, JsonOption
from tokenworks.cli.data_directory import DataDirectoryLock, wal_archive
from tokenworks.foundation.errors import UnavailableError
from tokenworks.settings import PORT_MAX, Settings, load_settings

ListenOption = Annotated[
    str | None,
    typer.Option("--listen", help="Network address for standbys and hubs elsewhere; else none."),
]
PortOption = Annotated[
    int, typer.Option("--port", min=1, max=PORT_MAX, help="Its port, with --listen.")
]
FolderOption = Annotated[
    Path | None,
    typer.Option("--folder", help="The backup folder that gets the log; TOKENWORKS_BACKUP_DIR."),
]

_WATCH_S: Final = 0.2


class DatabaseStoppedError(UnavailableError):
    """
    The server of the books ended by itself; its log says why.
    """

    code = "database_stopped"


def run(
    data: DataOption = None,
    listen: ListenOption = None,
    port: PortOption = PORT,
    folder: FolderOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Run PostgreSQL on a data directory until Ctrl-C, without a hub.

    The directory is made when it is new. With --listen the hub's roles get passwords, once,
    in DATA/keys/database.pgpass.
    """
    settings = load_settings({"data_dir": data, "backup_dir": folder})
    serve(
        settings,
        listen=None if listen is None else Listen(address=listen, port=port),
        as_json=as_json,
    )


def serve(
    settings: Settings,
    *,
    listen: Listen | None,
    as_json: bool,
    when_ready: Callable[[RunningPostgres], str] = lambda _: "The database is ready.",
) -> None:
    """
    Run the server of a data directory in the foreground, primary or standby.

    Args:
        settings: Name the directory and the backup folder.
        listen: Its network address.
        as_json: Whether programs read the output.
        when_ready: Called once; returns the sentence for the operator.

    Raises:
        DatabaseStoppedError: It ended by itself.
    """
    is_asked_to_stop = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal is_asked_to_stop
        is_asked_to_stop = True

    for which in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(which, stop)
    lock = DataDirectoryLock.acquire(settings.data_dir)
    try:
        running = launch(settings.data_dir, wal_archive=wal_archive(settings), listen=listen)
        try:
            running.wait_until_ready()
            if listen is not None:
                roles = (OWNER_ROLE, POSTING_ROLE)
                made = ensure_passwords(running.dsn_owner, settings.data_dir.absolute(), roles)
                if made is not None:
                    _tell(as_json, "notice", f"The passwords of the hub's roles are in {made}.")
            _tell(as_json, "ready", when_ready(running), database_url=running.dsn_owner)
            while running.is_alive and not is_asked_to_stop:
                time.sleep(_WATCH_S)
        finally:
            running.stop()
    finally:
        lock.release()
    if not is_asked_to_stop:
        message = f"The database ended by itself; its log is {running.log_path}."
        raise DatabaseStoppedError(message)


def _tell(as_json: bool, event: str, text: str, **facts: str) -> None:
    if as_json:
        typer.echo(json.dumps({"event": event, "text": text, **facts}))
    else:
        typer.echo("\n".join([text, *(f"{name}: {value}" for name, value in facts.items())]))
