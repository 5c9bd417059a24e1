"""
What parties owe the platform, and what follows from it.

What has already happened in the world is booked whatever a party has (LEDGER 5): what it cannot
cover becomes its receivable, is set off from its next deposits, and freezes its cash while it
is above ``RECEIVABLE_FREEZE_QUANTA``.

Invariants: a receivable has no bound of its own, so whoever reads one and posts to it holds its
lock; cash is thawed only within ``thawed``, which judges anew in the end, however it ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Final
from uuid import UUID

from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.money import USD
from tokenworks.ledger.accounts import PLATFORM_ID, Accounts
from tokenworks.ledger.balances import Balances
from tokenworks.ledger.entries import canonical
from tokenworks.ledger.model import Posting, PostingKind, Transfer
from tokenworks.ledger.writer import Writer
from tokenworks.postgres.pool import Connection

RECEIVABLE_FREEZE_QUANTA: Final = 10 * 10**USD.scale
"""A party that owes more than this places no new holds until it has paid."""


class Receivables:
    """
    Freeze, thaw and set off what is owed.
    """

    def __init__(
        self, writer: Writer, *, accounts: Accounts, balances: Balances, ids: IdentifierSource
    ) -> None:
        self._writer = writer
        self._accounts = accounts
        self._balances = balances
        self._ids = ids

    @contextlib.asynccontextmanager
    async def thawed(
        self, party_id: UUID, cash: int, asset: str, connection: Connection
    ) -> AsyncGenerator[None]:
        """
        Let money leave a buyer's cash although it is frozen: what the world did is booked.

        Who owes more than ``RECEIVABLE_FREEZE_QUANTA`` afterwards is frozen. The caller has
        the lock of the party's receivable.
        """
        await self._accounts.set_state(cash, "active", connection)
        try:
            yield
        finally:
            balances = await self._balances.balances(party_id, connection)
            owed = sum(b.balance for b in balances if (b.purpose, b.asset) == ("receivable", asset))
            if owed > RECEIVABLE_FREEZE_QUANTA:
                await self._accounts.set_state(cash, "frozen", connection)

    async def set_off(self, party_id: UUID, asset: str) -> None:
        """
        Pay what a party owes from what its cash has, as far as that goes.

        Nothing is done when the cash was spent meanwhile; the next deposit tries again.
        """
        receivable = await self._accounts.find(party_id, "receivable", asset)
        if receivable is None:
            return
        bank = await self._accounts.account(PLATFORM_ID, "safeguarded", asset)
        own_funds = await self._accounts.account(PLATFORM_ID, "own_funds", asset)
        # Two deposits at once must not both pay it.
        async with self._accounts.locked(receivable) as connection:
            rows = await self._balances.balances(party_id, connection)
            balances = {(row.purpose, row.asset): row for row in rows}
            owed, cash = balances["receivable", asset], balances["cash", asset]
            quanta = min(owed.balance, cash.available)
            if quanta <= 0:
                return
            posting = Posting(
                kind=PostingKind.POST,
                fact_id=self._ids.mint(),
                transfers=(
                    Transfer(debit=cash.account_id, credit=owed.account_id, quanta=quanta),
                    Transfer(debit=own_funds, credit=bank, quanta=quanta),
                ),
                meta=canonical({"kind": "set_off"}),
            )
            async with self.thawed(party_id, cash.account_id, asset, connection):
                await self._writer.post(posting)
