"""
The gateway's own records: ended calls, attempts, idempotency keys; for lists and reports.

A call's row is written by the ledger's rider in the transaction that ends its hold, so it
is exactly as durable as the money. A call in flight is an open hold, not a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from psycopg.rows import dict_row

from tokenworks.agents.escrow.model import MeteredCall
from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import InvalidError
from tokenworks.foundation.limits import PAGE_ROWS_MAX
from tokenworks.foundation.money import ASSETS, USD, Asset, quanta_from_text
from tokenworks.gateway.errors import CallNotFoundError
from tokenworks.gateway.model import UNACKNOWLEDGED, Attempt
from tokenworks.ledger.model import Outcome
from tokenworks.ledger.service import Ledger
from tokenworks.postgres.pool import Pool
from tokenworks.postgres.queries import load
from tokenworks.receipts.issuing import ReceiptIssuer

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


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFilter:
    """
    Which calls a list is about; ``None`` means any.
    """

    organisation_id: UUID | None = None
    within_party_id: UUID | None = None
    team_id: UUID | None = None
    key_id: UUID | None = None
    model: str | None = None
    tier: str | None = None
    status: str | None = None
    supplier_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow:
    """
    One physical request to a supplier, as the receipt records it.
    """

    ordinal: int
    supplier_id: UUID
    supplier_name: str
    offer_id: UUID
    status: str
    http_status: int | None
    error_code: str | None
    started_at: datetime
    duration_ms: float | None
    payable_quanta: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedLineRow:
    """
    One axis of a call's charge.
    """

    axis: str
    count: int
    nano_per_million: int
    price_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRow:
    """
    One ended call; money in quanta of ``asset``.
    """

    call_id: UUID
    status: str
    """``settled``, or ``failed``: nothing was delivered and nothing charged."""
    outcome: str
    is_stream: bool
    model: str
    tier: str
    party_id: UUID
    organisation_id: UUID
    team_id: UUID | None
    key_id: UUID
    key_prefix: str
    key_label: str
    supplier_id: UUID | None
    supplier_name: str | None
    usage: Mapping[str, int]
    total_tokens: int
    input_tokens: int
    output_tokens: int
    is_estimate: bool
    asset: Asset
    charge_quanta: int
    payable_quanta: int
    quoted_quanta: int
    started_at: datetime
    ended_at: datetime
    duration_ms: float
    first_token_ms: float | None
    attempt_count: int
    error_code: str | None
    refunded_quanta: int = 0
    lines: Sequence[RatedLineRow] = ()
    attempts: Sequence[AttemptRow] = ()
    receipt: Mapping[str, Any] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendRow:
    """
    What one group of calls consumed and cost.
    """

    group: str
    calls: int
    input_tokens: int
    output_tokens: int
    total_tokens: int
    charge_quanta: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowLeg:
    """
    What one kind of leg moved to one party in a window; ``sale``: from a buyer.
    """

    kind: str
    party_id: UUID
    payer_id: UUID | None = None
    quanta: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowView:
    """
    Settled calls of the last seconds.
    """

    asset: Asset
    calls: int
    tokens: int
    charge_quanta: int
    legs: Sequence[FlowLeg]
    last_calls: Sequence[CallRow]


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

    async def is_taken_back(self, call_id: UUID) -> bool:
        """
        Return whether a settled call was not acknowledged, and its charge is refunded therefore.
        """
        parameters = {"call_id": call_id, "reference": UNACKNOWLEDGED}
        async with self._pool.connection() as connection:
            cursor = await connection.execute(QUERIES["has_refund"], parameters)
            return await cursor.fetchone() is not None

    async def get_call(self, call_id: UUID) -> CallRow | None:
        """
        Return one ended call with its lines and attempts.
        """
        rows = await self._rows("get_call", {"call_id": call_id})
        return _detailed(rows[0]) if rows else None

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
        calls = [_from_row(row) for row in rows]
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


class ReceiptReader:
    """
    Show stored receipts again: the same signature, fields and disclosures as the first time.
    """

    def __init__(self, calls: CallStore, ledger: Ledger, issuer: ReceiptIssuer) -> None:
        self._calls = calls
        self._ledger = ledger
        self._issuer = issuer

    async def receipt_document(self, call_id: UUID, view: str) -> dict[str, Any]:
        """
        Return a reader's view of a settled call's receipt, with its certificate.

        Raises:
            CallNotFoundError: There is no such call, or nothing was sold.
        """
        call = await self._calls.get_call(call_id)
        entry = await self._ledger.stored_entry(call_id, "capture")
        if call is None or call.receipt is None or entry is None:
            message = f"There is no receipt of a call {call_id}."
            raise CallNotFoundError(message, param="call_id")
        recorded_at, _, lane, sequence, previous = entry
        prepared = self._issuer.draft(call_id, call.receipt)
        position = Outcome(
            code="replayed",
            recorded_at=recorded_at,
            lane=lane,
            receipt_sequence=sequence,
            receipt_previous=bytes(previous),
        )
        return await self._issuer.document(prepared, position, view=view, with_certificate=True)


def _from_cursor(cursor: str | None) -> UUID | None:
    if cursor is None:
        return None
    try:
        return UUID(cursor)
    except ValueError as error:
        message = "The cursor is not one that this list gave."
        raise InvalidError(message, param="cursor") from error


def _from_row(row: Mapping[str, Any]) -> CallRow:
    return CallRow(
        call_id=row["call_id"],
        status=row["status"],
        outcome=row["outcome"],
        is_stream=row["is_stream"],
        model=row["model"],
        tier=row["tier"],
        party_id=row["party_id"],
        organisation_id=row["organisation_id"],
        team_id=row["team_id"],
        key_id=row["key_id"],
        key_prefix=row["key_prefix"] or "",
        key_label=row["key_label"] or "",
        supplier_id=row["supplier_id"],
        supplier_name=row["supplier_name"],
        usage=row["usage"],
        total_tokens=row["input_tokens"] + row["output_tokens"],
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        is_estimate=row["is_estimate"],
        asset=ASSETS[row["currency"]],
        charge_quanta=row["charge_quanta"],
        payable_quanta=row["payable_quanta"],
        quoted_quanta=row["quoted_quanta"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        duration_ms=row["duration_ms"],
        first_token_ms=row["first_token_ms"],
        attempt_count=row["attempt_count"],
        error_code=row["error_code"],
        refunded_quanta=row["refunded_quanta"],
        receipt=row["receipt"],
    )


def _detailed(row: Mapping[str, Any]) -> CallRow:
    call = _from_row(row)
    receipt: Mapping[str, Any] = call.receipt or {}
    lines = receipt.get("rate_card", {}).get("lines", ())
    return CallRow(
        **{name: getattr(call, name) for name in _PLAIN_FIELDS},
        lines=[
            RatedLineRow(
                axis=line["axis"],
                count=line["count"],
                nano_per_million=int(line["nano_per_million"]),
                price_id=UUID(line["price_id"]),
            )
            for line in lines
        ],
        attempts=[
            _attempt(ordinal, value)
            for ordinal, value in enumerate(_attempts_of(row, receipt), start=1)
        ],
    )


_PLAIN_FIELDS: Final = tuple(
    name for name in CallRow.__dataclass_fields__ if name not in {"lines", "attempts"}
)


def _attempts_of(row: Mapping[str, Any], receipt: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    if not receipt:
        return row["attempts"] or ()
    return [receipt[f"attempt.{number}"] for number in range(1, row["attempt_count"] + 1)]


def _attempt(ordinal: int, value: Mapping[str, Any]) -> AttemptRow:
    duration_us = value["duration_us"]
    return AttemptRow(
        ordinal=ordinal,
        supplier_id=UUID(value["supplier_id"]),
        supplier_name=value["supplier_name"],
        offer_id=UUID(value["offer"]),
        status=value["status"],
        http_status=value["http_status"],
        error_code=value["error"],
        started_at=datetime.fromisoformat(value["started_at"]),
        duration_ms=None if duration_us is None else duration_us / 1000,
        payable_quanta=quanta_from_text(value["payable_quanta"], scale=0),
    )
