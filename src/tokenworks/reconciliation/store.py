"""
Read and write the schema ``reconciliation``; rows are added, never changed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from typing import Any, Final
from uuid import UUID

from psycopg.errors import UniqueViolation
from psycopg.types.json import Json

from tokenworks.foundation.money import ASSETS
from tokenworks.gateway.owed import OwedAttempt
from tokenworks.postgres.pool import Connection, Pool
from tokenworks.postgres.queries import load
from tokenworks.reconciliation.errors import StatementClashError, StatementNotFoundError
from tokenworks.reconciliation.model import (
    Difference,
    LineFinding,
    Matching,
    Proposal,
    Statement,
    Tolerance,
    Verdict,
    VerdictTotal,
)

FETCH_ROWS: Final = 2_000
_QUERIES: Final = load("tokenworks.reconciliation")


class StatementStore:
    """
    Statements and what was found in them.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @asynccontextmanager
    async def importing(self, supplier_id: UUID) -> AsyncGenerator[Connection]:
        """
        Give the turn to import a statement of one supplier.
        """
        async with self._pool.connection() as connection:
            await connection.execute(_QUERIES["lock_supplier"], {"supplier_id": supplier_id})
            try:
                yield connection
            finally:
                await connection.execute(_QUERIES["unlock_supplier"], {"supplier_id": supplier_id})

    async def statement_of_file(
        self, supplier_id: UUID, file_sha256: bytes, connection: Connection | None = None
    ) -> UUID | None:
        """
        Return the statement that a file was imported as.
        """
        parameters = {"supplier_id": supplier_id, "file_sha256": file_sha256}
        if connection is None:
            row = await self._one("statement_of_file", parameters)
        else:
            cursor = await connection.execute(_QUERIES["statement_of_file"], parameters)
            row = await cursor.fetchone()
        return None if row is None else row[0]

    async def known_references(
        self, supplier_id: UUID, references: Sequence[str], connection: Connection
    ) -> set[str]:
        """
        Return which references stood on earlier statements.
        """
        cursor = await connection.execute(
            _QUERIES["known_references"],
            {"supplier_id": supplier_id, "references": list(references)},
        )
        return {row[0] for row in await cursor.fetchall()}

    async def billed_keys(
        self, attempts: Sequence[OwedAttempt], connection: Connection
    ) -> set[tuple[UUID, int]]:
        """
        Return which attempts earlier statements billed.
        """
        cursor = await connection.execute(
            _QUERIES["billed_attempts"],
            {
                "call_ids": [attempt.call_id for attempt in attempts],
                "ordinals": [attempt.ordinal for attempt in attempts],
            },
        )
        return {(row[0], row[1]) for row in await cursor.fetchall()}

    async def add(
        self,
        statement: Statement,
        content: bytes,
        matching: Matching,
        *,
        fact_id: UUID,
        connection: Connection,
    ) -> None:
        """
        Store a statement, its findings and its proposal: all of it or nothing.

        Raises:
            StatementClashError: A statement of another supplier entry billed an attempt.
        """
        try:
            async with connection.transaction():
                await connection.execute(
                    _QUERIES["add_statement"], _statement_row(statement) | {"content": content}
                )
                await _copy(connection, "copy_lines", _line_rows(statement, matching))
                await _copy(
                    connection, "copy_unbilled_attempts", _attempt_rows(statement, matching)
                )
                if matching.correction_quanta:
                    await connection.execute(
                        _QUERIES["add_proposal"],
                        {
                            "statement_id": statement.statement_id,
                            "fact_id": fact_id,
                            "quanta": matching.correction_quanta,
                        },
                    )
        except UniqueViolation as error:
            message = "One of its attempts was billed meanwhile; import the file again."
            raise StatementClashError(message) from error

    async def get(self, statement_id: UUID) -> Statement:
        """
        Return one statement.

        Raises:
            StatementNotFoundError: There is none.
        """
        row = await self._one("get_statement", {"statement_id": statement_id})
        if row is None:
            message = f"There is no statement {statement_id}."
            raise StatementNotFoundError(message, param="statement_id")
        return _statement(row)

    async def list(
        self, *, supplier_id: UUID | None, before: UUID | None, limit: int
    ) -> list[Statement]:
        """
        Return statements, newest first.
        """
        parameters = {"supplier_id": supplier_id, "before": before, "limit": limit}
        return [_statement(row) for row in await self._all("list_statements", parameters)]

    async def totals(self, statement_id: UUID) -> list[VerdictTotal]:
        """
        Return what each verdict sums up to on each day.
        """
        rows = await self._all("totals", {"statement_id": statement_id})
        return [
            VerdictTotal(
                verdict=Verdict(row[0]),
                day=row[1],
                lines=int(row[2]),
                billed_quanta=int(row[3]),
                attempts=int(row[4]),
                owed_quanta=int(row[5]),
            )
            for row in rows
        ]

    async def proposal(self, statement_id: UUID) -> Proposal | None:
        """
        Return a statement's correcting entry, or ``None`` when nothing differs.
        """
        row = await self._one("proposal", {"statement_id": statement_id})
        if row is None:
            return None
        return Proposal(
            fact_id=row[0],
            quanta=row[1],
            accepted_at=row[2],
            accepted_by=row[3],
            is_posted=row[4],
        )

    async def accept(self, statement_id: UUID, *, actor: str, now: datetime) -> None:
        """
        Note who accepted a proposal; the first one stays.
        """
        async with self._pool.connection() as connection:
            await connection.execute(
                _QUERIES["add_acceptance"],
                {"statement_id": statement_id, "actor": actor, "now": now},
            )

    async def accepted(self, *, after: datetime, before: datetime) -> list[tuple[UUID, str]]:
        """
        Return statements that were accepted in a span and are not booked, with by whom.
        """
        rows = await self._all("accepted", {"after": after, "before": before})
        return [(row[0], row[1]) for row in rows]

    async def differences(
        self, statement_id: UUID, *, with_matched: bool
    ) -> AsyncGenerator[Difference]:
        """
        Yield the lines and attempts of a statement in the file's order, unbilled ones last.
        """
        async with (
            self._pool.connection() as connection,
            connection.transaction(),
            connection.cursor(name="statement_differences") as cursor,
        ):
            cursor.itersize = FETCH_ROWS
            await cursor.execute(
                _QUERIES["differences"],
                {"statement_id": statement_id, "with_matched": with_matched},
            )
            async for row in cursor:
                yield _difference(row)

    async def on_hold_quanta(self, party_id: UUID, *, currency: str, ended_after: datetime) -> int:
        """
        Return what a party is owed for calls that are neither matched nor old.
        """
        row = await self._one(
            "on_hold",
            {"party_id": party_id, "currency": currency, "ended_after": ended_after},
        )
        assert row is not None, "a sum always gives a row"
        return int(row[0])

    async def _one(self, query: str, parameters: Mapping[str, Any]) -> Sequence[Any] | None:
        async with self._pool.connection() as connection:
            cursor = await connection.execute(_QUERIES[query], parameters)
            return await cursor.fetchone()

    async def _all(self, query: str, parameters: Mapping[str, Any]) -> list[Any]:
        async with self._pool.connection() as connection:
            cursor = await connection.execute(_QUERIES[query], parameters)
            return await cursor.fetchall()


async def _copy(connection: Connection, query: str, rows: Iterator[Sequence[object]]) -> None:
    async with connection.cursor() as cursor, cursor.copy(_QUERIES[query]) as copy:
        for row in rows:
            await copy.write_row(row)


def _line_rows(statement: Statement, matching: Matching) -> Iterator[Sequence[object]]:
    for finding in matching.lines:
        line, attempt = finding.line, finding.attempt
        yield (
            statement.statement_id,
            line.number,
            statement.supplier_id,
            line.reference,
            line.call_id,
            line.occurred_at,
            line.model,
            line.input_tokens,
            line.output_tokens,
            line.quanta,
            finding.verdict.value,
            None if attempt is None else attempt.call_id,
            None if attempt is None else attempt.ordinal,
            None if attempt is None else attempt.owed_quanta,
            _day_of(finding),
        )


def _attempt_rows(statement: Statement, matching: Matching) -> Iterator[Sequence[object]]:
    for finding in matching.attempts:
        attempt = finding.attempt
        yield (
            statement.statement_id,
            attempt.call_id,
            attempt.ordinal,
            attempt.models[0],
            attempt.started_at,
            attempt.owed_quanta,
            finding.verdict.value,
        )


def _day_of(finding: LineFinding) -> date | None:
    moment = finding.line.occurred_at
    if moment is None and finding.attempt is not None:
        moment = finding.attempt.started_at
    return None if moment is None else moment.astimezone(UTC).date()


def _statement_row(statement: Statement) -> dict[str, object]:
    return {
        "statement_id": statement.statement_id,
        "supplier_id": statement.supplier_id,
        "party_id": statement.party_id,
        "file_name": statement.file_name,
        "file_sha256": statement.file_sha256,
        "columns": Json(dict(statement.columns)),
        "currency": statement.asset.code,
        "since": statement.since,
        "until": statement.until,
        "tolerance_quanta": statement.tolerance.quanta,
        "tolerance_ppm": statement.tolerance.ppm,
        "window_s": statement.tolerance.window_s,
        "line_count": statement.line_count,
        "total_quanta": statement.total_quanta,
        "imported_at": statement.imported_at,
        "actor": statement.actor,
    }


def _statement(row: Sequence[Any]) -> Statement:
    return Statement(
        statement_id=row[0],
        supplier_id=row[1],
        party_id=row[2],
        file_name=row[3],
        file_sha256=bytes(row[4]),
        columns=row[5],
        asset=ASSETS[row[6]],
        since=row[7],
        until=row[8],
        tolerance=Tolerance(quanta=row[9], ppm=row[10], window_s=row[11]),
        line_count=row[12],
        total_quanta=int(row[13]),
        imported_at=row[14],
        actor=row[15],
    )


def _difference(row: Sequence[Any]) -> Difference:
    return Difference(
        verdict=Verdict(row[0]),
        line_number=row[1],
        reference=row[2],
        call_id=row[3],
        ordinal=row[4],
        occurred_at=row[5],
        model=row[6],
        billed_quanta=row[7],
        owed_quanta=row[8],
    )
