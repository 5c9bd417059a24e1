"""
Look into a scenario: statements of the ledger's functions, and functions of Python.

Not for figures: pg_stat_statements and cProfile cost time themselves, cProfile up to half of
Python's. Read shares, not rates.
"""

from __future__ import annotations

import pstats
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.ledger import calls, posting
from benchmarks.ledger.calls import CallProfile, CallScenario, Span
from benchmarks.ledger.posting import PostScenario, Slices
from benchmarks.ledger.server import Database, Server
from benchmarks.ledger.statements import StatementProfile

STATEMENT_CHARACTERS: Final = 84
STATEMENTS_MAX: Final = 24
FUNCTIONS_MAX: Final = 30


def profile_calls(
    scenario: CallScenario, server: Server, database: Database, span: Span, *, business_file: str
) -> dict[str, Any]:
    """
    Run one scenario of calls under both profilers.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "python.pstats"
        profile = CallProfile(statements=StatementProfile(database), python_file=str(file))
        figures = calls.run_scenario(
            scenario, server, database, span, business_file=business_file, profile=profile
        )
        return figures | {"python": _python(file)}


def profile_posting(
    scenario: PostScenario, server: Server, database: Database, slices: Slices
) -> dict[str, Any]:
    """
    Run one scenario of postings under pg_stat_statements.
    """
    statements = StatementProfile(database)
    statements.begin()
    figures = uvloop.run(posting.measure(scenario, server, database, slices))
    return figures | {"statements": statements.end()}


def _python(file: Path) -> list[dict[str, Any]]:
    stats: Any = pstats.Stats(str(file))
    rows = [
        {
            "function": f"{Path(path).parent.name}/{Path(path).name}:{line} {name}"
            if line
            else name,
            "calls": count,
            "own_us": own_s * 1e6,
            "total_us": total_s * 1e6,
        }
        for (path, line, name), (_, count, own_s, total_s, _) in stats.stats.items()
    ]
    return sorted(rows, key=lambda row: -row["own_us"])


def print_profiles(results: dict[str, Any], console: Console) -> None:
    """
    Print what was found about each scenario.
    """
    for row in results["postings"]:
        _print(row["scenario"], row, console)
    for row in results["calls"]:
        _print(row["name"], row["rounds"][-1], console)


def _print(name: str, figures: dict[str, Any], console: Console) -> None:
    console.print(_statements_table(name, figures["statements"]))
    if "python" in figures:
        console.print(_python_table(name, figures["python"], calls_count=figures["settled"]))


def _statements_table(name: str, rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title=f"{name}: statements of the ledger's functions, times inclusive")
    table.add_column("function")
    table.add_column("line", justify="right")
    table.add_column("statement", no_wrap=True, max_width=STATEMENT_CHARACTERS)
    headings = ("calls", "us a batch", "us an operation", "share", "rows a call", "WAL B a call")
    for heading in headings:
        table.add_column(heading, justify="right")
    tops = [row for row in rows if row["is_top"] and row["function"]]
    batches = {row["function"]: row["calls"] for row in tops}
    operations = {row["function"]: row["rows"] for row in tops}  # an outcome each
    all_us = sum(row["exec_us"] for row in tops) or 1.0
    shown = sorted(rows, key=lambda row: -row["exec_us"])[:STATEMENTS_MAX]
    for row in shown:
        count = batches.get(row["function"]) or sum(batches.values()) or 1
        answered = operations.get(row["function"]) or sum(operations.values()) or 1
        table.add_row(
            row["function"] or "-",
            "" if row["line"] is None else str(row["line"]),
            row["statement"],
            f"{row['calls']:,}",
            f"{row['exec_us'] / count:,.0f}",
            f"{row['exec_us'] / answered:,.1f}",
            f"{row['exec_us'] / all_us:.1%}",
            f"{row['rows'] / row['calls']:,.1f}",
            f"{row['wal_bytes'] / row['calls']:,.0f}",
            style="bold" if row["is_top"] else None,
        )
    return table


def _python_table(name: str, rows: Sequence[dict[str, Any]], *, calls_count: int) -> Table:
    table = Table(title=f"{name}: Python, by own time (cProfile)")
    table.add_column("function", no_wrap=True, max_width=70)
    for heading in ("calls", "own us a call", "total us a call", "share"):
        table.add_column(heading, justify="right")
    all_us = sum(row["own_us"] for row in rows) or 1.0
    for row in rows[:FUNCTIONS_MAX]:
        table.add_row(
            row["function"],
            f"{row['calls']:,}",
            f"{row['own_us'] / max(1, calls_count):.1f}",
            f"{row['total_us'] / max(1, calls_count):.1f}",
            f"{row['own_us'] / all_us:.1%}",
        )
    return table
