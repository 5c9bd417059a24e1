"""
The gateway's own records: ended calls, attempts, idempotency keys; for lists and reports.

A call's row is written by the ledger's rider in the transaction that ends its hold, so it
is exactly as durable as the money. A call in flight is an open hold, not a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from psycopg.rows import dict_row

from tokenworks.agents.escrow.model import MeteredCall
from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import InvalidError
from tokenworks.foundation.limits import PAGE_ROWS_MAX
from tokenworks.foundation.money import USD
from tokenworks.gateway.ended_calls import (
    CallFilter,
    CallRow,
    FlowLeg,
    FlowView,
    SpendRow,
    detailed_from_row,
    from_row,
)
from tokenworks.gateway.model import Attempt
from tokenworks.postgres.pool import Pool
from tokenworks.postgres.queries import load

QUERIES: Final = load("tokenworks.gateway")
LAST_CALLS: Final = 20
SPEND_DIMENSIONS: Final = (
    "organisation",
    "team",
    "user",
    "key",
    "model",
    "tier",
    "day",
    "supplier",
)


class CallStore:
    """
    Read and write the schema ``gateway``.
    """

    def __init__(self, pool: Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock

    async def ensure_partitions(self) -> None:
        """
        Make the partitions of the ledger's months; call after the ledger's own.
        """
        async with self._pool.connection() as connection:
            await connection.execute(QUERIES["ensure_partitions"])

    async def record_attempt(self, call_id: UUID, attempt: Attempt) -> None:
        """
        Note a second or later attempt before it is sent.
        """
        async with self._pool.connection() as connection:
            await connection.execute(
                QUERIES["record_attempt"],
                {
                    "call_id": call_id,
                    "ordinal": attempt.ordinal,
                    "offer_id": attempt.offer.offer_id,
                    "supplier_id": attempt.offer.supplier_id,
                    "started_at": attempt.started_at,
                },
            )

    async def claim_key(
        self,
        *,
        organisation_id: UUID,
        idempotency_key: str,
        call_id: UUID,
        body_sha256: bytes,
        now: datetime,
    ) -> UUID:
        """
        Take an idempotency key for a call; return the call that has it.
        """
        parameters = {
            "organisation_id": organisation_id,
            "idempotency_key": idempotency_key,
            "call_id": call_id,
            "body_sha256": body_sha256,
            "now": now,
        }
        async with self._pool.connection() as connection:
            await connection.execute(QUERIES["claim_key"], parameters)
        found = await self.find_key(organisation_id, idempotency_key)
        assert found is not None, "a key that was claimed is found"
        return found[0]

    async def find_key(
        self, organisation_id: UUID, idempotency_key: str
    ) -> tuple[UUID, bytes] | None:
        """
        Return the call that has an idempotency key, and its body's digest.
        """
        parameters = {"organisation_id": organisation_id, "idempotency_key": idempotency_key}
        async with self._pool.connection() as connection:
            cursor = await connection.execute(QUERIES["find_key"], parameters)
            row = await cursor.fetchone()
        return None if row is None else (row[0], bytes(row[1]))

    async def get_call(self, call_id: UUID) -> CallRow | None:
        """
        Return one ended call with its lines and attempts.
        """
        rows = await self._rows("get_call", {"call_id": call_id})
        return detailed_from_row(rows[0]) if rows else None

    async def metered_calls(self, call_ids: Sequence[UUID], /) -> list[MeteredCall]:
        """
        Return those of some calls that have ended, with what was metered in them.
        """
        rows = await self._rows("metered_calls", {"call_ids": list(call_ids)})
        return [MeteredCall(**row) for row in rows]

    async def list_calls(
        self, wanted: CallFilter, cursor: str | None, limit: int
    ) -> tuple[list[CallRow], str | None]:
        """
        Return one page of calls, newest first, and the next page's cursor.

        Raises:
            InvalidError: The cursor is not one of ours.
        """
        rows = await self._rows(
            "list_calls",
            {
                "organisation_id": wanted.organisation_id,
                "within_party_id": wanted.within_party_id,
                "team_id": wanted.team_id,
                "key_id": wanted.key_id,
                "model": wanted.model,
                "tier": wanted.tier,
                "status": wanted.status,
                "supplier_id": wanted.supplier_id,
                "since": wanted.since,
                "until": wanted.until,
                "before": _from_cursor(cursor),
                "limit": min(limit, PAGE_ROWS_MAX),
            },
        )
        calls = [from_row(row) for row in rows]
        is_full = len(calls) == min(limit, PAGE_ROWS_MAX)
        return calls, str(calls[-1].call_id) if is_full and calls else None

    async def spend(
        self, *, by: str, since: datetime, until: datetime, party_id: UUID | None
    ) -> list[SpendRow]:
        """
        Return what settled calls cost, by one of ``SPEND_DIMENSIONS``.
        """
        if by not in SPEND_DIMENSIONS:
            message = f"Spend is summed by {', '.join(SPEND_DIMENSIONS)}; not by {by!r}."
            raise InvalidError(message, param="by")
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                QUERIES["spend"],
                {"by": by, "since": since, "until": until, "party_id": party_id},
            )
            rows = await cursor.fetchall()
        return [
            SpendRow(
                group=row[0],
                calls=row[1],
                input_tokens=int(row[2]),
                output_tokens=int(row[3]),
                total_tokens=int(row[2] + row[3]),
                charge_quanta=int(row[4]),
            )
            for row in rows
        ]

    async def flow(self, seconds: int, organisation_id: UUID | None = None) -> FlowView:
        """
        Return money and tokens of the calls that ended in the last seconds.
        """
        parameters = {
            "since": self._clock.now() - timedelta(seconds=seconds),
            "organisation_id": organisation_id,
        }
        async with self._pool.connection() as connection:
            totals = await (await connection.execute(QUERIES["flow_totals"], parameters)).fetchone()
            legs = await (await connection.execute(QUERIES["flow_legs"], parameters)).fetchall()
            sales = await (await connection.execute(QUERIES["flow_sales"], parameters)).fetchall()
        assert totals is not None, "sums always give a row"
        last, _ = await self.list_calls(
            CallFilter(organisation_id=organisation_id), None, LAST_CALLS
        )
        moved = [FlowLeg(kind="sale", party_id=row[0], quanta=int(row[1])) for row in sales]
        moved += [
            FlowLeg(kind=row[0], party_id=row[1], payer_id=row[2], quanta=int(row[3]))
            for row in legs
        ]
        return FlowView(
            asset=USD,
            calls=totals[0],
            tokens=int(totals[1]),
            charge_quanta=int(totals[2]),
            legs=moved,
            last_calls=last,
        )

    async def _rows(self, query: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        async with (
            self._pool.connection() as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            await cursor.execute(QUERIES[query], parameters)
            return await cursor.fetchall()


def _from_cursor(cursor: str | None) -> UUID | None:
    if cursor is None:
        return None
    try:
        return UUID(cursor)
    except ValueError as error:
        message = "The cursor is not one that this list gave."
        raise InvalidError(message, param="cursor") from error
