"""
What a spend path remembers of its limits, and holds that are decided together.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.simulation.books import LIMIT_TOKENS_ID, LIMIT_USD_ID, Books, open_books
from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.money import LIMIT_TOKENS, LIMIT_USD
from tokenworks.ledger.model import ASSET_IDS, Fate, PostingKind, Refusal, Reservation

USD_ID = ASSET_IDS["USD"]


@pytest.fixture
async def books(dsn: str, clock: FakeClock, ids: IdentifierSource) -> AsyncIterator[Books]:
    """
    A ledger that must be clean when the test is over.
    """
    async with open_books(dsn, clock, ids) as books:
        yield books
        await books.assert_clean()


async def _memory(books: Books, path: UUID) -> tuple[Any, ...]:
    rows = await books.rows(
        "SELECT known_accounts, known_assets, known_ends, known_from, known_until "
        "FROM ledger.spend_paths WHERE path_id = %s AND is_current",
        path,
    )
    return tuple(rows[0])


def _tokens(quanta: int) -> Reservation:
    return Reservation(asset_id=LIMIT_TOKENS_ID, quanta=quanta)


async def _limit(books: Books, scope_id: UUID, quanta: int, window: str = "day") -> None:
    await books.ledger.set_limit(
        scope_id=scope_id, asset=LIMIT_TOKENS, quanta=quanta, window=window, actor="test"
    )


async def test_path_remembers_its_accounts_until_the_first_of_its_windows_ends(
    books: Books,
) -> None:
    """
    Money first, then the limits by asset, root first; good while the hour lasts.
    """
    buyer = await books.buyer(100)
    path = await books.path(buyer)
    await _limit(books, path, 10, "hour")
    await _limit(books, buyer, 20, "ever")
    await books.ledger.set_limit(
        scope_id=path, asset=LIMIT_USD, quanta=30, window="day", actor="test"
    )
    assert (await _memory(books, path))[0] is None
    asked = (
        Reservation(asset_id=USD_ID, quanta=5),
        Reservation(asset_id=LIMIT_USD_ID, quanta=5),
        _tokens(5),
    )
    outcome = await books.place(books.placement(*asked, path_id=path))
    accounts, assets, ends, begins, until = await _memory(books, path)
    assert accounts == [part.account_id for part in outcome.parts]
    assert accounts[0] == await books.cash(buyer)
    assert (assets, ends) == ([USD_ID, LIMIT_USD_ID, LIMIT_TOKENS_ID], [1, 2, 4])
    now = books.clock.now()
    hour = now.replace(minute=0, second=0, microsecond=0)
    assert (begins, until) == (hour, hour + timedelta(hours=1))
    again = await books.place(books.placement(*asked, path_id=path))
    assert again.parts == outcome.parts
    assert (
        await books.rows(
            "SELECT scope_id FROM ledger.limit_windows JOIN ledger.limits USING (limit_id) "
            "JOIN ledger.balances AS b USING (account_id) WHERE b.debits_pending <> 10"
        )
        == []
    )


async def test_what_a_path_remembers_is_looked_up_again_when_a_limit_comes_or_goes(
    books: Books,
) -> None:
    """
    The next hold counts the new limit; the one after its removal does not.
    """
    buyer = await books.buyer()
    path = await books.path(buyer)
    await _limit(books, path, 1_000)
    for _ in range(2):
        assert (await books.place(books.placement(_tokens(1), path_id=path))).code == "ok"
    assert (await _memory(books, path))[0] is not None
    await _limit(books, buyer, 0)
    refused = await books.place(books.placement(_tokens(1), path_id=path))
    assert refused.code == Refusal.INSUFFICIENT
    (view,) = await books.ledger.limits([buyer])
    await books.ledger.remove_limit(view.limit_id, actor="test")
    assert (await books.place(books.placement(_tokens(1), path_id=path))).code == "ok"


async def test_remembered_path_is_stopped_by_a_frozen_scope(books: Books) -> None:
    """
    Only what stands on the path is remembered, never whether it may be spent along.
    """
    buyer = await books.buyer()
    path = await books.path(buyer)
    await _limit(books, path, 1_000)
    assert (await books.place(books.placement(_tokens(1), path_id=path))).code == "ok"
    await books.ledger.set_scope_state(buyer, "frozen")
    refused = await books.place(books.placement(_tokens(1), path_id=path))
    assert refused.code == Refusal.SCOPE_FROZEN
    await books.ledger.set_scope_state(buyer, "active")
    assert (await books.place(books.placement(_tokens(1), path_id=path))).code == "ok"


async def test_hold_does_not_wait_for_a_path_that_is_being_changed(books: Books, dsn: str) -> None:
    """
    What was found is kept another time.
    """
    path = await books.path(await books.buyer())
    await _limit(books, path, 1_000)
    async with await psycopg.AsyncConnection.connect(dsn) as other:
        await other.execute(
            "SELECT FROM ledger.spend_paths WHERE path_id = %s FOR NO KEY UPDATE", [path]
        )
        assert (await books.place(books.placement(_tokens(1), path_id=path))).code == "ok"
        assert (await _memory(books, path))[0] is None
    assert (await books.place(books.placement(_tokens(1), path_id=path))).code == "ok"
    assert (await _memory(books, path))[0] is not None


@pytest.mark.parametrize("fate", [Fate.VOID, Fate.WAIT])
async def test_holds_decided_together_leave_what_holds_decided_alone_leave(
    books: Books, fate: Fate
) -> None:
    """
    Same answers, same bytes, same holds, whether or not a hold beside them is refused.
    """
    seen: list[tuple[Any, ...]] = []
    for is_alone in (False, True):
        team = books.ids.mint()
        buyer = await books.buyer(1_000)
        paths = [await books.path(buyer, [team]), await books.path(buyer, [team])]
        for scope in (buyer, team, paths[0]):
            await books.ledger.set_limit(
                scope_id=scope, asset=LIMIT_USD, quanta=500, window="month", actor="test"
            )
        await _limit(books, team, 300)
        money = [Reservation(asset_id=asset, quanta=7) for asset in (USD_ID, LIMIT_USD_ID)]
        batch = [
            books.placement(*asked, path_id=path, fate=fate, meta='{"n":[1]}')
            for path in paths
            for asked in ((*money, _tokens(3)), money, (_tokens(2),))
        ]
        if is_alone:
            batch.append(books.placement(_tokens(301), path_id=paths[0]))
        outcomes = await books.writer._batches.place(batch)
        assert [outcome.code for outcome in outcomes] == ["ok"] * 6 + ["insufficient"] * is_alone
        ids = [item.hold_id for item in batch]
        records = await books.rows(
            "SELECT record FROM ledger.entries WHERE fact_id = ANY (%s) ORDER BY batch, position",
            ids,
        )
        holds = await books.rows(
            "SELECT state, placed_at = expires_at - '5 min'::interval, on_expiry, path_version, "
            "part_accounts::text, part_assets, part_held, part_captured, lane, meta "
            "FROM ledger.holds WHERE hold_id = ANY (%s) ORDER BY hold_id",
            ids,
        )
        parts = [outcome.parts for outcome in outcomes[:6]]
        names = {str(item.hold_id): f"hold {n}" for n, item in enumerate(batch)}
        accounts = dict.fromkeys(part.account_id for row in parts for part in row)
        names |= {str(account): f"account {n}" for n, account in enumerate(accounts)}
        found = repr((records, holds, parts, [(o.recorded_at is None) for o in outcomes[:6]]))
        for text, name in names.items():
            found = re.sub(rf"\b{text}\b", name, found)
        found = re.sub(r'"(time|expires)":\d+', "", found)
        seen.append((found, [await books.counters(account) for account in accounts]))
        for item in batch[:6]:
            await books.end(item.hold_id, PostingKind.VOID)
    assert seen[0] == seen[1]
    assert seen[0][0].count("account 0") > 6


async def _go_to(books: Books, moment: datetime) -> None:
    books.clock.advance(moment - books.clock.now())
    await books.ledger.ensure_partitions()


@pytest.mark.parametrize(
    ("zone", "before", "after"),
    [
        ("UTC", datetime(2027, 4, 23, 23, 59, tzinfo=UTC), datetime(2027, 4, 24, tzinfo=UTC)),
        # The clocks go forward at midnight, so the day has 23 hours.
        (
            "Africa/Cairo",
            datetime(2027, 4, 30, 20, 59, tzinfo=UTC),
            datetime(2027, 4, 30, 21, tzinfo=UTC),
        ),
    ],
)
async def test_remembered_path_goes_on_to_the_next_day_when_it_begins(
    books: Books, zone: str, before: datetime, after: datetime
) -> None:
    """
    Not a moment later, also where the clocks change.
    """
    await _go_to(books, before)
    path = await books.path(await books.buyer())
    await books.ledger.set_limit(
        scope_id=path, asset=LIMIT_TOKENS, quanta=5, window="day", time_zone=zone, actor="test"
    )
    assert (await books.place(books.placement(_tokens(5), path_id=path))).code == "ok"
    refused = await books.place(books.placement(_tokens(1), path_id=path))
    assert refused.code == Refusal.INSUFFICIENT
    await _go_to(books, after)
    assert (await books.place(books.placement(_tokens(5), path_id=path))).code == "ok"
