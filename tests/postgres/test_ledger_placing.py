"""
Placing and extending holds: every refusal in its order, and what a hold takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from tests.simulation.books import (
    CNY_ID,
    LIMIT_TOKENS_ID,
    LIMIT_USD_ID,
    USD_ID,
    Books,
    open_books,
)
from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.money import LIMIT_TOKENS, LIMIT_USD
from tokenworks.ledger.model import Fate, Placement, PostingKind, Refusal, Reservation, Transfer


@pytest.fixture
async def books(dsn: str, clock: FakeClock, ids: IdentifierSource) -> AsyncIterator[Books]:
    """
    A ledger that must be clean when the test is over.
    """
    async with open_books(dsn, clock, ids) as books:
        yield books
        await books.assert_clean()


PLACE_ORDER = (
    Refusal.CONFLICT,
    Refusal.DEADLINE_PASSED,
    Refusal.ID_OUTSIDE_WINDOW,
    Refusal.SPEND_PATH_UNKNOWN,
    Refusal.SPEND_PATH_STALE,
    Refusal.SCOPE_FROZEN,
    Refusal.SCOPE_CLOSED,
    Refusal.FUNDING_ACCOUNT_MISSING,
    Refusal.ACCOUNT_UNKNOWN,
    Refusal.ASSET_MISMATCH,
    Refusal.AMOUNT_INVALID,
    Refusal.ACCOUNT_FROZEN,
    Refusal.INSUFFICIENT,
)


async def _flawed(books: Books, flaws: tuple[Refusal, ...]) -> Placement:
    """
    Form a placement with all of these flaws at once.
    """
    buyer = await books.buyer(100)
    poor, frozen = await books.buyer(10), await books.buyer(100)
    path = await books.path(buyer)
    version = 1
    if Refusal.SPEND_PATH_UNKNOWN in flaws:
        version = 9
    elif Refusal.SPEND_PATH_STALE in flaws:
        await books.ledger.publish_path(
            path_id=path, scope_ids=[path, buyer], funding_party_id=buyer
        )
    if Refusal.SCOPE_FROZEN in flaws:
        await books.ledger.set_scope_state(path, "frozen")
    if Refusal.SCOPE_CLOSED in flaws:
        await books.ledger.set_scope_state(buyer, "closed")
    await books.rows(
        "SELECT ledger.set_account_state_v1(%s, 'frozen', %s)",
        await books.cash(frozen),
        books.clock.now(),
    )
    wanted = {
        Refusal.FUNDING_ACCOUNT_MISSING: Reservation(asset_id=CNY_ID, quanta=5),
        Refusal.ACCOUNT_UNKNOWN: Reservation(asset_id=USD_ID, quanta=5, account_id=10**12),
        Refusal.ASSET_MISMATCH: Reservation(
            asset_id=CNY_ID, quanta=5, account_id=await books.cash(buyer)
        ),
        Refusal.AMOUNT_INVALID: Reservation(asset_id=USD_ID, quanta=-5),
        Refusal.ACCOUNT_FROZEN: Reservation(
            asset_id=USD_ID, quanta=5, account_id=await books.cash(frozen)
        ),
        Refusal.INSUFFICIENT: Reservation(
            asset_id=USD_ID, quanta=11, account_id=await books.cash(poor)
        ),
    }
    placement = books.placement(
        # Mixed up, so that it is not the order of the amounts that decides.
        *(wanted[flaw] for flaw in reversed(flaws) if flaw in wanted),
        path_id=path,
        path_version=version,
    )
    if Refusal.ID_OUTSIDE_WINDOW in flaws:
        placement = replace(placement, hold_id=UUID(int=placement.hold_id.int + (400_000 << 80)))
    if Refusal.DEADLINE_PASSED in flaws:
        placement = replace(placement, deadline=books.clock.now() - timedelta(seconds=1))
    if Refusal.CONFLICT in flaws:
        first = books.placement(hold_id=books.ids.mint(), meta='{"other":1}')
        assert (await books.place(first)).code == "ok"
        placement = replace(placement, hold_id=first.hold_id)
    return placement


@pytest.mark.parametrize("first", range(len(PLACE_ORDER)), ids=[code.value for code in PLACE_ORDER])
async def test_placement_is_refused_for_the_first_reason_in_the_documented_order(
    books: Books, first: int
) -> None:
    """
    With a flaw and all later ones, the earliest of the documented order is answered.
    """
    placement = await _flawed(books, PLACE_ORDER[first:])
    assert (await books.place(placement)).code == PLACE_ORDER[first]


async def test_placement_without_any_flaw_is_done(books: Books) -> None:
    """
    The table above fails for its flaws and nothing else.
    """
    assert (await books.place(await _flawed(books, ()))).code == "ok"


async def test_extension_is_refused_for_the_first_reason_in_the_documented_order(
    books: Books,
) -> None:
    """
    Unknown hold, closed hold, frozen scope, money that was not held, invalid, frozen, short.
    """
    buyer = await books.buyer(100)
    path = await books.path(buyer)
    reservation = Reservation(asset_id=USD_ID, quanta=60)
    place = books.placement(reservation, path_id=path)

    async def extend(*amounts: Reservation, hold: UUID = place.hold_id) -> str:
        number = len(answers) + 1
        outcome = await books.place(books.placement(*amounts, hold_id=hold, extension=number))
        answers.append(outcome.code)
        return outcome.code

    answers: list[str] = []
    assert await extend(reservation, hold=books.ids.mint()) == Refusal.HOLD_UNKNOWN
    assert (await books.place(place)).code == "ok"
    closed = await books.hold_cash(buyer, 1)
    await books.end(closed, PostingKind.VOID)
    await books.ledger.set_scope_state(path, "frozen")
    foreign = Reservation(asset_id=CNY_ID, quanta=1)
    invalid = Reservation(asset_id=USD_ID, quanta=-1)
    assert await extend(foreign, hold=closed) == Refusal.HOLD_CLOSED
    assert await extend(foreign, invalid, reservation) == Refusal.SCOPE_FROZEN
    await books.ledger.set_scope_state(path, "active")
    await books.rows(
        "SELECT ledger.set_account_state_v1(%s, 'frozen', %s)",
        await books.cash(buyer),
        books.clock.now(),
    )
    assert await extend(foreign, invalid, reservation) == Refusal.FUNDING_ACCOUNT_MISSING
    assert await extend(invalid, reservation) == Refusal.AMOUNT_INVALID
    assert await extend(reservation) == Refusal.ACCOUNT_FROZEN
    await books.rows(
        "SELECT ledger.set_account_state_v1(%s, 'active', %s)",
        await books.cash(buyer),
        books.clock.now(),
    )
    assert await extend(reservation) == Refusal.INSUFFICIENT
    assert await extend(Reservation(asset_id=USD_ID, quanta=40)) == "ok"


async def test_refused_hundred_does_not_stop_the_ten_behind_it(books: Books) -> None:
    """
    Operations of a batch are decided one by one: 100 is refused on 50, the next 10 is placed.
    """
    cash = await books.cash(await books.buyer(50))
    batch = [
        books.placement(Reservation(asset_id=USD_ID, quanta=quanta, account_id=cash))
        for quanta in (100, 10, 41, 40, 1)
    ]
    outcomes = await books.writer._batches.place(batch)
    assert [outcome.code for outcome in outcomes] == [
        "insufficient",
        "ok",
        "insufficient",
        "ok",
        "insufficient",
    ]
    assert (outcomes[0].refused_account, outcomes[0].available) == (cash, 50)
    assert (outcomes[2].available, outcomes[4].available) == (40, 0)
    assert await books.counters(cash) == (50, 0, 50)


async def test_repeat_is_answered_as_the_first_time(books: Books) -> None:
    """
    The same fact with the same content has one effect; deadline and funds do not matter.
    """
    cash = await books.cash(await books.buyer(50))
    placement = books.placement(Reservation(asset_id=USD_ID, quanta=50, account_id=cash))
    first = await books.place(placement)
    books.clock.advance(timedelta(seconds=90))
    assert placement.deadline < books.clock.now()
    again = await books.place(placement)
    assert again.code == "replayed"
    assert (again.recorded_at, again.expires_at) == (first.recorded_at, first.expires_at)
    assert again.parts == first.parts
    assert await books.counters(cash) == (50, 0, 50)
    other = replace(placement, reservations=())
    assert (await books.place(other)).code == Refusal.CONFLICT


async def test_two_amounts_of_one_account_are_one_part(books: Books) -> None:
    """
    What is asked of an account twice is judged and held as a sum.
    """
    cash = await books.cash(await books.buyer(100))
    sixty = Reservation(asset_id=USD_ID, quanta=60, account_id=cash)
    forty = Reservation(asset_id=USD_ID, quanta=40, account_id=cash)
    refused = await books.place(books.placement(sixty, sixty))
    assert (refused.code, refused.available) == (Refusal.INSUFFICIENT, 100)
    hold = books.placement(sixty, forty)
    outcome = await books.place(hold)
    assert [(part.account_id, part.quanta) for part in outcome.parts] == [(cash, 100)]
    revenue = await books.platform("platform_revenue")
    await books.capture(hold.hold_id, Transfer(debit=cash, credit=revenue, quanta=70))
    assert await books.counters(cash) == (0, 70, 100)


async def test_extension_of_a_doubled_amount_grows_by_the_sum(books: Books) -> None:
    """
    An extension grows each part of its asset once by all that was asked.
    """
    cash = await books.cash(await books.buyer(100))
    ten = Reservation(asset_id=USD_ID, quanta=10, account_id=cash)
    hold = books.placement(ten, ten)
    await books.place(hold)
    outcome = await books.place(books.placement(ten, ten, hold_id=hold.hold_id, extension=1))
    assert outcome.code == "ok"
    assert [part.quanta for part in outcome.parts] == [40]
    assert await books.counters(cash) == (40, 0, 100)


async def test_hold_of_nothing_is_placed_and_ends(books: Books) -> None:
    """
    A free call has a hold, an entry and an end like any other.
    """
    zero = Reservation(asset_id=USD_ID, quanta=0)
    path = await books.path(await books.buyer())
    free = [books.placement(zero, path_id=path) for _ in range(3)]
    assert {outcome.code for outcome in await books.writer._batches.place(free)} == {"ok"}
    assert (await books.capture(free[0].hold_id)).code == "ok"
    assert (await books.end(free[1].hold_id, PostingKind.VOID)).code == "ok"
    books.clock.advance(timedelta(minutes=6))
    assert (await books.end(free[2].hold_id, PostingKind.EXPIRE)).code == "ok"
    assert (await books.capture(free[2].hold_id)).code == Refusal.HOLD_CLOSED


async def test_hold_takes_money_and_every_limit_of_its_path_or_nothing(books: Books) -> None:
    """
    The tightest limit refuses, in proportion to what is asked of it; then nothing is held.
    """
    buyer = await books.buyer(1_000)
    team = books.ids.mint()
    path = await books.path(buyer, [team])
    set_limit = books.ledger.set_limit
    await set_limit(scope_id=buyer, asset=LIMIT_USD, quanta=500, window="day", actor="test")
    wide = await set_limit(scope_id=team, asset=LIMIT_USD, quanta=90, window="ever", actor="test")
    tight = await set_limit(
        scope_id=path, asset=LIMIT_TOKENS, quanta=5, window="month", actor="test"
    )
    asked = (
        Reservation(asset_id=USD_ID, quanta=100),
        Reservation(asset_id=LIMIT_USD_ID, quanta=100),
        Reservation(asset_id=LIMIT_TOKENS_ID, quanta=100),
    )
    refused = await books.place(books.placement(*asked, path_id=path))
    error = await books.ledger.refusal(refused)
    assert error.details["limit_id"] == tight.limit_id
    assert error.code == "limit_exceeded"
    assert await books.counters(await books.cash(buyer)) == (0, 0, 1_000)
    refused = await books.place(books.placement(*asked[:2], path_id=path))
    error = await books.ledger.refusal(refused)
    assert (error.details["limit_id"], error.code) == (wide.limit_id, "limit_exhausted")
    held = await books.place(
        books.placement(
            *(replace_quanta(item, 5) for item in asked),
            path_id=path,
        )
    )
    assert [part.quanta for part in held.parts] == [5] * 4
    views = await books.ledger.limits([buyer, team, path])
    assert [(view.remaining, view.held) for view in views] == [(495, 5), (85, 5), (0, 5)]


def replace_quanta(item: Reservation, quanta: int) -> Reservation:
    """
    Return a reservation of another amount.
    """
    return Reservation(asset_id=item.asset_id, quanta=quanta, account_id=item.account_id)


async def test_frozen_scope_stops_growth_but_neither_heartbeat_nor_capture(books: Books) -> None:
    """
    Freezing one ancestor stops new holds and growth of the whole tree at once.
    """
    buyer = await books.buyer(100)
    path = await books.path(buyer)
    ten = Reservation(asset_id=USD_ID, quanta=10)
    placement = books.placement(ten, path_id=path)
    placed = await books.place(placement)
    await books.ledger.set_scope_state(buyer, "frozen")
    assert (await books.place(books.placement(ten, path_id=path))).code == Refusal.SCOPE_FROZEN
    grow = books.placement(ten, hold_id=placement.hold_id, extension=1)
    assert (await books.place(grow)).code == Refusal.SCOPE_FROZEN
    beat = books.placement(hold_id=placement.hold_id, extension=2, lives=timedelta(minutes=20))
    outcome = await books.place(beat)
    assert outcome.code == "ok"
    assert placed.expires_at is not None
    assert outcome.expires_at == placed.expires_at + timedelta(minutes=15)
    revenue = await books.platform("platform_revenue")
    cash = await books.cash(buyer)
    captured = await books.capture(
        placement.hold_id, Transfer(debit=cash, credit=revenue, quanta=10)
    )
    assert captured.code == "ok"
    await books.ledger.set_scope_state(buyer, "active")
    assert (await books.place(books.placement(ten, path_id=path))).code == "ok"


async def test_scope_that_nobody_opened_is_closed(books: Books) -> None:
    """
    Who is not known to the ledger may not spend.
    """
    buyer = await books.buyer(100)
    path = await books.path(buyer)
    stranger = books.ids.mint()
    version = await books.ledger.publish_path(
        path_id=path, scope_ids=[buyer, stranger, path], funding_party_id=buyer
    )
    ten = Reservation(asset_id=USD_ID, quanta=10)
    wish = books.placement(ten, path_id=path, path_version=version)
    assert (await books.place(wish)).code == Refusal.SCOPE_CLOSED
    await books.ledger.open_scope(stranger)
    assert (await books.place(wish)).code == "ok"


async def test_scope_past_its_expiry_is_closed(books: Books) -> None:
    """
    A key that expired holds nothing more, whatever a cache believes.
    """
    buyer = await books.buyer(100)
    path = await books.path(buyer)
    end = books.clock.now() + timedelta(seconds=10)
    await books.ledger.open_scope(path, expires_at=end)
    ten = Reservation(asset_id=USD_ID, quanta=10)
    assert (await books.place(books.placement(ten, path_id=path))).code == "ok"
    books.clock.advance(timedelta(seconds=10))
    assert (await books.place(books.placement(ten, path_id=path))).code == Refusal.SCOPE_CLOSED


async def test_heartbeat_never_shortens_a_hold(books: Books) -> None:
    """
    The later of two expiries counts.
    """
    hold_id = await books.hold_cash(await books.buyer(10), 10, lives=timedelta(minutes=10))
    beat = books.placement(hold_id=hold_id, extension=1, lives=timedelta(seconds=1))
    outcome = await books.place(beat)
    assert outcome.expires_at == books.clock.now() + timedelta(minutes=10)


@pytest.mark.parametrize("payee", [None, 10**12])
async def test_hold_that_is_to_pay_somebody_needs_the_payee(
    books: Books, payee: int | None
) -> None:
    """
    A hold whose fate is capture is refused at placement when nobody would be paid.
    """
    cash = await books.cash(await books.buyer(10))
    placement = books.placement(
        Reservation(asset_id=USD_ID, quanta=1, account_id=cash), fate=Fate.CAPTURE, payee=payee
    )
    assert (await books.place(placement)).code == Refusal.ACCOUNT_UNKNOWN


@pytest.mark.parametrize("quanta", [2**62 + 1, 2**63 - 1])
async def test_amount_beyond_the_largest_is_refused(books: Books, quanta: int) -> None:
    """
    More than 2^62 quanta is invalid, also as a sum of valid amounts.
    """
    unbounded = await books.platform("overrun")
    whole = Reservation(asset_id=USD_ID, quanta=quanta, account_id=unbounded)
    half = Reservation(asset_id=USD_ID, quanta=2**61 + 1, account_id=unbounded)
    assert (await books.place(books.placement(whole))).code == Refusal.AMOUNT_INVALID
    assert (await books.place(books.placement(half, half))).code == Refusal.AMOUNT_INVALID
    largest = Reservation(asset_id=USD_ID, quanta=2**62, account_id=unbounded)
    placed = books.placement(largest)
    assert (await books.place(placed)).code == "ok"
    await books.end(placed.hold_id, PostingKind.VOID)


async def test_thousand_operations_are_a_few_batches(books: Books) -> None:
    """
    They are decided in order: exactly as many holds as the balance covers.
    """
    cash = await books.cash(await books.buyer(7_000))
    batch = [
        books.placement(Reservation(asset_id=USD_ID, quanta=10, account_id=cash))
        for _ in range(1_000)
    ]
    before = books.writer.batches
    outcomes = await asyncio.gather(*(books.place(item) for item in batch))
    assert books.writer.batches <= before + 10
    codes = [outcome.code for outcome in outcomes]
    assert codes == ["ok"] * 700 + ["insufficient"] * 300
    voids = [books.end(item.hold_id, PostingKind.VOID) for item in batch]
    ended = [outcome.code for outcome in await asyncio.gather(*voids)]
    assert ended == ["ok"] * 700 + ["hold_unknown"] * 300
    assert await books.counters(cash) == (0, 0, 7_000)
