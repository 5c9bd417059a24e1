"""
``tokenworks party``: organisations, teams, people and agents.
"""

from __future__ import annotations

from typing import Annotated, Final

import typer

from tokenworks.cli.client import DataOption, JsonOption, KeyOption, UrlOption, hub_session
from tokenworks.cli.rendering import column, short_moment

app: Final = typer.Typer(help="Parties: who buys, sells, or is owed a share.", no_args_is_help=True)

COLUMNS: Final = (
    column("Name"),
    column("Kind"),
    column("Level"),
    column("Parent", "parent.name"),
    column("Tier", "default_tier"),
    column("State"),
    column("Created", short_moment("created_at")),
    column("Id", "party_id"),
)

NameArgument = Annotated[str, typer.Argument(help="The party's name or id.")]


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="a-z, 0-9, dot, underscore, hyphen; unique.")],
    kind: Annotated[
        str,
        typer.Option(help="buyer, supplier, power_producer, rights_holder or reseller."),
    ] = "buyer",
    parent: Annotated[str | None, typer.Option(help="The party above it, by name or id.")] = None,
    level: Annotated[
        str | None,
        typer.Option(help="organisation, team, user or agent; else one below the parent."),
    ] = None,
    default_tier: Annotated[
        str | None, typer.Option(help="The tier of calls that name none.")
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Add a party and open its accounts.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        body = {
            "name": name,
            "kind": kind,
            "parent": parent,
            "level": level,
            "default_tier": default_tier,
        }
        hub.output.record(hub.post("parties", body), COLUMNS)


@app.command("list")
def list_parties(
    kind: Annotated[str | None, typer.Option(help="Only parties of this kind.")] = None,
    parent: Annotated[str | None, typer.Option(help="Only parties right below it.")] = None,
    state: Annotated[str | None, typer.Option(help="active, frozen or closed.")] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    List parties.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        rows = hub.pages("parties", kind=kind, parent=parent, state=state)
        hub.output.records(rows, COLUMNS, empty="No party matches.")


@app.command("show")
def show(
    name: NameArgument,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Show one party.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        hub.output.record(hub.get(f"parties/{name}"), COLUMNS)


@app.command("freeze")
def freeze(
    name: NameArgument,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Stop new calls of a party and of everything below it, at once.
    """
    _set_state(name, "frozen", url=url, key=key, data=data, as_json=as_json)


@app.command("unfreeze")
def unfreeze(
    name: NameArgument,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Let a frozen party call again.
    """
    _set_state(name, "active", url=url, key=key, data=data, as_json=as_json)


def _set_state(
    name: str,
    state: str,
    *,
    url: UrlOption,
    key: KeyOption,
    data: DataOption,
    as_json: bool,
) -> None:
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        hub.output.record(hub.patch(f"parties/{name}", {"state": state}), COLUMNS)
