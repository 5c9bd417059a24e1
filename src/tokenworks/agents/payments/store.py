"""
Read what is recorded of payments.

Rows are written by the ledger's rider in the transaction that captures or voids the hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from psycopg.rows import dict_row

from tokenworks.agents.payments.held import (
    HeldPayment,
    decision_from_json,
    from_meta,
)
from tokenworks.agents.payments.model import Payment, PaymentFilter, PaymentState
from tokenworks.foundation.errors import InvalidError
from tokenworks.foundation.limits import PAGE_ROWS_MAX
from tokenworks.postgres.pool import Pool
from tokenworks.postgres.queries import load

QUERIES: Final = load("tokenworks.agents.payments")


class PaymentStore:
    """
    Read the table ``agents.payments``, and open holds of payments.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def ensure_partitions(self) -> None:
        """
        Make the partitions of the ledger's months; call after the ledger's own.
        """
        async with self._pool.connection() as connection:
            await connection.execute(QUERIES["ensure_partitions"])

    async def rows(self, payment_id: UUID) -> list[dict[str, Any]]:
        """
        Return a payment's captures and release, in their order.
        """
        return await self._rows("payment", {"payment_id": payment_id})

    async def list_payments(
        self, wanted: PaymentFilter, cursor: str | None, limit: int
    ) -> tuple[list[Payment], str | None]:
        """
        Return one page of payments, newest first, and the next page's cursor.

        Raises:
            InvalidError: The cursor is not one of ours.
        """
        count = min(limit, PAGE_ROWS_MAX)
        parameters = {
            "within_party_id": wanted.within_party_id,
            "organisation_id": wanted.organisation_id,
            "agent_id": wanted.agent_id,
            "mandate_id": wanted.mandate_id,
            "payee_id": wanted.payee_id,
            "since": wanted.since,
            "before": _from_cursor(cursor),
            "limit": count,
        }
        if wanted.is_held:
            rows = await self._rows("list_held", parameters)
            payments = [_from_hold(row, PaymentState.HELD) for row in rows]
        else:
            rows = await self._rows("list_ended", parameters)
            payments = [from_row(row, captured_quanta=int(row["captured_in_all"])) for row in rows]
            rows = await self._rows("list_expired", parameters)
            payments.extend(_from_hold(row, PaymentState.EXPIRED) for row in rows)
            payments.sort(key=lambda payment: payment.payment_id, reverse=True)
            del payments[count:]
        is_full = len(payments) == count
        return payments, str(payments[-1].payment_id) if is_full and payments else None

    async def list_captures(
        self,
        *,
        since: datetime | None,
        until: datetime | None,
        before: tuple[UUID, int] | None,
    ) -> list[tuple[UUID, int]]:
        """
        Return payments' ids with the ordinals of their captures, newest first.

        Args:
            since: Payments made at or after it.
            until: Payments made before it.
            before: The last one of the page before.
        """
        last_id, last_ordinal = before or (None, 0)
        rows = await self._rows(
            "list_captures",
            {
                "since": since,
                "until": until,
                "before": last_id,
                "before_ordinal": last_ordinal,
                "limit": PAGE_ROWS_MAX,
            },
        )
        return [(row["payment_id"], row["ordinal"]) for row in rows]

    async def _rows(self, query: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        async with (
            self._pool.connection() as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            await cursor.execute(QUERIES[query], parameters)
            return await cursor.fetchall()


def from_row(row: Mapping[str, Any], *, captured_quanta: int) -> Payment:
    """
    Read a payment from its last row.
    """
    if captured_quanta:
        state = PaymentState.CAPTURED if row["closes"] else PaymentState.HELD
    else:
        state = PaymentState.RELEASED
    return Payment(
        payment_id=row["payment_id"],
        state=state,
        payer=row["payer"],
        agent_id=row["agent_id"],
        organisation_id=row["organisation_id"],
        mandate_id=row["mandate_id"],
        payee_id=row["payee_id"],
        scheme=row["kind"],
        currency=row["currency"],
        authorised_quanta=row["authorised_quanta"],
        captured_quanta=captured_quanta,
        resource=row["resource"],
        decision=decision_from_json(row["decision"]),
        recorded_at=row["recorded_at"],
    )


def payment_of(
    held: HeldPayment, *, state: PaymentState, recorded_at: datetime, captured_quanta: int = 0
) -> Payment:
    """
    Return a payment that is known by its hold.
    """
    return Payment(
        payment_id=held.payment_id,
        state=state,
        payer=held.payer,
        agent_id=held.agent_id,
        organisation_id=held.organisation_id,
        mandate_id=held.mandate_id,
        payee_id=held.payee_id,
        scheme=held.kind,
        currency=held.currency,
        authorised_quanta=held.authorised_quanta,
        captured_quanta=captured_quanta,
        resource=held.resource,
        decision=held.decision,
        recorded_at=recorded_at,
    )


def _from_hold(row: Mapping[str, Any], state: PaymentState) -> Payment:
    held = from_meta(row["hold_id"], row["meta"])
    assert held is not None, "only holds of payments were asked for"
    return payment_of(held, state=state, recorded_at=row["placed_at"])


def _from_cursor(cursor: str | None) -> UUID | None:
    if cursor is None:
        return None
    try:
        return UUID(cursor)
    except ValueError as error:
        message = "The cursor is not one that this list gave."
        raise InvalidError(message, param="cursor") from error
