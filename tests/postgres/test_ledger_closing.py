"""
Dates are closed in order, whole, once; what comes later counts later.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, time, timedelta
from uuid import UUID

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.simulation.books import Books, open_books
from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.money import USD, Amount
from tokenworks.ledger import closing
from tokenworks.ledger.closing import Closing, DateClosings, Sealer
from tokenworks.ledger.closing_statement import chain_problems
from tokenworks.ledger.correcting import Corrections
from tokenworks.ledger.errors import (
    DateClosedError,
    DateNotOverError,
    EarlierDateOpenError,
    LedgerUnavailableError,
)
from tokenworks.ledger.model import Outcome, Posting, PostingKind, Transfer
from tokenworks.ledger.writer import Writer
from tokenworks.receipts.certificates import issue_certificate
from tokenworks.receipts.jws import thumbprint, to_jwk
from tokenworks.receipts.signed_statement import read_signed_statement
from tokenworks.receipts.signing import LaneSigner
from tokenworks.receipts.trust import TrustedKeys

DAY = timedelta(days=1)
ROOT = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
LANE = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
TRUSTED = TrustedKeys([to_jwk(ROOT.public_key())])


@pytest.fixture
def clock() -> FakeClock:
    """
    A clock that stands at noon of a day.
    """
    return FakeClock(datetime(2026, 11, 10, 12, tzinfo=UTC))


@pytest.fixture
async def books(dsn: str, clock: FakeClock, ids: IdentifierSource) -> AsyncIterator[Books]:
    """
    A ledger that must be clean when the test is over.
    """
    async with open_books(dsn, clock, ids) as books:
        yield books
        await books.assert_clean()


@pytest.fixture
def closings(books: Books) -> DateClosings:
    """
    Close with a real key that a root certified.
    """
    certificate = issue_certificate(
        ROOT,
        LANE.public_key(),
        lane=1,
        valid_from=datetime(2026, 1, 1, tzinfo=UTC),
        retired_at=None,
    )
    root_kid = thumbprint(to_jwk(ROOT.public_key()))
    signer = LaneSigner(LANE, lane=1, root_kid=root_kid, certificate=certificate)
    sealer = Sealer(sign=signer.sign_statement, certificate=certificate)
    return DateClosings(books.dsn, clock=books.clock, sealer=sealer)


def _today(books: Books) -> date:
    return books.clock.now().date()


def _go_to(books: Books, day: date, *, after_midnight: timedelta = timedelta(hours=12)) -> None:
    moment = datetime.combine(day, time(), UTC) + after_midnight
    books.clock.advance(moment - books.clock.now())


def _moved(closing: Closing, purpose: str) -> tuple[int, int, int, int]:
    rows = [row for row in closing.statement.rows if row.purpose == purpose]
    return (
        sum(int(row.debits_of_day) for row in rows),
        sum(int(row.credits_of_day) for row in rows),
        sum(int(row.debits) for row in rows),
        sum(int(row.credits) for row in rows),
    )


async def _dated(books: Books, day: date | None, quanta: int = 1) -> Outcome:
    own, bank = await books.platform("own_funds"), await books.platform("safeguarded")
    return await books.writer.post(
        Posting(
            kind=PostingKind.POST,
            fact_id=books.ids.mint(),
            transfers=(Transfer(debit=bank, credit=own, quanta=quanta),),
            accounting_date=day,
        )
    )


async def test_close_is_the_trial_balance_of_its_date(books: Books, closings: DateClosings) -> None:
    """
    What is booked afterwards is not in it; what was before is carried on.
    """
    first = _today(books)
    await books.buyer(100)
    _go_to(books, first + DAY)
    await books.buyer(40)
    one = await closings.close(first, actor="ann")
    _go_to(books, first + 2 * DAY)
    two = await closings.close(first + DAY, actor="bob")

    assert _moved(one, "cash") == (0, 100, 0, 100)
    assert _moved(two, "cash") == (0, 40, 0, 140)
    assert (one.statement.entries, two.statement.entries) == (1, 1)
    assert [(p.client_money, p.safeguarded) for p in two.statement.proofs] == [("140", "140")]
    assert one.statement.previous is None
    assert two.statement.previous is not None
    assert two.statement.previous.date == first
    assert (two.statement.actor, two.replayed) == ("bob", False)
    assert [head.lane for head in two.statement.lanes] == [books.ledger.lane]


async def test_last_close_agrees_with_the_books(books: Books, closings: DateClosings) -> None:
    """
    Limits, holds and captures are in it, by kind of account.
    """
    buyer = await books.buyer(100)
    hold = await books.hold_cash(buyer, 60)
    revenue = await books.platform("platform_revenue")
    own, bank = await books.platform("own_funds"), await books.platform("safeguarded")
    await books.capture(
        hold,
        Transfer(debit=await books.cash(buyer), credit=revenue, quanta=60),
        Transfer(debit=own, credit=bank, quanta=60),
    )
    day = _today(books)
    _go_to(books, day + DAY)
    closing = await closings.close(day, actor="ann")
    trial = await books.ledger.trial_balance()
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for row in trial.rows:
        debits, credits = found.get((row.asset, row.purpose), (0, 0))
        sums = (debits + row.debits_posted, credits + row.credits_posted)
        found[row.asset, row.purpose] = sums
    expected = {key: sums for key, sums in found.items() if any(sums)}
    assert {
        (row.asset, row.purpose): (int(row.debits), int(row.credits))
        for row in closing.statement.rows
    } == expected


@pytest.mark.parametrize(
    "after_midnight", [-timedelta(hours=1), timedelta(0), timedelta(seconds=1.9)]
)
async def test_date_that_is_not_over_is_not_closed(
    books: Books, closings: DateClosings, after_midnight: timedelta
) -> None:
    """
    Clocks may differ: two seconds are waited for. Tomorrow is refused likewise.
    """
    day = _today(books)
    _go_to(books, day + DAY, after_midnight=after_midnight)
    with pytest.raises(DateNotOverError):
        await closings.close(day, actor="ann")
    with pytest.raises(DateNotOverError):
        await closings.close(day + 5 * DAY, actor="ann")
    with pytest.raises(DateNotOverError):
        await closings.close(date.max, actor="ann")
    _go_to(books, day + DAY, after_midnight=timedelta(seconds=2))
    await closings.close(day, actor="ann")


async def test_dates_are_closed_in_order(books: Books, closings: DateClosings) -> None:
    """
    A date with bookings is never passed over; one without may be, and is closed with the next.
    """
    first = _today(books)
    await books.buyer(100)
    _go_to(books, first + 5 * DAY)
    with pytest.raises(EarlierDateOpenError) as refused:
        await closings.close(first + 2 * DAY, actor="ann")
    assert refused.value.details == {"date": first.isoformat()}
    await closings.close(first, actor="ann")
    await closings.close(first + 2 * DAY, actor="ann")
    with pytest.raises(DateClosedError):
        await closings.close(first + DAY, actor="ann")
    assert (await _dated(books, first + DAY)).code == "date_closed"
    # A correction to an open date is a booking on it.
    assert (await _dated(books, first + 3 * DAY)).code == "ok"
    with pytest.raises(EarlierDateOpenError):
        await closings.close(first + 4 * DAY, actor="ann")


async def test_close_is_stored_once(books: Books, closings: DateClosings) -> None:
    """
    Ten closers at once, and one later, find one close.
    """
    day = _today(books)
    await books.buyer(100)
    _go_to(books, day + DAY)
    found = await asyncio.gather(*(closings.close(day, actor=f"a{n}") for n in range(10)))
    again = await closings.close(day, actor="late")
    assert sum(not closing.replayed for closing in found) == 1
    assert {closing.signature for closing in [*found, again]} == {again.signature}
    for statement in ("DELETE FROM ledger.closings", "UPDATE ledger.closings SET actor = ''"):
        with pytest.raises(psycopg.Error, match="append-only"):
            await books.execute(statement)


async def test_late_settle_counts_in_the_first_open_date(
    books: Books, closings: DateClosings
) -> None:
    """
    Settle, void and expire are never refused for a closed date, even by a clock that lags.
    """
    day = _today(books)
    buyer = await books.buyer(100)
    holds = [await books.hold_cash(buyer, 10, lives=2 * DAY) for _ in range(3)]
    _go_to(books, day + DAY)
    await closings.close(day, actor="ann")
    # The writer's machine believes that it is still yesterday.
    _go_to(books, day, after_midnight=timedelta(hours=23))
    revenue = await books.platform("platform_revenue")
    own, bank = await books.platform("own_funds"), await books.platform("safeguarded")
    captured = await books.capture(
        holds[0],
        Transfer(debit=await books.cash(buyer), credit=revenue, quanta=10),
        Transfer(debit=own, credit=bank, quanta=10),
    )
    voided = await books.end(holds[1], PostingKind.VOID)
    _go_to(books, day + 3 * DAY)
    expired = await books.end(holds[2], PostingKind.EXPIRE)
    assert [outcome.code for outcome in (captured, voided, expired)] == ["ok", "ok", "ok"]
    midnight = datetime.combine(day + DAY, time(), UTC)
    assert captured.recorded_at == midnight
    two = await closings.close(day + DAY, actor="ann")
    assert _moved(two, "platform_revenue")[:2] == (0, 10)


async def test_dead_lane_is_fenced_too(
    books: Books, closings: DateClosings, clock: FakeClock, ids: IdentifierSource
) -> None:
    """
    A writer that went away before midnight comes back after it, whatever its clock says.
    """
    day = _today(books)
    sleeper = Writer(books.dsn, clock=clock, holder="sleeper")
    await sleeper.start()
    await sleeper.close()
    _go_to(books, day + DAY)
    await closings.close(day, actor="ann")
    _go_to(books, day, after_midnight=timedelta(hours=13))
    sleeper = Writer(books.dsn, clock=clock, holder="sleeper")
    await sleeper.start()
    own, bank = await books.platform("own_funds"), await books.platform("safeguarded")
    outcome = await sleeper.post(
        Posting(
            kind=PostingKind.POST,
            fact_id=ids.mint(),
            transfers=(Transfer(debit=bank, credit=own, quanta=1),),
        )
    )
    await sleeper.close()
    assert outcome.recorded_at is not None
    assert outcome.recorded_at.date() == day + DAY
    _go_to(books, day + 2 * DAY)


async def test_correction_counts_in_the_date_that_it_names(
    books: Books, closings: DateClosings
) -> None:
    """
    Yesterday's deposit is undone yesterday, while that date is open; then no more.
    """
    day = _today(books)
    buyer, other = await books.buyer(), await books.buyer()
    facts = [await _deposit(books, party, 100) for party in (buyer, other)]
    corrections = Corrections(books.ledger, books.clock)
    _go_to(books, day + DAY)
    await corrections.reverse(facts[0], reason="wrong", actor="ann", accounting_date=day)
    one = await closings.close(day, actor="ann")
    with pytest.raises(DateClosedError):
        await corrections.reverse(facts[1], reason="wrong", actor="ann", accounting_date=day)
    with pytest.raises(DateNotOverError):
        await corrections.reverse(
            facts[1], reason="wrong", actor="ann", accounting_date=day + 2 * DAY
        )
    await corrections.reverse(facts[1], reason="wrong", actor="ann")
    _go_to(books, day + 2 * DAY)
    two = await closings.close(day + DAY, actor="ann")
    assert _moved(one, "cash")[:2] == (100, 200)
    assert _moved(two, "cash")[:2] == (100, 0)
    assert (one.statement.entries, two.statement.entries) == (3, 1)


async def test_close_under_load_loses_and_doubles_nothing(
    books: Books, closings: DateClosings
) -> None:
    """
    Entries of both dates, and corrections that name the closing one, go on while it closes.
    """
    day = _today(books)
    await asyncio.gather(*(_dated(books, None) for _ in range(50)))
    _go_to(books, day + DAY)
    posts = [_dated(books, day if n % 3 == 0 else None) for n in range(300)]
    outcomes, one = await asyncio.gather(asyncio.gather(*posts), closings.close(day, actor="ann"))
    more = await asyncio.gather(*(_dated(books, day if n % 2 else None) for n in range(20)))
    _go_to(books, day + 2 * DAY)
    two = await closings.close(day + DAY, actor="ann")
    done = 50 + sum(outcome.is_done for outcome in [*outcomes, *more])
    assert {outcome.code for outcome in [*outcomes, *more]} <= {"ok", "date_closed"}
    assert sum(outcome.code == "date_closed" for outcome in more) == 10
    assert _moved(two, "own_funds")[3] == done
    assert one.statement.entries + two.statement.entries == done


async def test_closes_are_verified_offline(books: Books, closings: DateClosings) -> None:
    """
    The root's key is enough; whatever is altered, left out or exchanged is found.
    """
    day = _today(books)
    found: list[Closing] = []
    for number in range(3):
        await books.buyer(100 + number)
        _go_to(books, day + (number + 1) * DAY)
        found.append(await closings.close(day + number * DAY, actor="ann"))
    good = [(closing.content, closing.signature) for closing in found]
    assert chain_problems(good, _verify) == []
    assert [c.content for c in await closings.closings(9)] == [c.content for c in found[::-1]]

    altered = [(good[0][0].replace('"100"', '"101"'), good[0][1]), *good[1:]]
    missing = [good[0], good[2]]
    exchanged = [good[0], (good[1][0], good[0][1]), good[2]]
    for bad in (altered, missing, exchanged, [("{}", ""), *good]):
        assert chain_problems(bad, _verify)
    stranger = TrustedKeys([to_jwk(LANE.public_key())])

    def distrust(signature: str, certificate: str, made_at_s: int) -> bytes:
        return read_signed_statement(
            signature, stranger, certificate=certificate, made_at_s=made_at_s
        )

    assert len(chain_problems(good, distrust)) == 3


async def test_check_of_the_books_finds_a_close_that_was_changed(
    books: Books, closings: DateClosings
) -> None:
    """
    Altered content and a missing close break the chain; a signature of nobody's is not good.
    """
    day = _today(books)
    for number in range(3):
        await books.buyer(100 + number)
        _go_to(books, day + (number + 1) * DAY)
        await closings.close(day + number * DAY, actor="ann")
    signed = {c.signature: c.content.encode() for c in await closings.closings(3)}

    async def findings() -> set[str]:
        report = await books.check(
            verify_checkpoint=lambda content, signature: signed.get(signature) == content
        )
        assert report.counts["closings"] <= 3
        return {problem.code.value for problem in report.problems}

    assert await findings() == set()
    first = "WHERE closed_date = (SELECT min(closed_date) FROM ledger.closings)"
    for change, undo in (
        ("replace(statement, 'ann', 'eve')", "replace(statement, 'eve', 'ann')"),
        ("'x' || statement", "substr(statement, 2)"),
    ):
        await books.tamper(f"UPDATE ledger.closings SET statement = {change} {first}")
        assert await findings() == {"closing_differs"}
        await books.tamper(f"UPDATE ledger.closings SET statement = {undo} {first}")
    assert await findings() == set()
    await books.tamper("DELETE FROM ledger.closings WHERE closed_date = %s", day + DAY)
    assert await findings() == {"closing_differs"}
    await books.tamper("DELETE FROM ledger.closings")


async def test_books_that_do_not_balance_are_not_closed(
    books: Books, closings: DateClosings
) -> None:
    """
    A record that was tampered with stops the close, and says in which asset.
    """
    day = _today(books)
    fact = await _deposit(books, await books.buyer(), 100)
    _go_to(books, day + DAY)
    [[record]] = await books.rows("SELECT record FROM ledger.entries WHERE fact_id = %s", fact)
    other = await books.platform("own_funds")
    bank = await books.platform("safeguarded")
    [[share]] = await books.rows(
        "SELECT account_id FROM ledger.accounts WHERE main_account_id = %s", bank
    )
    tampered = record.replace(f"[{share},", f"[{other},")
    assert tampered != record
    change = "UPDATE ledger.entries SET record = %s WHERE fact_id = %s"
    await books.tamper(change, tampered, fact)
    with pytest.raises(LedgerUnavailableError, match="USD: clients own 100, 0 are"):
        await closings.close(day, actor="ann")
    assert await closings.closings(9) == []
    await books.tamper(change, record, fact)


async def test_close_gives_up_on_a_writer_that_does_not_end_its_batch(
    books: Books, closings: DateClosings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Nothing is closed, and nobody else waits for it; once the batch has ended it is closed.
    """
    monkeypatch.setattr(closing, "LOCK_WAIT_MS", 20)
    day = _today(books)
    await books.buyer(100)
    _go_to(books, day + DAY)
    async with books.pool.connection() as stuck, stuck.transaction():
        await stuck.execute("SELECT FROM ledger.lanes FOR NO KEY UPDATE")
        with pytest.raises(LedgerUnavailableError, match="does not end its batch"):
            await closings.close(day, actor="ann")
    assert await closings.closings(9) == []
    assert not (await closings.close(day, actor="ann")).replayed


async def test_lanes_are_never_raised_into_the_future(books: Books, closings: DateClosings) -> None:
    """
    A closer whose clock is wrong must not stop the business until then.
    """
    await books.execute("UPDATE ledger.settings SET clock_skew_max_ms = 1000")
    _go_to(books, date(2126, 1, 2))
    with pytest.raises(psycopg.Error, match="future"):
        await closings.close(date(2126, 1, 1), actor="ann")


async def _deposit(books: Books, party: UUID, quanta: int) -> UUID:
    posted = await books.ledger.deposit(
        party_id=party,
        amount=Amount(quanta=quanta, asset=USD),
        rail="bank",
        reference=str(books.ids.mint()),
        actor="clerk",
    )
    return posted.fact_id


def _verify(signature: str, certificate: str, made_at_s: int) -> bytes:
    return read_signed_statement(signature, TRUSTED, certificate=certificate, made_at_s=made_at_s)
