"""
``tokenworks statement``: what suppliers say they are owed, against the hub's own attempts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from tokenworks.cli.call import write_lines
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
)
from tokenworks.cli.reading import read_text
from tokenworks.cli.rendering import column, short_moment
from tokenworks.foundation.limits import STATEMENT_BYTES_MAX

app: Final = typer.Typer(
    help="Suppliers' statements, matched with what was served.", no_args_is_help=True
)

COLUMNS: Final = (
    column("Imported", short_moment("imported_at")),
    column("Statement", "statement_id"),
    column("Supplier"),
    column("File", "file_name"),
    column("Since", short_moment("since")),
    column("Until", short_moment("until")),
    column("Lines", right=True),
    column("Total", right=True),
    column("Currency"),
)

TOTAL_COLUMNS: Final = (
    column("Day"),
    column("Verdict"),
    column("Lines", right=True),
    column("Billed", right=True),
    column("Attempts", right=True),
    column("Owed", right=True),
)

PROPOSAL_COLUMNS: Final = (
    column("Proposed for the supplier", "difference"),
    column("Accepted", short_moment("accepted_at")),
    column("Accepted by", "accepted_by"),
    column("Booked", "is_posted"),
    column("Fact id"),
)

CORRECTION_COLUMNS: Final = (
    column("Fact id"),
    column("Recorded", short_moment("recorded_at")),
    column("Booked before", "replayed"),
    column("Owed by the supplier", "owed"),
    column("Currency"),
)

IdArgument = Annotated[str, typer.Argument(help="The statement's id.")]


@app.command("import")
def import_statement(
    supplier: Annotated[str, typer.Argument(help="The supplier's name or id.")],
    file: Annotated[Path, typer.Argument(help="CSV, UTF-8, with a header.")],
    map_: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="COLUMN=NAME",
            help="The file's name of one of our columns: reference, amount, currency, call_id,"
            " time, model, input_tokens, output_tokens. Repeat for more.",
        ),
    ] = None,
    currency: Annotated[
        str | None, typer.Option(help="Of all amounts, when no column says it.")
    ] = None,
    time_zone: Annotated[
        str | None, typer.Option(help="Of times without an offset, such as Europe/Berlin.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="The statement's period, ISO 8601; else its first day.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Its end; else the end of its last day.")
    ] = None,
    tolerance: Annotated[
        str, typer.Option(help="A difference a line that still matches, in whole units.")
    ] = "0",
    tolerance_ppm: Annotated[
        int, typer.Option(min=0, max=1_000_000, help="The same, as a part of what is owed.")
    ] = 0,
    window_s: Annotated[
        int,
        typer.Option(min=0, max=86_400, help="Between a line's time and an attempt, in seconds."),
    ] = 60,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Import a statement and match it call by call; nothing is booked.

    All of the file is stored, or nothing: faulty rows are listed with their lines. The same
    file again shows what was found the first time.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        content = read_text(file, bytes_max=STATEMENT_BYTES_MAX, hint="Cut it by date.")
        hub.output.note(f"Matching {file.name} ({len(content)} characters).")
        body: dict[str, object] = {
            "supplier": supplier,
            "file_name": file.name[:200],
            "content": content,
            "columns": parse_columns(map_ or []),
            "currency": currency,
            "time_zone": time_zone,
            "since": since,
            "until": until,
            "tolerance": tolerance,
            "tolerance_ppm": tolerance_ppm,
            "window_s": window_s,
        }
        try:
            answer = hub.post("statements", body)
        except CommandError as error:
            raise _with_rows(error) from error
        if answer["replayed"]:
            hub.output.note("This file was imported before; this is what it was found to be.")
        _show(hub, answer, as_json=as_json)


@app.command("list")
def list_statements(
    supplier: Annotated[str | None, typer.Option(help="Of this supplier.")] = None,
    rows: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many.")] = 50,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    List statements, newest first.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        found = hub.pages("statements", rows_max=rows, supplier=supplier)
        hub.output.records(found, COLUMNS, empty="No statement yet.")


@app.command("report")
def report(
    statement_id: IdArgument,
    csv: Annotated[
        Path | None,
        typer.Option(help="Write the differences to this file as CSV; - is standard output."),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="With --csv: what matches, too.")] = False,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Show what differs, by verdict and day, and the entry that would correct it.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        if csv is None:
            _show(hub, hub.get(f"statements/{statement_id}"), as_json=as_json)
            return
        path = f"statements/{statement_id}/differences"
        written = write_lines(csv, hub.lines(path, all=str(all_).lower()))
        if str(csv) != "-":
            hub.output.note(f"{max(0, written - 1)} lines written to {csv}.")


@app.command("accept")
def accept(
    statement_id: IdArgument,
    actor: Annotated[str | None, typer.Option(help="Who decided it, besides the key.")] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Book the proposed entry: the supplier gets what it billed, at the platform's cost; once.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        answer = hub.post(f"statements/{statement_id}/accept", {"actor": actor})
        hub.output.record(answer, CORRECTION_COLUMNS)


def parse_columns(pairs: list[str]) -> dict[str, str]:
    """
    Return ``column=name`` pairs as a mapping.

    Raises:
        CommandError: A pair has no name, or a column comes twice.
    """
    columns: dict[str, str] = {}
    for pair in pairs:
        ours, mark, theirs = pair.partition("=")
        if not mark or not ours or not theirs or ours in columns:
            message = f"--map {pair!r} is not of the form amount='Total cost', each column once."
            raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN)
        columns[ours] = theirs
    return columns


def _with_rows(error: CommandError) -> CommandError:
    """
    Return the error with every faulty row that the hub named.
    """
    details: Document = (error.problem or {}).get("details") or {}
    rows: list[Document] = details.get("rows") or []
    if not rows:
        return error
    listed = "; ".join(f"line {row['line']}, {row['column']}: {row['message']}" for row in rows)
    return CommandError(
        error.message, exit_code=error.exit_code, hint=listed, problem=error.problem
    )


def _show(hub: HubClient, answer: Document, *, as_json: bool) -> None:
    if as_json:
        hub.output.document(answer)
        return
    hub.output.record(answer["statement"], COLUMNS)
    totals = [{**total, "day": "all"} for total in answer["totals"]]
    hub.output.records([*answer["days"], *totals], TOTAL_COLUMNS, empty="")
    if answer["proposal"] is None:
        hub.output.note("What is billed is what is owed: nothing to correct.")
        return
    hub.output.record(answer["proposal"], PROPOSAL_COLUMNS)
    if not answer["proposal"]["is_posted"]:
        statement_id = answer["statement"]["statement_id"]
        hub.output.note(f"Nothing is booked yet: tokenworks statement accept {statement_id}")
