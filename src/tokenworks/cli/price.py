"""
``tokenworks price``: what buyers pay, in USD per million.
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
from tokenworks.cli.rendering import column, short_moment

app: Final = typer.Typer(
    help="Prices by model, tier and axis; rows never change.", no_args_is_help=True
)

COLUMNS: Final = (
    column("Model"),
    column("Tier"),
    column("Axis"),
    column("USD per million", "usd_per_million", right=True),
    column("From", short_moment("effective_at")),
    column("Id", "price_id"),
)

PriceOption = Annotated[str | None, typer.Option(metavar="USD", help="USD per million.")]


@app.command("set")
def set_prices(
    model: Annotated[str, typer.Argument(help="The model's public name.")],
    tier: Annotated[str, typer.Option(help="The tier.")],
    input_price: Annotated[
        str, typer.Option("--input", metavar="USD", help="Per million fresh input tokens.")
    ],
    output_price: Annotated[
        str, typer.Option("--output", metavar="USD", help="Per million output tokens.")
    ],
    cache_read: PriceOption = None,
    cache_write: Annotated[
        str | None, typer.Option(metavar="USD", help="Both lifetimes; else the input price.")
    ] = None,
    reasoning: Annotated[
        str | None, typer.Option(metavar="USD", help="Else the output price.")
    ] = None,
    other: Annotated[
        list[str] | None,
        typer.Option("--axis", metavar="AXIS=USD", help="Any other axis, such as image=10000."),
    ] = None,
    effective_at: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="ISO 8601; else now.")
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Set prices; the next call pays them, without a restart. Free is an explicit 0.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        prices = {
            "input": input_price,
            "output": output_price,
            "cache_read": cache_read,
            "cache_write_5m": cache_write,
            "cache_write_1h": cache_write,
            "reasoning": reasoning,
            **parse_axes(other),
        }
        body = {
            "model": model,
            "tier": tier,
            "prices": {axis: price for axis, price in prices.items() if price is not None},
            "effective_at": effective_at,
        }
        answer = hub.post("prices", body)
        hub.output.records(answer["items"], COLUMNS, empty="")


@app.command("list")
def list_prices(
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
    tier: Annotated[str | None, typer.Option(help="Only this tier.")] = None,
    at: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only what is in force at that time.")
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    List prices.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        rows = hub.pages("prices", model=model, tier=tier, at=at)
        hub.output.records(
            rows, COLUMNS, empty="No price: tokenworks price set MODEL --tier TIER --input USD ..."
        )


@app.command("tiers")
def tiers(
    url: UrlOption = None,
    key: KeyOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    List the tiers with their default prices and floors.
    """
    with hub_session(url=url, key=key, data=data, as_json=as_json) as hub:
        columns = (
            column("Tier"),
            column("Default prices"),
            column("Tokens/s at least", "speed_floor_tokens_per_s", right=True),
            column("First token ms, p95", "first_token_p95_ms", right=True),
        )
        hub.output.records(hub.get("tiers")["items"], columns, empty="No tier.")


def parse_axes(texts: list[str] | None) -> dict[str, str]:
    """
    Return ``AXIS=USD`` texts by axis.

    Raises:
        CommandError: A text is not AXIS=USD.
    """
    prices: dict[str, str] = {}
    for text in texts or []:
        axis, separator, amount = text.partition("=")
        if not (separator and axis and amount):
            message = f"--axis {text!r} is not AXIS=USD, such as image=10000."
            raise CommandError(message, exit_code=EXIT_COULD_NOT_RUN)
        prices[axis.strip().replace("-", "_")] = amount.strip()
    return prices
