"""
``tokenworks receipt``: signed records of calls, and their check without a hub.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from tokenworks.cli.call import write_lines
from tokenworks.cli.client import (
    EXIT_COULD_NOT_RUN,
    EXIT_REFUSED,
    CommandError,
    DataOption,
    JsonOption,
    KeyOption,
    UrlOption,
    hub_session,
    reporting,
)
from tokenworks.cli.rendering import Output, Record, column
from tokenworks.receipts.files import read_keys, verify_paths
from tokenworks.receipts.findings import Verification
from tokenworks.settings import load_settings

app: Final = typer.Typer(help="Receipts: the bill that proves itself.", no_args_is_help=True)


def _finding(row: Record) -> str:
    return "; ".join(f"{problem['code']}: {problem['message']}" for problem in row["problems"])


def _verdict(row: Record) -> str:
    return "good" if row["ok"] else "BAD"


COLUMNS: Final = (
    column("Receipt", "source"),
    column("Verdict", _verdict),
    column("Call id", "call_id"),
    column("View"),
    column("Lane", right=True),
    column("Position", "seq", right=True),
    column("Problems", _finding),
)

CallArgument = Annotated[str, typer.Argument(help="The call's id.")]


@app.command("show")
def show(
    call_id: CallArgument,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Print the receipt of a call, as JSON: the caller's own view and its signature.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        hub.output.document(hub.get(f"receipts/{call_id}"))


@app.command("addenda")
def addenda(
    call_id: CallArgument,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Print what was signed about a call after its receipt, as JSON: its joules; the last one counts.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        hub.output.document(hub.get(f"receipts/{call_id}/addenda")["items"])


@app.command("verify")
def verify(
    files: Annotated[
        list[Path],
        typer.Argument(help="Receipts, addenda: JSON, JSONL, a saved stream.", metavar="FILE..."),
    ],
    keys: Annotated[
        Path | None,
        typer.Option(help="Public keys: jwks.json, a root key, demo.json; else DATA/demo.json."),
    ] = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Check signatures, disclosures and links offline. Exit 1 when a receipt is not good.
    """
    output = Output(as_json=as_json)
    with reporting(output):
        rows = [finding.to_json() for finding in _verify(files, keys=keys, data=data)]
        output.records(rows, COLUMNS, empty="There is no receipt in it.")
        if not all(row["ok"] for row in rows):
            raise typer.Exit(EXIT_REFUSED)
        output.note(f"{len(rows)} good.")


@app.command("export")
def export(
    since: Annotated[str | None, typer.Option(help="Started at or after, ISO 8601.")] = None,
    until: Annotated[str | None, typer.Option(help="Started before, ISO 8601.")] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file; - is standard output.")
    ] = Path("-"),
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Write all receipts as JSON lines, in the auditor's view.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        written = write_lines(output, hub.lines("receipts", since=since, until=until))
        if str(output) != "-":
            hub.output.note(f"{written} receipts written to {output}.")


@app.command("keys")
def public_keys(
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Print the hub's public keys, as JSON, for later checks without it.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        hub.output.document(hub.published_keys())


def _verify(files: list[Path], *, keys: Path | None, data: Path | None) -> list[Verification]:
    trusted = read_keys(keys or default_keys(data))
    return verify_paths(files, trusted)


def default_keys(data: Path | None) -> Path:
    """
    Return the demo's hand-over file, which has the root's key.

    Raises:
        CommandError: There is none.
    """
    demo_file = load_settings({"data_dir": data}).data_dir / "demo.json"
    if demo_file.is_file():
        return demo_file
    message = "Say which public keys to trust: --keys FILE."
    hint = "Get them once from the hub: tokenworks receipt keys > jwks.json"
    raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN, hint=hint)
