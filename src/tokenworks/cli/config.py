"""
``tokenworks config``: what the hub would run with, and why.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tokenworks.settings import RULES, Settings, environment_name, load_settings

app = typer.Typer(no_args_is_help=True, help="Show the settings and their sources.")


@app.callback()
def _config() -> None:  # pyright: ignore[reportUnusedFunction] - keeps 'show' a subcommand
    """
    Show the settings and their sources.
    """


@app.command()
def show(
    data: Annotated[Path | None, typer.Option("--data", help="The data directory.")] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """
    Print every setting with its value and where it came from; secrets are masked.
    """
    settings = load_settings({"data_dir": data})
    if as_json:
        typer.echo(json.dumps(_to_json(settings), indent=2))
        return
    _print_table(settings)
    for warning in settings.warnings():
        typer.secho(f"Warning: {warning}", fg=typer.colors.YELLOW, err=True)


def _to_json(settings: Settings) -> dict[str, object]:
    rows = [
        {
            "name": name,
            "value": settings.shown(name),
            "source": settings.source(name),
            "environment": environment_name(name),
            "help": rule.help,
        }
        for name, rule in RULES.items()
    ]
    return {"settings": rows, "warnings": list(settings.warnings())}


def _print_table(settings: Settings) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("setting", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("source", overflow="fold")
    for name in RULES:
        value = settings.shown(name)
        shown = "" if value is None else str(value)
        table.add_row(name, Text(shown), Text(settings.source(name)))
    Console().print(table)
