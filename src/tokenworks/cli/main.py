"""
The ``tokenworks`` command: a list of nouns, each loaded when it is used.

To add a noun, write ``cli/<noun>.py`` with ``app = typer.Typer(...)`` and add one line
to ``COMMANDS``. A module is imported only when its command runs, so that ``--help`` and
the start of every process stay fast.
"""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import dataclass
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from tokenworks import __version__
from tokenworks.foundation.errors import TokenworksError

EXIT_COULD_NOT_RUN: Final = 2
"""As ``cli/client.py`` says: wrong usage, or the command could not run at all."""
COMPLETION_OPTIONS: Final = frozenset({"install_completion", "show_completion"})
"""Of the whole command: Typer gives them to every app that it makes a command of."""


@dataclass(frozen=True, slots=True)
class Registration:
    """
    A command's name, the module whose ``app`` it is, and its line in ``--help``.
    """

    name: str
    module: str
    summary: str


COMMANDS: Final = (
    # A hub on this machine.
    Registration("up", "tokenworks.cli.up", "Run a whole hub on this machine."),
    Registration("gateway", "tokenworks.cli.gateway", "Run one gateway process."),
    Registration("worker", "tokenworks.cli.worker", "Run the periodic jobs."),
    Registration("console", "tokenworks.cli.console", "Run the console."),
    Registration("config", "tokenworks.cli.config", "Show the settings and their sources."),
    Registration("standby", "tokenworks.cli.standby", "A second copy that can take over."),
    Registration("backup", "tokenworks.cli.backup", "Backups of the books."),
    Registration("restore", "tokenworks.cli.restore", "Restore the books from a backup."),
    # Opening a business.
    Registration("supplier", "tokenworks.cli.supplier", "Suppliers: who serves tokens."),
    Registration("offer", "tokenworks.cli.offer", "Offers: which model, at which tier."),
    Registration("price", "tokenworks.cli.price", "The price book."),
    Registration("party", "tokenworks.cli.party", "Organisations, teams, users and agents."),
    Registration("key", "tokenworks.cli.key", "API keys."),
    Registration("limit", "tokenworks.cli.limit", "What a party or key may spend."),
    Registration("agent", "tokenworks.cli.agent", "Agents: wallets, tree, kill switch."),
    Registration("mandate", "tokenworks.cli.mandate", "What agents may spend."),
    Registration("deposit", "tokenworks.cli.deposit", "Book money that came in."),
    Registration("balance", "tokenworks.cli.balance", "What a party has."),
    # Agents that pay.
    Registration("x402", "tokenworks.cli.x402", "x402 facilitators: attack one."),
    Registration("review", "tokenworks.cli.review", "Payments that wait for a person."),
    Registration("brake", "tokenworks.cli.brake", "Rules that hold or deny agents' payments."),
    Registration("escrow", "tokenworks.cli.escrow", "Escrow: paid when a condition is met."),
    Registration("mcp", "tokenworks.cli.mcp", "Tools for an agent: a server of MCP."),
    # The plant.
    Registration("factory", "tokenworks.cli.factory", "Watts in, tokens out, what each costs."),
    # Looking at the books.
    Registration("call", "tokenworks.cli.call", "Calls: list, show, export."),
    Registration("payment", "tokenworks.cli.payment", "Payments of agents: list, show, receipt."),
    Registration("receipt", "tokenworks.cli.receipt", "Receipts: show, verify, export."),
    Registration("statement", "tokenworks.cli.statement", "Suppliers' statements: match, accept."),
    Registration("ledger", "tokenworks.cli.ledger", "Check the books; the trial balance."),
    Registration("database", "tokenworks.cli.database", "The schema; the server alone."),
)


def load_command(registration: Registration) -> Any:  # noqa: ANN401 - Typer's click is private
    """
    Import a noun and return its command, with its own options only.
    """
    command = get_command(importlib.import_module(registration.module).app)
    command.params = [one for one in command.params if one.name not in COMPLETION_OPTIONS]
    return command


class LazyCommand(TyperCommand):
    """
    Stand for a command until it runs.
    """

    def __init__(self, registration: Registration) -> None:
        super().__init__(registration.name, help=registration.summary)
        self._registration = registration

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: Any = None,  # noqa: ANN401 - Typer's click is private
        **extra: Any,  # noqa: ANN401 - Typer's click is private
    ) -> Any:  # noqa: ANN401 - as above
        """
        Load the real command and let it read its arguments.
        """
        command = load_command(self._registration)
        return command.make_context(info_name, args, parent=parent, **extra)


class RootGroup(TyperGroup):
    """
    The list of commands; turns an error of the product into a sentence and a code.
    """

    def __init__(self, **attributes: Any) -> None:  # noqa: ANN401 - passed on
        super().__init__(**attributes)
        for registration in COMMANDS:
            self.add_command(LazyCommand(registration))

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - Typer's click is private
        """
        Run the command that was named.
        """
        try:
            return super().invoke(ctx)
        except TokenworksError as error:
            report_error(error, as_json="--json" in sys.argv)
            raise typer.Exit(EXIT_COULD_NOT_RUN) from error


def report_error(error: TokenworksError, *, as_json: bool) -> None:
    """
    Print an error for people, or as one JSON object, to standard error.
    """
    if as_json:
        content = {
            "code": error.code,
            "kind": error.kind.value,
            "message": error.message,
            "param": error.param,
            "details": error.details,
        }
        typer.echo(json.dumps({"error": content}, default=str), err=True)
    else:
        typer.echo(f"Error: {error.message}", err=True)


app = typer.Typer(
    cls=RootGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Tokenworks: the utility company for AI tokens.",
)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"tokenworks {__version__}")
        raise typer.Exit


@app.callback()
def _root(  # pyright: ignore[reportUnusedFunction] - Typer calls it
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    assert not version, "answered by its callback"


if __name__ == "__main__":
    app()
