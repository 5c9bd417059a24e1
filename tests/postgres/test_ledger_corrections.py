"""
Entries are corrected by entries: reversed once, with a reason, whatever the world did.
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
from tokenworks.ledger.correcting import Corrections
from tokenworks.ledger.errors import (
    AlreadyReversedError,
    FactMissingError,
    NotReversibleError,
    PayableOnHoldError,
)
from tokenworks.ledger.model import Transfer

DOLLAR = 10**9


@pytest.fixture
async def books(dsn: str, clock: FakeClock, ids: IdentifierSource) -> AsyncIterator[Books]:
    """
    A ledger that must be clean when the test is over.
    """
    async with open_books(dsn, clock, ids) as books:
        yield books
        assert (await books.ledger.trial_balance()).is_balanced
        await books.assert_clean()


async def _deposit(books: Books, buyer: UUID, quanta: int, reference: str) -> UUID:
    posted = await books.ledger.deposit(
        party_id=buyer,
        amount=Amount(quanta=quanta, asset=USD),
        rail="bank",
        reference=reference,
        actor="clerk",
    )
    return posted.fact_id


async def _supplier(books: Books, owed: int) -> tuple[UUID, int]:
    supplier = books.ids.mint()
    await books.ledger.open_party(supplier, "supplier")
    payable = await books.ledger.account(supplier, "supplier_payable")
    purchases = await books.platform("purchases")
    outcome = await books.post(Transfer(debit=purchases, credit=payable, quanta=owed))
    assert outcome.is_done
    return supplier, payable


async def _balance(books: Books, party: UUID, purpose: str) -> int:
    balances = {balance.purpose: balance for balance in await books.ledger.balances(party)}
    return balances[purpose].balance


async def test_deposit_is_reversed_once_by_an_entry_that_names_it(books: Books) -> None:
    """
    The transfers are turned round; a repeat returns the stored result, the history stays.
    """
    buyer = await books.buyer()
    fact = await _deposit(books, buyer, 100, "wrong")
    corrections = Corrections(books.ledger, books.clock)

    first = await corrections.reverse(fact, reason=" typed twice ", actor="ann")
    again = await corrections.reverse(fact, reason="typed twice", actor="bob")

    assert (first.replayed, again.replayed) == (False, True)
    assert first.recorded_at == again.recorded_at
    assert await _balance(books, buyer, "cash") == 0
    entries = await books.ledger.entries_of(fact)
    assert [(entry.operation, entry.ordinal) for entry in entries] == [("post", 0), ("post", 1)]
    assert entries[1].meta == {
        "kind": "reversal",
        "reverses": str(fact),
        "reason": "typed twice",
        "actor": "ann",
    }


async def test_second_reversal_for_another_reason_is_refused(books: Books) -> None:
    """
    A reversed entry stays reversed once; who comes second is told by whom and why.
    """
    fact = await _deposit(books, await books.buyer(), 100, "wrong")
    corrections = Corrections(books.ledger, books.clock)
    await corrections.reverse(fact, reason="typed twice", actor="ann")
    with pytest.raises(AlreadyReversedError, match="ann: typed twice"):
        await corrections.reverse(fact, reason="other", actor="bob")


async def test_reversals_at_once_reverse_once(books: Books) -> None:
    """
    Ten operators press the button; one entry is booked.
    """
    buyer = await books.buyer(500)
    fact = await _deposit(books, buyer, 100, "wrong")
    corrections = Corrections(books.ledger, books.clock)
    found = await asyncio.gather(
        *(corrections.reverse(fact, reason="twice", actor=f"a{n}") for n in range(10))
    )
    assert sum(not item.replayed for item in found) == 1
    assert await _balance(books, buyer, "cash") == 500


async def test_reversal_of_spent_money_is_owed(books: Books) -> None:
    """
    What cash does not cover becomes a receivable; other clients' money stays covered.
    """
    buyer, other = await books.buyer(), await books.buyer(1000)
    fact = await _deposit(books, buyer, 100, "wrong")
    await books.hold_cash(buyer, 70)

    reversed_ = await Corrections(books.ledger, books.clock).reverse(
        fact, reason="bounced", actor="ann"
    )

    assert reversed_.owed_quanta == 70
    assert await _balance(books, buyer, "receivable") == 70
    assert await _balance(books, buyer, "cash") == 70
    assert await _balance(books, other, "cash") == 1000
    again = await Corrections(books.ledger, books.clock).reverse(
        fact, reason="bounced", actor="ann"
    )
    assert again.owed_quanta == 70


async def test_reversal_passes_a_frozen_account_and_freezes_who_owes_much(books: Books) -> None:
    """
    A party that owes too much is frozen for holds, never for what the world did.
    """
    buyer = await books.buyer()
    facts = [await _deposit(books, buyer, 20 * DOLLAR, f"wrong {n}") for n in range(2)]
    await books.hold_cash(buyer, 40 * DOLLAR)
    corrections = Corrections(books.ledger, books.clock)
    for fact in facts:
        await corrections.reverse(fact, reason="bounced", actor="ann")
    assert await _balance(books, buyer, "receivable") == 40 * DOLLAR
    [[state]] = await books.rows(
        "SELECT state FROM ledger.balances WHERE account_id = %s", await books.cash(buyer)
    )
    assert state == "frozen"


async def test_reversed_chargeback_gives_money_and_trust_back(books: Books) -> None:
    """
    A chargeback that was won: cash returns, the debt goes, what was paid of it is cash again.
    """
    buyer = await books.buyer()
    await _deposit(books, buyer, 5 * DOLLAR, "r-1")
    lost = await books.ledger.chargeback(
        party_id=buyer,
        amount=Amount(quanta=20 * DOLLAR, asset=USD),
        rail="card",
        reference="c-1",
        actor="bank",
    )
    await _deposit(books, buyer, 4 * DOLLAR, "r-2")
    await Corrections(books.ledger, books.clock).reverse(lost.fact_id, reason="won", actor="ann")
    assert await _balance(books, buyer, "receivable") == 0
    assert await _balance(books, buyer, "cash") == 9 * DOLLAR
    await books.hold_cash(buyer, 9 * DOLLAR)


async def test_payout_is_reversed_and_owed_again(books: Books) -> None:
    """
    A payment that came back is owed once more, and may be paid again.
    """
    supplier, payable = await _supplier(books, 100)
    paid = await books.ledger.payout(
        party_id=supplier,
        purpose="supplier_payable",
        amount=Amount(quanta=100, asset=USD),
        rail="bank",
        reference="p-1",
        actor="ann",
    )
    await Corrections(books.ledger, books.clock).reverse(
        paid.fact_id, reason="returned", actor="ann"
    )
    assert await books.available(payable) == 100


async def test_only_what_an_operator_booked_is_reversed(books: Books) -> None:
    """
    Calls are refunded; what the ledger booked by itself is not touched; nothing is unknown.
    """
    corrections = Corrections(books.ledger, books.clock)
    buyer = await books.buyer(100)
    hold = await books.hold_cash(buyer, 10)
    plain = books.ids.mint()
    own, bank = await books.platform("own_funds"), await books.platform("safeguarded")
    await books.post(Transfer(debit=bank, credit=own, quanta=1), fact_id=plain)
    for fact in (hold, plain):
        with pytest.raises(NotReversibleError):
            await corrections.reverse(fact, reason="why", actor="ann")
    with pytest.raises(FactMissingError):
        await corrections.reverse(books.ids.mint(), reason="why", actor="ann")


@pytest.mark.parametrize("reason", ["", "   ", "x" * 501])
async def test_reversal_without_reason_is_refused(books: Books, reason: str) -> None:
    """
    Whoever reads the books later must find why.
    """
    fact = await _deposit(books, await books.buyer(), 100, "wrong")
    with pytest.raises(InvalidError) as refused:
        await Corrections(books.ledger, books.clock).reverse(fact, reason=reason, actor="ann")
    assert refused.value.code == "reason_required"


async def test_payable_is_corrected_against_the_variance(books: Books) -> None:
    """
    More or less for the supplier is the platform's cost; what was paid already is owed back.
    """
    supplier, payable = await _supplier(books, 100)
    corrections = Corrections(books.ledger, books.clock)
    for difference in (30, -50, -100):
        fact = books.ids.mint()
        booked = [
            await corrections.adjust_payable(
                fact_id=fact,
                party_id=supplier,
                difference=Amount(quanta=difference, asset=USD),
                meta={"kind": "correction", "statement": "s"},
            )
            for _ in range(2)
        ]
        assert [item.replayed for item in booked] == [False, True]
    assert await books.available(payable) == 0
    assert await _balance(books, supplier, "receivable") == 20
    [variance] = [
        b for b in (await books.ledger.trial_balance()).rows if b.purpose == "supplier_variance"
    ]
    assert variance.balance == -120


async def test_payout_leaves_what_is_on_hold(books: Books) -> None:
    """
    What is neither matched nor old stays, and what the supplier owes is kept back.
    """
    supplier, payable = await _supplier(books, 100)

    async def pay(quanta: int, reference: str, on_hold: int) -> bool:
        paid = await books.ledger.payout(
            party_id=supplier,
            purpose="supplier_payable",
            amount=Amount(quanta=quanta, asset=USD),
            rail="bank",
            reference=reference,
            actor="ann",
            on_hold_quanta=on_hold,
        )
        return paid.replayed

    with pytest.raises(PayableOnHoldError) as refused:
        await pay(61, "p-1", 40)
    assert refused.value.details["payable"] == "0.00000006"
    assert not await pay(60, "p-1", 40)
    assert await pay(60, "p-1", 40)
    owed = await books.ledger.account(supplier, "receivable")
    own = await books.platform("own_funds")
    await books.post(Transfer(debit=owed, credit=own, quanta=30))
    with pytest.raises(PayableOnHoldError):
        await pay(11, "p-2", 0)
    assert not await pay(10, "p-2", 0)
    assert await books.available(payable) == 30
