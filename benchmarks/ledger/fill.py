"""
Fill the books quickly with accounts and history, as the owner, past the functions.

What is filled: buyers as ``business.open_business`` opens them (an organisation's cash and a
limit with an open window on each of four scopes: five accounts a buyer), and closed calls: a
hold, its ``place`` and its ``capture`` entry, a row of ``gateway.calls`` without its receipt,
and a batch for every thousand entries. History is copied from one real call, so its rows have
the bytes that the functions write today; ids are spread over the month so far.

Consistent enough to be sold on: every balance, limit, window and path is what the functions
expect, and the platform's two sides are raised by what was given. Not consistent with history:
the copied entries move nothing, and their batches are of a lane that nobody holds. So these
books cannot be checked, and are not.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import md5
from typing import Any, Final, LiteralString, cast
from uuid import UUID

import psycopg

from benchmarks.ledger.server import Database
from tokenworks.postgres.queries import load

ACCOUNTS_PER_BUYER: Final = 5
ENTRIES_PER_CALL: Final = 2
CHUNK_ROWS: Final = 100_000
BATCH_ENTRIES: Final = 1_000
FILLED_LANE: Final = 1_000
GIVEN_QUANTA: Final = 900_000 * 10**9

_SCOPES: Final = ("org", "team", "user", "key")
_WINDOWS: Final = ("ever", "year", "month", "day")

_QUERIES: Final = load("benchmarks.ledger", "fill.sql")
_BUYER_STEPS: Final = (
    "begin_buyers",
    "fill_scopes",
    "fill_limits",
    "fill_windows",
    "fill_window_accounts",
    "fill_window_balances",
    "fill_cash_accounts",
    "fill_cash_balances",
    "fill_paths",
    "fill_other_side",
)


def buyer_scopes(number: int) -> tuple[UUID, UUID, UUID, UUID]:
    """
    Return a filled buyer's organisation, team, user and key; the key's id is its path's.
    """
    return cast(
        "tuple[UUID, UUID, UUID, UUID]",
        tuple(UUID(md5(f"{name}{number}".encode()).hexdigest()) for name in _SCOPES),
    )


class Filler:
    """
    Raise one database to given sizes, step by step.

    Args:
        database: In which at least one call was settled.
        progress: Is told what goes on.
    """

    def __init__(self, database: Database, progress: Callable[[str], None]) -> None:
        self._dsn = database.dsn_owner
        self._progress = progress
        with psycopg.connect(self._dsn) as connection:
            self._copies = _Sample(connection).copies
        self.buyers = 0
        self.calls = 0

    def raise_to(self, *, accounts: int, entries: int) -> None:
        """
        Fill up to so many accounts and entries, then write everything out.
        """
        with psycopg.connect(self._dsn) as connection:
            # Keys to rows that are written by the same statements need no look-up; what is
            # lost with the machine is filled again.
            connection.execute("SET session_replication_role = replica")
            connection.execute("SET synchronous_commit = off")
            connection.commit()
            self._fill_buyers(connection, accounts // ACCOUNTS_PER_BUYER)
            self._fill_calls(connection, entries // ENTRIES_PER_CALL)
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            self._progress("vacuum, analyze, checkpoint")
            connection.execute("VACUUM (ANALYZE)")
            connection.execute("CHECKPOINT")

    def _fill_buyers(self, connection: psycopg.Connection, upto: int) -> None:
        now = datetime.now(UTC)
        while self.buyers < upto:
            count = min(CHUNK_ROWS, upto - self.buyers)
            values: dict[str, Any] = {
                "first": self.buyers,
                "last": self.buyers + count - 1,
                "count": count,
                "given": GIVEN_QUANTA,
                "now": now,
                "windows": list(_WINDOWS),
                "scope_names": list(_SCOPES),
            }
            for step in _BUYER_STEPS:
                connection.execute(_QUERIES[step], values)
            connection.commit()
            self.buyers += count
            self._progress(f"{self.buyers * ACCOUNTS_PER_BUYER:,} accounts")

    def _fill_calls(self, connection: psycopg.Connection, upto: int) -> None:
        begin, now = _month_begin(), datetime.now(UTC)
        begin_ms = begin.timestamp() * 1_000
        # Ids rise with their number from the month's begin to now, whatever the sizes are.
        step_ms = max((now - begin).total_seconds() * 1_000, 1.0) / 2**23
        while self.calls < upto:
            count = min(CHUNK_ROWS, upto - self.calls)
            values: dict[str, Any] = {
                "first": self.calls,
                "last": self.calls + count - 1,
                "begin_ms": begin_ms,
                "step_ms": step_ms,
            }
            connection.execute(_QUERIES["begin_calls"], values)
            for statement in self._copies:
                connection.execute(cast("LiteralString", statement))
            connection.commit()
            self.calls += count
            self._progress(f"{self.calls * ENTRIES_PER_CALL:,} entries")


def _month_begin() -> datetime:
    return datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


class _Sample:
    """
    One real call, and the statements that copy it for each row of ``past``.
    """

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        row = connection.execute(_QUERIES["sample"]).fetchone()
        assert row is not None, "a call was settled here before"
        fact_id, lane, batch = row
        of_batch = {
            "lane": str(FILLED_LANE),
            "batch": f"past.i * {ENTRIES_PER_CALL} / {BATCH_ENTRIES}",
        }
        self.copies = (
            self._copy("ledger.holds", {"hold_id": "past.id"}, f"hold_id = '{fact_id}'"),
            self._copy(
                "ledger.entries",
                of_batch
                | {
                    "fact_id": "past.id",
                    "record": f"replace(sample.record, '{fact_id}', past.id::text)",
                    "content": "sha256(uuid_send(past.id))",
                    "position": f"(past.i * {ENTRIES_PER_CALL} % {BATCH_ENTRIES})::integer",
                },
                f"fact_id = '{fact_id}' AND operation IN ('place', 'capture')",
            ),
            self._copy(
                "ledger.batches",
                of_batch,
                f"lane = {lane} AND batch = {batch}",
                each=BATCH_ENTRIES // ENTRIES_PER_CALL,
            ),
            self._copy(
                "gateway.calls",
                {
                    "call_id": "past.id",
                    "organisation_id": "md5('org' || past.i)::uuid",
                    "receipt": "NULL",
                },
                f"call_id = '{fact_id}'",
            ),
        )

    def _copy(self, table: str, new: dict[str, str], which: str, *, each: int = 1) -> str:
        """
        Return a statement that copies some rows, with the columns ``new``.

        Args:
            table: Where they are and go.
            new: An expression over ``sample`` and ``past`` by column; other columns stay.
            which: The rows to copy.
            each: For one in so many of ``past``.
        """
        rows = self._connection.execute(_QUERIES["columns"], {"table": table})
        names = [row[0] for row in rows]
        values = ", ".join(new.get(name, f"sample.{name}") for name in names)
        return (
            f"WITH sample AS MATERIALIZED (SELECT * FROM {table} WHERE {which}) "
            f"INSERT INTO {table} ({', '.join(names)}) "
            f"SELECT {values} FROM past, sample WHERE past.i % {each} = 0 ORDER BY past.id"
        )
