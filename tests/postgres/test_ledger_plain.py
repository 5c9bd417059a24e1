"""
Batches in which nothing can be refused go a shorter way: the same answers, the same records.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final, LiteralString

import pytest

from tests.simulation.books import USD_ID, Books, open_books
from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.limits import BATCH_OPERATIONS_MAX
from tokenworks.ledger.batching.batches import PLAIN_PAUSE_BATCHES, Batches
from tokenworks.ledger.batching.lane_connection import LaneConnection
from tokenworks.ledger.batching.packing import Columns
from tokenworks.ledger.model import Outcome, Posting, PostingKind, Reservation, Transfer

NEVER: Final = 1_000


@dataclass
class Plain:
    """
    Accounts to move between, and what became of the batches that seemed plain.
    """

    books: Books
    cash: int
    other: int
    revenue: int
    own_funds: int
    limit: int
    tried: list[bool] = field(default_factory=list[bool])

    def post(self, *transfers: Transfer, **more: Any) -> Posting:  # noqa: ANN401 - handed on
        """
        Form an entry.
        """
        fact_id = more.pop("fact_id", None) or self.books.ids.mint()
        return Posting(kind=PostingKind.POST, fact_id=fact_id, transfers=transfers, **more)

    def pay(self, quanta: int = 1) -> Posting:
        """
        Form an entry from one client to another.
        """
        return self.post(Transfer(debit=self.cash, credit=self.other, quanta=quanta))

    async def run(self, *batch: Posting) -> list[Outcome]:
        """
        Run a batch of its own, whatever became of the last one.
        """
        self.books.writer._batches._plain_pause = 0
        return await self.books.writer._batches.post(batch)


@pytest.fixture
async def plain(
    dsn: str, clock: FakeClock, ids: IdentifierSource, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Plain]:
    """
    Two buyers with 100 each; the books must be clean in the end.
    """
    async with open_books(dsn, clock, ids) as books:
        books.writer._batches._together_from = 1
        cash, other = [await books.cash(await books.buyer(100)) for _ in range(2)]
        plain = Plain(
            books=books,
            cash=cash,
            other=other,
            revenue=await books.platform("platform_revenue"),
            own_funds=await books.platform("own_funds"),
            limit=await books.platform("limit_source", "LIMIT.USD"),
        )
        post = Batches._post_plain

        async def note(batches: Batches, columns: tuple[Any, ...]) -> Outcome | None:
            outcome = await post(batches, columns)
            plain.tried.append(outcome is not None)
            return outcome

        monkeypatch.setattr(Batches, "_post_plain", note)
        yield plain
        await books.assert_clean()


async def test_plain_batch_leaves_the_records_of_entries_decided_one_by_one(plain: Plain) -> None:
    """
    One transfer each, or many, or none; ordinals; meta: the same bytes whichever way they go.
    """
    books, seen = plain.books, list[tuple[list[str], list[str], tuple[int, int, int]]]()
    shapes: tuple[Callable[[], list[Posting]], ...] = (
        lambda: [
            plain.pay(2),
            plain.post(Transfer(debit=plain.other, credit=plain.cash, quanta=1)),
        ],
        lambda: [
            plain.post(),
            plain.post(
                Transfer(debit=plain.cash, credit=plain.other, quanta=2),
                Transfer(debit=plain.other, credit=plain.cash, quanta=2),
                meta='{"reason":"swap"}',
            ),
            replace(plain.pay(1), ordinal=3),
        ],
    )
    for together_from in (1, NEVER):
        books.writer._batches._together_from = together_from
        batches = [shape() for shape in shapes]
        codes = [outcome.code for batch in batches for outcome in await plain.run(*batch)]
        facts = [item.fact_id for batch in batches for item in batch]
        texts: list[str] = []
        for index, fact in enumerate(facts):
            rows = await books.rows(
                "SELECT record, ordinal, operation FROM ledger.entries WHERE fact_id = %s", fact
            )
            text = re.sub(r'"time":\d+', '"time":0', " ".join(map(str, rows[0])))
            texts.append(text.replace(str(fact), f"fact {index}"))
        seen.append((codes, texts, await books.counters(plain.cash)))
    assert plain.tried == [True, True]
    assert seen[0][:2] == seen[1][:2]
    assert [b - a for a, b in zip((0, 0, 100), seen[0][2], strict=True)] == [0, 5, 3]
    assert [b - a for a, b in zip(seen[0][2], seen[1][2], strict=True)] == [0, 5, 3]


SPECIAL: Final[dict[str, tuple[Callable[[Plain], Posting], str]]] = {
    "more than the account has": (lambda at: at.pay(101), "insufficient"),
    "covered only by its own credit": (
        lambda at: at.post(
            Transfer(debit=at.other, credit=at.cash, quanta=50),
            Transfer(debit=at.cash, credit=at.other, quanta=140),
        ),
        "ok",
    ),
    "account that is not there": (
        lambda at: at.post(Transfer(debit=at.cash, credit=10**15, quanta=1)),
        "account_unknown",
    ),
    "one account on both sides": (
        lambda at: at.post(Transfer(debit=at.cash, credit=at.cash, quanta=1)),
        "accounts_must_differ",
    ),
    "nothing": (lambda at: at.pay(0), "amount_invalid"),
    "less than nothing": (lambda at: at.pay(-1), "amount_invalid"),
    "beyond the largest amount": (lambda at: at.pay(2**62 + 1), "amount_invalid"),
    "two assets": (
        lambda at: at.post(Transfer(debit=at.cash, credit=at.limit, quanta=1)),
        "asset_mismatch",
    ),
    "client money without cover": (
        lambda at: at.post(Transfer(debit=at.revenue, credit=at.cash, quanta=1)),
        "client_money_unsafeguarded",
    ),
    "deadline": (
        lambda at: replace(at.pay(), deadline=at.books.clock.now() - timedelta(seconds=1)),
        "deadline_passed",
    ),
}


@pytest.mark.parametrize("which", SPECIAL)
async def test_batch_with_anything_special_is_decided_the_long_way(
    plain: Plain, which: str
) -> None:
    """
    Nothing is written before that is clear; the others of the batch are not disturbed.
    """
    form, code = SPECIAL[which]
    batch = [plain.pay(1), form(plain), plain.pay(1)]
    outcomes = await plain.run(*batch)
    assert plain.tried == [False]
    assert [outcome.code for outcome in outcomes] == ["ok", code, "ok"]
    assert (await plain.books.counters(plain.cash))[1] == (142 if code == "ok" else 2)


async def test_what_is_held_is_not_there(plain: Plain) -> None:
    """
    Up to what is available a batch is plain, above it is not.
    """
    books = plain.books
    held = Reservation(asset_id=USD_ID, quanta=60, account_id=plain.cash)
    assert (await books.place(books.placement(held))).code == "ok"
    assert [outcome.code for outcome in await plain.run(plain.pay(39))] == ["ok"]
    assert [outcome.code for outcome in await plain.run(plain.pay(2))] == ["insufficient"]
    assert [outcome.code for outcome in await plain.run(plain.pay(1))] == ["ok"]
    assert plain.tried == [True, False, True]


async def test_kinds_of_accounts_may_share_a_plain_batch(plain: Plain) -> None:
    """
    Money and limits, client money and the platform's own, as long as no transfer crosses.
    """
    own = plain.post(Transfer(debit=plain.revenue, credit=plain.own_funds, quanta=1))
    other = await plain.books.platform("limit_spent", "LIMIT.USD")
    limits = plain.post(Transfer(debit=plain.limit, credit=other, quanta=1))
    outcomes = await plain.run(own, limits, plain.pay())
    assert [outcome.code for outcome in outcomes] == ["ok"] * 3
    assert plain.tried == [True]


@pytest.mark.parametrize("state", ["frozen", "closed"])
async def test_account_that_is_not_active_is_not_plain(plain: Plain, state: str) -> None:
    """
    What its state means is for the long way to say.
    """
    await plain.books.execute(
        "UPDATE ledger.balances SET state = %s WHERE account_id = %s", state, plain.cash
    )
    outcomes = await plain.run(plain.pay(), plain.pay())
    assert plain.tried == [False]
    assert {outcome.code for outcome in outcomes} == {"account_frozen"}


async def test_recorded_fact_is_answered_as_the_first_time(plain: Plain) -> None:
    """
    A repeat, and the same fact with other content, are for the long way.
    """
    first = plain.pay(5)
    assert [outcome.code for outcome in await plain.run(first)] == ["ok"]
    other = replace(first, transfers=(Transfer(debit=plain.cash, credit=plain.other, quanta=6),))
    for told, code in ((first, "replayed"), (other, "conflict")):
        outcomes = await plain.run(told, plain.pay(1))
        assert [outcome.code for outcome in outcomes] == [code, "ok"]
    assert plain.tried == [True, False, False]
    assert (await plain.books.counters(plain.cash))[1] == 7


async def test_ids_outside_of_the_window_are_refused(plain: Plain) -> None:
    """
    Before the first month, and too far ahead.
    """
    clock, now = plain.books.clock, plain.books.clock.now()
    for moment in (now - timedelta(days=400), now + timedelta(minutes=6)):
        fact_id = IdentifierSource(FakeClock(moment)).mint()
        batch = sorted(
            [plain.pay(), replace(plain.pay(), fact_id=fact_id)], key=lambda p: p.fact_id
        )
        outcomes = await plain.run(*batch)
        assert sorted(outcome.code for outcome in outcomes) == ["id_outside_window", "ok"]
    assert plain.tried == [False, False]
    assert clock.now() == now


async def test_ids_that_do_not_rise_are_not_tried(plain: Plain) -> None:
    """
    Facts are inserted in their order, so that two writers cannot wait for each other.
    """
    batch = [plain.pay(), plain.pay()]
    assert {outcome.code for outcome in await plain.run(*reversed(batch))} == {"ok"}
    assert plain.tried == []


async def test_batch_has_the_time_of_its_latest_account(plain: Plain) -> None:
    """
    Another writer, whose clock was ahead, had one of the accounts: all go on from there.
    """
    later = plain.books.clock.now() + timedelta(milliseconds=400)
    await plain.books.execute(
        "UPDATE ledger.balances SET last_time = %s WHERE account_id = %s", later, plain.other
    )
    outcomes = await plain.run(plain.pay())
    assert plain.tried == [True]
    assert outcomes[0].recorded_at == later
    rows = await plain.books.rows(
        "SELECT DISTINCT last_time FROM ledger.balances WHERE account_id = ANY (%s) "
        "UNION SELECT last_time FROM ledger.lanes WHERE lane = %s",
        [plain.cash, plain.other],
        plain.books.writer.lane,
    )
    assert rows == [(later,)]
    late = replace(plain.pay(), deadline=later - timedelta(milliseconds=1))
    assert [outcome.code for outcome in await plain.run(late)] == ["deadline_passed"]


async def test_after_a_batch_that_was_not_plain_the_next_are_not_tried(plain: Plain) -> None:
    """
    What comes next is often alike, and a try that fails costs a third of a batch.
    """
    await plain.run(plain.pay(101))
    for _ in range(PLAIN_PAUSE_BATCHES + 1):
        await plain.books.writer._batches.post([plain.pay()])
    assert plain.tried == [False, True]


async def test_next_list_is_packed_while_the_one_before_is_committed(
    plain: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    And packed again where it then goes to another lane.
    """
    lists = [[plain.post() for _ in range(BATCH_OPERATIONS_MAX)] for _ in range(4)]
    books, happened = plain.books, list[str]()
    lane, pack, call = books.writer.lane, Batches._pack, LaneConnection.call

    def note_pack(batches: Batches, batch: Sequence[Posting]) -> Columns:
        happened.append("packed")
        return pack(batches, batch)

    async def note_call(
        connection: LaneConnection, query: LiteralString, parameters: Sequence[Any]
    ) -> list[Any]:
        happened.append("sent")
        if happened.count("sent") == 3:
            await books.execute("UPDATE ledger.lanes SET epoch = epoch + 1, holder = 'thief'")
        return await call(connection, query, parameters)

    monkeypatch.setattr(Batches, "_pack", note_pack)
    monkeypatch.setattr(LaneConnection, "call", note_call)
    answers = await asyncio.gather(*map(books.writer.post_all, lists))
    assert [{outcome.code for outcome in outcomes} for outcomes in answers] == [{"ok"}] * 4
    assert [{outcome.lane for outcome in outcomes} for outcomes in answers] == [
        {lane},
        {lane},
        {books.writer.lane},
        {books.writer.lane},
    ]
    assert books.writer.lane != lane
    # The third is sent in vain and packed anew, and so is the fourth, which was packed meanwhile.
    steps = "packed sent packed sent packed sent packed packed sent packed sent"
    assert happened == steps.split()
