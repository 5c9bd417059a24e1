"""
``tokenworks console``: the console's own process, a client of the hub API.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from tokenworks.settings import (
    HubNotRunningError,
    Settings,
    load_settings,
    reachable_host,
    read_runtime,
)

app: Final = typer.Typer(help="Run the console.")


@app.command()
def console(
    data: Annotated[
        Path | None, typer.Option("--data", help="The hub's data directory, for its address.")
    ] = None,
    url: Annotated[
        str | None, typer.Option("--url", help="Where the hub is; else the data directory's hub.")
    ] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port to listen on (8701).")] = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to bind (127.0.0.1).")] = None,
) -> None:
    """
    Serve the console: a live page and receipts, behind a login with an API key.
    """
    settings = load_settings({"data_dir": data, "url": url, "console_port": port, "host": host})
    # Imported here, so that a wrong option is answered before a second of imports.
    from tokenworks.cli.services import choose_port
    from tokenworks.web.console.app import serve
    from tokenworks.web.console.desk import ConsoleOptions

    options = ConsoleOptions(
        hub_url=_hub_url(settings),
        host=settings.host,
        port=choose_port(settings.host, settings.console_port, flag="--port"),
        trusted_proxies=settings.trusted_proxies,
        log_level=settings.log_level,
    )
    address = f"http://{reachable_host(options.host)}:{options.port}"
    typer.echo(f"Console of {options.hub_url}: {address}")
    serve(options)


def _hub_url(settings: Settings) -> str:
    """
    Return the hub to show: named, the one that runs on the data directory, or the default.
    """
    if settings.url is not None:
        return settings.url
    try:
        return read_runtime(settings.data_dir).hub_url
    except HubNotRunningError:
        return settings.hub_url
