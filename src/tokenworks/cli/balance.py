"""
``tokenworks balance``: what a party has and what its limits leave.
"""

from __future__ import annotations

from typing import Annotated, Final

import typer

from tokenworks.cli.client import DataOption, JsonOption, KeyOption, UrlOption, hub_session
from tokenworks.cli.rendering import column, short_moment

app: Final = typer.Typer(help="What a party has.")

CASH_COLUMNS: Final = (
    column("Party"),
    column("Currency"),
    column("Available", right=True),
    column("Held", right=True),
    column("Posted", right=True),
)

LIMIT_COLUMNS: Final = (
    column("Limit on", "scope.name"),
    column("Amount", right=True),
    column("Unit"),
    column("Per"),
    column("Remaining", right=True),
    column("Opens again", short_moment("resets_at")),
)


@app.command()
def balance(
    party: Annotated[
        str | None, typer.Argument(help="The party; else the organisation of the key.")
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Show prepaid money (available = posted - held) and the limits on the way to it.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        answer = hub.get("balance", party=party)
        if as_json:
            hub.output.document(answer)
            return
        rows = [{"party": answer["party"]["name"], **cash} for cash in answer["cash"]]
        hub.output.records(rows, CASH_COLUMNS, empty="No money account.")
        if answer["limits"]:
            hub.output.records(answer["limits"], LIMIT_COLUMNS, empty="")
