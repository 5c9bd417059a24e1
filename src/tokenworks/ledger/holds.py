"""
Holds one by one: given back, ended by time, and read.

Does not own: placing and capturing, which are operations of the writer as they stand.
Invariants: expiry is an operation like any other, so a settle that was recorded first wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from tokenworks.foundation.clock import Clock
from tokenworks.ledger.entries import canonical
from tokenworks.ledger.model import HoldView, Outcome, Part, Posting, PostingKind
from tokenworks.ledger.store import Store
from tokenworks.ledger.writer import Writer


class Holds:
    """
    End holds without a capture, and look at them.
    """

    def __init__(self, writer: Writer, store: Store, clock: Clock) -> None:
        self._writer = writer
        self._store = store
        self._clock = clock

    async def void(self, hold_id: UUID, *, reason: str, rider_row: str | None = None) -> Outcome:
        """
        Give back everything a hold took; refused, and harmless, when it is already closed.

        Args:
            hold_id: Which hold.
            reason: Why; kept with the entry.
            rider_row: One row for the writer's rider, in the same transaction.
        """
        return await self._writer.post(
            Posting(
                kind=PostingKind.VOID,
                fact_id=hold_id,
                meta=canonical({"reason": reason}),
                rider_row=rider_row,
            )
        )

    async def expire_due(self, *, grace: timedelta, limit: int = 500) -> int:
        """
        Expire holds whose time has come; return how many ended.

        Expiry is an ordered operation: a settle that was recorded first wins.

        Args:
            grace: How long past its expiry a hold is left alone.
            limit: The most to expire in one go.
        """
        rows = await self._store.fetch_all(
            "due_holds", {"before": self._clock.now() - grace, "limit": limit}
        )
        outcomes = await self._writer.post_all(
            [Posting(kind=PostingKind.EXPIRE, fact_id=row[0], meta="{}") for row in rows]
        )
        return sum(outcome.is_done for outcome in outcomes)

    async def open_holds(self, limit: int = 100) -> list[HoldView]:
        """
        Return open holds, the oldest first.
        """
        rows = await self._store.fetch_all("open_holds", {"limit": limit})
        return [_hold_from_row(row) for row in rows]

    async def hold(self, hold_id: UUID) -> HoldView | None:
        """
        Return one hold, open or closed; ``None`` when there was none.
        """
        row = await self._store.fetch_optional("hold", {"hold_id": hold_id})
        return None if row is None else _hold_from_row(row)


def _hold_from_row(row: Sequence[Any]) -> HoldView:
    hold_id, state, placed_at, expires_at, accounts, assets, held, captured, meta = row
    return HoldView(
        hold_id=hold_id,
        state=state,
        placed_at=placed_at,
        expires_at=expires_at,
        parts=tuple(
            Part(account_id=account, asset_id=asset, quanta=amount - taken)
            for account, asset, amount, taken in zip(accounts, assets, held, captured, strict=True)
        ),
        meta=meta,
    )
