"""
Calls as the token factory sees them: when each ran at a supplier, and on how many tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from tokenworks.factory.live.model import EngineCall
from tokenworks.gateway.calls import CallStore
from tokenworks.gateway.holding import CALL_META_PREFIX
from tokenworks.ledger.service import Ledger
from tokenworks.metering.model import INPUT_AXES, OUTPUT_AXES, Axis
from tokenworks.metering.timings import EngineTimings
from tokenworks.postgres.pool import Pool
from tokenworks.postgres.queries import load
from tokenworks.receipts.issuing import ReceiptIssuer

CALL_DURATION: Final = timedelta(minutes=15)
"""Calls are looked for by their ids so long before a time; an index knows the longer ones."""

OPEN_CALLS_MAX: Final = 500
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FAR: Final = datetime(9999, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_QUERIES: Final = load("tokenworks.gateway", "energy_queries.sql")


class EnergyCalls:
    """
    The gateway's side of ``factory.ports.EngineCalls``.
    """

    def __init__(
        self, pool: Pool, *, calls: CallStore, ledger: Ledger, issuer: ReceiptIssuer
    ) -> None:
        self._pool = pool
        self._calls = calls
        self._ledger = ledger
        self._issuer = issuer

    async def of_supplier(self, supplier_id: UUID, start_us: int, end_us: int) -> list[EngineCall]:
        """
        Return the ended attempts at a supplier that ran within a time, however long they took.
        """
        start, end = _EPOCH + start_us * _MICROSECOND, _EPOCH + end_us * _MICROSECOND
        found = await self._attempts(supplier_id, since=start, until=end, booked_since=start)
        return [one for one in found if one.start_us < end_us and one.end_us > start_us]

    async def booked_since(self, supplier_id: UUID, since: datetime) -> list[EngineCall]:
        """
        Return the attempts at a supplier of calls that came into the books since a moment.
        """
        return await self._attempts(supplier_id, since=since, until=_FAR, booked_since=since)

    async def by_id(self, supplier_id: UUID, call_ids: Sequence[UUID]) -> list[EngineCall]:
        """
        Return the ended attempts of some calls at a supplier.
        """
        # No call was booked in the far future, so that only the ids find any.
        return await self._attempts(
            supplier_id, since=_FAR, until=_FAR, booked_since=_FAR, call_ids=call_ids
        )

    async def oldest_open_us(self) -> int | None:
        """
        Return when the oldest call that is still open began; ``None``: none is.
        """
        for hold in await self._ledger.open_holds(OPEN_CALLS_MAX):
            if hold.meta.startswith(CALL_META_PREFIX):
                return (hold.placed_at - _EPOCH) // _MICROSECOND
        return None

    async def receipt_root(self, call_id: UUID) -> bytes | None:
        """
        Return the root of a call's receipt; ``None`` where nothing was sold.
        """
        call = await self._calls.get_call(call_id)
        if call is None or call.receipt is None:
            return None
        return self._issuer.draft(call_id, call.receipt).root

    async def _attempts(
        self,
        supplier_id: UUID,
        *,
        since: datetime,
        until: datetime,
        booked_since: datetime,
        call_ids: Sequence[UUID] = (),
    ) -> list[EngineCall]:
        parameters = {
            "supplier_id": supplier_id,
            "since": since - CALL_DURATION,
            "until": until,
            "booked_since": booked_since,
            "call_ids": list(call_ids),
        }
        async with self._pool.connection() as connection:
            cursor = await connection.execute(_QUERIES["attempts_at_supplier"], parameters)
            return [_to_call(row) for row in await cursor.fetchall()]


def _to_call(row: Sequence[Any]) -> EngineCall:
    (
        call_id,
        organisation_id,
        model,
        tier,
        started_at,
        duration_us,
        timings,
        has_served,
        first_token_ms,
        usage,
        charge_quanta,
        payable_quanta,
        ended_at,
        has_receipt,
    ) = row
    start_us = (started_at - _EPOCH) // _MICROSECOND
    counts: Mapping[str, int] = usage if has_served else {}
    cached = counts.get(Axis.CACHE_READ, 0)
    first_us = None
    if has_served and first_token_ms is not None:
        first_us = start_us + round(first_token_ms * 1_000)
    return EngineCall(
        call_id=call_id,
        organisation_id=organisation_id,
        model=model,
        tier=tier,
        start_us=start_us,
        first_token_us=first_us,
        end_us=start_us + max(duration_us, 1),
        input_tokens=sum(counts.get(axis, 0) for axis in INPUT_AXES) - cached,
        cached_tokens=cached,
        output_tokens=sum(counts.get(axis, 0) for axis in OUTPUT_AXES),
        charge_quanta=charge_quanta if has_served else 0,
        payable_quanta=payable_quanta if has_served else 0,
        timings=None if timings is None else EngineTimings(**timings),
        ended_at=ended_at,
        has_receipt=has_receipt,
    )
