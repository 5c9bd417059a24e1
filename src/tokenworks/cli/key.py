"""
``tokenworks key``: API keys; a secret is printed once and kept nowhere.
"""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final

import typer

from tokenworks.cli.client import (
    EXIT_COULD_NOT_RUN,
    CommandError,
    DataOption,
    Document,
    HubClient,
    JsonOption,
    KeyOption,
    UrlOption,
    hub_session,
    reporting,
)
from tokenworks.cli.rendering import Output, column, short_moment
from tokenworks.foundation.clock import SystemClock
from tokenworks.settings import load_settings

app: Final = typer.Typer(help="API keys of parties.", no_args_is_help=True)

COLUMNS: Final = (
    column("Prefix"),
    column("Party", "party.name"),
    column("Role"),
    column("State"),
    column("Label"),
    column("Models"),
    column("Requests/min", "requests_per_minute", right=True),
    column("Expires", short_moment("expires_at")),
    column("Created", short_moment("created_at")),
    column("Mandate", "mandate_id"),
    column("Id", "key_id"),
)

_SPAN: Final = re.compile(r"(\d{1,5})([hdwy])")
_SPANS: Final = {
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
    "y": timedelta(days=365),
}

KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="The key's id or its prefix.")]


@app.command("add")
def add(
    party: Annotated[
        str | None, typer.Argument(help="Who will act with it; nobody with --admin.")
    ] = None,
    is_admin: Annotated[
        bool,
        typer.Option("--admin", help="An admin key, made in the database of --data itself."),
    ] = False,
    role: Annotated[
        str | None, typer.Option(help="buyer or supplier; else what suits the party.")
    ] = None,
    label: Annotated[str, typer.Option(help="To know it by.")] = "",
    models: Annotated[
        list[str] | None,
        typer.Option(help="Only these: model or model@tier; repeat it or use commas."),
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(help="At most so many.")] = None,
    expires: Annotated[
        str | None, typer.Option(help="ISO 8601 time, or a span: 12h, 30d, 4w, 1y.")
    ] = None,
    mandate: Annotated[
        str | None, typer.Option(help="The agent's mandate its calls are to stay within.")
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Add a key and print its secret, once.
    """
    if is_admin:
        with reporting(Output(as_json=as_json)):
            _add_admin_key(data=data, output=Output(as_json=as_json), party=party)
        return
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        if party is None:
            message = "Name the party of the key, or make an admin key with --admin --data DIR."
            raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN)
        body = {
            "party": party,
            "role": role,
            "label": label,
            "models": split_models(models),
            "requests_per_minute": requests_per_minute,
            "expires_at": None if expires is None else parse_expiry(expires),
            "mandate": mandate,
        }
        _show_secret(hub.output, hub.post("keys", body))


@app.command("list")
def list_keys(
    party: Annotated[str | None, typer.Argument(help="Only this party's.")] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    List keys; secrets are never shown again.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        hub.output.records(hub.pages("keys", party=party), COLUMNS, empty="No key.")


@app.command("revoke")
def revoke(
    key_name: KeyArgument,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Revoke a key for good, at once.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        hub.output.record(hub.delete(f"keys/{find_key_id(hub, key_name)}"), COLUMNS)


@app.command("rotate")
def rotate(
    key_name: KeyArgument,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Replace a key's secret; the old one stops working, limits and label stay.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        answer = hub.post(f"keys/{find_key_id(hub, key_name)}/rotate")
        _show_secret(hub.output, answer)


def find_key_id(hub: HubClient, name: str) -> str:
    """
    Return the id of a key named by its id or by its prefix.

    Raises:
        CommandError: No key, or several, have that prefix.
    """
    if not name.startswith("tw_"):
        return name
    prefix = name[:10]
    found = [row for row in hub.pages("keys") if row["prefix"] == prefix]
    if len(found) != 1:
        count = "No key has" if not found else f"{len(found)} keys have"
        message = f"{count} the prefix {prefix}."
        raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN, hint="tokenworks key list")
    return str(found[0]["key_id"])


def split_models(models: list[str] | None) -> list[str] | None:
    """
    Return the models of a repeated, comma-separated option; ``None`` when there are none.
    """
    names = [name.strip() for text in models or [] for name in text.split(",")]
    return [name for name in names if name] or None


def parse_expiry(text: str) -> str:
    """
    Return a time as the API takes it: a span from now, or the text itself.
    """
    span = _SPAN.fullmatch(text)
    if span is None:
        return text
    return (SystemClock().now() + int(span[1]) * _SPANS[span[2]]).isoformat()


def _add_admin_key(*, data: Path | None, output: Output, party: str | None) -> None:
    if party is not None:
        message = "An admin key belongs to the platform: leave the party out."
        raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN)
    from tokenworks.bootstrap.admin_key import create_admin_key

    settings = load_settings({"data_dir": data})
    api_key, secret = asyncio.run(create_admin_key(settings))
    document = {
        "key_id": str(api_key.key_id),
        "prefix": api_key.prefix,
        "role": str(api_key.role),
        "secret": secret,
    }
    _show_secret(output, document)


def _show_secret(output: Output, answer: Document) -> None:
    output.record(answer, (*COLUMNS, column("Secret")))
    output.note("Keep the secret now: it is shown only this once.")
