"""
Which statement of the ledger's functions costs what: pg_stat_statements, with nested ones.

The extension sees every statement that a function runs, but not which function ran it; that is
found by looking its last words up in the functions' sources. Times are inclusive: a statement
that calls a function contains that function's. What a function spends outside of any statement
(its loops and assignments in PL/pgSQL) is what is left of its own time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from benchmarks.ledger.server import Database

TAIL_TOKENS: Final = 16
_TOKEN: Final = re.compile(r"--[^\n]*|'(?:[^']|'')*'|\$?\d+|\w+|[^\s\w]|\n")
_LITERAL: Final = re.compile(r"'|\$?\d")
_TOP_FUNCTION: Final = re.compile(r"FROM\s+ledger\.(\w+)\(", re.IGNORECASE)

_READ: Final = """
SELECT query, toplevel, calls, total_exec_time * 1000, total_plan_time * 1000, rows, wal_bytes
FROM pg_stat_statements
WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND query NOT LIKE '%pg_stat_statements%'
ORDER BY total_exec_time DESC
"""
_SOURCES: Final = """
SELECT p.proname, p.prosrc
FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
WHERE n.nspname IN ('ledger', 'gateway') AND p.prosrc <> ''
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """
    A function's body as tokens, each with its line.
    """

    function: str
    tokens: tuple[str, ...]
    lines: tuple[int, ...]

    @classmethod
    def read(cls, function: str, body: str) -> Source:
        """
        Take a body apart; constants all look alike, as in the statistics.
        """
        pairs = list(_tokens(body))
        return cls(
            function=function,
            tokens=tuple(token for token, _ in pairs),
            lines=tuple(line for _, line in pairs),
        )

    def line_of(self, tail: tuple[str, ...]) -> int | None:
        """
        Return the line on which a run of tokens begins, or ``None``. O(tokens).
        """
        size = len(tail)
        for start in range(len(self.tokens) - size + 1):
            if self.tokens[start : start + size] == tail:
                return self.lines[start]
        return None


class StatementProfile:
    """
    The statistics of one database between ``begin`` and ``end``.
    """

    def __init__(self, database: Database) -> None:
        self._dsn = database.dsn_owner
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
            rows = connection.execute(_SOURCES).fetchall()
        self._sources = [Source.read(name, body) for name, body in rows]

    def begin(self) -> None:
        """
        Forget what was counted.
        """
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute("SELECT pg_stat_statements_reset()")

    def end(self) -> list[dict[str, Any]]:
        """
        Return a row for each of the ledger's functions and each statement in them.
        """
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            rows = connection.execute(_READ).fetchall()
        found = [self._row(*row) for row in rows]
        return [*found, *_rests(found)]

    def _row(
        self,
        query: str,
        is_top: bool,  # noqa: FBT001 - a column of the query
        calls: int,
        exec_us: float,
        plan_us: float,
        rows: int,
        wal_bytes: int,
    ) -> dict[str, Any]:
        function, line = ("", None) if is_top else self._place_of(query)
        top = _TOP_FUNCTION.search(query) if is_top else None
        return {
            "function": top[1] if top else function,
            "line": line,
            "statement": " ".join(query.split()),
            "is_top": is_top,
            "calls": calls,
            "exec_us": exec_us,
            "plan_us": plan_us,
            "rows": rows,
            "wal_bytes": int(wal_bytes),
        }

    def _place_of(self, query: str) -> tuple[str, int | None]:
        tail = tuple(token for token, _ in _tokens(query))[-TAIL_TOKENS:]
        for source in self._sources:
            line = source.line_of(tail)
            if line is not None:
                return source.function, line
        return "(dynamic)", None


def _rests(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    Return what each top function spends outside of its statements.
    """
    return [
        {
            **top,
            "is_top": False,
            "line": None,
            "statement": "(PL/pgSQL between the statements)",
            "exec_us": top["exec_us"]
            - sum(
                row["exec_us"]
                for row in rows
                if row["function"] == top["function"] and not row["is_top"]
            ),
            "plan_us": 0.0,
            "rows": 0,
            "wal_bytes": 0,
        }
        for top in rows
        if top["is_top"] and top["function"]
    ]


def _tokens(text: str) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    line = 1
    for match in _TOKEN.finditer(text):
        token = match[0]
        if not token.strip():
            line += 1
        elif not token.startswith("--"):
            found.append(("?" if _LITERAL.match(token) else token.lower(), line))
            line += token.count("\n")
    return found
