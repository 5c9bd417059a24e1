"""
``tokenworks mcp``: the hub as tools of one agent, over standard input and output or HTTP.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated, Final

import httpx
import typer

from tokenworks.cli.client import find_connection
from tokenworks.foundation.errors import InvalidError, UnavailableError
from tokenworks.sdk import AsyncHubClient, SdkError, SpendCap, Wallet

app = typer.Typer(
    add_completion=False,
    help=(
        "Serve the tools quote, pay, balance, mandate, receipt, call_model and finish_payment to"
        " an agent. The wallet signs in this process; what it may spend is its mandate's matter,"
        " and --cap bounds this process besides."
    ),
)

PORT_DEFAULT: Final = 8702


@app.command()
def mcp(
    *,
    wallet: Annotated[Path, typer.Option(help="The agent's private key, mode 0600.")],
    cap: Annotated[
        str, typer.Option(help="Most that one payment may cost, in whole units.", metavar="AMOUNT")
    ] = "1",
    total: Annotated[
        str | None,
        typer.Option(help="Most that all payments may cost together.", metavar="AMOUNT"),
    ] = None,
    currency: Annotated[str, typer.Option(help="The one currency that is spent.")] = "USD",
    mandate: Annotated[
        str | None, typer.Option(help="Which mandate pays; the wallet's only one by default.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="The hub's address.")] = None,
    data: Annotated[Path | None, typer.Option(help="A hub's data directory.")] = None,
    undecided: Annotated[
        Path | None,
        typer.Option(
            help="Folder for payments that are not decided yet; beside the wallet by default.",
            metavar="FOLDER",
        ),
    ] = None,
    http: Annotated[
        bool, typer.Option("--http", help="Serve streamable HTTP on loopback instead of stdio.")
    ] = False,
    port: Annotated[int, typer.Option(help="For --http.", min=1, max=65_535)] = PORT_DEFAULT,
) -> None:
    """
    Serve until the agent hangs up.
    """
    connection = find_connection(url=url, key=None, data=data, environment=os.environ)
    try:
        signer = Wallet.load(wallet)
        spending = SpendCap(per_payment=cap, total=total, asset=currency)
    except (SdkError, ValueError) as error:
        raise InvalidError(str(error), param="wallet") from error
    folder = undecided or wallet.with_name(f"{wallet.name}.undecided")
    asyncio.run(
        _serve(connection.url, signer, spending, mandate, folder, port=port if http else None)
    )


async def _serve(
    url: str,
    wallet: Wallet,
    cap: SpendCap,
    mandate: str | None,
    folder: Path,
    *,
    port: int | None,
) -> None:
    # Here: nobody else needs the protocol's packages, and they take a while to load.
    from tokenworks.web.mcp.server import make_server
    from tokenworks.web.mcp.till import Till
    from tokenworks.web.mcp.undecided import UndecidedPayments

    try:
        hub = await AsyncHubClient.connect(url, wallet, cap=cap, mandate=mandate)
    except (httpx.HTTPError, SdkError) as error:
        message = f"There is no hub at {url} ({error or type(error).__name__})."
        raise UnavailableError(message) from error
    async with hub:
        try:
            undecided = UndecidedPayments(folder)
        except OSError as error:
            message = f"{folder} cannot be made ({error.strerror}); name another: --undecided."
            raise InvalidError(message, param="undecided") from error
        server = make_server(Till(hub, undecided))
        if port is None:
            await server.run_stdio_async()
        else:
            typer.echo(f"tools at http://127.0.0.1:{port}/mcp", err=True)
            await server.run_streamable_http_async(port=port)
