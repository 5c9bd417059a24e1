"""
``tokenworks gateway``: one process that serves calls and the hub API.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokenworks.settings import load_settings

app = typer.Typer(help="Run one gateway process.")


@app.command()
def gateway(
    data: Annotated[Path | None, typer.Option("--data", help="The data directory.")] = None,
    index: Annotated[int, typer.Option(help="Tells gateways of one hub apart.")] = 0,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to bind.")] = None,
) -> None:
    """
    Serve /v1, /hub/v1 and /metrics on a database that a hub has prepared.
    """
    import uvloop

    from tokenworks.bootstrap.gateway_process import run_gateway

    settings = load_settings({"data_dir": data, "port": port, "host": host})
    uvloop.run(run_gateway(settings, index=index))
