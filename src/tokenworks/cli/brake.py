"""
``tokenworks brake``: the rules that hold or deny agents' payments, and who is told.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Any, Final, cast

import typer
import yaml

from tokenworks.cli.client import (
    EXIT_COULD_NOT_RUN,
    CommandError,
    DataOption,
    JsonOption,
    KeyOption,
    UrlOption,
    hub_session,
)
from tokenworks.cli.rendering import Record, column, short_moment

app: Final = typer.Typer(help="Rules that hold or deny agents' payments.", no_args_is_help=True)
webhook_app: Final = typer.Typer(
    help="Where an owner is told of payments that wait.", no_args_is_help=True
)
app.add_typer(webhook_app, name="webhook")

RULES_BYTES_MAX: Final = 64 * 1024
AMOUNTS: Final = frozenset({"above", "amount_per_minute", "amount_per_hour", "two_persons_above"})

PartyArgument = Annotated[str, typer.Argument(help="The party's name or id.")]


def _figures(row: Record) -> str:
    return ", ".join(f"{name}={value}" for name, value in row["figures"].items())


RULES: Final = (
    column("Counts", "layer", right=True),
    column("Rule"),
    column("Action"),
    column("Figures", _figures),
)

WEBHOOK: Final = (
    column("Party", "party.name"),
    column("Url"),
    column("Secret"),
    column("Set at", short_moment("created_at")),
    column("Set by", "actor"),
)

DELIVERIES: Final = (
    column("Review", "review_id"),
    column("Event"),
    column("State"),
    column("Attempts", right=True),
    column("Last", short_moment("attempted_at")),
    column("Next", short_moment("next_attempt_at")),
    column("Status", "http_status", right=True),
    column("Error"),
)


@app.command("show")
def show(
    party: PartyArgument,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Show every rule that counts for a party's agents; of several the strictest answer counts.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        answer = hub.get(f"parties/{party}/brake")
        if as_json:
            hub.output.document(answer)
            return
        hub.output.records(_rows(answer), RULES, empty="No rule counts there.")


@app.command("set")
def set_rules(
    party: PartyArgument,
    file: Annotated[Path, typer.Argument(help="YAML or JSON; - for standard input.")],
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Set a party's own rules; a rule below can only be stricter than what is above it.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        answer = hub.put(f"parties/{party}/brake", read_rules(file))
        if as_json:
            hub.output.document(answer)
            return
        hub.output.records(_rows(answer), RULES, empty="No rule counts there.")


@webhook_app.command("set")
def set_webhook(
    party: PartyArgument,
    address: Annotated[str, typer.Argument(help="https://host[:port][/path]")],
    allow_private: Annotated[
        bool,
        typer.Option("--allow-private", help="Admins: a private address, or plain http."),
    ] = False,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Tell a party of payments that wait; prints the secret that signs the messages, once.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        body = {"url": address, "allow_private": allow_private}
        hub.output.record(hub.put(f"parties/{party}/webhook", body), WEBHOOK)
        hub.output.note("Store the secret now: it is shown this once.")


@webhook_app.command("show")
def show_webhook(
    party: PartyArgument,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Show where a party is told, and the last messages.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        answer = hub.get(f"parties/{party}/webhook")
        hub.output.record(answer, WEBHOOK)
        if not as_json:
            hub.output.records(answer["deliveries"], DELIVERIES, empty="Nothing was sent yet.")


@webhook_app.command("remove")
def remove_webhook(
    party: PartyArgument,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Tell a party no more.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        answer = hub.delete(f"parties/{party}/webhook")
        hub.output.record(answer, (column("Party", "party.name"), column("Removed")))


def _rows(answer: Record) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for layer, document in enumerate(answer["effective"], start=1):
        for name, rule in document["rules"].items():
            figures = {field: value for field, value in rule.items() if field != "action"}
            rows.append(
                {"layer": layer, "rule": name, "action": rule["action"], "figures": figures}
            )
        if "two_persons_above" in document:
            above = {"above": document["two_persons_above"]}
            rows.append({"layer": layer, "rule": "two persons", "action": "hold", "figures": above})
    return rows


class _PlainLoader(yaml.SafeLoader):
    """
    YAML where only whole numbers are no text: `off` is a word and 22:00 a time.
    """


# YAML 1.1 would read the first as false and the second as 1320.
_PlainLoader.yaml_implicit_resolvers = {}
_PlainLoader.add_implicit_resolver(  # pyright: ignore[reportUnknownMemberType] - PyYAML has no types
    "tag:yaml.org,2002:int", re.compile(r"-?[0-9]+$"), list("-0123456789")
)


def read_rules(file: Path) -> dict[str, Any]:
    """
    Return a rule set as it is written, YAML or JSON (which is YAML).

    Raises:
        CommandError: The file cannot be read or holds no rules.
    """
    try:
        text = sys.stdin.read(RULES_BYTES_MAX) if str(file) == "-" else file.read_text("utf-8")
        # A SafeLoader: it builds no objects.
        document: object = yaml.load(text, Loader=_PlainLoader)  # noqa: S506
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        message = f"The rules in {file} cannot be read: {error}"
        raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN) from error
    if not isinstance(document, dict):
        message = f"{file} holds no rules."
        hint = "docs/cli.md has an example."
        raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN, hint=hint)
    return cast("dict[str, Any]", _with_amounts(cast("Record", document)))


def _with_amounts(row: Record) -> dict[str, object]:
    """
    Return a document with amounts as text, quoted by its writer or not.
    """
    return {
        name: str(value)
        if name in AMOUNTS
        else _with_amounts(cast("Record", value))
        if isinstance(value, dict)
        else value
        for name, value in row.items()
    }
