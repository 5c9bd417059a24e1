"""
Calls are listed by organisation along an index that is written where the last calls are.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.identifiers import identifier_floor
from tokenworks.gateway.call_row import COLUMNS
from tokenworks.gateway.calls import CallStore
from tokenworks.gateway.ended_calls import CallFilter
from tokenworks.postgres.composite import composite_text
from tokenworks.postgres.pool import Pool

BEGIN = datetime(2026, 1, 15, tzinfo=UTC)
OURS, OTHERS = UUID(int=1), UUID(int=2)
CALLS = 60
APART = timedelta(hours=31)
"""Over spans, some of them without a call, and over three months."""


def _call_ids() -> list[UUID]:
    # Two at each moment, and one at the first and the last millisecond of a span.
    moments = [BEGIN + (n // 2) * APART for n in range(CALLS)]
    ids = [UUID(int=identifier_floor(m).int | n + 1) for n, m in enumerate(moments)]
    span = (identifier_floor(BEGIN).int >> 106) + 3
    return sorted([*ids, UUID(int=span << 106), UUID(int=(span << 106) - 1)])


def _row(call_id: UUID, *, organisation_id: UUID, status: str) -> str:
    fields = {
        "call_id": call_id,
        "status": status,
        "outcome": "completed",
        "organisation_id": organisation_id,
        "party_id": organisation_id,
        "key_id": UUID(int=3),
        "model": "demo",
        "tier": "standard",
        "is_stream": False,
        "usage": "{}",
        "input_tokens": 1,
        "output_tokens": 1,
        "is_estimate": False,
        "currency": "USD",
        "quoted_quanta": 1,
        "charge_quanta": 1,
        "payable_quanta": 0,
        "started_at": BEGIN.isoformat(),
        "duration_ms": 1.0,
        "attempt_count": 1,
    }
    return composite_text(fields.get(column) for column in COLUMNS)


@pytest.fixture
async def store(pool: Pool) -> CallStore:
    """
    Calls of two organisations in turn, every third of which failed.
    """
    rows = [
        _row(
            call_id,
            organisation_id=OURS if n % 2 else OTHERS,
            status="settled" if n % 3 else "failed",
        )
        for n, call_id in enumerate(_call_ids())
    ]
    async with pool.connection() as connection:
        await connection.execute("SELECT ledger.ensure_partitions_v1(%s, 4)", (BEGIN,))
        await connection.execute("SELECT gateway.ensure_partitions_v1()")
        await connection.execute("SELECT gateway.record_calls_v1(%s, %s)", (rows, BEGIN))
    return CallStore(pool, FakeClock(BEGIN))


def _of_ours(*, status: str | None = None) -> list[UUID]:
    return [
        call_id
        for n, call_id in enumerate(_call_ids())
        if n % 2 and status in (None, "settled" if n % 3 else "failed")
    ][::-1]


async def _pages(store: CallStore, wanted: CallFilter, limit: int) -> Sequence[UUID]:
    found: list[UUID] = []
    cursor: str | None = None
    while True:
        calls, cursor = await store.list_calls(wanted, cursor, limit)
        found.extend(call.call_id for call in calls)
        if cursor is None:
            return found


@pytest.mark.parametrize("limit", [1, 7, 500])
async def test_an_organisations_calls_are_listed_over_spans_and_months(
    store: CallStore, limit: int
) -> None:
    """
    Newest first, each once, nobody else's, however they are cut into pages.
    """
    wanted = CallFilter(organisation_id=OURS)

    assert await _pages(store, wanted, limit) == _of_ours()


async def test_filters_count_beside_the_organisation(store: CallStore) -> None:
    """
    A status, and an interval whose ends lie within spans: the first included, the last not.
    """
    failed = CallFilter(organisation_id=OURS, status="failed")
    since, until = BEGIN + 4 * APART, BEGIN + 9 * APART
    during = CallFilter(organisation_id=OURS, since=since, until=until)
    nobody = CallFilter(organisation_id=UUID(int=9))

    assert await _pages(store, failed, 5) == _of_ours(status="failed")
    assert await _pages(store, during, 2) == [
        call_id
        for call_id in _of_ours()
        if identifier_floor(since) <= call_id < identifier_floor(until)
    ]
    assert await _pages(store, nobody, 5) == []
    assert await _pages(store, CallFilter(), 7) == _call_ids()[::-1]


async def test_no_index_of_calls_grows_where_it_is_written(store: CallStore, pool: Pool) -> None:
    """
    Every index of calls begins with their time: a new call goes to the pages of the last ones,
    whatever the history is. One that began with a party would have each call at a random page.
    """
    del store
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT pg_get_indexdef(indexrelid, 1, false) FROM pg_index"
            " WHERE indrelid = 'gateway.calls'::regclass"
        )
        first_columns = [row[0] for row in await cursor.fetchall()]

    assert set(first_columns) == {"call_id", "gateway.call_span(call_id)", "ended_at"}
