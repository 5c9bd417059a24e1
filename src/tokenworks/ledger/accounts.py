"""
Which account is whose: opened, found, remembered, frozen, and taken in turns.

Owns: the accounts of (party, purpose, asset) as the chart of accounts has them.
Does not own: what is on them (``balances.py``), the accounts of limits' windows (the database
opens these within a hold).
Invariants: (party, purpose, asset) is one account for ever, so what is remembered stays true;
of a laned account only the main one is bounded, since payouts leave from there.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Mapping
from typing import Final
from uuid import UUID

from tokenworks.catalogue.chart_of_accounts import AccountPurpose, load_chart_of_accounts
from tokenworks.foundation.clock import Clock
from tokenworks.ledger.errors import AccountMissingError
from tokenworks.ledger.store import Store
from tokenworks.postgres.pool import Connection

PLATFORM_ID: Final = UUID(int=1)
"""The platform's own party: revenue, purchases, bank, memo accounts."""

CLIENT_MONEY: Final = 1
"""Role of an account whose money belongs to a payer and is only kept by the platform."""
SAFEGUARDED: Final = 2
"""Role of the bank account that covers all client money."""

_PURPOSES: Final[Mapping[str, tuple[str, ...]]] = {
    "buyer": ("cash",),
    "supplier": ("supplier_payable",),
    "power_producer": ("power_payable",),
    "rights_holder": ("rights_payable",),
    "reseller": ("reseller_payable",),
    "tax_authority": ("tax_payable",),
    "platform": (
        "platform_revenue",
        "purchases",
        "safeguarded",
        "own_funds",
        "overrun",
        "supplier_variance",
    ),
}
"""What a party of a kind has from the beginning."""


class Accounts:
    """
    The accounts of the books.

    Args:
        store: Where they are.
        clock: Ledger time of what is opened or frozen.
        currency: Of accounts for which no asset is named.
    """

    def __init__(self, store: Store, *, clock: Clock, currency: str) -> None:
        self.currency: Final = currency
        self._store = store
        self._clock = clock
        self._known: dict[tuple[UUID, str, str], int] = {}

    async def open_party(self, party_id: UUID, kind: str) -> None:
        """
        Open the accounts that a party of this kind needs; safe to repeat.

        Args:
            party_id: Whose.
            kind: A kind of party, such as ``buyer`` or ``supplier``.
        """
        for purpose in _PURPOSES[kind]:
            await self.account(party_id, purpose)

    async def account(self, party_id: UUID, purpose: str, asset: str | None = None) -> int:
        """
        Return the account of (party, purpose, asset), opening it when it is new.

        Args:
            party_id: Whose.
            purpose: A purpose of the chart of accounts.
            asset: Code of the asset; ``None``: the currency of the books.
        """
        key = (party_id, purpose, asset or self.currency)
        known = self._known.get(key)
        if known is not None:
            return known
        rules = load_chart_of_accounts()[purpose]
        row = await self._store.fetch_one(
            "open_account",
            {
                "party_id": party_id,
                "asset": key[2],
                "purpose": purpose,
                "account_class": rules.account_class,
                "normal_side": rules.normal_side,
                "title_holder": party_id if rules.title == "party" else PLATFORM_ID,
                "is_laned": rules.is_laned,
                "no_overdraft": rules.no_overdraft or _is_payable(rules),
                "money_role": _money_role(rules, purpose),
                "now": self._clock.now(),
            },
        )
        self._known[key] = int(row[0])
        return self._known[key]

    def known_account(self, party_id: UUID, purpose: str, asset: str) -> int | None:
        """
        Return an account this process has met before; ``account`` finds the others.
        """
        return self._known.get((party_id, purpose, asset))

    async def existing(self, party_id: UUID, purpose: str, asset: str) -> int:
        """
        Return an account that was opened before.

        Raises:
            AccountMissingError: It was not.
        """
        account_id = await self.find(party_id, purpose, asset)
        if account_id is None:
            message = f"The party has no {purpose} account in {asset}."
            raise AccountMissingError(message)
        return account_id

    async def find(self, party_id: UUID, purpose: str, asset: str) -> int | None:
        """
        Return an account, or ``None`` when it was never opened.
        """
        known = self.known_account(party_id, purpose, asset)
        if known is not None:
            return known
        row = await self._store.fetch_optional(
            "find_account", {"party_id": party_id, "asset": asset, "purpose": purpose}
        )
        if row is None:
            return None
        self._known[party_id, purpose, asset] = int(row[0])
        return int(row[0])

    async def set_state(self, account_id: int, state: str, connection: Connection) -> None:
        """
        Freeze or thaw one account for new holds and plain entries.

        Args:
            account_id: Which.
            state: ``active`` or ``frozen``.
            connection: The caller's: who holds a turn and waits for a second connection of a
                small pool may wait for itself.
        """
        await self._store.execute(
            "set_account_state",
            {"account_id": account_id, "state": state, "now": self._clock.now()},
            connection,
        )

    @contextlib.asynccontextmanager
    async def locked(
        self, account_id: int, connection: Connection | None = None
    ) -> AsyncGenerator[Connection]:
        """
        Serialise what services read, decide and post about one account, in all processes.

        No transaction is open meanwhile, or the writer would wait for a row locked here.

        Args:
            account_id: Whose turn it is.
            connection: One that holds a lock already; of a small pool a second one may never
                come.
        """
        async with contextlib.AsyncExitStack() as stack:
            if connection is None:
                connection = await stack.enter_async_context(self._store.connection())
            key = {"account_id": account_id}
            await self._store.execute("lock_account", key, connection)
            stack.push_async_callback(self._store.execute, "unlock_account", key, connection)
            yield connection


def _money_role(rules: AccountPurpose, purpose: str) -> int:
    if purpose == "safeguarded":
        return SAFEGUARDED
    return CLIENT_MONEY if rules.is_client_money else 0


def _is_payable(rules: AccountPurpose) -> bool:
    return rules.is_laned and rules.account_class == "liability"
