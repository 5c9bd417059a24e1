"""
Entries, captures, voids and expiries: refusals in order, overruns, fates, replays.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import date, timedelta
from typing import Final, NamedTuple
from uuid import UUID

import pytest

from tests.simulation.books import LIMIT_USD_ID, USD_ID, Books, open_books
from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.money import LIMIT_USD
from tokenworks.ledger.model import (
    NO_ACCOUNT,
    Fate,
    Posting,
    PostingKind,
    Refusal,
    Reservation,
    Transfer,
)

_DAY: Final = timedelta(days=1)


@pytest.fixture
async def books(dsn: str, clock: FakeClock, ids: IdentifierSource) -> AsyncIterator[Books]:
    """
    A ledger that must be clean when the test is over.
    """
    async with open_books(dsn, clock, ids) as books:
        yield books
        await books.tamper("DELETE FROM ledger.closings")  # those of ``_close`` say nothing
        await books.assert_clean()


class Numbers(NamedTuple):
    """
    The accounts that most tests move between.
    """

    buyer: UUID
    cash: int
    revenue: int
    own_funds: int
    bank: int
    overrun: int


async def _numbers(books: Books, quanta: int = 100) -> Numbers:
    buyer = await books.buyer(quanta)
    return Numbers(
        buyer=buyer,
        cash=await books.cash(buyer),
        revenue=await books.platform("platform_revenue"),
        own_funds=await books.platform("own_funds"),
        bank=await books.platform("safeguarded"),
        overrun=await books.platform("overrun"),
    )


async def test_entry_is_refused_for_the_first_reason_in_the_documented_order(
    books: Books,
) -> None:
    """
    Conflict, deadline, id, date, unknown, asset, same account, amount, frozen, short, unsafe.
    """
    at = await _numbers(books)
    today = books.clock.now().date()
    await _close(books, today)
    yuan = await books.ledger.account(at.buyer, "cash", "CNY")
    done = books.ids.mint()
    move = Transfer(debit=at.cash, credit=at.revenue, quanta=1)
    assert (await books.post(move, fact_id=done)).code == "ok"
    late, future = books.clock.now() - timedelta(seconds=1), UUID(int=done.int + (400_000 << 80))

    async def code(
        transfer: Transfer,
        fact_id: UUID | None = None,
        *,
        is_late: bool = False,
        accounting_date: date | None = None,
    ) -> str:
        posting = Posting(
            kind=PostingKind.POST,
            fact_id=fact_id or books.ids.mint(),
            transfers=(transfer,),
            deadline=late if is_late else None,
            accounting_date=accounting_date,
        )
        return (await books.writer.post(posting)).code

    nowhere = Transfer(debit=10**12, credit=yuan, quanta=0)
    assert await code(nowhere, done, is_late=True) == Refusal.CONFLICT
    assert await code(nowhere, future, is_late=True) == Refusal.DEADLINE_PASSED
    assert await code(nowhere, future, accounting_date=today) == Refusal.ID_OUTSIDE_WINDOW
    assert await code(nowhere, accounting_date=today) == Refusal.DATE_CLOSED
    assert await code(nowhere, accounting_date=today - _DAY) == Refusal.DATE_CLOSED
    assert await code(nowhere, accounting_date=today + _DAY) == Refusal.ACCOUNT_UNKNOWN
    assert await code(nowhere) == Refusal.ACCOUNT_UNKNOWN
    assert (
        await code(Transfer(debit=at.cash, credit=yuan, quanta=0, fallback=10**12))
        == Refusal.ACCOUNT_UNKNOWN
    )
    assert await code(Transfer(debit=at.cash, credit=yuan, quanta=0)) == Refusal.ASSET_MISMATCH
    assert (
        await code(Transfer(debit=at.cash, credit=at.revenue, quanta=0, fallback=yuan))
        == Refusal.ASSET_MISMATCH
    )
    same = Transfer(debit=at.cash, credit=at.cash, quanta=0)
    assert await code(same) == Refusal.ACCOUNTS_MUST_DIFFER
    selfish = Transfer(debit=at.cash, credit=at.revenue, quanta=0, fallback=at.revenue)
    assert await code(selfish) == Refusal.ACCOUNTS_MUST_DIFFER
    await books.rows(
        "SELECT ledger.set_account_state_v1(%s, 'frozen', %s)", at.cash, books.clock.now()
    )
    for quanta in (0, -1, 2**62 + 1):
        wrong = Transfer(debit=at.cash, credit=at.revenue, quanta=quanta)
        assert await code(wrong) == Refusal.AMOUNT_INVALID
    too_much = Transfer(debit=at.cash, credit=at.revenue, quanta=2**62)
    assert await code(too_much) == Refusal.ACCOUNT_FROZEN
    await books.rows(
        "SELECT ledger.set_account_state_v1(%s, 'active', %s)", at.cash, books.clock.now()
    )
    assert await code(too_much) == Refusal.INSUFFICIENT
    unsafe = Transfer(debit=at.own_funds, credit=at.cash, quanta=1)
    assert await code(unsafe) == Refusal.CLIENT_MONEY_UNSAFEGUARDED
    assert await books.counters(at.cash) == (0, 1, 100)


async def test_entry_counts_in_the_date_it_names_and_the_date_is_part_of_it(books: Books) -> None:
    """
    A correction names an accounting date; it stands in the record, and makes the content.
    """
    at = await _numbers(books)
    yesterday = books.clock.now().date() - _DAY
    posting = Posting(
        kind=PostingKind.POST,
        fact_id=books.ids.mint(),
        transfers=(Transfer(debit=at.cash, credit=at.revenue, quanta=1),),
        accounting_date=yesterday,
    )
    outcomes = await asyncio.gather(
        books.writer.post(posting),
        books.post(Transfer(debit=at.cash, credit=at.revenue, quanta=1)),
    )
    assert [outcome.code for outcome in outcomes] == ["ok", "ok"]
    rows = await books.rows("SELECT record::json ->> 'date' FROM ledger.entries ORDER BY batch, 1")
    assert [row[0] for row in rows if row[0]] == [yesterday.isoformat()]
    await _close(books, yesterday)
    assert (await books.writer.post(posting)).code == "replayed"
    assert (await books.writer.post(replace(posting, accounting_date=None))).code == "conflict"


def test_only_an_entry_of_its_own_names_a_date(ids: IdentifierSource) -> None:
    """
    Who asks for a capture on a date is told at once; the writer never sees it.
    """
    for kind in set(PostingKind) - {PostingKind.POST}:
        with pytest.raises(AssertionError, match="names a date"):
            Posting(kind=kind, fact_id=ids.mint(), accounting_date=date(2026, 1, 1))


async def test_ends_of_a_hold_pass_a_closed_date(books: Books) -> None:
    """
    What was promised is kept: captures and voids go to the first open date.
    """
    at = await _numbers(books)
    captured, voided = await books.hold_cash(at.buyer, 10), await books.hold_cash(at.buyer, 10)
    await _close(books, books.clock.now().date())
    move = Transfer(debit=at.cash, credit=at.revenue, quanta=1)
    assert (await books.capture(captured, move)).code == "ok"
    assert (await books.end(voided, PostingKind.VOID)).code == "ok"


async def _close(books: Books, closed: date) -> None:
    await books.execute(
        "INSERT INTO ledger.closings VALUES (%s, %s, 'test', '{}', '')", closed, books.clock.now()
    )


async def test_ends_of_a_hold_are_refused_in_the_documented_order(books: Books) -> None:
    """
    Unknown, closed, not due, waiting.
    """
    at = await _numbers(books)
    assert (await books.end(books.ids.mint(), PostingKind.VOID)).code == Refusal.HOLD_UNKNOWN
    waiting = await books.hold_cash(at.buyer, 10, fate=Fate.WAIT)
    assert (await books.end(waiting, PostingKind.EXPIRE)).code == Refusal.HOLD_NOT_DUE
    books.clock.advance(timedelta(minutes=5))
    assert (await books.end(waiting, PostingKind.EXPIRE)).code == Refusal.HOLD_WAITS
    assert (await books.end(waiting, PostingKind.VOID)).code == "ok"
    assert (await books.end(waiting, PostingKind.EXPIRE)).code == Refusal.HOLD_CLOSED
    assert (await books.capture(waiting)).code == Refusal.HOLD_CLOSED


async def test_closed_account_receives_nothing(books: Books) -> None:
    """
    Neither an entry nor a capture credits a closed account.
    """
    at = await _numbers(books)
    hold_id = await books.hold_cash(at.buyer, 10)
    supplier = books.ids.mint()
    gone = await books.ledger.account(supplier, "receivable")
    await books.rows(
        "SELECT ledger.set_account_state_v1(%s, 'closed', %s)", gone, books.clock.now()
    )
    to_gone = Transfer(debit=at.cash, credit=gone, quanta=1)
    assert (await books.post(to_gone)).code == Refusal.ACCOUNT_FROZEN
    assert (await books.capture(hold_id, to_gone)).code == Refusal.ACCOUNT_FROZEN
    assert (await books.end(hold_id, PostingKind.VOID)).code == "ok"


async def test_closing_an_account_closes_its_share_in_every_lane(books: Books) -> None:
    """
    Lanes are an account's parts: what is closed receives nothing through any of them.
    """
    at = await _numbers(books)
    supplier = books.ids.mint()
    payable = await books.ledger.account(supplier, "supplier_payable")
    paid = Transfer(debit=at.cash, credit=payable, quanta=1)
    close = "SELECT ledger.set_account_state_v1(%s, 'closed', %s)"
    await books.rows(close, payable, books.clock.now())
    assert (await books.post(paid)).code == Refusal.ACCOUNT_FROZEN
    other = await books.ledger.account(books.ids.mint(), "supplier_payable")
    paid = Transfer(debit=at.cash, credit=other, quanta=1)
    assert (await books.post(paid)).code == "ok"
    await books.rows(close, other, books.clock.now())
    assert (await books.post(paid)).code == Refusal.ACCOUNT_FROZEN


async def test_capture_takes_the_charge_and_gives_the_rest_back(books: Books) -> None:
    """
    A closing capture frees what it did not take, and says what is left to spend.
    """
    at = await _numbers(books)
    hold_id = await books.hold_cash(at.buyer, 60)
    outcome = await books.capture(
        hold_id,
        Transfer(debit=at.cash, credit=at.revenue, quanta=25, fallback=at.overrun),
        Transfer(debit=at.own_funds, credit=at.bank, quanta=25),
    )
    assert (outcome.code, outcome.overrun, outcome.available) == ("ok", 0, 75)
    assert await books.counters(at.cash) == (0, 25, 100)
    view = await books.ledger.hold(hold_id)
    assert view is not None
    assert view.state == "captured"


async def test_capture_above_the_hold_extends_every_part_or_none(books: Books) -> None:
    """
    When one part cannot grow none does; the fallback bears it, and it is named the overrun.
    """
    at = await _numbers(books, 1_000)
    path = await books.path(at.buyer)
    await books.ledger.set_limit(
        scope_id=path, asset=LIMIT_USD, quanta=120, window="ever", actor="test"
    )
    spent = await books.platform("limit_spent", "LIMIT.USD")
    beyond = await books.platform("limit_overrun", "LIMIT.USD")
    asked = (
        Reservation(asset_id=USD_ID, quanta=50),
        Reservation(asset_id=LIMIT_USD_ID, quanta=50),
    )

    async def capture(charge: int) -> tuple[int, list[tuple[int, int, int]]]:
        placement = books.placement(*asked, path_id=path)
        placed = await books.place(placement)
        window = placed.parts[1].account_id
        outcome = await books.capture(
            placement.hold_id,
            Transfer(debit=at.cash, credit=at.revenue, quanta=charge, fallback=at.overrun),
            Transfer(debit=at.own_funds, credit=at.bank, quanta=charge),
            Transfer(debit=window, credit=spent, quanta=charge, fallback=beyond),
        )
        assert outcome.code == "ok"
        return outcome.overrun, [await books.counters(at.cash), await books.counters(window)]

    assert await capture(70) == (0, [(0, 70, 1_000), (0, 70, 120)])
    # Now the limit has 50 left, all of it held: money could grow, the limit cannot.
    assert await capture(70) == (20, [(0, 120, 1_000), (0, 120, 120)])
    assert await books.counters(at.overrun) == (0, 20, 0)
    assert await books.counters(beyond) == (0, 20, 0)
    # Own funds are freed only by what the client really paid.
    assert await books.counters(at.own_funds) == (0, 120, 0)
    assert await books.counters(at.bank) == (0, 1_000, 120)


async def test_repeated_capture_answers_the_same_overrun(books: Books) -> None:
    """
    Whoever asks again, after a lost connection, is told what the platform bore.
    """
    at = await _numbers(books)
    hold_id = await books.hold_cash(at.buyer, 100)
    transfer = Transfer(debit=at.cash, credit=at.revenue, quanta=130, fallback=at.overrun)
    first = await books.capture(hold_id, transfer)
    again = await books.capture(hold_id, transfer)
    assert (first.code, first.overrun) == ("ok", 30)
    assert (again.code, again.overrun) == ("replayed", 30)
    assert again.recorded_at == first.recorded_at
    other = await books.capture(hold_id, transfer, transfer)
    assert other.code == Refusal.CONFLICT


async def test_partial_captures_take_from_one_hold_until_it_closes(books: Books) -> None:
    """
    Captures with ordinals of their own; the last one gives the remainder back.
    """
    at = await _numbers(books)
    hold_id = await books.hold_cash(at.buyer, 60)

    async def capture(quanta: int, ordinal: int, *, closes: bool) -> str:
        outcome = await books.capture(
            hold_id,
            Transfer(debit=at.cash, credit=at.revenue, quanta=quanta),
            ordinal=ordinal,
            closes=closes,
        )
        return outcome.code

    assert await capture(20, 0, closes=False) == "ok"
    assert await books.counters(at.cash) == (40, 20, 100)
    assert await capture(50, 1, closes=False) == "ok"  # 40 held, 10 from what is available
    assert await books.counters(at.cash) == (0, 70, 100)
    ten = Reservation(asset_id=USD_ID, quanta=10)
    extended = await books.place(books.placement(ten, hold_id=hold_id, extension=1))
    assert extended.code == "ok"
    assert await books.counters(at.cash) == (10, 70, 100)
    assert await capture(4, 2, closes=True) == "ok"
    assert await books.counters(at.cash) == (0, 74, 100)
    assert await capture(1, 3, closes=True) == Refusal.HOLD_CLOSED


async def test_capture_without_transfers_only_closes(books: Books) -> None:
    """
    A free answer captures nothing and gives everything back.
    """
    at = await _numbers(books)
    hold_id = await books.hold_cash(at.buyer, 60)
    assert (await books.capture(hold_id)).code == "ok"
    assert await books.counters(at.cash) == (0, 0, 100)


async def test_several_transfers_share_one_part(books: Books) -> None:
    """
    Legs of a sale take from one part in their order; the last ones meet the overrun.
    """
    at = await _numbers(books, 50)
    tax = await books.ledger.account(books.ids.mint(), "tax_payable")
    hold_id = await books.hold_cash(at.buyer, 50)
    outcome = await books.capture(
        hold_id,
        *(
            Transfer(debit=at.cash, credit=credit, quanta=quanta, fallback=at.overrun)
            for credit, quanta in ((tax, 20), (at.revenue, 20), (tax, 20), (at.revenue, 5))
        ),
        Transfer(debit=at.own_funds, credit=at.bank, quanta=65),
    )
    assert (outcome.code, outcome.overrun) == ("ok", 15)
    assert await books.counters(tax) == (0, 0, 40)
    assert await books.counters(at.revenue) == (0, 0, 25)
    assert await books.counters(at.cash) == (0, 50, 50)
    assert await books.counters(at.bank) == (0, 50, 50)


async def test_capture_may_credit_the_account_it_takes_from(books: Books) -> None:
    """
    An account can be a part and be credited in one entry; both sides are counted.
    """
    at = await _numbers(books)
    hold_id = await books.hold_cash(at.buyer, 40)
    outcome = await books.capture(
        hold_id,
        Transfer(debit=at.cash, credit=at.revenue, quanta=30),
        Transfer(debit=at.revenue, credit=at.cash, quanta=10),
    )
    assert outcome.code == "ok"
    assert await books.counters(at.cash) == (0, 30, 110)


async def test_capture_cannot_overdraw_an_account_outside_its_hold(books: Books) -> None:
    """
    A bounded account that is no part of the hold is checked as in a plain entry.
    """
    at = await _numbers(books)
    other = await books.cash(await books.buyer(5))
    hold_id = await books.hold_cash(at.buyer, 40)
    outcome = await books.capture(
        hold_id,
        Transfer(debit=at.cash, credit=at.revenue, quanta=60),
        Transfer(debit=other, credit=at.revenue, quanta=6),
    )
    assert (outcome.code, outcome.refused_account, outcome.available) == ("insufficient", other, 5)
    assert await books.counters(at.cash) == (40, 0, 100)
    borne = await books.capture(
        hold_id, Transfer(debit=other, credit=at.revenue, quanta=6, fallback=at.overrun)
    )
    assert (borne.code, borne.overrun) == ("ok", 1)


async def test_fallback_of_one_transfer_may_be_debited_by_another(books: Books) -> None:
    """
    A fallback is an account like any other; only crediting it at once is refused.
    """
    at = await _numbers(books, 10)
    outcome = await books.post(
        Transfer(debit=at.cash, credit=at.revenue, quanta=15, fallback=at.overrun),
        Transfer(debit=at.overrun, credit=at.revenue, quanta=3),
        Transfer(debit=at.revenue, credit=at.overrun, quanta=1),
    )
    assert (outcome.code, outcome.overrun) == ("ok", 5)
    assert await books.counters(at.overrun) == (0, 8, 1)
    assert await books.counters(at.revenue) == (0, 1, 18)


async def test_bounded_fallback_is_never_overdrawn(books: Books) -> None:
    """
    Where the fallback is short as well, the entry is refused and names the fallback.
    """
    at = await _numbers(books, 10)
    other = await books.cash(await books.buyer(4))
    outcome = await books.post(
        Transfer(debit=at.cash, credit=at.revenue, quanta=15, fallback=other)
    )
    assert (outcome.code, outcome.refused_account, outcome.available) == ("insufficient", other, 4)
    assert await books.counters(at.cash) == (0, 0, 10)


async def test_refused_entry_with_a_fallback_leaves_no_trace_for_the_next(books: Books) -> None:
    """
    What a refused entry had moved in memory is taken back exactly, fallback included.
    """
    at = await _numbers(books, 30)
    batch = [
        Posting(kind=PostingKind.POST, fact_id=books.ids.mint(), transfers=transfers)
        for transfers in (
            (
                Transfer(debit=at.cash, credit=at.revenue, quanta=100, fallback=at.overrun),
                Transfer(debit=at.own_funds, credit=at.cash, quanta=60),
            ),
            (Transfer(debit=at.cash, credit=at.revenue, quanta=31),),
            (Transfer(debit=at.cash, credit=at.revenue, quanta=30),),
        )
    ]
    outcomes = await books.writer._batches.post(batch)
    assert [outcome.code for outcome in outcomes] == [
        "client_money_unsafeguarded",
        "insufficient",
        "ok",
    ]
    assert outcomes[1].available == 30
    assert await books.counters(at.overrun) == (0, 0, 0)


async def test_entry_is_judged_as_a_whole(books: Books) -> None:
    """
    A debit that a later transfer of the same entry covers is not short.
    """
    at = await _numbers(books, 10)
    rich = await books.cash(await books.buyer(10))
    outcome = await books.post(
        Transfer(debit=at.cash, credit=at.revenue, quanta=15),
        Transfer(debit=rich, credit=at.cash, quanta=5),
    )
    assert outcome.code == "ok"
    assert await books.counters(at.cash) == (0, 15, 15)


async def test_void_and_expire_give_everything_back(books: Books) -> None:
    """
    Both end a hold once; an expiry before its time is refused.
    """
    at = await _numbers(books)
    voided = await books.hold_cash(at.buyer, 30)
    expired = await books.hold_cash(at.buyer, 30)
    assert (await books.end(voided, PostingKind.VOID)).code == "ok"
    assert (await books.end(voided, PostingKind.VOID)).code == "replayed"
    assert (await books.end(expired, PostingKind.EXPIRE)).code == Refusal.HOLD_NOT_DUE
    books.clock.advance(timedelta(minutes=5))
    assert (await books.end(expired, PostingKind.EXPIRE)).code == "ok"
    assert await books.counters(at.cash) == (0, 0, 100)


async def test_settle_wins_until_the_expiry_is_posted(books: Books) -> None:
    """
    Expiry is an operation: a capture that comes later than the time, but first, counts.
    """
    at = await _numbers(books)
    hold_id = await books.hold_cash(at.buyer, 30)
    books.clock.advance(timedelta(hours=1))
    taken = Transfer(debit=at.cash, credit=at.revenue, quanta=30)
    assert (await books.capture(hold_id, taken)).code == "ok"
    assert await books.ledger.expire_due(grace=timedelta(0)) == 0
    assert (await books.end(hold_id, PostingKind.EXPIRE)).code == Refusal.HOLD_CLOSED


async def test_due_hold_ends_as_its_fate_says(books: Books) -> None:
    """
    Void gives back, capture pays the payee what is left, wait stays for a person.
    """
    at = await _numbers(books)
    await books.hold_cash(at.buyer, 10)
    paying = await books.hold_cash(at.buyer, 20, fate=Fate.CAPTURE, payee=at.revenue)
    waiting = await books.hold_cash(at.buyer, 30, fate=Fate.WAIT)
    await books.capture(paying, Transfer(debit=at.cash, credit=at.revenue, quanta=5), closes=False)
    books.clock.advance(timedelta(minutes=5, seconds=1))
    assert await books.ledger.expire_due(grace=timedelta(0)) == 2
    assert await books.counters(at.revenue) == (0, 0, 20)
    assert await books.counters(at.cash) == (30, 20, 100)
    view = await books.ledger.hold(waiting)
    assert view is not None
    assert view.state == "open"


async def test_batch_of_voids_alone_and_mixed_batches_are_posted(books: Books) -> None:
    """
    Empty columns (no transfer, no part in the whole batch) are as good as full ones.
    """
    at = await _numbers(books)
    free = books.placement()
    assert (await books.place(free)).code == "ok"
    assert (await books.end(free.hold_id, PostingKind.VOID)).code == "ok"
    holds = [await books.hold_cash(at.buyer, 10) for _ in range(4)]
    kinds = (PostingKind.VOID, PostingKind.CAPTURE, PostingKind.EXPIRE, PostingKind.POST)
    batch = [
        Posting(kind=kind, fact_id=hold_id) for kind, hold_id in zip(kinds, holds, strict=True)
    ]
    batch[-1] = replace(
        batch[-1],
        fact_id=books.ids.mint(),
        transfers=(Transfer(debit=at.cash, credit=at.revenue, quanta=60),),
    )
    outcomes = await books.writer._batches.post(batch)
    assert [outcome.code for outcome in outcomes] == ["ok", "ok", "hold_not_due", "ok"]
    assert await books.counters(at.cash) == (20, 60, 100)


async def test_transfer_without_fallback_moves_only_what_the_hold_can_give(books: Books) -> None:
    """
    Nobody bears what is above the hold: the answer says how much was not paid.
    """
    at = await _numbers(books, 50)
    hold_id = await books.hold_cash(at.buyer, 50)
    outcome = await books.capture(
        hold_id, Transfer(debit=at.cash, credit=at.revenue, quanta=70, fallback=NO_ACCOUNT)
    )
    assert (outcome.code, outcome.overrun) == ("ok", 20)
    assert await books.counters(at.revenue) == (0, 0, 50)


async def test_receipts_of_a_lane_form_one_chain(books: Books) -> None:
    """
    Each receipt names the link before; its sequence has no gap; a repeat has the same place.
    """
    at = await _numbers(books)
    roots = [hashlib.sha256(bytes([index])).digest() for index in range(3)]
    postings = [
        Posting(
            kind=PostingKind.CAPTURE,
            fact_id=await books.hold_cash(at.buyer, 10),
            receipt_root=root,
        )
        for root in roots
    ]
    outcomes = [await books.writer.post(posting) for posting in postings]
    link = bytes(32)
    for index, (outcome, root) in enumerate(zip(outcomes, roots, strict=True), start=1):
        assert (outcome.lane, outcome.receipt_sequence) == (books.writer.lane, index)
        assert outcome.receipt_previous == link
        link = hashlib.sha256(link + root).digest()
    again = await books.writer.post(postings[1])
    assert again.code == "replayed"
    assert again.receipt_sequence == 2
    assert again.receipt_previous == outcomes[1].receipt_previous


async def test_void_takes_no_more_than_was_held(books: Books) -> None:
    """
    Only a settle may take more than its hold; found by the machine, shrunk.
    """
    buyer = await books.buyer(100)
    held = await books.hold_cash(buyer, 22)
    cash, other = await books.cash(buyer), await books.cash(await books.buyer())
    await books.writer.post(
        Posting(
            kind=PostingKind.VOID,
            fact_id=held,
            transfers=(Transfer(debit=cash, credit=other, quanta=42),),
        )
    )
    assert await books.counters(cash) == (0, 22, 100)


async def test_entries_decided_together_leave_the_records_of_entries_decided_alone(
    books: Books,
) -> None:
    """
    Many plain entries, some of them on an account that cannot pay all: same answers, same bytes.
    """
    revenue, receivable = await books.platform("platform_revenue"), await books.platform("overrun")
    shapes = (
        (Transfer(debit=receivable, credit=revenue, quanta=3),),
        (),
        (
            Transfer(debit=receivable, credit=revenue, quanta=1),
            Transfer(debit=revenue, credit=receivable, quanta=2),
        ),
    )
    seen: list[tuple[list[str], list[str]]] = []
    for together_from in (1, 1_000):
        books.writer._batches._together_from = together_from
        cash, other = [await books.cash(await books.buyer(quanta)) for quanta in (100, 5)]
        tight = [
            (Transfer(debit=cash, credit=other, quanta=60),),
            (Transfer(debit=cash, credit=other, quanta=60, fallback=receivable),),
            (Transfer(debit=other, credit=cash, quanta=25),),
            (Transfer(debit=cash, credit=cash, quanta=1),),
            (Transfer(debit=receivable, credit=10**15, quanta=1),),
        ]
        batch = [
            Posting(kind=PostingKind.POST, fact_id=books.ids.mint(), transfers=transfers)
            for transfers in (*shapes, *tight, *shapes)
        ]
        outcomes = await books.writer._batches.post(batch)
        records = await books.rows(
            "SELECT e.record FROM ledger.entries AS e WHERE e.fact_id = ANY (%s) "
            "ORDER BY e.batch, e.position",
            [item.fact_id for item in batch],
        )
        names = {str(item.fact_id): f"fact {n}" for n, item in enumerate(batch)}
        names |= {str(cash): "cash", str(other): "other"}
        texts = [record for (record,) in records]
        for text, name in names.items():
            texts = [re.sub(rf"\b{text}\b", name, record) for record in texts]
        texts = [re.sub(r'"time":\d+', '"time":0', record) for record in texts]
        seen.append(([outcome.code for outcome in outcomes], texts))
    assert seen[0] == seen[1]
    assert seen[0][0][3:8] == [
        "ok",
        "client_money_unsafeguarded",
        "ok",
        "accounts_must_differ",
        "account_unknown",
    ]
