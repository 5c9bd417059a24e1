"""
What the hub believes it owes suppliers, attempt by attempt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from tokenworks.postgres.pool import Pool
from tokenworks.postgres.queries import load

FETCH_ROWS: Final = 2_000
_QUERIES: Final = load("tokenworks.gateway", "owed_queries.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class OwedAttempt:
    """
    One physical request to a supplier, of an ended call.
    """

    call_id: UUID
    ordinal: int
    models: tuple[str, ...]
    """The public name and the supplier's own, where they differ."""
    started_at: datetime
    ended_at: datetime
    """When its call ended."""
    input_tokens: int | None
    """``None`` where the attempt served nothing."""
    output_tokens: int | None
    owed_quanta: int
    """Power producer's part included: it is paid out of the supplier's price."""
    is_billed: bool = False
    """Whether an earlier statement billed it."""

    @property
    def key(self) -> tuple[UUID, int]:
        """
        Return what names an attempt.
        """
        return self.call_id, self.ordinal


class OwedAttempts:
    """
    Read the attempts of one supplier.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def of_supplier(
        self,
        supplier_id: UUID,
        *,
        since: datetime,
        until: datetime,
        call_ids: Sequence[UUID],
        rows_max: int,
    ) -> list[OwedAttempt]:
        """
        Return a supplier's attempts whose calls began in a period, or are named.

        Streamed, so that a long period meets no time limit; at most ``rows_max`` and one
        more, by which a caller sees that there are too many.
        """
        found: list[OwedAttempt] = []
        async with (
            self._pool.connection() as connection,
            connection.transaction(),
            connection.cursor(name="owed_attempts") as cursor,
        ):
            cursor.itersize = FETCH_ROWS
            await cursor.execute(
                _QUERIES["attempts_of_supplier"],
                {
                    "supplier_id": supplier_id,
                    "since": since,
                    "until": until,
                    "call_ids": list(call_ids),
                    "limit": rows_max + 1,
                },
            )
            async for row in cursor:
                call_id, ordinal, model, upstream, started_at, ended_at, fresh, output, owed = row
                found.append(
                    OwedAttempt(
                        call_id=call_id,
                        ordinal=ordinal,
                        models=(model,) if upstream in {None, model} else (model, upstream),
                        started_at=started_at,
                        ended_at=ended_at,
                        input_tokens=fresh,
                        output_tokens=output,
                        owed_quanta=owed,
                    )
                )
        return found
