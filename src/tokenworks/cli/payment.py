"""
``tokenworks payment``: what agents paid, to whom, under which mandate.
"""

from __future__ import annotations

from typing import Annotated, Final

import typer

from tokenworks.cli.client import DataOption, JsonOption, KeyOption, UrlOption, hub_session
from tokenworks.cli.rendering import Record, column, short_moment

app: Final = typer.Typer(help="Payments of agents.", no_args_is_help=True)


def verdict_text(row: Record) -> str:
    """
    Return what the brake said, and what people made of it.
    """
    brake, review = row["brake"], row["review"]
    if brake is None:
        return ""
    if review is None:
        return str(brake["action"])
    by = f" by {' and '.join(review['by'])}" if review["by"] else ""
    if review["state"] == "pending":
        return f"hold -> waits{f', approved{by},' if by else ''} until {review['expires_at'][:19]}Z"
    at = f" at {review['decided_at'][:19]}Z" if review["decided_at"] else ""
    return f"hold -> {review['state']}{by}{at}"


def _reasons(row: Record) -> str:
    brake = row["brake"]
    return "" if brake is None else "; ".join(reason["text"] for reason in brake["reasons"])


COLUMNS: Final = (
    column("Recorded", short_moment("recorded_at")),
    column("Payment id", "payment_id"),
    column("State"),
    column("Agent", "agent.name"),
    column("Payee", "payee.name"),
    column("Scheme"),
    column("Amount", right=True),
    column("Currency"),
    column("Brake", verdict_text),
)

DETAIL_COLUMNS: Final = (
    *COLUMNS,
    column("Authorised"),
    column("Organisation", "organisation.name"),
    column("Mandate", "mandate_id"),
    column("Wallet", "payer"),
    column("Resource"),
    column("Reasons", _reasons),
)

PaymentArgument = Annotated[str, typer.Argument(help="The payment's id.")]


@app.command("list")
def list_payments(
    party: Annotated[
        str | None, typer.Option(help="Paid by this party or one below it, or paid to it.")
    ] = None,
    agent: Annotated[str | None, typer.Option(help="Paid by this agent.")] = None,
    payee: Annotated[str | None, typer.Option(help="Paid to this party.")] = None,
    mandate: Annotated[str | None, typer.Option(help="Under this mandate.")] = None,
    since: Annotated[str | None, typer.Option(help="Signed at or after, ISO 8601.")] = None,
    held: Annotated[
        bool, typer.Option("--held", help="Those that are held or wait for people.")
    ] = False,
    rows: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many.")] = 50,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    List payments, newest first.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        found = hub.pages(
            "payments",
            rows_max=rows,
            party=party,
            agent=agent,
            payee=payee,
            mandate=mandate,
            since=since,
            held="true" if held else None,
        )
        hub.output.records(found, COLUMNS, empty="There are no such payments.")


@app.command("show")
def show(
    payment_id: PaymentArgument,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Show one payment.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        hub.output.record(hub.get(f"payments/{payment_id}"), DETAIL_COLUMNS)


@app.command("receipt")
def receipt(
    payment_id: PaymentArgument,
    part: Annotated[int, typer.Option(min=0, help="Which capture, counted from 0.")] = 0,
    view: Annotated[
        str | None, typer.Option(help="For an admin: another reader's view, e.g. buyer.")
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Print a payment's receipt, as JSON: the caller's own view and its signature.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        hub.output.document(hub.get(f"payments/{payment_id}/receipt", ordinal=part, view=view))
