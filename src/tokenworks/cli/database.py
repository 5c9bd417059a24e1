"""
``tokenworks database``: the schema's version, and the server alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Final, TypeVar

import psycopg
import typer
from psycopg import conninfo

from tokenworks.cli.client import (
    EXIT_COULD_NOT_RUN,
    EXIT_REFUSED,
    CommandError,
    DataOption,
    JsonOption,
    reporting,
)
from tokenworks.cli.database_server import run
from tokenworks.cli.rendering import Output, column, short_moment
from tokenworks.foundation.clock import SystemClock
from tokenworks.foundation.errors import ConflictError, TokenworksError
from tokenworks.settings import Settings, load_settings

Answer = TypeVar("Answer")

app: Final = typer.Typer(help="The database of the books.", no_args_is_help=True)
app.command("run")(run)

STATE_COLUMNS: Final = (
    column("Migration", "name"),
    column("State"),
    column("Applied", short_moment("applied_at")),
)


@app.command("migrate")
def migrate_database(
    post: Annotated[
        bool,
        typer.Option("--post", help="Remove what only old code used; no old code may run."),
    ] = False,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Apply this version's migrations while the hub runs; before the new code starts.

    Exit 0: done, also when there was nothing to do. Exit 1: old code runs, or an applied
    migration was edited. Exit 2: it could not run; nothing is half done, run it again.
    """
    from tokenworks.bootstrap.database import make_fence
    from tokenworks.postgres.migrate import Phase, migrate

    settings = load_settings({"data_dir": data})
    output = Output(as_json=as_json)
    phase = Phase.POST if post else Phase.PRE

    def tell(name: str, attempt: int) -> None:
        if not as_json:
            output.note(f"{name} waits for the busy hub ({attempt})")

    with reporting(output), _reachable(settings) as dsn:
        applied = _asked(
            lambda: asyncio.run(
                migrate(
                    _writable(dsn),
                    clock=SystemClock(),
                    phases={phase},
                    on_wait=tell,
                    fence=make_fence(settings),
                )
            )
        )
        if as_json:
            output.document({"phase": phase.value, "applied": applied})
        else:
            rows = [{"name": name} for name in applied]
            output.records(rows, (column("Applied", "name"),), empty="Nothing to apply.")


@app.command("status")
def status(data: DataOption = None, as_json: JsonOption = False) -> None:
    """
    Show which migrations the database has; exit 1 when one is pending or was changed.
    """
    from tokenworks.postgres.migrate import migration_states

    output = Output(as_json=as_json)
    with reporting(output), _reachable(load_settings({"data_dir": data})) as dsn:
        states = _asked(lambda: asyncio.run(migration_states(dsn)))
        rows = [state.to_json() for state in states]
        is_current = all(state.state in {"applied", "unknown"} for state in states)
        if as_json:
            output.document({"is_current": is_current, "migrations": rows})
        else:
            output.records(rows, STATE_COLUMNS, empty="No migration.")
        if not is_current:
            raise typer.Exit(EXIT_REFUSED)


def _reachable(settings: Settings) -> AbstractContextManager[str]:
    from tokenworks.cli.data_directory import database_for_checks

    if settings.database_url is not None:
        return nullcontext(settings.database_url)
    return database_for_checks(settings)


def _writable(dsn: str) -> str:
    # Checks attach read-only by an option of the connection.
    return conninfo.make_conninfo(dsn, options="")


def _asked(ask: Callable[[], Answer]) -> Answer:
    try:
        return ask()
    except ConflictError as error:
        raise CommandError(error.message, exit_code=EXIT_REFUSED) from error
    except (OSError, psycopg.Error, TokenworksError) as error:
        message = f"The database could not be asked: {error}"
        raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN) from error
