"""
Money in and out: deposits, chargebacks, what is owed, and clients' money.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from tests.simulation.books import Books, open_books
from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.errors import InvalidError
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.money import USD, Amount
from tokenworks.ledger.errors import (
    AccountMissingError,
    FactConflictError,
    FundsShortError,
    LedgerUnavailableError,
    RefusedError,
)
from tokenworks.ledger.model import Outcome, Posting, Refusal, Transfer
from tokenworks.ledger.receivables import RECEIVABLE_FREEZE_QUANTA
from tokenworks.ledger.service import Posted


@pytest.fixture
async def books(dsn: str, clock: FakeClock, ids: IdentifierSource) -> AsyncIterator[Books]:
    """
    A ledger that must be clean when the test is over.
    """
    async with open_books(dsn, clock, ids) as books:
        yield books
        await books.assert_clean()


async def _deposit(books: Books, buyer: UUID, quanta: int, reference: str) -> Posted:
    return await books.ledger.deposit(
        party_id=buyer,
        amount=Amount(quanta=quanta, asset=USD),
        rail="card",
        reference=reference,
        actor="test",
    )


async def _chargeback(books: Books, buyer: UUID, quanta: int, reference: str) -> Posted:
    return await books.ledger.chargeback(
        party_id=buyer,
        amount=Amount(quanta=quanta, asset=USD),
        rail="card",
        reference=reference,
        actor="test",
    )


async def _balance(books: Books, buyer: UUID, purpose: str) -> int:
    balances = {balance.purpose: balance for balance in await books.ledger.balances(buyer)}
    return balances[purpose].balance


async def _state_of_cash(books: Books, buyer: UUID) -> str:
    rows = await books.rows(
        "SELECT state FROM ledger.balances WHERE account_id = %s", await books.cash(buyer)
    )
    return rows[0][0]


async def test_payment_is_recorded_once_for_ever(books: Books) -> None:
    """
    The same reference with the same content is answered with the first result.
    """
    buyer = await books.buyer()
    first = await _deposit(books, buyer, 100, "r-1")
    again = await _deposit(books, buyer, 100, "r-1")
    assert (first.replayed, again.replayed) == (False, True)
    assert (again.fact_id, again.recorded_at) == (first.fact_id, first.recorded_at)
    assert await _balance(books, buyer, "cash") == 100


async def test_payment_sent_ten_times_at_once_is_recorded_once(books: Books) -> None:
    """
    Retries of a payment service race with each other.
    """
    buyer = await books.buyer()
    posted = await asyncio.gather(*(_deposit(books, buyer, 100, "r-1") for _ in range(10)))
    assert sum(not item.replayed for item in posted) == 1
    assert await _balance(books, buyer, "cash") == 100


async def test_reference_used_for_another_payment_is_a_conflict(books: Books) -> None:
    """
    Another amount or another party under a known reference is refused.
    """
    buyer, other = await books.buyer(), await books.buyer()
    await _deposit(books, buyer, 100, "r-1")
    with pytest.raises(FactConflictError):
        await _deposit(books, buyer, 101, "r-1")
    with pytest.raises(FactConflictError):
        await _deposit(books, other, 100, "r-1")


@pytest.mark.parametrize("quanta", [0, -5])
async def test_deposit_of_nothing_is_refused(books: Books, quanta: int) -> None:
    """
    A deposit is more than zero.
    """
    buyer = await books.buyer()
    with pytest.raises(InvalidError):
        await _deposit(books, buyer, quanta, "r-1")
    with pytest.raises(AccountMissingError):
        await _deposit(books, books.ids.mint(), 1, "r-2")


async def test_deposit_beyond_any_amount_is_refused_and_harms_nobody(books: Books) -> None:
    """
    A number that no column holds stops neither the writer nor the next deposit.
    """
    buyer = await books.buyer()
    with pytest.raises(RefusedError):
        await _deposit(books, buyer, 2**62 + 1, "r-1")
    with pytest.raises(Exception, match="not recorded"):
        await _deposit(books, buyer, 2**70, "r-2")
    await _deposit(books, buyer, 5, "r-3")
    assert await _balance(books, buyer, "cash") == 5


async def test_chargeback_is_never_refused(books: Books) -> None:
    """
    What cash does not cover is owed; other clients' money stays covered by the bank.
    """
    buyer, other = await books.buyer(), await books.buyer(500)
    await _deposit(books, buyer, 100, "r-1")
    held = await books.hold_cash(buyer, 30)
    await _chargeback(books, buyer, 100, "c-1")
    assert await _balance(books, buyer, "receivable") == 30
    assert await _balance(books, buyer, "cash") == 30
    trial = await books.ledger.trial_balance()
    assert trial.client_money == trial.safeguarded == {"USD": 530}
    cash = await books.cash(buyer)
    revenue = await books.platform("platform_revenue")
    own, bank = await books.platform("own_funds"), await books.platform("safeguarded")
    outcome = await books.capture(
        held,
        Transfer(debit=cash, credit=revenue, quanta=30),
        Transfer(debit=own, credit=bank, quanta=30),
    )
    assert outcome.code == "ok"
    assert await _balance(books, other, "cash") == 500


async def test_chargeback_without_any_money_is_all_owed(books: Books) -> None:
    """
    An empty account still takes a chargeback; a repeat changes nothing.
    """
    buyer = await books.buyer()
    await _chargeback(books, buyer, 70, "c-1")
    assert (await _chargeback(books, buyer, 70, "c-1")).replayed
    assert await _balance(books, buyer, "receivable") == 70


async def test_chargeback_passes_an_account_that_a_debt_froze(books: Books) -> None:
    """
    Who owes too much places no holds, but the world goes on taking.
    """
    buyer = await books.buyer(5 * 10**9)
    for reference in ("c-1", "c-2"):
        await _chargeback(books, buyer, 20 * 10**9, reference)
    assert await _balance(books, buyer, "receivable") == 35 * 10**9
    [[state]] = await books.rows(
        "SELECT state FROM ledger.balances WHERE account_id = %s", await books.cash(buyer)
    )
    assert state == "frozen"


async def test_small_chargebacks_freeze_together(books: Books) -> None:
    """
    What counts is all that is owed, not what the last one added.
    """
    buyer = await books.buyer()
    await _chargeback(books, buyer, RECEIVABLE_FREEZE_QUANTA, "c-1")
    assert await _state_of_cash(books, buyer) == "active"
    await _chargeback(books, buyer, 1, "c-2")
    assert await _state_of_cash(books, buyer) == "frozen"


async def test_chargeback_told_again_freezes_nobody_who_has_paid(books: Books) -> None:
    """
    A repeat years later changes nothing: the debt is settled by then.
    """
    buyer = await books.buyer()
    await _chargeback(books, buyer, RECEIVABLE_FREEZE_QUANTA + 1, "c-1")
    await _deposit(books, buyer, RECEIVABLE_FREEZE_QUANTA + 50, "r-1")
    assert (await _chargeback(books, buyer, RECEIVABLE_FREEZE_QUANTA + 1, "c-1")).replayed
    assert await _state_of_cash(books, buyer) == "active"
    await books.hold_cash(buyer, 49)


async def test_next_deposit_pays_what_is_owed_first(books: Books) -> None:
    """
    A receivable is set off from the next deposits until it is gone.
    """
    buyer = await books.buyer()
    await _chargeback(books, buyer, 70, "c-1")
    await _deposit(books, buyer, 50, "r-1")
    assert await _balance(books, buyer, "receivable") == 20
    assert await _balance(books, buyer, "cash") == 0
    await _deposit(books, buyer, 50, "r-2")
    assert await _balance(books, buyer, "receivable") == 0
    assert await _balance(books, buyer, "cash") == 30


async def test_debtor_stays_frozen_when_a_set_off_fails(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The set-off thaws the cash for its own entry only, whatever becomes of it.
    """
    buyer = await books.buyer()
    await _chargeback(books, buyer, 2 * RECEIVABLE_FREEZE_QUANTA, "c-1")
    post = books.writer.post

    async def refuse_set_off(posting: Posting, *, is_timed: bool = False) -> Outcome:
        if "set_off" in posting.meta:
            raise LedgerUnavailableError("the queue is full")
        return await post(posting, is_timed=is_timed)

    monkeypatch.setattr(books.writer, "post", refuse_set_off)
    with pytest.raises(LedgerUnavailableError):
        await _deposit(books, buyer, 50, "r-1")

    assert await _state_of_cash(books, buyer) == "frozen"
    assert await _balance(books, buyer, "cash") == 50


async def test_deposits_at_once_pay_what_is_owed_once(books: Books) -> None:
    """
    Ten deposits of 50 against 70 owed: 70 are set off, not more.
    """
    buyer = await books.buyer()
    await _chargeback(books, buyer, 70, "c-1")
    await asyncio.gather(*(_deposit(books, buyer, 50, f"r-{index}") for index in range(10)))
    assert await _balance(books, buyer, "receivable") == 0
    assert await _balance(books, buyer, "cash") == 430


async def test_client_money_without_cover_is_refused(books: Books) -> None:
    """
    Neither may clients' money grow nor may what covers it shrink by itself.
    """
    buyer = await books.buyer(100)
    cash = await books.cash(buyer)
    own, bank = await books.platform("own_funds"), await books.platform("safeguarded")
    grows = Transfer(debit=own, credit=cash, quanta=1)
    shrinks = Transfer(debit=own, credit=bank, quanta=1)
    for transfer in (grows, shrinks):
        assert (await books.post(transfer)).code == Refusal.CLIENT_MONEY_UNSAFEGUARDED
    assert (await books.post(Transfer(debit=bank, credit=own, quanta=9))).code == "ok"
    assert (await books.post(Transfer(debit=cash, credit=own, quanta=1), shrinks)).code == "ok"


async def test_cover_in_one_currency_does_not_cover_another(books: Books) -> None:
    """
    The rule holds for each currency by itself.
    """
    buyer = await books.buyer(100)
    own, bank = await books.platform("own_funds"), await books.platform("safeguarded")
    yuan = await books.ledger.account(buyer, "cash", "CNY")
    own_yuan = await books.platform("own_funds", "CNY")
    outcome = await books.post(
        Transfer(debit=bank, credit=own, quanta=50),
        Transfer(debit=own_yuan, credit=yuan, quanta=50),
    )
    assert outcome.code == Refusal.CLIENT_MONEY_UNSAFEGUARDED


async def test_client_money_may_move_between_clients(books: Books) -> None:
    """
    What one client gives another was covered before and is covered now.
    """
    giver, taker = await books.buyer(100), await books.buyer()
    move = Transfer(debit=await books.cash(giver), credit=await books.cash(taker), quanta=40)
    assert (await books.post(move)).code == "ok"
    assert await _balance(books, taker, "cash") == 40


async def test_payouts_at_once_pay_what_is_owed_once(books: Books) -> None:
    """
    Three payouts of a hundred against a hundred owed: one is posted.
    """
    supplier = books.ids.mint()
    await books.ledger.open_party(supplier, "supplier")
    payable = await books.ledger.account(supplier, "supplier_payable")
    purchases = await books.platform("purchases")
    await books.post(Transfer(debit=purchases, credit=payable, quanta=100))

    async def pay(reference: str) -> str:
        try:
            await books.ledger.payout(
                party_id=supplier,
                purpose="supplier_payable",
                amount=Amount(quanta=100, asset=USD),
                rail="bank",
                reference=reference,
                actor="test",
            )
        except FundsShortError as error:
            return error.code
        return "ok"

    codes = await asyncio.gather(*(pay(f"p-{index}") for index in range(3)))
    assert sorted(codes) == ["insufficient_funds", "insufficient_funds", "ok"]
    assert await books.available(payable) == 0
