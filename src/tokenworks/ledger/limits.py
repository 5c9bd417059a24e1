"""
Limits of scopes: set, changed, removed, read, and what a lowered one still owes.

A limit over time is one account a window, granted when the first hold opens it (LEDGER 18).

Owns: the limits, and the units that are granted or taken back when one changes.
Does not own: which limits a hold meets (its spend path, looked up by the database).
Invariants: nothing is ever reset; raising grants the difference to the open window, lowering
takes back what is there and the rest from what returns; a limit counts in one time zone for
as long as it is open.

Known limit: a change is two steps, the limit and then the units (docs/internals/ledger.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import InvalidError
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.money import Asset
from tokenworks.ledger.accounts import PLATFORM_ID, Accounts
from tokenworks.ledger.entries import Entries, canonical
from tokenworks.ledger.errors import LimitMissingError
from tokenworks.ledger.model import LimitView, Posting, PostingKind, Transfer
from tokenworks.ledger.store import Store
from tokenworks.ledger.writer import Writer

WINDOWS: Final = ("ever", "minute", "hour", "day", "week", "month", "quarter", "year")
TAKE_BACK_TRIES_MAX: Final = 8

_PURPOSES: Final = ("limit_source", "limit_spent", "limit_overrun")
_ASSETS: Final = ("LIMIT.USD", "LIMIT.TOK", "LIMIT.PAYMENTS")


class Limits:
    """
    The limits of the spend tree.
    """

    def __init__(
        self,
        writer: Writer,
        store: Store,
        *,
        accounts: Accounts,
        entries: Entries,
        clock: Clock,
        ids: IdentifierSource,
    ) -> None:
        self._writer = writer
        self._store = store
        self._accounts = accounts
        self._entries = entries
        self._clock = clock
        self._ids = ids

    async def open_accounts(self) -> None:
        """
        Open the platform's accounts that units of limits come from and go to; safe to repeat.
        """
        for asset in _ASSETS:
            for purpose in _PURPOSES:
                await self._accounts.account(PLATFORM_ID, purpose, asset)

    async def limits(self, scope_ids: Sequence[UUID]) -> list[LimitView]:
        """
        Return the open limits of some scopes, in the order of the scopes.
        """
        rows = await self._store.fetch_all(
            "limits", {"scope_ids": list(scope_ids), "now": self._clock.now()}
        )
        return [_limit_from_row(row) for row in rows]

    async def set_limit(
        self,
        *,
        scope_id: UUID,
        asset: Asset,
        quanta: int,
        window: str,
        time_zone: str = "UTC",
        actor: str,
    ) -> LimitView:
        """
        Set or change a scope's limit of one asset and window.

        Raising grants the difference to the open window at once; lowering takes back what
        is available and the rest from what returns.

        Args:
            scope_id: The party or key that is limited.
            asset: One of the assets of limits.
            quanta: What may be spent in a window; zero or more.
            window: One of ``WINDOWS``.
            time_zone: IANA name of the zone in which windows begin.
            actor: Who sets it.

        Raises:
            InvalidError: Unknown window or time zone, or a change of time zone.
        """
        _check_window(window, time_zone)
        if quanta < 0:
            message = "A limit is zero or more."
            raise InvalidError(message, code="invalid_amount", param="amount")
        current = [
            limit
            for limit in await self.limits([scope_id])
            if limit.asset == asset.code and limit.window == window
        ]
        if current and current[0].time_zone != time_zone:
            message = (
                f"This limit counts in {current[0].time_zone}; remove it before setting one "
                f"in {time_zone}."
            )
            raise InvalidError(message, code="time_zone_fixed", param="time_zone")
        row = await self._change(scope_id, asset.code, quanta, window, time_zone, actor)
        limit_id, window_account, difference = row
        if window_account is not None and difference > 0:
            await self._grant(limit_id, window_account, asset.code, difference)
        elif window_account is not None and difference < 0:
            await self.collect_owed()
        views = await self.limits([scope_id])
        return next(view for view in views if view.limit_id == limit_id)

    async def remove_limit(self, limit_id: int, *, actor: str) -> None:
        """
        Remove a limit; what it allowed is history, open holds keep their part.

        Raises:
            LimitMissingError: There is no such open limit.
        """
        row = await self._store.fetch_optional("limit_by_id", {"limit_id": limit_id})
        if row is None:
            message = f"There is no limit {limit_id}."
            raise LimitMissingError(message, param="limit_id")
        scope_id, asset, window, time_zone = row
        await self._change(scope_id, asset, None, window, time_zone, actor)

    async def collect_owed(self) -> int:
        """
        Take back what lowered limits still owe, as far as it has returned; count them.
        """
        collected = 0
        for account_id, asset, _ in await self._store.fetch_all("owed_windows", {}):
            source = await self._accounts.account(PLATFORM_ID, "limit_source", asset)
            key = {"account_id": account_id}
            # Two collectors at once must not both take the same debt.
            async with self._accounts.locked(account_id) as connection:
                row = await self._store.fetch_optional("owed_window", key, connection)
                taken = 0 if row is None else await self._take_back(account_id, source, row[0])
                if taken:
                    await self._store.execute("settle_owed", {**key, "taken": taken}, connection)
                    collected += 1
        return collected

    async def _change(
        self,
        scope_id: UUID,
        asset: str,
        quanta: int | None,
        window: str,
        time_zone: str,
        actor: str,
    ) -> Sequence[Any]:
        """
        Return (limit_id, account of the open window or ``None``, difference in quanta).
        """
        return await self._store.fetch_one(
            "set_limit",
            {
                "scope_id": scope_id,
                "asset": asset,
                "quanta": quanta,
                "window": window,
                "zone": time_zone,
                "actor": actor,
                "now": self._clock.now(),
            },
        )

    async def _grant(self, limit_id: int, window_account: int, asset: str, quanta: int) -> None:
        source = await self._accounts.account(PLATFORM_ID, "limit_source", asset)
        await self._entries.post(
            Posting(
                kind=PostingKind.POST,
                fact_id=self._ids.mint(),
                transfers=(Transfer(debit=source, credit=window_account, quanta=quanta),),
                meta=canonical({"kind": "limit_raised", "limit": limit_id}),
            )
        )

    async def _take_back(self, account_id: int, source: int, quanta: int) -> int:
        """
        Move units from a window back to the source; less where it has less, meanwhile.
        """
        take = quanta
        for _ in range(TAKE_BACK_TRIES_MAX):
            if take <= 0:
                return 0
            outcome = await self._writer.post(
                Posting(
                    kind=PostingKind.POST,
                    fact_id=self._ids.mint(),
                    transfers=(Transfer(debit=account_id, credit=source, quanta=take),),
                    meta=canonical({"kind": "limit_lowered"}),
                )
            )
            if outcome.is_done:
                return take
            take = outcome.available or 0
        return 0


def _check_window(window: str, time_zone: str) -> None:
    if window not in WINDOWS:
        message = f"A limit counts per {', '.join(WINDOWS)}; not per {window!r}."
        raise InvalidError(message, code="window_unknown", param="per")
    try:
        ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        message = f"{time_zone!r} is no time zone; use a name such as Europe/Berlin."
        raise InvalidError(message, code="time_zone_unknown", param="time_zone") from error


def _limit_from_row(row: Sequence[Any]) -> LimitView:
    return LimitView(
        limit_id=row[0],
        scope_id=row[1],
        asset=row[2],
        quanta=row[3],
        window=row[4],
        time_zone=row[5],
        remaining=int(row[6]),
        held=int(row[7]),
        resets_at=row[8],
    )
