"""
What is on the accounts: of one party, or of the whole books as a trial balance.

Invariants: lanes are summed into their main account; a trial balance is one snapshot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from tokenworks.ledger.accounts import CLIENT_MONEY, SAFEGUARDED
from tokenworks.ledger.model import AccountBalance, TrialBalance
from tokenworks.ledger.store import Store
from tokenworks.postgres.pool import Connection


class Balances:
    """
    Read the counters of accounts, in quanta.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def balances(
        self, party_id: UUID, connection: Connection | None = None
    ) -> list[AccountBalance]:
        """
        Return a party's accounts, lanes summed, by purpose and asset.

        Args:
            party_id: Whose.
            connection: The caller's, where it has one; ``None`` takes one of the pool.
        """
        rows = await self._store.fetch_all("balances", {"party_id": party_id}, connection)
        return [_balance_from_row(row) for row in rows]

    async def trial_balance(self) -> TrialBalance:
        """
        Return every account and the sums that must agree, on one snapshot.

        The windows of limits are summed into one row an asset. Costs a read of all accounts.
        """
        rows = await self._store.fetch_all("all_balances", {})
        balances = tuple(_balance_from_row(row) for row in rows)
        debits: dict[str, int] = {}
        credits: dict[str, int] = {}
        client_money: dict[str, int] = {}
        safeguarded: dict[str, int] = {}
        for balance, row in zip(balances, rows, strict=True):
            debits[balance.asset] = debits.get(balance.asset, 0) + balance.debits_posted
            credits[balance.asset] = credits.get(balance.asset, 0) + balance.credits_posted
            net = balance.credits_posted - balance.debits_posted
            if row[11] == CLIENT_MONEY:
                client_money[balance.asset] = client_money.get(balance.asset, 0) + net
            elif row[11] == SAFEGUARDED:
                safeguarded[balance.asset] = safeguarded.get(balance.asset, 0) - net
        return TrialBalance(
            rows=balances,
            debits=debits,
            credits=credits,
            client_money=client_money,
            safeguarded=safeguarded,
        )


def _balance_from_row(row: Sequence[Any]) -> AccountBalance:
    return AccountBalance(
        account_id=row[0],
        party_id=row[1],
        purpose=row[2],
        asset=row[3],
        account_class=row[4],
        normal_side=row[5],
        title_holder=row[6],
        debits_pending=int(row[7]),
        credits_pending=int(row[8]),
        debits_posted=int(row[9]),
        credits_posted=int(row[10]),
    )
