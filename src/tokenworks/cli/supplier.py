"""
``tokenworks supplier``: who answers calls.
"""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Annotated, Final

import typer

from tokenworks.cli.client import (
    EXIT_COULD_NOT_RUN,
    EXIT_REFUSED,
    CommandError,
    DataOption,
    JsonOption,
    KeyOption,
    UrlOption,
    hub_session,
)
from tokenworks.cli.rendering import column, short_moment

app: Final = typer.Typer(help="Suppliers: the endpoints behind the hub.", no_args_is_help=True)

COLUMNS: Final = (
    column("Name"),
    column("Kind"),
    column("Base URL", "base_url"),
    column("Private allowed", "allow_private"),
    column("Gets call ids", "sends_call_id"),
    column("Has API key", "has_api_key"),
    column("State"),
    column("Created", short_moment("created_at")),
    column("Id", "supplier_id"),
)

STEP_COLUMNS: Final = (
    column("Step"),
    column("OK", "ok"),
    column("Status"),
    column("ms", "duration_ms", right=True),
    column("Detail"),
)

PAYABLE_COLUMNS: Final = (
    column("Party", "party.name"),
    column("Owed"),
    column("On hold"),
    column("Kept back"),
    column("Payable"),
    column("Currency"),
)

PAYOUT_COLUMNS: Final = (
    column("Party", "party.name"),
    column("Amount"),
    column("Currency"),
    column("Rail"),
    column("Reference"),
    column("Recorded", short_moment("recorded_at")),
    column("Booked before", "replayed"),
    column("Fact id"),
)

NameArgument = Annotated[str, typer.Argument(help="The supplier's name or id.")]
ApiKeyOption = Annotated[
    str | None,
    typer.Option(
        "--api-key-env",
        metavar="VAR",
        help="The environment variable that holds the supplier's key; sent once, kept encrypted.",
    ),
]


class SupplierKind(StrEnum):
    """
    The protocol a supplier speaks.
    """

    OPENAI = "openai"
    LLAMA_CPP = "llama_cpp"


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="a-z, 0-9, dot, underscore, hyphen; unique.")],
    base_url: Annotated[str, typer.Option(help="Up to and with /v1.")],
    kind: Annotated[SupplierKind, typer.Option(help="Its protocol.")] = SupplierKind.OPENAI,
    api_key_env: ApiKeyOption = None,
    allow_private: Annotated[
        bool, typer.Option(help="Let its address be in a private network.")
    ] = False,
    sends_call_id: Annotated[
        bool, typer.Option("--send-call-id", help="Send the hub's call id with each request.")
    ] = False,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Add a supplier; it serves calls once it has an offer and the model a price.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        body = {
            "name": name,
            "kind": kind.value,
            "base_url": base_url,
            "api_key": read_api_key(api_key_env),
            "allow_private": allow_private,
            "sends_call_id": sends_call_id,
        }
        hub.output.record(hub.post("suppliers", body), COLUMNS)
        hub.output.note(f"Next: tokenworks supplier test {name}")


@app.command("edit")
def edit(
    name: NameArgument,
    base_url: Annotated[str | None, typer.Option(help="Up to and with /v1.")] = None,
    api_key_env: ApiKeyOption = None,
    allow_private: Annotated[
        bool | None,
        typer.Option("--allow-private/--no-allow-private", help="Private addresses."),
    ] = None,
    sends_call_id: Annotated[
        bool | None,
        typer.Option(
            "--send-call-id/--no-send-call-id", help="The hub's call id with each request."
        ),
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Change a supplier; the next call uses it, without a restart.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        body = {
            "base_url": base_url,
            "api_key": read_api_key(api_key_env),
            "allow_private": allow_private,
            "sends_call_id": sends_call_id,
        }
        hub.output.record(hub.patch(f"suppliers/{name}", body), COLUMNS)


@app.command("list")
def list_suppliers(
    state: Annotated[str | None, typer.Option(help="active or paused.")] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    List suppliers.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        rows = hub.pages("suppliers", state=state)
        hub.output.records(
            rows, COLUMNS, empty="No supplier yet: tokenworks supplier add NAME --base-url URL"
        )


@app.command("test")
def probe(
    name: NameArgument,
    model: Annotated[
        str | None, typer.Option(help="Which of its models to ask; else the first.")
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Ask a supplier for its models and one tiny chat; nothing is booked. Exit 1 when it fails.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        answer = hub.post(f"suppliers/{name}/test", {"model": model})
        if as_json:
            hub.output.document(answer)
        else:
            hub.output.records(answer["steps"], STEP_COLUMNS, empty="Nothing was asked.")
            if answer["models"]:
                hub.output.note("Models: " + ", ".join(answer["models"][:20]))
        if not answer["ok"]:
            raise typer.Exit(EXIT_REFUSED)


@app.command("pause")
def pause(
    name: NameArgument,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Send a supplier no new calls.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        hub.output.record(hub.post(f"suppliers/{name}/pause"), COLUMNS)


@app.command("resume")
def resume(
    name: NameArgument,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Send a paused supplier calls again.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        hub.output.record(hub.post(f"suppliers/{name}/resume"), COLUMNS)


def read_api_key(variable: str | None) -> str | None:
    """
    Return the secret in an environment variable; an option would show in the process list.

    Raises:
        CommandError: The variable is not set.
    """
    if variable is None:
        return None
    secret = os.environ.get(variable)
    if not secret:
        message = f"The environment variable {variable} is not set."
        raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN)
    return secret


@app.command("payable")
def payable(
    name: NameArgument,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Show what a supplier is owed, what waits for its statement, and what may be paid now.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        hub.output.record(hub.get(f"suppliers/{name}/payable"), PAYABLE_COLUMNS)


@app.command("pay")
def pay(
    name: NameArgument,
    amount: Annotated[str, typer.Argument(help="Plain decimal text, such as 12.50.")],
    rail: Annotated[str, typer.Option(help="The way the money went.")] = "manual",
    reference: Annotated[
        str | None,
        typer.Option(help="The payment's own id; the same one is never booked twice."),
    ] = None,
    actor: Annotated[str | None, typer.Option(help="Who decided it, besides the key.")] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Book what was paid to a supplier; only what is matched with a statement, or old enough.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        body = {"amount": amount, "rail": rail, "reference": reference, "actor": actor}
        hub.output.record(hub.post(f"suppliers/{name}/payouts", body), PAYOUT_COLUMNS)
