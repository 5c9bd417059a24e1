"""
``tokenworks call``: what was called, by whom, for how much.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
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
from tokenworks.cli.rendering import column, short_moment, whole_number

app: Final = typer.Typer(help="Calls and their cost.", no_args_is_help=True)

COLUMNS: Final = (
    column("Started", short_moment("started_at")),
    column("Call id", "call_id"),
    column("Status"),
    column("Party", "party.name"),
    column("Model"),
    column("Tier"),
    column("Supplier"),
    column("Tokens", "total_tokens", right=True),
    column("Charge", right=True),
    column("ms", whole_number("duration_ms"), right=True),
    column("Error", "error_code"),
)

DETAIL_COLUMNS: Final = (
    *COLUMNS,
    column("Ended", short_moment("ended_at")),
    column("Organisation", "organisation.name"),
    column("Team", "team.name"),
    column("Key", "key.prefix"),
    column("Stream", "is_stream"),
    column("Usage"),
    column("Estimated", "is_estimate"),
    column("Currency"),
    column("Supplier gets", "payable"),
    column("First token ms", whole_number("first_token_ms")),
    column("Held", "quoted"),
    column("Refunded"),
)

LINE_COLUMNS: Final = (
    column("Axis"),
    column("Count", right=True),
    column("USD per million", "usd_per_million", right=True),
    column("Price id", "price_id"),
)

ATTEMPT_COLUMNS: Final = (
    column("#", "ordinal", right=True),
    column("Supplier"),
    column("Status"),
    column("HTTP", "http_status", right=True),
    column("ms", "duration_ms", right=True),
    column("Payable", right=True),
    column("Error", "error_code"),
)

SPEND_COLUMNS: Final = (
    column("Group", "label"),
    column("Calls", right=True),
    column("Input tokens", right=True),
    column("Output tokens", right=True),
    column("Charge", right=True),
)


REFUND_COLUMNS: Final = (
    column("Call id"),
    column("Amount"),
    column("Refunded in all", "refunded"),
    column("Currency"),
    column("Borne by"),
    column("Reference"),
    column("Recorded", short_moment("recorded_at")),
    column("Booked before", "replayed"),
    column("Refund id"),
)


class Bearer(StrEnum):
    """
    Who bears a refund.
    """

    PLATFORM = "platform"
    SUPPLIER = "supplier"


@app.command("list")
def list_calls(
    party: Annotated[str | None, typer.Option(help="Of this party or one below it.")] = None,
    team: Annotated[str | None, typer.Option(help="Of this team.")] = None,
    by_key: Annotated[str | None, typer.Option(help="Made with this key's id.")] = None,
    model: Annotated[str | None, typer.Option(help="Of this model.")] = None,
    tier: Annotated[str | None, typer.Option(help="At this tier.")] = None,
    status: Annotated[str | None, typer.Option(help="settled or failed.")] = None,
    supplier: Annotated[str | None, typer.Option(help="Tried at this supplier.")] = None,
    since: Annotated[str | None, typer.Option(help="Started at or after, ISO 8601.")] = None,
    until: Annotated[str | None, typer.Option(help="Started before, ISO 8601.")] = None,
    rows: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many.")] = 50,
    csv: Annotated[
        Path | None,
        typer.Option(help="Write all matching calls to this file as CSV; - is standard output."),
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    List calls, newest first.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        query = {
            "party": party,
            "team": team,
            "key": by_key,
            "model": model,
            "tier": tier,
            "status": status,
            "supplier": supplier,
            "since": since,
            "until": until,
        }
        if csv is None:
            found = hub.pages("calls", rows_max=rows, **query)
            hub.output.records(found, COLUMNS, empty="No call matches.")
            return
        written = write_lines(csv, hub.lines("calls", format="csv", **query))
        if str(csv) != "-":
            hub.output.note(f"{max(0, written - 1)} calls written to {csv}.")


@app.command("show")
def show(
    call_id: Annotated[str, typer.Argument(help="The x-tokenworks-call-id of the answer.")],
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Show one call with its rated lines and attempts.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        call = hub.get(f"calls/{call_id}")
        hub.output.record(call, DETAIL_COLUMNS)
        if not as_json and call["lines"]:
            hub.output.records(call["lines"], LINE_COLUMNS, empty="")
        if not as_json and call["attempts"]:
            hub.output.records(call["attempts"], ATTEMPT_COLUMNS, empty="")


@app.command("refund")
def refund(
    call_id: Annotated[str, typer.Argument(help="The call's id.")],
    amount: Annotated[str, typer.Argument(help="Plain decimal text, at most what was charged.")],
    reason: Annotated[str, typer.Option(help="Why; it is kept with the entry.")],
    borne_by: Annotated[
        Bearer, typer.Option(help="The platform, or the supplier that answered.")
    ] = Bearer.PLATFORM,
    reference: Annotated[
        str | None,
        typer.Option(help="The refund's own name; the same one is never booked twice."),
    ] = None,
    actor: Annotated[str | None, typer.Option(help="Who decided it, besides the key.")] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Give a part of a call's charge back to where it came from, its limits' units too.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        body = {
            "amount": amount,
            "reason": reason,
            "borne_by": borne_by.value,
            "reference": reference,
            "actor": actor,
        }
        hub.output.record(hub.post(f"calls/{call_id}/refunds", body), REFUND_COLUMNS)


@app.command("spend")
def spend(
    by: Annotated[
        str, typer.Option(help="team, user, key, model, tier, day or supplier.")
    ] = "model",
    since: Annotated[str | None, typer.Option(help="ISO 8601; else 30 days ago.")] = None,
    until: Annotated[str | None, typer.Option(help="ISO 8601; else now.")] = None,
    party: Annotated[str | None, typer.Option(help="Of this party or one below it.")] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Sum calls and charges by group.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        answer = hub.get("spend", by=by, since=since, until=until, party=party)
        if as_json:
            hub.output.document(answer)
            return
        rows = [*answer["items"], answer["total"]]
        hub.output.records(rows, SPEND_COLUMNS, empty="Nothing was spent.")


def write_lines(path: Path, lines: Iterable[str]) -> int:
    """
    Write lines to a file, or to standard output when it is ``-``; return how many.

    Raises:
        CommandError: The file cannot be written.
    """
    count = 0
    try:
        if str(path) == "-":
            for line in lines:
                sys.stdout.write(f"{line}\n")
                count += 1
            return count
        with path.open("w", encoding="utf-8", newline="") as file:
            for line in lines:
                file.write(f"{line}\n")
                count += 1
    except OSError as error:
        message = f"{path} cannot be written: {error.strerror}."
        raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN) from error
    return count
