"""
Close accounting dates (UTC): freeze a date, prove its books, sign and chain the proof.

Order: each lane's time is raised to the end of the date, so that a batch under way ends first
and none counts in the date afterwards (LEDGER 13: whoever settles later posts to the first open
date, and is never refused); what was booked on the date is added up beside the running hub; then,
while no batch may begin, the few entries that name the date themselves are added, the statement is
signed and stored. From its commit on an entry that names the date is refused (``date_closed``).

Invariants: dates are closed in order; a date with bookings is never passed over; a close is stored
once and never changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final

from psycopg.errors import LockNotAvailable

from tokenworks.foundation.clock import Clock
from tokenworks.ledger.closing_statement import (
    VERSION,
    BooksUnbalancedError,
    ClosingStatement,
    LaneHead,
    Movements,
    encode_statement,
    previous_close,
    prove,
    read_statement,
    trial_rows,
)
from tokenworks.ledger.errors import (
    DateClosedError,
    DateNotOverError,
    EarlierDateOpenError,
    LedgerUnavailableError,
)
from tokenworks.postgres.pool import Connection, connect
from tokenworks.postgres.queries import load

CLOCK_ALLOWANCE: Final = timedelta(seconds=2)
"""After midnight; a writer's clock and the closer's may each be a second off."""

LOCK_WAIT_MS: Final = 2_000
"""So long a close may keep writers waiting for a slower one, before it gives up."""

_QUERIES: Final = load("tokenworks.ledger", "closing_queries.sql")
_FIRST_DATE: Final = date(1970, 1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """
    A closed date.
    """

    statement: ClosingStatement
    content: str
    """The statement's canonical bytes, which the signature covers."""
    signature: str
    replayed: bool = False
    """Whether it was closed before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealer:
    """
    A key that signs, and the certificate by which others know it.
    """

    sign: Callable[[bytes], str]
    certificate: str


class DateClosings:
    """
    Close dates and read closes.

    Args:
        dsn: Connection string of the posting role. A close has a connection of its own: adding
            up a long day must not keep others waiting for one.
        clock: Tells which dates are over.
        sealer: Signs closes.
    """

    def __init__(self, dsn: str, *, clock: Clock, sealer: Sealer) -> None:
        self._dsn = dsn
        self._clock = clock
        self._sealer = sealer

    async def close(self, day: date, *, actor: str) -> Closing:
        """
        Close a date; a repeat returns the stored close.

        Raises:
            DateNotOverError: The date has not ended, or ended less than two seconds ago.
            DateClosedError: A later date is closed, and so this one with it.
            EarlierDateOpenError: Something was booked on an earlier date that is still open.
            LedgerUnavailableError: The books do not balance, or a writer does not end its batch:
                nothing is closed.
        """
        begin = datetime.combine(day, time(), UTC)
        # Nothing is added to a date before this: the calendar's last one has no end.
        if self._clock.now() - begin < timedelta(days=1) + CLOCK_ALLOWANCE:
            message = f"{day} (UTC) is not over: it can be closed two seconds after it ends."
            raise DateNotOverError(message, param="date")
        end = begin + timedelta(days=1)
        async with await connect(self._dsn, name="closing") as connection:
            stored = await _one(connection, "closing", {"date": day})
            if stored is not None:
                return _closing(stored, replayed=True)
            try:
                return await self._close(connection, day, end, actor=actor)
            except LockNotAvailable as error:
                message = f"{day} is not closed: a writer does not end its batch. Try again."
                raise LedgerUnavailableError(message, retry_after_s=LOCK_WAIT_MS / 1000) from error

    async def _close(
        self, connection: Connection, day: date, end: datetime, *, actor: str
    ) -> Closing:
        await _one(connection, "patience", {"milliseconds": str(LOCK_WAIT_MS)})
        cursor = await connection.execute(_QUERIES["lanes"])
        for (lane,) in await cursor.fetchall():
            await _one(connection, "raise_lane", {"lane": lane, "until": end})
        # Nothing changes this any more, and it may take long.
        movements, entries = await _movements(connection, "movements", "count_entries", day)
        async with connection.transaction():
            await connection.execute(_QUERIES["stop_lanes"])
            return await self._seal(connection, day, movements, entries, actor=actor)

    async def _seal(
        self, connection: Connection, day: date, movements: Movements, entries: int, *, actor: str
    ) -> Closing:
        last = await _one(connection, "closings", {"limit": 1})
        before = None if last is None else _closing(last)
        if before is not None and before.statement.date >= day:
            if before.statement.date == day:
                return Closing(
                    statement=before.statement,
                    content=before.content,
                    signature=before.signature,
                    replayed=True,
                )
            message = f"{day} was closed together with {before.statement.date}."
            raise DateClosedError(message, param="date")
        await _require_earlier_closed(connection, day, before)
        dated, dated_entries = await _movements(connection, "dated_movements", "count_dated", day)
        statement = await self._statement(
            connection, day, before, _added(movements, dated), entries + dated_entries, actor=actor
        )
        content = encode_statement(statement)
        signature = self._sealer.sign(content)
        await _one(
            connection,
            "add_closing",
            {
                "date": day,
                "now": statement.closed_at,
                "actor": actor,
                "statement": content.decode(),
                "signature": signature,
            },
        )
        return Closing(statement=statement, content=content.decode(), signature=signature)

    async def _statement(
        self,
        connection: Connection,
        day: date,
        before: Closing | None,
        movements: Movements,
        entries: int,
        *,
        actor: str,
    ) -> ClosingStatement:
        rows = trial_rows(() if before is None else before.statement.rows, movements)
        try:
            proofs = prove(rows)
        except BooksUnbalancedError as error:
            message = f"{day} is not closed, its books do not balance: {error}"
            raise LedgerUnavailableError(message, code="books_unbalanced") from error
        cursor = await connection.execute(_QUERIES["lane_heads"], _span(day))
        return ClosingStatement(
            v=VERSION,
            kind="close",
            date=day,
            closed_at=self._clock.now(),
            actor=actor,
            previous=None if before is None else previous_close(before.statement, before.signature),
            entries=entries,
            rows=rows,
            proofs=proofs,
            lanes=tuple(
                LaneHead(lane=row[0], batch=row[1], hash=row[2]) for row in await cursor.fetchall()
            ),
            certificate=self._sealer.certificate,
        )

    async def closings(self, limit: int) -> list[Closing]:
        """
        Return closes, the newest first.
        """
        async with await connect(self._dsn, name="closings") as connection:
            cursor = await connection.execute(_QUERIES["closings"], {"limit": limit})
            return [_closing(row) for row in await cursor.fetchall()]


async def _require_earlier_closed(
    connection: Connection, day: date, before: Closing | None
) -> None:
    after = _FIRST_DATE if before is None else before.statement.date + timedelta(days=1)
    parameters = {
        "after": after,
        "since": datetime.combine(after, time(), UTC),
        "start": datetime.combine(day, time(), UTC),
        "date": day,
    }
    row = await _one(connection, "first_open_date", parameters)
    if row is not None and row[0] is not None:
        message = f"{row[0]} has bookings and is open: close it first."
        raise EarlierDateOpenError(message, param="date", details={"date": row[0].isoformat()})


async def _movements(
    connection: Connection, query: str, count_query: str, day: date
) -> tuple[Movements, int]:
    cursor = await connection.execute(_QUERIES[query], _span(day))
    movements = {
        (row[0], row[1], row[2], row[3], row[4]): (int(row[5]), int(row[6]))
        for row in await cursor.fetchall()
    }
    counted = await _one(connection, count_query, _span(day))
    assert counted is not None, "a count always gives a row"
    return movements, int(counted[0])


def _added(one: Movements, other: Movements) -> Movements:
    sums: dict[tuple[str, str, str, str, int], tuple[int, int]] = dict(one)
    for key, (debits, credits) in other.items():
        before = sums.get(key, (0, 0))
        sums[key] = (before[0] + debits, before[1] + credits)
    return sums


def _span(day: date) -> dict[str, object]:
    start = datetime.combine(day, time(), UTC)
    return {"date": day, "start": start, "end": start + timedelta(days=1)}


async def _one(
    connection: Connection, query: str, parameters: Mapping[str, object]
) -> tuple[Any, ...] | None:
    cursor = await connection.execute(_QUERIES[query], parameters)
    return await cursor.fetchone()


def _closing(row: tuple[Any, ...], *, replayed: bool = False) -> Closing:
    _, _, _, content, signature = row
    return Closing(
        statement=read_statement(content), content=content, signature=signature, replayed=replayed
    )
