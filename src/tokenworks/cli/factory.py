"""
``tokenworks factory``: the plant that turns electricity into tokens.
"""

from __future__ import annotations

import typer

from tokenworks.cli.factory_economics import add_commands

app = typer.Typer(no_args_is_help=True, help="The plant: watts in, tokens out, what each costs.")
add_commands(app)
