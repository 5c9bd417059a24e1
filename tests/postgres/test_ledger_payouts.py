"""
Payouts leave the main account, after every writer's share was swept into it.
"""

from __future__ import annotations

import pytest

from tokenworks.foundation.clock import SystemClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.money import USD, Amount
from tokenworks.ledger.check import check_books
from tokenworks.ledger.errors import FactConflictError, FundsShortError
from tokenworks.ledger.model import Placement, Posting, PostingKind, Reservation, Transfer
from tokenworks.ledger.service import PLATFORM_ID, Ledger
from tokenworks.ledger.writer import Writer
from tokenworks.postgres.pool import Pool


def _usd(text: str) -> Amount:
    return Amount.from_text(text, USD)


async def _purchase(ledger: Ledger, supplier: int, purchases: int, quanta: int) -> None:
    outcome = await ledger.post(
        Posting(
            kind=PostingKind.POST,
            fact_id=IdentifierSource(SystemClock()).mint(),
            transfers=(Transfer(debit=purchases, credit=supplier, quanta=quanta),),
        )
    )
    assert outcome.is_done


async def test_payout_sweeps_every_writers_share_and_pays_no_more_than_is_owed(
    dsn: str, pool: Pool
) -> None:
    """
    Two writers credit their own shares; one payout takes both, the next is refused.
    """
    clock = SystemClock()
    ids = IdentifierSource(clock)
    writers = [Writer(dsn, clock=clock, holder=f"w{index}") for index in range(2)]
    for writer in writers:
        await writer.start()
    ledgers = [Ledger(writer, pool, clock=clock, ids=ids) for writer in writers]
    await ledgers[0].prepare()
    party = ids.mint()
    await ledgers[0].open_party(party, "supplier")
    payable = await ledgers[0].account(party, "supplier_payable")
    purchases = await ledgers[0].account(PLATFORM_ID, "purchases")
    for ledger in ledgers:
        await _purchase(ledger, payable, purchases, 3 * 10**9)

    paid = await ledgers[0].payout(
        party_id=party,
        purpose="supplier_payable",
        amount=_usd("5"),
        rail="bank",
        reference="1",
        actor="test",
    )
    repeated = await ledgers[1].payout(
        party_id=party,
        purpose="supplier_payable",
        amount=_usd("5"),
        rail="bank",
        reference="1",
        actor="test",
    )

    assert not paid.replayed
    assert repeated.replayed
    with pytest.raises(FundsShortError):
        await ledgers[0].payout(
            party_id=party,
            purpose="supplier_payable",
            amount=_usd("2"),
            rail="bank",
            reference="2",
            actor="test",
        )
    with pytest.raises(FactConflictError):
        await ledgers[0].payout(
            party_id=party,
            purpose="supplier_payable",
            amount=_usd("1"),
            rail="bank",
            reference="1",
            actor="test",
        )
    [balance] = await ledgers[0].balances(party)
    assert balance.balance == 10**9
    for writer in writers:
        await writer.close()
    assert (await check_books(dsn, clock=clock)).is_clean


async def test_a_party_that_owes_too_much_places_no_new_holds_until_it_has_paid(
    dsn: str, pool: Pool
) -> None:
    """
    A chargeback is never refused; above the threshold it freezes new holds.
    """
    clock = SystemClock()
    ids = IdentifierSource(clock)
    writer = Writer(dsn, clock=clock, holder="w")
    await writer.start()
    ledger = Ledger(writer, pool, clock=clock, ids=ids)
    await ledger.prepare()
    party = ids.mint()
    await ledger.open_party(party, "buyer")
    cash = await ledger.account(party, "cash")

    async def hold() -> str:
        now = clock.now()
        outcome = await ledger.place(
            Placement(
                hold_id=ids.mint(),
                reservations=(Reservation(asset_id=1, quanta=1, account_id=cash),),
                expires_at=now,
                deadline=now.replace(year=now.year + 1),
            )
        )
        return outcome.code

    async def deposit(text: str, reference: str) -> None:
        await ledger.deposit(
            party_id=party, amount=_usd(text), rail="bank", reference=reference, actor="t"
        )

    await deposit("5", "a")
    await ledger.chargeback(
        party_id=party, amount=_usd("20"), rail="card", reference="b", actor="t"
    )
    await deposit("4", "c")
    frozen = await hold()
    await deposit("20", "d")

    assert frozen == "account_frozen"
    assert await hold() == "ok"
    balances = {balance.purpose: balance for balance in await ledger.balances(party)}
    assert balances["receivable"].balance == 0
    assert (await ledger.trial_balance()).is_balanced
    await writer.close()
    assert (await check_books(dsn, clock=clock)).is_clean
