"""
Group commit under trouble: lost lanes and connections, offenders, races, deadlocks.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import timedelta
from typing import Any, LiteralString

import pytest
import structlog

from tests.simulation.books import LIMIT_USD_ID, USD_ID, Books, open_books
from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.limits import BATCH_QUEUE_OPERATIONS_MAX
from tokenworks.foundation.money import LIMIT_USD
from tokenworks.ledger.batching.lane_connection import LaneConnection
from tokenworks.ledger.batching.lane_shares import LaneShares
from tokenworks.ledger.errors import LedgerUnavailableError
from tokenworks.ledger.model import (
    Placement,
    Posting,
    PostingKind,
    Refusal,
    Reservation,
    Transfer,
)
from tokenworks.ledger.writer import Writer


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """
    Keep the alarms that these tests cause out of their output.
    """
    with structlog.testing.capture_logs():
        yield


@pytest.fixture
async def books(dsn: str, clock: FakeClock, ids: IdentifierSource) -> AsyncIterator[Books]:
    """
    A ledger that must be clean when the test is over.
    """
    async with open_books(dsn, clock, ids) as books:
        yield books
        await books.assert_clean()


@pytest.fixture
async def second(books: Books) -> AsyncIterator[Writer]:
    """
    Another process's writer on the same database.
    """
    writer = Writer(books.dsn, clock=books.clock, holder="second")
    await writer.start()
    yield writer
    await writer.close()


def _of(books: Books, cash: int, quanta: int) -> Placement:
    return books.placement(Reservation(asset_id=USD_ID, quanta=quanta, account_id=cash))


async def test_many_postings_of_one_caller_are_answered_in_their_order(books: Books) -> None:
    """
    More than a batch holds, refusals and a repeated fact among them: as if each was posted alone.
    """
    buyer = await books.buyer(1_500)
    cash, revenue = await books.cash(buyer), await books.platform("platform_revenue")
    postings = [
        Posting(
            kind=PostingKind.POST,
            fact_id=books.ids.mint(),
            transfers=(Transfer(debit=cash, credit=revenue, quanta=1),),
        )
        for _ in range(1_502)
    ]
    outcomes = await books.ledger.post_all([*postings, postings[0]])
    assert [outcome.code for outcome in outcomes] == [
        *["ok"] * 1_500,
        *["insufficient"] * 2,
        "replayed",
    ]
    assert await books.counters(cash) == (0, 1_500, 1_500)
    assert await books.ledger.post_all([]) == []


async def test_list_that_finds_no_room_is_not_posted_in_part(books: Books) -> None:
    """
    All of a list is queued, or nothing of it.
    """
    posting = Posting(kind=PostingKind.VOID, fact_id=books.ids.mint())
    with pytest.raises(LedgerUnavailableError):
        await books.ledger.post_all([posting] * (BATCH_QUEUE_OPERATIONS_MAX + 1))
    assert (await books.writer.post(posting)).code == Refusal.HOLD_UNKNOWN


async def test_writers_hold_lanes_of_their_own(books: Books, second: Writer) -> None:
    """
    Two writers, two lanes; receive-only accounts have a share for each, summed for readers.
    """
    assert books.writer.lane != second.lane
    buyer = await books.buyer(100)
    cash, revenue = await books.cash(buyer), await books.platform("platform_revenue")
    for writer, quanta in ((books.writer, 10), (second, 20)):
        posting = Posting(
            kind=PostingKind.POST,
            fact_id=books.ids.mint(),
            transfers=(Transfer(debit=cash, credit=revenue, quanta=quanta),),
        )
        assert (await writer.post(posting)).code == "ok"
    assert await books.counters(revenue) == (0, 0, 30)
    shares = await books.rows(
        "SELECT lane, credits_posted FROM ledger.balances JOIN ledger.accounts USING (account_id) "
        "WHERE main_account_id = %s ORDER BY credits_posted",
        revenue,
    )
    assert shares == [(books.writer.lane, 10), (second.lane, 20)]
    assert await books.rows(
        "SELECT credits_posted FROM ledger.balances WHERE account_id = %s", revenue
    ) == [(0,)]


async def test_writer_that_lost_its_lane_is_stopped_and_recovers(books: Books) -> None:
    """
    The epoch is checked first in each batch; what was not committed is sent again.
    """
    cash = await books.cash(await books.buyer(100))
    lane = books.writer.lane
    await books.execute("UPDATE ledger.lanes SET epoch = epoch + 1, holder = 'thief'")
    outcome = await books.place(_of(books, cash, 10))
    assert outcome.code == "ok"
    assert books.writer.lane != lane
    revenue = await books.platform("platform_revenue")
    assert (await books.post(Transfer(debit=cash, credit=revenue, quanta=5))).code == "ok"
    rows = await books.rows(
        "SELECT DISTINCT lane FROM ledger.accounts WHERE main_account_id = %s", revenue
    )
    assert rows == [(books.writer.lane,)]


async def test_accounts_along_a_path_are_not_asked_about(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A party's cash and its windows have no lanes; accounts named one by one may have.
    """
    buyer = await books.buyer(100)
    path, cash = await books.path(buyer), await books.cash(buyer)
    await books.ledger.set_limit(
        scope_id=path, asset=LIMIT_USD, quanta=50, window="ever", actor="test"
    )
    revenue = await books.platform("platform_revenue")
    asked: list[set[int]] = []
    learn = LaneShares.learn

    async def note(shares: LaneShares, account_ids: set[int]) -> None:
        asked.append(account_ids - shares.known.keys())
        await learn(shares, account_ids)

    monkeypatch.setattr(LaneShares, "learn", note)
    wishes = Reservation(asset_id=USD_ID, quanta=5), Reservation(asset_id=LIMIT_USD_ID, quanta=5)
    held = books.placement(*wishes, path_id=path)
    books.writer._batches._shares._shares.clear()
    assert len((await books.place(held)).parts) == 2
    asked.clear()
    pay = Transfer(debit=cash, credit=revenue, quanta=5)
    assert (await books.capture(held.hold_id, pay)).code == "ok"
    other = await books.cash(stranger := await books.buyer(100))
    books.writer._batches._shares._shares.clear()
    named = await books.hold_cash(stranger, 5)
    pay = Transfer(debit=other, credit=revenue, quanta=5)
    assert (await books.capture(named, pay)).code == "ok"
    assert cash not in asked[0]
    assert other in asked[-1]
    assert (await books.counters(revenue))[2] == 10


async def test_lane_returns_to_its_holder_in_a_new_epoch(books: Books) -> None:
    """
    A writer that connects again fences its own earlier connection.
    """
    before = books.writer._connection.lane
    await books.writer._connection.close()
    await books.place(_of(books, await books.cash(await books.buyer(1)), 1))
    after = books.writer._connection.lane
    assert before is not None
    assert after is not None
    assert (after.number, after.epoch) == (before.number, before.epoch + 1)


async def test_lease_is_renewed_and_a_lost_one_is_taken_again(books: Books) -> None:
    """
    Renewal follows the clock; a lease that is gone makes the writer lease another lane.
    """
    cash = await books.cash(await books.buyer(10))
    books.clock.advance(timedelta(seconds=20))
    await books.place(_of(books, cash, 1))
    rows = await books.rows("SELECT leased_until FROM ledger.lanes")
    assert rows == [(books.clock.now() + timedelta(seconds=30),)]
    await books.execute("UPDATE ledger.lanes SET epoch = epoch + 1")
    books.clock.advance(timedelta(seconds=20))
    assert (await books.place(_of(books, cash, 1))).code == "ok"


async def test_killed_connection_loses_no_acknowledged_operation(books: Books) -> None:
    """
    The writer resubmits what it cannot know; every caller gets an answer, every answer holds.
    """
    cash = await books.cash(await books.buyer(150))
    waves = 30

    async def kill() -> None:
        for _ in range(6):
            await books.rows(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() "
                "AND application_name = 'tokenworks ledger writer'"
            )
            # Come back when the writer has got something through again.
            await books.place(_of(books, cash, 0))

    async def load() -> list[tuple[Placement, str]]:
        answers: list[tuple[Placement, str]] = []
        for _ in range(waves):
            batch = [_of(books, cash, 1) for _ in range(10)]
            outcomes = await asyncio.gather(*(books.place(item) for item in batch))
            answers += [(item, outcome.code) for item, outcome in zip(batch, outcomes, strict=True)]
        return answers

    answers, _ = await asyncio.gather(load(), kill())
    done = {item.hold_id for item, code in answers if code in {"ok", "replayed"}}
    assert len(answers) == waves * 10
    assert len(done) == 150
    rows = await books.rows("SELECT hold_id FROM ledger.holds WHERE part_held = '{1}'")
    assert {row[0] for row in rows} == done
    assert await books.counters(cash) == (150, 0, 150)


async def test_offender_stands_alone(books: Books) -> None:
    """
    A constraint error is an alarm of one operation; the nine others are done.
    """
    cash = await books.cash(await books.buyer(100))
    batch = [_of(books, cash, quanta) for quanta in (1, 2, 3, 4, 5, 6, 13, 8, 9, 10)]
    await books.execute(
        "ALTER TABLE ledger.holds ADD CONSTRAINT no_thirteen CHECK (part_held <> '{13}')"
    )
    outcomes = await asyncio.gather(*(books.place(item) for item in batch))
    assert [outcome.code for outcome in outcomes] == ["ok"] * 6 + ["internal"] + ["ok"] * 3
    assert await books.counters(cash) == (48, 0, 100)


async def test_operation_that_cannot_be_sent_stands_alone(books: Books) -> None:
    """
    A number or text that no column takes harms neither its neighbours nor the writer.
    """
    cash = await books.cash(await books.buyer(100))
    batch = [
        _of(books, cash, 1),
        _of(books, cash, 2**70),
        _of(books, 2**70, 1),
        books.placement(meta='"\ud800"'),
        books.placement(meta='"\0"'),
        _of(books, cash, 2),
    ]
    outcomes = await asyncio.gather(*(books.place(item) for item in batch))
    assert [outcome.code for outcome in outcomes] == ["ok", *["internal"] * 4, "ok"]
    assert (await books.place(_of(books, cash, 3))).code == "ok"


@pytest.mark.parametrize("sqlstate", ["P0001", "TW009", "23514"])
async def test_error_at_commit_is_not_swallowed(books: Books, sqlstate: str) -> None:
    """
    What fails when the transaction commits was not done, and is not acknowledged.
    """
    cash = await books.cash(await books.buyer(100))
    await books.execute(
        "CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$BEGIN RAISE EXCEPTION 'late' USING ERRCODE = '{sqlstate}'; END$$"
    )
    await books.execute(
        "CREATE CONSTRAINT TRIGGER fail_late AFTER INSERT ON ledger.holds "
        "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.fail()"
    )
    batch = [_of(books, cash, 1) for _ in range(3)]
    outcomes = await asyncio.gather(*(books.place(item) for item in batch))
    assert [outcome.code for outcome in outcomes] == ["internal"] * 3
    assert await books.counters(cash) == (0, 0, 100)
    await books.execute("DROP TRIGGER fail_late ON ledger.holds")
    assert (await books.place(batch[0])).code == "ok"


async def test_error_at_commit_that_says_try_again_is_tried_again(books: Books) -> None:
    """
    A serialization failure at commit re-runs the batch until it is through.
    """
    cash = await books.cash(await books.buyer(100))
    await books.execute("CREATE SEQUENCE public.tries")
    await books.execute(
        "CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$"
        "BEGIN IF nextval('public.tries') < 4 THEN "
        "RAISE EXCEPTION 'late' USING ERRCODE = '40001'; END IF; RETURN NULL; END$$"
    )
    await books.execute(
        "CREATE CONSTRAINT TRIGGER fail_late AFTER INSERT ON ledger.holds "
        "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.fail()"
    )
    assert (await books.place(_of(books, cash, 7))).code == "ok"
    assert await books.rows("SELECT last_value FROM public.tries") == [(4,)]
    assert await books.counters(cash) == (7, 0, 100)


async def test_notice_at_commit_is_not_an_acknowledgement(books: Books) -> None:
    """
    A warning that comes with the commit makes the outcome unknown; the same ids ask again.
    """
    cash = await books.cash(await books.buyer(100))
    await books.execute("CREATE SEQUENCE public.tries")
    await books.execute(
        "CREATE FUNCTION public.warn() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$"
        "BEGIN IF nextval('public.tries') < 2 THEN "
        "RAISE WARNING 'not confirmed'; END IF; RETURN NULL; END$$"
    )
    await books.execute(
        "CREATE CONSTRAINT TRIGGER warn_late AFTER INSERT ON ledger.holds "
        "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.warn()"
    )
    assert (await books.place(_of(books, cash, 7))).code == "replayed"
    assert await books.counters(cash) == (7, 0, 100)


async def test_same_fact_through_two_writers_has_one_effect(books: Books, second: Writer) -> None:
    """
    Both callers get the same answer; holds of nothing share no lock and race all the same.
    """
    cash = await books.cash(await books.buyer(1_000))
    revenue = await books.platform("platform_revenue")
    for quanta in (0, 5, 0, 5, 0, 5):
        placement = _of(books, cash, quanta)
        answers = await asyncio.gather(books.place(placement), second.place(placement))
        assert sorted(answer.code for answer in answers) == ["ok", "replayed"]
        assert len({(a.recorded_at, a.expires_at, a.parts) for a in answers}) == 1
        posting = Posting(
            kind=PostingKind.CAPTURE,
            fact_id=placement.hold_id,
            transfers=(Transfer(debit=cash, credit=revenue, quanta=quanta),) if quanta else (),
        )
        answers = await asyncio.gather(books.writer.post(posting), second.post(posting))
        assert sorted(answer.code for answer in answers) == ["ok", "replayed"]
        assert len({(a.recorded_at, a.lane) for a in answers}) == 1
    source = await books.platform("limit_source", "LIMIT.TOK")
    spent = await books.platform("limit_spent", "LIMIT.TOK")
    posting = Posting(
        kind=PostingKind.POST,
        fact_id=books.ids.mint(),
        transfers=(Transfer(debit=source, credit=spent, quanta=3),),
    )
    answers = await asyncio.gather(books.writer.post(posting), second.post(posting))
    assert sorted(answer.code for answer in answers) == ["ok", "replayed"]
    assert await books.counters(spent) == (0, 0, 3)
    assert await books.counters(cash) == (0, 15, 1_000)


async def test_two_writers_on_the_same_accounts_admit_exactly_what_is_there(
    books: Books, second: Writer
) -> None:
    """
    Opposite orders of accounts make no deadlock; of many holds exactly as many pass as fit.
    """
    accounts = [await books.cash(await books.buyer(100)) for _ in range(4)]
    revenue = await books.platform("platform_revenue")
    batches = [
        [
            books.placement(
                *(
                    Reservation(asset_id=USD_ID, quanta=1, account_id=account)
                    for account in (accounts if index % 2 else accounts[::-1])
                )
            )
            for index in range(150)
        ]
        for _ in range(2)
    ]
    outcomes = await asyncio.gather(
        *(books.place(item) for item in batches[0]), *(second.place(item) for item in batches[1])
    )
    codes = Counter(outcome.code for outcome in outcomes)
    assert codes == {"ok": 100, "insufficient": 200}
    held = [
        item.hold_id
        for item, outcome in zip([*batches[0], *batches[1]], outcomes, strict=True)
        if outcome.code == "ok"
    ]
    captures = [
        Posting(
            kind=PostingKind.CAPTURE,
            fact_id=hold_id,
            transfers=tuple(
                Transfer(debit=account, credit=revenue, quanta=1)
                for account in (accounts if index % 3 else accounts[::-1])
            ),
        )
        for index, hold_id in enumerate(held)
    ]
    writers = (books.writer, second)
    answers = await asyncio.gather(
        *(writers[index % 2].post(posting) for index, posting in enumerate(captures))
    )
    assert {answer.code for answer in answers} == {"ok"}
    for account in accounts:
        assert await books.counters(account) == (0, 100, 100)
    assert await books.counters(revenue) == (0, 0, 400)


async def test_extensions_captures_and_voids_race_and_end_each_hold_once(
    books: Books, second: Writer
) -> None:
    """
    Whatever order two writers take, a hold closes once and pending returns to zero.
    """
    cash = await books.cash(await books.buyer(1_000))
    revenue = await books.platform("platform_revenue")
    holds = [_of(books, cash, 5) for _ in range(40)]
    await asyncio.gather(*(books.place(item) for item in holds))
    ten = Reservation(asset_id=USD_ID, quanta=10)
    captures, voids, extensions = (
        [
            books.writer.post(
                Posting(
                    kind=PostingKind.CAPTURE,
                    fact_id=hold.hold_id,
                    transfers=(Transfer(debit=cash, credit=revenue, quanta=5),),
                )
            )
            for hold in holds
        ],
        [second.post(Posting(kind=PostingKind.VOID, fact_id=hold.hold_id)) for hold in holds],
        [
            second.place(books.placement(ten, hold_id=hold.hold_id, extension=1))
            for hold in reversed(holds)
        ],
    )
    answers = await asyncio.gather(*captures, *voids, *extensions)
    for capture, void in zip(answers[:40], answers[40:80], strict=True):
        assert sorted((capture.code, void.code)) == ["hold_closed", "ok"]
    assert {answer.code for answer in answers[80:]} <= {"ok", "hold_closed"}
    pending, debits, _ = await books.counters(cash)
    assert pending == 0
    assert debits == 5 * sum(answer.code == "ok" for answer in answers[:40])


async def test_caller_that_leaves_before_the_batch_withdraws_its_hold(books: Books) -> None:
    """
    A cancelled placement that was not sent yet is not placed; a posting goes on.
    """
    buyer = await books.buyer(10)
    cash, revenue = await books.cash(buyer), await books.platform("platform_revenue")
    placement = _of(books, cash, 1)
    leaving = asyncio.ensure_future(books.place(placement))
    posting = Posting(
        kind=PostingKind.POST,
        fact_id=books.ids.mint(),
        transfers=(Transfer(debit=cash, credit=revenue, quanta=2),),
    )
    posted = asyncio.ensure_future(books.ledger.post(posting))
    leaving.cancel()
    posted.cancel()
    await asyncio.gather(leaving, posted, return_exceptions=True)
    assert (await books.end(placement.hold_id, PostingKind.VOID)).code == "hold_unknown"
    assert (await books.place(_of(books, cash, 0))).code == "ok"


async def test_many_waiting_postings_go_little_by_little(books: Books, second: Writer) -> None:
    """
    Callers of one batch work while another commits; holds go at once, few are not divided.
    """
    cash = await books.cash(await books.buyer(100))
    before = second.batches
    placements = [_of(books, cash, 1) for _ in range(64)]
    outcomes = await asyncio.gather(*(second.place(item) for item in placements))
    assert {outcome.code for outcome in outcomes} == {"ok"}
    assert second.batches - before == 1
    before = second.batches
    voids = [Posting(kind=PostingKind.VOID, fact_id=item.hold_id) for item in placements]
    outcomes = await asyncio.gather(*(second.post(item) for item in voids))
    assert {outcome.code for outcome in outcomes} == {"ok"}
    assert second.batches - before == len((16, 16, 16, 16))


async def test_next_batch_is_sent_before_the_callers_of_the_last_go_on(
    books: Books, second: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Where more wait than were answered, the database works while those callers do.
    """
    cash = await books.cash(await books.buyer(100))
    placements = [_of(books, cash, 1) for _ in range(64)]
    await asyncio.gather(*(second.place(item) for item in placements))
    gone_on = 0
    gone_on_at_send: list[int] = []
    call = LaneConnection.call

    async def note(
        connection: LaneConnection, query: LiteralString, parameters: Sequence[Any]
    ) -> list[Any]:
        gone_on_at_send.append(gone_on)
        return await call(connection, query, parameters)

    async def settle(placement: Placement) -> None:
        nonlocal gone_on
        await second.post(Posting(kind=PostingKind.VOID, fact_id=placement.hold_id))
        gone_on += 1

    monkeypatch.setattr(LaneConnection, "call", note)
    await asyncio.gather(*map(settle, placements))
    # The last batch is as large as the one before it, so it waits for who may join.
    assert gone_on_at_send == [0, 0, 16, 48]


async def test_writer_that_a_bug_ends_says_so(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Its process is told, and looks no healthier than it is.
    """
    writer = Writer(books.dsn, clock=books.clock, holder="doomed")
    told = asyncio.Event()
    writer.on_failure(told.set)
    await writer.start()

    async def fail() -> None:
        raise RuntimeError

    monkeypatch.setattr(writer, "_commit_one_round", fail)
    waiting = asyncio.create_task(
        writer.post(Posting(kind=PostingKind.VOID, fact_id=books.ids.mint()))
    )
    await told.wait()
    assert not writer.is_connected
    assert not waiting.done()
    waiting.cancel()
    with pytest.raises(RuntimeError):
        await writer.close()


async def test_rider_is_written_with_the_entry_or_not_at_all(
    dsn: str, clock: FakeClock, ids: IdentifierSource
) -> None:
    """
    Only accepted operations reach the read model, in the entry's own transaction.
    """
    async with open_books(dsn, clock, ids, rider="notes") as books:
        await books.execute("CREATE TABLE public.notes (note text CHECK (note <> 'bad'))")
        await books.execute(
            "CREATE FUNCTION public.note(p_rows text[], p_time timestamptz) RETURNS void "
            "LANGUAGE sql AS $$INSERT INTO public.notes SELECT unnest(p_rows)$$"
        )
        await books.execute("INSERT INTO ledger.riders VALUES ('notes', 'public.note')")
        cash = await books.cash(await books.buyer(10))
        revenue = await books.platform("platform_revenue")
        postings = [
            Posting(
                kind=PostingKind.POST,
                fact_id=ids.mint(),
                transfers=(Transfer(debit=cash, credit=revenue, quanta=quanta),),
                rider_row=note,
            )
            for quanta, note in ((4, "first"), (9, "refused"), (5, "bad"), (6, "last"))
        ]
        outcomes = await asyncio.gather(*(books.writer.post(item) for item in postings))
        assert [o.code for o in outcomes] == ["ok", "insufficient", "internal", "ok"]
        assert await books.rows("SELECT note FROM public.notes ORDER BY 1") == [
            ("first",),
            ("last",),
        ]
        await books.assert_clean()


async def test_clock_far_from_the_databases_is_refused(books: Books) -> None:
    """
    Ledger time is the caller's within a second of the database's; a batch waits until it is.
    """
    cash = await books.cash(await books.buyer(10))
    await books.execute("UPDATE ledger.settings SET clock_skew_max_ms = 1000")
    books.clock.advance(timedelta(hours=1))
    waiting = asyncio.ensure_future(books.place(_of(books, cash, 1)))
    rows = await books.rows("SELECT batch FROM ledger.lanes")
    await books.execute("UPDATE ledger.settings SET clock_skew_max_ms = NULL")
    assert (await waiting).code == "ok"
    assert rows == [(1,)]


async def test_ledger_time_never_runs_backwards(books: Books) -> None:
    """
    A batch's time is at least the lane's and every touched account's last one.
    """
    cash = await books.cash(await books.buyer(10))
    books.clock.advance(timedelta(seconds=30))
    first = await books.place(_of(books, cash, 1))
    books.clock.advance(timedelta(seconds=-20))
    second = await books.place(_of(books, cash, 1))
    other = Writer(books.dsn, clock=books.clock, holder="behind")
    await other.start()
    third = await other.place(_of(books, cash, 1))
    await other.close()
    assert first.recorded_at == second.recorded_at == third.recorded_at
