"""
``tokenworks offer``: which supplier serves which model at which tier, and who gets what.
"""

from __future__ import annotations

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
from tokenworks.cli.rendering import Record, column, to_text

app: Final = typer.Typer(help="Offers: a supplier's model at a tier.", no_args_is_help=True)

SHARES: Final = ("tax", "reseller", "rights", "power")


def _cost_text(row: Record) -> str:
    if row.get("supplier_share_ppm") is not None:
        return f"{row['supplier_share_ppm']} ppm"
    return to_text(row.get("costs"))


def _split_text(row: Record) -> str:
    split: Record = row["split"]
    parts = [(share, split.get(f"{share}_ppm"), split.get(share)) for share in SHARES]
    return ", ".join(
        f"{share}={ppm}" + (f"@{name}" if name else "") for share, ppm, name in parts if ppm
    )


COLUMNS: Final = (
    column("Supplier", "supplier.name"),
    column("Model"),
    column("Tier"),
    column("Upstream model", "upstream_model"),
    column("Supplier gets", _cost_text),
    column("Split", _split_text),
    column("Priority", right=True),
    column("State"),
    column("Blocked because", "blocked_reason"),
    column("Id", "offer_id"),
)

ShareOption = Annotated[
    int | None,
    typer.Option("--supplier-share", metavar="PPM", help="The supplier's part of the charge."),
]
CostInputOption = Annotated[
    str | None, typer.Option(metavar="USD", help="Paid per million input tokens.")
]
CostOutputOption = Annotated[
    str | None, typer.Option(metavar="USD", help="Paid per million output tokens.")
]
CostOption = Annotated[
    list[str] | None,
    typer.Option("--cost", metavar="AXIS=USD", help="Paid per million of another axis."),
]
SplitOption = Annotated[
    str | None,
    typer.Option(
        metavar="rights=PPM,...",
        help="Shares of the charge for tax, reseller, rights; power out of the supplier's part."
        " Name the party as rights=50000@alice when there are several.",
    ),
]


@app.command("add")
def add(
    supplier: Annotated[str, typer.Argument(help="The supplier's name or id.")],
    model: Annotated[str, typer.Argument(help="The model's public name.")],
    tier: Annotated[str, typer.Option(help="The tier it is offered at.")],
    upstream_model: Annotated[
        str | None, typer.Option(help="The supplier's own name of it; else the public one.")
    ] = None,
    supplier_share: ShareOption = None,
    cost_input: CostInputOption = None,
    cost_output: CostOutputOption = None,
    cost: CostOption = None,
    split: SplitOption = None,
    context_tokens: Annotated[int | None, typer.Option(help="The model's context.")] = None,
    priority: Annotated[
        int | None, typer.Option(help="The smallest is tried first; else 100.")
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Add an offer: a share of the charge, or costs per million.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        body = {
            "supplier": supplier,
            "model": model,
            "tier": tier,
            "upstream_model": upstream_model,
            "supplier_share_ppm": supplier_share,
            "costs": parse_costs(cost_input, cost_output, cost),
            "split": None if split is None else parse_split(split),
            "context_tokens_max": context_tokens,
            "priority": priority,
        }
        hub.output.record(hub.post("offers", body), COLUMNS)


@app.command("edit")
def edit(
    offer: Annotated[str, typer.Argument(help="The offer's id.")],
    upstream_model: Annotated[str | None, typer.Option(help="The supplier's own name.")] = None,
    supplier_share: ShareOption = None,
    cost_input: CostInputOption = None,
    cost_output: CostOutputOption = None,
    cost: CostOption = None,
    split: SplitOption = None,
    context_tokens: Annotated[int | None, typer.Option(help="The model's context.")] = None,
    priority: Annotated[int | None, typer.Option(help="The smallest is tried first.")] = None,
    state: Annotated[
        str | None, typer.Option(help="active (also lifts a block) or paused.")
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Change an offer; the next call uses it, without a restart.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        body = {
            "upstream_model": upstream_model,
            "supplier_share_ppm": supplier_share,
            "costs": parse_costs(cost_input, cost_output, cost),
            "split": None if split is None else parse_split(split),
            "context_tokens_max": context_tokens,
            "priority": priority,
            "state": state,
        }
        hub.output.record(hub.patch(f"offers/{offer}", body), COLUMNS)


@app.command("close")
def close(
    offer: Annotated[str, typer.Argument(help="The offer's id.")],
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Close an offer; calls in flight end as they began.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        hub.output.record(hub.delete(f"offers/{offer}"), COLUMNS)


@app.command("list")
def list_offers(
    supplier: Annotated[str | None, typer.Option(help="Only this supplier's.")] = None,
    model: Annotated[str | None, typer.Option(help="Only this model's.")] = None,
    tier: Annotated[str | None, typer.Option(help="Only at this tier.")] = None,
    state: Annotated[str | None, typer.Option(help="active, paused or blocked.")] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    List offers.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        rows = hub.pages("offers", supplier=supplier, model=model, tier=tier, state=state)
        hub.output.records(
            rows, COLUMNS, empty="No offer yet: tokenworks offer add SUPPLIER MODEL --tier TIER"
        )


def parse_costs(
    cost_input: str | None, cost_output: str | None, other: list[str] | None
) -> dict[str, str] | None:
    """
    Return the cost card of an offer by axis, or ``None`` when no cost was given.

    Raises:
        CommandError: A ``--cost`` is not AXIS=USD.
    """
    costs = {"input": cost_input, "output": cost_output}
    for text in other or []:
        axis, separator, amount = text.partition("=")
        if not (separator and axis and amount):
            raise _usage(f"--cost {text!r} is not AXIS=USD, such as cache_read=0.05.")
        costs[axis.strip().replace("-", "_")] = amount.strip()
    given = {axis: amount for axis, amount in costs.items() if amount is not None}
    return given or None


def parse_split(text: str) -> dict[str, object]:
    """
    Return ``rights=50000,tax=90000@state`` as the API's split.

    Raises:
        CommandError: A part is not SHARE=PPM, its share is unknown or stands twice.
    """
    split: dict[str, object] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        share, _, rest = part.partition("=")
        ppm, _, party = rest.partition("@")
        if share not in SHARES or not ppm.isascii() or not ppm.isdigit():
            known = ", ".join(SHARES)
            raise _usage(f"--split {part!r} is not SHARE=PPM with one of {known}.")
        if f"{share}_ppm" in split:
            raise _usage(f"--split names {share} twice.")
        split[f"{share}_ppm"] = int(ppm)
        if party and share == "tax":
            raise _usage("The tax share always goes to the tax authority party.")
        if party:
            split[share] = party
    return split


def _usage(message: str) -> CommandError:
    return CommandError(message, exit_code=EXIT_COULD_NOT_RUN)
