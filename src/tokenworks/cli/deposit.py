"""
``tokenworks deposit``: book money that came in.
"""

from __future__ import annotations

from typing import Annotated, Final

import typer

from tokenworks.cli.client import DataOption, JsonOption, KeyOption, UrlOption, hub_session
from tokenworks.cli.rendering import column, short_moment

app: Final = typer.Typer(help="Book money that came in.")

COLUMNS: Final = (
    column("Party", "party.name"),
    column("Amount"),
    column("Currency"),
    column("Rail"),
    column("Reference"),
    column("Recorded", short_moment("recorded_at")),
    column("Booked before", "replayed"),
    column("Fact id"),
)


@app.command()
def deposit(
    party: Annotated[str, typer.Argument(help="The party's name or id.")],
    amount: Annotated[str, typer.Argument(help="Plain decimal text, such as 12.50.")],
    currency: Annotated[str, typer.Option(help="ISO 4217 code.")] = "USD",
    rail: Annotated[str, typer.Option(help="The way the money came.")] = "manual",
    reference: Annotated[
        str | None,
        typer.Option(help="The payment's own id; the same one is never booked twice."),
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Book a deposit; it is client money until calls are charged to it.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        body = {
            "party": party,
            "amount": amount,
            "currency": currency,
            "rail": rail,
            "reference": reference,
        }
        hub.output.record(hub.post("deposits", body), COLUMNS)
