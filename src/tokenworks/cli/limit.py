"""
``tokenworks limit``: what a party or a key may spend.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import typer

from tokenworks.cli.client import (
    EXIT_COULD_NOT_RUN,
    CommandError,
    DataOption,
    JsonOption,
    KeyOption,
    UrlOption,
    hub_session,
)
from tokenworks.cli.rendering import column, short_moment

app: Final = typer.Typer(
    help="Limits on parties and keys, kept by the ledger.", no_args_is_help=True
)

COLUMNS: Final = (
    column("On", "scope.name"),
    column("Scope", "scope.kind"),
    column("Amount", right=True),
    column("Unit"),
    column("Per"),
    column("Remaining", right=True),
    column("Opens again", short_moment("resets_at")),
    column("Time zone", "time_zone"),
    column("Id", "limit_id"),
)


class Window(StrEnum):
    """
    How long a limit's window is.
    """

    EVER = "ever"
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    QUARTER = "quarter"
    YEAR = "year"


class Unit(StrEnum):
    """
    What a limit counts.
    """

    USD = "USD"
    TOKENS = "tokens"


@app.command("set")
def set_limit(
    party: Annotated[str, typer.Argument(help="A party's name or id, or a key's id.")],
    amount: Annotated[str, typer.Argument(help="Plain decimal text, such as 12.50.")],
    per: Annotated[Window, typer.Option(help="The window.")],
    unit: Annotated[Unit, typer.Option(help="Money or tokens.")] = Unit.USD,
    time_zone: Annotated[str, typer.Option(help="Where days and months begin.")] = "UTC",
    is_key: Annotated[
        bool, typer.Option("--on-key", help="The first argument is a key's id.")
    ] = False,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Set or replace a limit; a call must fit every limit above its key.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        body = {
            "key" if is_key else "party": party,
            "amount": amount,
            "unit": unit.value,
            "per": per.value,
            "time_zone": time_zone,
        }
        hub.output.record(hub.post("limits", body), COLUMNS)


@app.command("list")
def list_limits(
    party: Annotated[str | None, typer.Argument(help="The party's name or id.")] = None,
    on_key: Annotated[str | None, typer.Option(help="The key's id, instead of a party.")] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    List limits and what is left of them.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        rows = hub.get("limits", party=party, key=on_key)["items"]
        hub.output.records(rows, COLUMNS, empty="No limit is set there.")


@app.command("remove")
def remove(
    limit: Annotated[str, typer.Argument(help="The limit's id, or its party's name with --per.")],
    per: Annotated[Window | None, typer.Option(help="The window of the party's limit.")] = None,
    unit: Annotated[Unit, typer.Option(help="The unit of the party's limit.")] = Unit.USD,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Remove a limit.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        limit_id = limit
        if per is not None:
            rows = hub.get("limits", party=limit)["items"]
            found = [row for row in rows if row["per"] == per and row["unit"] == unit]
            if not found:
                message = f"{limit} has no limit of {unit} per {per}."
                raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN)
            limit_id = str(found[0]["limit_id"])
        answer = hub.delete(f"limits/{limit_id}")
        hub.output.record(answer, (column("Limit id"), column("Removed")))
