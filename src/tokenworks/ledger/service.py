"""
What the rest of the product asks of the books: one face of all that the ledger does.

Order of a hold's life: ``place`` -> ``extend``* -> ``capture`` | ``void`` | ``expire``.
Whatever moves value is one operation of the writer, and returns when it is durable.

Owns: which parts there are, and what of them others may use.
Does not own: any of the acts; each stands in the module of its part, under the same name.
"""

from __future__ import annotations

from typing import Final

from tokenworks.foundation.clock import Clock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.ledger.accounts import PLATFORM_ID, Accounts
from tokenworks.ledger.balances import Balances
from tokenworks.ledger.entries import Entries
from tokenworks.ledger.holds import Holds
from tokenworks.ledger.limits import Limits
from tokenworks.ledger.receivables import Receivables
from tokenworks.ledger.refusals import Refusals
from tokenworks.ledger.spend_paths import SpendPaths
from tokenworks.ledger.store import Store
from tokenworks.ledger.sweeping import Sweeping
from tokenworks.ledger.treasury import Posted, Treasury
from tokenworks.ledger.writer import Writer
from tokenworks.postgres.pool import Pool

PARTITION_MONTHS_AHEAD: Final = 1


class Ledger:
    """
    Accounts, entries, holds and limits for one process.

    Args:
        writer: The process's group-committing writer.
        pool: For reads, and for opening accounts and limits.
        clock: Ledger time and deadlines.
        ids: Mints fact ids for operations that nobody else named.
        currency: The money that limits in ``LIMIT.<currency>`` count.
    """

    def __init__(
        self,
        writer: Writer,
        pool: Pool,
        *,
        clock: Clock,
        ids: IdentifierSource,
        currency: str = "USD",
    ) -> None:
        store = Store(pool)
        accounts = Accounts(store, clock=clock, currency=currency)
        balances = Balances(store)
        refusals = Refusals(store, clock)
        entries = Entries(writer, store, refusals)
        receivables = Receivables(writer, accounts=accounts, balances=balances, ids=ids)
        sweeping = Sweeping(store, accounts=accounts, entries=entries, ids=ids)
        treasury = Treasury(
            store,
            accounts=accounts,
            balances=balances,
            entries=entries,
            receivables=receivables,
            sweeping=sweeping,
            ids=ids,
        )
        holds = Holds(writer, store, clock)
        paths = SpendPaths(store, accounts=accounts, clock=clock)
        limits = Limits(writer, store, accounts=accounts, entries=entries, clock=clock, ids=ids)

        self._writer = writer
        self._clock = clock
        self._store = store
        self._accounts = accounts
        self._limits = limits

        # Operations as they stand; refusals come back as codes, and ``refusal`` words them.
        self.place: Final = writer.place
        self.post: Final = writer.post
        self.post_all: Final = writer.post_all
        self.refusal: Final = refusals.refusal

        self.open_party: Final = accounts.open_party
        self.account: Final = accounts.account
        self.known_account: Final = accounts.known_account
        self.locked: Final = accounts.locked
        self.swept: Final = sweeping.swept
        self.balances: Final = balances.balances
        self.trial_balance: Final = balances.trial_balance
        self.entries_of: Final = entries.entries_of
        self.stored_entry: Final = entries.stored_entry

        self.deposit: Final = treasury.deposit
        self.chargeback: Final = treasury.chargeback
        self.payout: Final = treasury.payout
        self.thawed: Final = receivables.thawed

        self.void: Final = holds.void
        self.expire_due: Final = holds.expire_due
        self.open_holds: Final = holds.open_holds
        self.hold: Final = holds.hold

        self.open_scope: Final = paths.open_scope
        self.set_scope_state: Final = paths.set_scope_state
        self.open_path: Final = paths.open_path
        self.publish_path: Final = paths.publish_path
        self.path_version: Final = paths.path_version

        self.limits: Final = limits.limits
        self.set_limit: Final = limits.set_limit
        self.remove_limit: Final = limits.remove_limit
        self.collect_owed: Final = limits.collect_owed

    @property
    def lane(self) -> int:
        """
        Return this process's lane.
        """
        return self._writer.lane

    @property
    def currency(self) -> str:
        """
        Return the money that the hub keeps its books in.
        """
        return self._accounts.currency

    @property
    def is_connected(self) -> bool:
        """
        Return whether the books could be reached at the last attempt.
        """
        return self._writer.is_connected

    async def prepare(self) -> None:
        """
        Make the partitions and the platform's accounts; safe to repeat.
        """
        await self.ensure_partitions()
        await self._accounts.open_party(PLATFORM_ID, "platform")
        await self._limits.open_accounts()

    async def ensure_partitions(self) -> None:
        """
        Make this month's and the coming months' partitions.

        Few ahead: every statement of a batch opens those it may touch, and the worker
        looks every hour.
        """
        await self._store.execute(
            "ensure_partitions",
            {"now": self._clock.now(), "months": PARTITION_MONTHS_AHEAD + 1},
        )


__all__ = ["PLATFORM_ID", "Ledger", "Posted"]
