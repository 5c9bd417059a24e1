"""
Print what the ledger's benchmark found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.ledger.growth import RATIO_MAX, WAITERS

Row = dict[str, Any]


def print_results(results: Row, console: Console) -> None:
    """
    Print the facts, then a table for each part that was measured.
    """
    facts, settings = results["machine"], results["settings"]
    console.print(
        f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB, {facts['system']}, "
        f"data on {facts['data_filesystem']}, Python {facts['python']}, "
        f"commit {facts['commit']}{' with changes' if facts['is_changed'] else ''}, "
        f"load {facts['load_average'][0]}"
    )
    console.print(
        f"PostgreSQL {settings['server_version']}: fsync {settings['fsync']}, "
        f"synchronous_commit {settings['synchronous_commit']}, "
        f"full_page_writes {settings['full_page_writes']}, "
        f"wal_sync_method {settings['wal_sync_method']}, "
        f"shared_buffers {settings['shared_buffers']}"
    )
    commits = results["bare_commits"]["pair_ms"]
    console.print(
        f"two bare one-row commits on it: p50 {commits['p50']} ms, p99 {commits['p99']} ms"
    )
    if results["postings"]:
        console.print(_postings(results["postings"]))
    if results["calls"]:
        console.print(_calls(results["calls"], pair_ms=commits["p50"]))
        console.print(_costs(results["calls"], cores=facts["cores"]))
    if results["growth"]:
        console.print(_growth(results["growth"]))
    console.print("books after each scenario: clean (the filled ones cannot be checked)")


def _postings(rows: Sequence[Row]) -> Table:
    by_name = {row["scenario"]: row for row in rows}
    single = by_name.get("post batch=1", {}).get("post_entries_per_s")
    table = _table(
        "checked posting against bare inserts of the same rows (medians of slices)",
        "posting",
        "entries/s",
        "transfers/s",
        "bare/s",
        "ratio",
        "target",
        "bare+upd/s",
        "ratio to it",
        "ratio to bare in turn",
        "x batch 1",
        "py us",
        "PG us",
        "bare PG us",
        "WAL B",
    )
    for row in rows:
        _add(
            table,
            row["scenario"],
            row["post_entries_per_s"],
            row["post_transfers_per_s"],
            row["bare_entries_per_s"],
            row["ratio_to_bare"],
            _target(row["target_ratio"], is_reached=_reaches(row, "ratio_to_bare")),
            row["updating_entries_per_s"],
            row["ratio_to_updating"],
            row["ratio_to_in_turn"],
            row["post_entries_per_s"] / single if single else None,
            row["post_python_us"],
            row["post_postgres_us"],
            row["bare_postgres_us"],
            row["bytes_of_wal_per_entry"],
        )
    return table


def _reaches(row: Row, name: str) -> bool:
    return row["target_ratio"] is not None and row[name] >= row["target_ratio"]


def _calls(rows: Sequence[Row], *, pair_ms: float) -> Table:
    rates = {row["name"]: row["rate_per_s"] for row in rows}
    table = _table(
        "calls behind group commit: hold and settle, each durable (medians of rounds)",
        "calls",
        "calls/s",
        "target",
        "ratio",
        "to",
        "refused/s",
        "hold p50",
        "p99 ms",
        "settle p50",
        "p99 ms",
        "hold x 2 commits",
        "ops/batch",
    )
    for row in rows:
        base = rates.get(row["against"] or "")
        _add(
            table,
            row["name"],
            row["rate_per_s"],
            _target(row["target_rate"], is_reached=row["rate_per_s"] >= (row["target_rate"] or 0)),
            row["rate_per_s"] / base if base else None,
            row["against"] if base else None,
            row["refused_per_s"],
            row.get("hold_p50_ms"),
            row.get("hold_p99_ms"),
            row.get("settle_p50_ms"),
            row.get("settle_p99_ms"),
            row["hold_p50_ms"] / pair_ms if "hold_p50_ms" in row else None,
            row["operations_per_batch"],
        )
    return table


def _costs(rows: Sequence[Row], *, cores: int) -> Table:
    cpu = {row["name"]: _cpu_us(row) for row in rows}
    table = _table(
        "what a call costs",
        "calls",
        "py us",
        "PG us",
        "CPU ratio",
        f"bound of {cores} cores /s",
        "cores had",
        "WAL B",
        "rows",
        "holds +/~",
        "entries +",
        "balances ~",
        "calls +",
    )
    for row in rows:
        written = row["rows"]
        base = cpu.get(row["against"] or "")
        _add(
            table,
            row["name"],
            row["python_us_per_call"],
            row["postgres_us_per_call"],
            _cpu_us(row) / base if base else None,
            cores * 1e6 / _cpu_us(row) if _cpu_us(row) else None,
            row["python_cores"] + row["postgres_cores"],
            row["wal_bytes_per_call"],
            row["rows_per_call"],
            f"{written['holds inserted']:.2f}/{written['holds updated']:.2f}",
            written["entries inserted"],
            written["balances updated"],
            written["calls inserted"],
        )
    return table


def _cpu_us(row: Row) -> float:
    return row["python_us_per_call"] + row["postgres_us_per_call"]


def _growth(rows: Sequence[Row]) -> Table:
    by_name = {row["name"]: row for row in rows}
    table = _table(
        f"a call in growing books, {WAITERS} waiters (to be flat within {RATIO_MAX:g})",
        "books",
        "py us",
        "PG us",
        "CPU ratio",
        "target",
        "PG ratio",
        "calls/s",
        "hold p50",
        "settle p50 ms",
        "WAL B",
        "MiB on disk",
        "cores had",
    )
    for row in rows:
        smallest = by_name[row["against"]]
        ratio = _cpu_us(row) / _cpu_us(smallest)
        _add(
            table,
            row["name"],
            row["python_us_per_call"],
            row["postgres_us_per_call"],
            ratio,
            _target(RATIO_MAX, is_reached=ratio <= RATIO_MAX),
            row["postgres_us_per_call"] / smallest["postgres_us_per_call"],
            row["rate_per_s"],
            row["hold_p50_ms"],
            row["settle_p50_ms"],
            row["wal_bytes_per_call"],
            row["database_bytes"] / 2**20,
            row["python_cores"] + row["postgres_cores"],
        )
    return table


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title)
    first, *others = headings
    table.add_column(first)
    for heading in others:
        table.add_column(heading, justify="right")
    return table


def _add(table: Table, *cells: object) -> None:
    table.add_row(*_cells(cells))


def _cells(values: Iterable[object]) -> Iterable[str]:
    for value in values:
        if value is None:
            yield "-"
        elif isinstance(value, int | float):
            yield f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
        else:
            yield str(value)


def _target(value: float | None, *, is_reached: bool) -> str | None:
    return None if value is None else f"{value:g} {'reached' if is_reached else 'missed'}"
