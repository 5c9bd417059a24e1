"""
Limits over time: windows in the limit's own zone, changes, and what lowered limits owe.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from tests.simulation.books import LIMIT_TOKENS_ID, LIMIT_USD_ID, Books, open_books
from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.errors import InvalidError, TokenworksError
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.money import LIMIT_TOKENS, LIMIT_USD
from tokenworks.ledger.model import Placement, PostingKind, Refusal, Reservation, Transfer
from tokenworks.ledger.writer import Writer

TOKENS = LIMIT_TOKENS_ID


@pytest.fixture
def clock() -> FakeClock:
    """
    A clock that stands at noon of a winter's day in UTC.
    """
    return FakeClock(datetime(2026, 1, 15, 12, tzinfo=UTC))


@pytest.fixture
async def books(dsn: str, clock: FakeClock, ids: IdentifierSource) -> AsyncIterator[Books]:
    """
    A ledger that must be clean, also in its windows, when the test is over.
    """
    async with open_books(dsn, clock, ids) as books:
        yield books
        report = await books.check()
        assert report.is_clean, report.to_json()
        assert [warning.code for warning in report.warnings if warning.code != "hold_overdue"] == []


async def _go_to(books: Books, moment: datetime) -> None:
    books.clock.advance(moment.astimezone(UTC) - books.clock.now())
    await books.ledger.ensure_partitions()


async def _limited(books: Books, window: str, zone: str, quanta: int = 100) -> UUID:
    path = await books.path(await books.buyer())
    await books.ledger.set_limit(
        scope_id=path,
        asset=LIMIT_TOKENS,
        quanta=quanta,
        window=window,
        time_zone=zone,
        actor="test",
    )
    return path


async def _place(books: Books, path: UUID, quanta: int) -> tuple[str, Placement]:
    placement = books.placement(
        Reservation(asset_id=TOKENS, quanta=quanta), path_id=path, lives=timedelta(days=900)
    )
    return (await books.place(placement)).code, placement


BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"
BORDERS = (
    # Berlin changes its clocks on 29 March and 25 October 2026, New York on 8 March and
    # 1 November.
    ("day", BERLIN, (2026, 3, 28), (2026, 3, 29), (2026, 3, 30)),
    ("day", BERLIN, (2026, 10, 24), (2026, 10, 25), (2026, 10, 26)),
    ("day", NEW_YORK, (2026, 3, 7), (2026, 3, 8), (2026, 3, 9)),
    ("day", NEW_YORK, (2026, 10, 31), (2026, 11, 1), (2026, 11, 2)),
    ("month", BERLIN, (2026, 2, 1), (2026, 3, 1), (2026, 4, 1)),
    ("month", NEW_YORK, (2026, 10, 1), (2026, 11, 1), (2026, 12, 1)),
    ("month", NEW_YORK, (2026, 11, 1), (2026, 12, 1), (2027, 1, 1)),
    ("year", BERLIN, (2026, 1, 1), (2027, 1, 1), (2028, 1, 1)),
    ("day", BERLIN, (2028, 2, 28), (2028, 2, 29), (2028, 3, 1)),
    # Weeks begin on Mondays; both zones change their clocks on a Sunday, within one.
    ("week", BERLIN, (2026, 3, 23), (2026, 3, 30), (2026, 4, 6)),
    ("week", NEW_YORK, (2026, 10, 26), (2026, 11, 2), (2026, 11, 9)),
    ("quarter", BERLIN, (2026, 4, 1), (2026, 7, 1), (2026, 10, 1)),
    ("quarter", NEW_YORK, (2026, 10, 1), (2027, 1, 1), (2027, 4, 1)),
)


@pytest.mark.parametrize(("window", "zone", "first", "second", "third"), BORDERS)
async def test_window_opens_at_midnight_of_the_limits_own_zone(
    books: Books,
    window: str,
    zone: str,
    first: tuple[int, int, int],
    second: tuple[int, int, int],
    third: tuple[int, int, int],
) -> None:
    """
    The last microsecond belongs to the old window, midnight to the new one; nothing is reset.
    """
    path = await _limited(books, window, zone)
    starts = [datetime(*day, tzinfo=ZoneInfo(zone)) for day in (first, second, third)]
    if starts[0].astimezone(UTC) < books.clock.now():
        starts = starts[1:]
    for start in starts:
        await _go_to(books, start.astimezone(UTC) - timedelta(microseconds=1))
        assert (await _place(books, path, 60))[0] == "ok"
        assert (await _place(books, path, 60))[0] == Refusal.INSUFFICIENT
        (view,) = await books.ledger.limits([path])
        assert view.resets_at == start
        await _go_to(books, start)
        (view,) = await books.ledger.limits([path])
        assert (view.remaining, view.held) == (100, 0)
        await _go_to(books, start + timedelta(hours=12))
    assert (await _place(books, path, 100))[0] == "ok"
    rows = await books.rows("SELECT count(*) FROM ledger.limit_windows")
    assert rows == [(len(starts) + 1,)]


KOLKATA = "Asia/Kolkata"
SHORT_BORDERS = (
    # The hour from two to three comes twice in October, and not at all in March.
    ("hour", BERLIN, datetime(2026, 10, 25, 0, tzinfo=UTC), timedelta(hours=1)),
    ("hour", BERLIN, datetime(2026, 3, 29, 0, tzinfo=UTC), timedelta(hours=1)),
    ("hour", NEW_YORK, datetime(2026, 11, 1, 5, tzinfo=UTC), timedelta(hours=1)),
    # Half an hour off: its hours begin at half past in UTC.
    ("hour", KOLKATA, datetime(2026, 5, 1, 4, 30, tzinfo=UTC), timedelta(hours=1)),
    ("minute", BERLIN, datetime(2026, 10, 25, 0, 59, tzinfo=UTC), timedelta(minutes=1)),
    ("minute", KOLKATA, datetime(2026, 3, 29, 0, 59, tzinfo=UTC), timedelta(minutes=1)),
)


@pytest.mark.parametrize(("window", "zone", "start", "length"), SHORT_BORDERS)
async def test_short_windows_go_on_through_a_change_of_the_clocks(
    books: Books, window: str, zone: str, start: datetime, length: timedelta
) -> None:
    """
    Every hour and minute is as long as any other, and none comes twice.
    """
    path = await _limited(books, window, zone)
    for number in range(4):
        opens = start + number * length
        await _go_to(books, opens)
        assert (await _place(books, path, 60))[0] == "ok", "a window of its own"
        await _go_to(books, opens + length - timedelta(microseconds=1))
        assert (await _place(books, path, 60))[0] == Refusal.INSUFFICIENT
        (view,) = await books.ledger.limits([path])
        assert (view.remaining, view.held, view.resets_at) == (40, 60, opens + length)
    rows = await books.rows("SELECT count(*) FROM ledger.limit_windows")
    assert rows == [(4,)]


async def test_limit_for_ever_never_opens_again(books: Books) -> None:
    """
    A limit without a window counts from when it was set.
    """
    path = await _limited(books, "ever", BERLIN)
    assert (await _place(books, path, 60))[0] == "ok"
    await _go_to(books, datetime(2028, 6, 1, tzinfo=UTC))
    assert (await _place(books, path, 60))[0] == Refusal.INSUFFICIENT
    (view,) = await books.ledger.limits([path])
    assert (view.remaining, view.held, view.resets_at) == (40, 60, None)


async def test_hold_stays_in_the_window_in_which_it_was_placed(books: Books) -> None:
    """
    Extension, capture and remainder of yesterday's hold leave today's window alone.
    """
    path = await _limited(books, "day", BERLIN)
    spent = await books.platform("limit_spent", "LIMIT.TOK")
    _, placement = await _place(books, path, 60)
    view = await books.ledger.hold(placement.hold_id)
    assert view is not None
    old = view.parts[0].account_id
    await _go_to(books, books.clock.now() + timedelta(days=1))
    assert (await _place(books, path, 90))[0] == "ok"
    grow = books.placement(
        Reservation(asset_id=TOKENS, quanta=30), hold_id=placement.hold_id, extension=1
    )
    assert (await books.place(grow)).code == "ok"
    outcome = await books.capture(placement.hold_id, Transfer(debit=old, credit=spent, quanta=75))
    assert outcome.code == "ok"
    assert await books.counters(old) == (0, 75, 100)
    (limit,) = await books.ledger.limits([path])
    assert (limit.remaining, limit.held) == (10, 90)


async def test_window_is_granted_once_however_many_need_it(books: Books) -> None:
    """
    Two hundred holds at midnight, all refused but those the limit covers, open one window.
    """
    path = await _limited(books, "day", NEW_YORK)
    await _go_to(books, datetime(2026, 1, 16, tzinfo=ZoneInfo(NEW_YORK)))
    codes = await asyncio.gather(*(_place(books, path, 10) for _ in range(200)))
    assert sum(code == "ok" for code, _ in codes) == 10
    rows = await books.rows("SELECT count(*) FROM ledger.entries WHERE operation = 'grant'")
    assert rows == [(1,)]


async def test_windows_of_many_limits_open_in_one_batch_and_race_with_another(
    books: Books, dsn: str
) -> None:
    """
    Two writers need the same forty windows at once: each is granted once, whoever opens it.
    """
    paths = [await _limited(books, window, "UTC") for window in ("day", "month") * 20]
    other = Writer(dsn, clock=books.clock, holder="other")
    await other.start()
    try:
        placements = [
            books.placement(Reservation(asset_id=TOKENS, quanta=quanta), path_id=path)
            for path in paths
            for quanta in (60, 40, 1)
        ]
        outcomes = await asyncio.gather(
            *(
                writer.place(placement)
                for placement, writer in zip(
                    placements, itertools.cycle((books.writer, other)), strict=False
                )
            )
        )
    finally:
        await other.close()
    refused = [outcome for outcome in outcomes if outcome.code == Refusal.INSUFFICIENT]
    assert len(refused) == len(paths)
    assert {outcome.code for outcome in outcomes} == {"ok", Refusal.INSUFFICIENT}
    grants = await books.rows("SELECT fact_id FROM ledger.entries WHERE operation = 'grant'")
    assert len(grants) == len(paths)


async def test_repeat_on_a_later_day_opens_that_days_window_once(books: Books) -> None:
    """
    A grant is a fact of its own: the repeat of a hold that had one before gets another.
    """
    path = await _limited(books, "day", "UTC")
    _, placement = await _place(books, path, 10)
    await _go_to(books, books.clock.now() + timedelta(days=1))
    assert (await books.place(placement)).code == "replayed"
    future = books.placement(
        Reservation(asset_id=TOKENS, quanta=1),
        path_id=path,
        hold_id=UUID(int=books.ids.mint().int + (10**10 << 80)),
        deadline=books.clock.now() + timedelta(days=9),
    )
    await _go_to(books, books.clock.now() + timedelta(days=1))
    assert (await books.place(future)).code == Refusal.ID_OUTSIDE_WINDOW
    rows = await books.rows("SELECT count(*) FROM ledger.entries WHERE operation = 'grant'")
    assert rows == [(3,)]


async def test_raised_limit_grants_the_difference_at_once(books: Books) -> None:
    """
    The open window gets what was added; a window that is not open yet gets the whole.
    """
    path = await _limited(books, "month", BERLIN, 100)
    assert (await _place(books, path, 100))[0] == "ok"
    assert (await _place(books, path, 1))[0] == Refusal.INSUFFICIENT
    view = await _set(books, path, 130)
    assert (view.remaining, view.held) == (30, 100)
    assert (await _place(books, path, 31))[0] == Refusal.INSUFFICIENT
    assert (await _place(books, path, 30))[0] == "ok"
    await _go_to(books, datetime(2026, 2, 3, tzinfo=UTC))
    (view,) = await books.ledger.limits([path])
    assert (view.quanta, view.remaining) == (130, 130)


async def _set(books: Books, path: UUID, quanta: int):  # noqa: ANN202 - a view of the limit
    (before,) = await books.ledger.limits([path])
    return await books.ledger.set_limit(
        scope_id=path,
        asset=LIMIT_TOKENS,
        quanta=quanta,
        window=before.window,
        time_zone=before.time_zone,
        actor="test",
    )


async def test_lowered_limit_takes_back_what_is_there_and_the_rest_from_returns(
    books: Books,
) -> None:
    """
    What is held cannot be taken; it is owed, and collected when it comes back.
    """
    path = await _limited(books, "month", BERLIN, 100)
    _, first = await _place(books, path, 50)
    _, second = await _place(books, path, 30)
    view = await _set(books, path, 40)  # 20 are free, 40 are owed
    assert (view.remaining, view.held) == (0, 80)
    await books.end(first.hold_id, PostingKind.VOID)
    assert await books.ledger.collect_owed() == 1
    (view,) = await books.ledger.limits([path])
    assert (view.remaining, view.held) == (10, 30)
    assert await books.ledger.collect_owed() == 0
    await books.end(second.hold_id, PostingKind.VOID)
    (view,) = await books.ledger.limits([path])
    assert (view.remaining, view.held) == (40, 0)


async def test_raising_settles_what_lowering_still_owes(books: Books) -> None:
    """
    Lowered and raised again: debts are settled before units are granted.
    """
    path = await _limited(books, "month", BERLIN, 100)
    _, hold = await _place(books, path, 90)
    assert (await _set(books, path, 20)).remaining == 0  # 10 taken, 70 owed
    assert (await _set(books, path, 60)).remaining == 0  # 30 owed
    assert (await _set(books, path, 95)).remaining == 5
    await books.end(hold.hold_id, PostingKind.VOID)
    (view,) = await books.ledger.limits([path])
    assert view.remaining == 95


async def test_two_collectors_take_a_debt_once(books: Books) -> None:
    """
    The hub and its worker may collect at the same time.
    """
    path = await _limited(books, "month", BERLIN, 100)
    _, hold = await _place(books, path, 100)
    await _set(books, path, 40)
    await books.end(hold.hold_id, PostingKind.VOID)
    taken = await asyncio.gather(*(books.ledger.collect_owed() for _ in range(3)))
    assert sum(taken) == 1
    (view,) = await books.ledger.limits([path])
    assert view.remaining == 40


async def test_removed_limit_stops_nothing_any_more(books: Books) -> None:
    """
    What it allowed is history; open holds keep their part; a new one starts afresh.
    """
    path = await _limited(books, "day", BERLIN, 10)
    _, hold = await _place(books, path, 10)
    (view,) = await books.ledger.limits([path])
    await books.ledger.remove_limit(view.limit_id, actor="test")
    assert (await _place(books, path, 1_000))[0] == "ok"
    await books.end(hold.hold_id, PostingKind.VOID)
    with pytest.raises(TokenworksError) as caught:
        await books.ledger.remove_limit(view.limit_id, actor="test")
    assert caught.value.code == "limit_not_found"
    await books.ledger.set_limit(
        scope_id=path, asset=LIMIT_TOKENS, quanta=5, window="day", actor="test"
    )
    assert (await _place(books, path, 6))[0] == Refusal.INSUFFICIENT


async def test_limit_of_zero_lets_nothing_through(books: Books) -> None:
    """
    Zero is a limit, not the absence of one.
    """
    path = await _limited(books, "day", BERLIN, 0)
    assert (await _place(books, path, 1))[0] == Refusal.INSUFFICIENT
    assert (await _place(books, path, 0))[0] == "ok"


async def test_new_limit_counts_for_the_very_next_hold(books: Books) -> None:
    """
    Paths name scopes, so nothing has to be published again.
    """
    buyer = await books.buyer()
    path = await books.path(buyer)
    assert (await _place(books, path, 10))[0] == "ok"
    await books.ledger.set_limit(
        scope_id=buyer, asset=LIMIT_TOKENS, quanta=5, window="day", actor="test"
    )
    assert (await _place(books, path, 10))[0] == Refusal.INSUFFICIENT


async def test_zone_of_a_limit_cannot_change(books: Books) -> None:
    """
    Windows of two zones would overlap; the limit has to be removed first.
    """
    path = await _limited(books, "day", BERLIN)
    with pytest.raises(InvalidError) as caught:
        await books.ledger.set_limit(
            scope_id=path,
            asset=LIMIT_TOKENS,
            quanta=5,
            window="day",
            time_zone=NEW_YORK,
            actor="test",
        )
    assert caught.value.code == "time_zone_fixed"
    for window, zone in (("fortnight", BERLIN), ("day", "Mars/Olympus")):
        with pytest.raises(InvalidError):
            await books.ledger.set_limit(
                scope_id=path,
                asset=LIMIT_USD,
                quanta=5,
                window=window,
                time_zone=zone,
                actor="test",
            )


async def test_limit_set_while_its_window_opens_is_granted_as_set(books: Books) -> None:
    """
    Opening a window and changing its limit wait for each other: neither is lost.
    """
    path = await books.path(await books.buyer())
    set_limit = books.ledger.set_limit
    for day in range(1, 6):
        await set_limit(scope_id=path, asset=LIMIT_USD, quanta=100, window="day", actor="test")
        await _go_to(books, datetime(2026, 2, day, tzinfo=UTC))
        placement = books.placement(Reservation(asset_id=LIMIT_USD_ID, quanta=1), path_id=path)
        await asyncio.gather(
            books.place(placement),
            set_limit(scope_id=path, asset=LIMIT_USD, quanta=40, window="day", actor="test"),
        )
        (view,) = await books.ledger.limits([path])
        assert view.remaining + view.held == 40
