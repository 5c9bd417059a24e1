"""
``tokenworks ledger``: check and read the books.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
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
    reporting,
)
from tokenworks.cli.rendering import Output, Record, clean, column, short_moment
from tokenworks.foundation.errors import ConflictError, TokenworksError
from tokenworks.settings import load_settings

app: Final = typer.Typer(help="The double-entry ledger.", no_args_is_help=True)

ACCOUNT_COLUMNS: Final = (
    column("Party", "party.name"),
    column("Purpose"),
    column("Asset"),
    column("Class", "account_class"),
    column("Debits", "debits_posted", right=True),
    column("Credits", "credits_posted", right=True),
    column("Held", "debits_pending", right=True),
    column("Balance", right=True),
)

TOTAL_COLUMNS: Final = (
    column("Asset"),
    column("Debits", "debits_posted", right=True),
    column("Credits", "credits_posted", right=True),
    column("Balanced", "is_balanced"),
)

LEG_COLUMNS: Final = (
    column("Operation"),
    column("Recorded", short_moment("recorded_at")),
    column("Party", "party.name"),
    column("Purpose"),
    column("Asset"),
    column("Debit", right=True),
    column("Credit", right=True),
)


CLOSING_COLUMNS: Final = (
    column("Date"),
    column("Closed", short_moment("closed_at")),
    column("Closed before", "replayed"),
    column("Entries", right=True),
    column("By", "actor"),
)

CLOSING_ROW_COLUMNS: Final = (
    column("Purpose"),
    column("Asset"),
    column("Class", "account_class"),
    column("Debits of the day", "debits_of_day", right=True),
    column("Credits of the day", "credits_of_day", right=True),
    column("Debits", right=True),
    column("Credits", right=True),
    column("Balance", right=True),
)

PROOF_COLUMNS: Final = (
    column("Asset"),
    column("Debits", right=True),
    column("Credits", right=True),
    column("Client money", right=True),
    column("Safeguarded", right=True),
)

CORRECTION_COLUMNS: Final = (
    column("Fact id"),
    column("Recorded", short_moment("recorded_at")),
    column("Booked before", "replayed"),
    column("Owed by the party", "owed"),
    column("Currency"),
)


def _parts_text(row: Record) -> str:
    return ", ".join(f"{part['held']} {part['asset']}" for part in row["parts"])


HOLD_COLUMNS: Final = (
    column("Hold", "hold_id"),
    column("Placed", short_moment("placed_at")),
    column("Expires", short_moment("expires_at")),
    column("Parts", _parts_text),
)


MONTH_COLUMNS: Final = (
    column("Month", lambda row: str(row["starts_at"])[:7]),
    column("Entries", lambda row: row["files"]["ledger.entries"]["rows"], right=True),
    column("Bytes", lambda row: sum(file["bytes"] for file in row["files"].values()), right=True),
    column("Folder"),
)


@app.command("check")
def check(
    data: DataOption = None,
    full: Annotated[
        bool, typer.Option("--full", help="From the first batch, not from the last checkpoint.")
    ] = False,
    archive: Annotated[
        Path | None,
        typer.Option("--archive", help="Where archived months are; checks everything."),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option("--root", help="A file with the root key you trust, e.g. demo.json."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """
    Rebuild balances from the entries and compare; check the chain and open holds.

    Starts from the last signed checkpoint. Reads one snapshot of the database, whether the hub
    runs or not. Exit 0: clean. Exit 1: the books are broken. Exit 2: the check could not run.
    """
    from tokenworks.bootstrap.books import check_ledger
    from tokenworks.cli.data_directory import database_for_checks

    output = Output(as_json=as_json)
    with reporting(output):
        settings = load_settings({"data_dir": data})
        try:
            with database_for_checks(settings) as dsn:
                report = asyncio.run(
                    check_ledger(
                        settings,
                        dsn=dsn,
                        full=full or archive is not None,
                        archive=archive,
                        root=root.read_bytes() if root else None,
                        on_progress=_progress(output),
                    )
                )
        except (OSError, TokenworksError) as error:
            message = f"The check could not run: {error}"
            raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN) from error
        document = report.to_json()
        if as_json:
            output.document(document)
        else:
            rows = [{"what": name, "found": found} for name, found in document.items()]
            output.records(rows, (column("What"), column("Found")), empty="")
        if not report.is_clean:
            raise typer.Exit(EXIT_REFUSED)
        output.note("The books are clean.")


def _progress(output: Output) -> Callable[[str, int], None]:
    def tell(step: str, rows: int) -> None:
        if not output.as_json:
            output.note(f"{step}: {rows} rows" if rows else step)

    return tell


@app.command("archive")
def archive_months(
    before: Annotated[
        datetime,
        typer.Option("--before", formats=["%Y-%m-%d"], help="Months that end later stay (UTC)."),
    ],
    to: Annotated[Path, typer.Option("--to", help="The archive's folder.")],
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Write old months to Parquet files, prove the files, and drop the months.

    Safe to run again, also after it was killed. Exit 0: all is archived. Exit 1: a month stays,
    e.g. because a hold of it is open. Exit 2: it could not run.
    """
    from tokenworks.bootstrap.books import archive_ledger
    from tokenworks.cli.data_directory import database_for_checks

    output = Output(as_json=as_json)
    with reporting(output):
        settings = load_settings({"data_dir": data})
        try:
            with database_for_checks(settings) as dsn:
                report = archive_ledger(
                    settings,
                    dsn=dsn,
                    folder=to,
                    before=before.replace(tzinfo=UTC),
                    on_progress=_progress(output),
                )
        except ConflictError as error:
            raise CommandError(str(error), exit_code=EXIT_REFUSED) from error
        except (OSError, TokenworksError) as error:
            message = f"Nothing could be archived: {error}"
            raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN) from error
        document = report.to_json()
        if as_json:
            output.document(document)
        else:
            months = [month.to_json() for month in report.months]
            output.records(months, MONTH_COLUMNS, empty="Nothing to archive.")
        if report.refusal:
            output.note(f"{report.refusal} Holds: {', '.join(report.holds)}")
            raise typer.Exit(EXIT_REFUSED)


@app.command("trial-balance")
def trial_balance(
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Show every account; exit 1 when debits and credits differ in an asset.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        answer = hub.get("ledger/trial-balance")
        if as_json:
            hub.output.document(answer)
        else:
            hub.output.records(answer["rows"], ACCOUNT_COLUMNS, empty="No account yet.")
            hub.output.records(answer["totals"], TOTAL_COLUMNS, empty="")
        if not answer["is_balanced"]:
            raise typer.Exit(EXIT_REFUSED)


@app.command("entries")
def entries(
    fact_id: Annotated[str, typer.Argument(help="A call's or a deposit's id.")],
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Show the legs of every entry of a call or deposit.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        answer = hub.get(f"ledger/entries/{fact_id}")
        if as_json:
            hub.output.document(answer)
            return
        rows = [{**entry, **leg} for entry in answer["items"] for leg in entry["legs"]]
        hub.output.records(rows, LEG_COLUMNS, empty=f"Nothing is booked under {clean(fact_id)}.")


@app.command("reverse")
def reverse(
    fact_id: Annotated[str, typer.Argument(help="The id of a deposit, chargeback or payout.")],
    reason: Annotated[str, typer.Option(help="Why; it is kept with the entry.")],
    actor: Annotated[str | None, typer.Option(help="Who decided it, besides the key.")] = None,
    date: Annotated[
        str | None,
        typer.Option(help="The open accounting date (UTC) it counts in, YYYY-MM-DD; else today."),
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Turn an entry round that was booked wrongly; once, by an entry that names it.

    What the party has spent already it owes from then on.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        body = {"reason": reason, "actor": actor, "accounting_date": date}
        answer = hub.post(f"ledger/entries/{fact_id}/reversal", body)
        hub.output.record(answer, CORRECTION_COLUMNS)


@app.command("close")
def close(
    date: Annotated[str, typer.Argument(help="The date (UTC) that is over, YYYY-MM-DD.")],
    actor: Annotated[str | None, typer.Option(help="Who decided it, besides the key.")] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Close an accounting date: freeze it, and print its trial balance, signed.

    No entry can count in it afterwards; calls that end later count in the first open date.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        answer = hub.post("ledger/closings", {"date": date, "actor": actor})
        if as_json:
            hub.output.document(answer)
            return
        hub.output.record(answer, CLOSING_COLUMNS)
        hub.output.records(answer["rows"], CLOSING_ROW_COLUMNS, empty="Nothing was ever booked.")
        hub.output.records(answer["totals"], PROOF_COLUMNS, empty="")


@app.command("closes")
def closes(
    rows: Annotated[int, typer.Option(min=1, max=500, help="At most so many.")] = 50,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    List closed dates, the newest first; with --json all that verify-closes needs.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        answer = hub.get("ledger/closings", limit=rows)
        hub.output.records(answer["items"], CLOSING_COLUMNS, empty="No date is closed yet.")


@app.command("verify-closes")
def verify_closes(
    file: Annotated[Path, typer.Argument(help="What 'ledger closes --json' printed.")],
    keys: Annotated[
        Path | None,
        typer.Option(help="Public keys: jwks.json, a root key, demo.json; else DATA/demo.json."),
    ] = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Check signatures, sums and the chain of closes offline. Exit 1 when one is not good.
    """
    from tokenworks.cli.closes import verify_file

    output = Output(as_json=as_json)
    with reporting(output):
        found = verify_file(file, keys=keys, data=data)
        if as_json:
            output.document({"closes": found.count, "problems": list(found.problems)})
        for problem in found.problems if not as_json else ():
            output.error(problem)
        if found.problems:
            raise typer.Exit(EXIT_REFUSED)
        output.note(f"{found.count} closes are good.")


@app.command("holds")
def holds(
    rows: Annotated[int, typer.Option(min=1, max=500, help="At most so many.")] = 50,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    List open holds, oldest first.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        answer = hub.get("ledger/holds", limit=rows)
        hub.output.records(answer["items"], HOLD_COLUMNS, empty="No open hold.")
