"""
Bring the lanes' shares of an account together, so that all of it can be paid from one place.

Accounts of the hot path that only receive have a share for each writer, without a bound
(LEDGER 4); what leaves them leaves the main account, which has one.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.ledger.accounts import Accounts
from tokenworks.ledger.entries import Entries, canonical
from tokenworks.ledger.model import Posting, PostingKind, Transfer
from tokenworks.ledger.store import Store
from tokenworks.postgres.pool import Connection


class Sweeping:
    """
    Sweep laned accounts, one sweeper at a time.
    """

    def __init__(
        self, store: Store, *, accounts: Accounts, entries: Entries, ids: IdentifierSource
    ) -> None:
        self._store = store
        self._accounts = accounts
        self._entries = entries
        self._ids = ids

    @contextlib.asynccontextmanager
    async def swept(
        self, main_account: int, connection: Connection | None = None
    ) -> AsyncGenerator[Connection]:
        """
        Bring every writer's share of a laned account into the main one, and keep it there.

        Two at once must not both sweep what the shares have, so they take turns: the account
        is locked until the block ends, on the connection that is yielded.
        """
        async with self._accounts.locked(main_account, connection) as locked:
            await self._sweep(main_account, locked)
            yield locked

    async def _sweep(self, main_account: int, connection: Connection) -> None:
        shares = await self._store.fetch_all(
            "lane_shares", {"account_id": main_account}, connection
        )
        if not shares:
            return
        await self._entries.post(
            Posting(
                kind=PostingKind.POST,
                fact_id=self._ids.mint(),
                transfers=tuple(
                    Transfer(debit=share, credit=main_account, quanta=int(quanta))
                    for share, quanta in shares
                ),
                is_exact=True,
                meta=canonical({"kind": "sweep"}),
            )
        )
