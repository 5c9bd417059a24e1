"""
How much of a mandate's budgets is spent, and how early: for the rule of the burn rate.

Read from the ledger's limits and remembered for ``REMEMBER_S``: the rule only raises scrutiny,
and the sums themselves are kept by the ledger, so a figure that is a few seconds old lets
nothing through that the ledger would refuse. Minutes and hours are left out: what is quick in
them is a matter of velocity.
"""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID
from zoneinfo import ZoneInfo

from tokenworks.agents.brake.ports import LedgerLimits
from tokenworks.agents.brake.rules import Budget
from tokenworks.agents.together import Together
from tokenworks.foundation.clock import Clock
from tokenworks.foundation.money import PPM
from tokenworks.ledger.model import LimitView

REMEMBER_S: Final = 5.0
REMEMBERED_MAX: Final = 20_000
TOGETHER_MAX: Final = 64
"""Chains that are read in one statement."""
_MONTHS: Final = {"month": 1, "quarter": 3, "year": 12}
_DAYS: Final = {"day": 1, "week": 7}


class Budgets:
    """
    Read the budgets of mandates.
    """

    def __init__(self, ledger: LedgerLimits, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._known: dict[tuple[UUID, ...], tuple[float, tuple[Budget, ...]]] = {}
        self._limits = Together(self._read, askers_max=TOGETHER_MAX)

    async def of(self, mandates: tuple[UUID, ...], currency: str) -> tuple[Budget, ...]:
        """
        Return the budgets of a chain of mandates in a currency.
        """
        now_s = self._clock.monotonic_s()
        known = self._known.get(mandates)
        if known is not None and now_s - known[0] < REMEMBER_S:
            return known[1]
        now = self._clock.now()
        budgets = tuple(
            _budget(limit, now)
            for limits in (await self._limits.ask(mandates)).values()
            for limit in limits
            if limit.asset == f"LIMIT.{currency}"
            and limit.resets_at is not None
            and (limit.window in _MONTHS or limit.window in _DAYS)
        )
        if len(self._known) >= REMEMBERED_MAX:
            self._known.clear()
        self._known[mandates] = (now_s, budgets)
        return budgets

    async def _read(self, scope_ids: Sequence[UUID]) -> dict[UUID, list[LimitView]]:
        found: dict[UUID, list[LimitView]] = {}
        for view in await self._ledger.limits(scope_ids):
            found.setdefault(view.scope_id, []).append(view)
        return found


def _budget(limit: LimitView, now: datetime) -> Budget:
    assert limit.resets_at is not None, "windows that never end have no burn rate"
    starts = window_start(limit.window, limit.resets_at, limit.time_zone)
    length, elapsed = limit.resets_at - starts, now - starts
    return Budget(
        window=limit.window,
        quanta=limit.quanta,
        # What is held is promised, so it counts as spent.
        spent_quanta=max(limit.quanta - limit.remaining, 0),
        elapsed_ppm=max(0, min(PPM, int(elapsed / length * PPM))),
    )


def window_start(window: str, ends_at: datetime, time_zone: str) -> datetime:
    """
    Return when a window of the calendar began that ends at a moment.
    """
    local = ends_at.astimezone(ZoneInfo(time_zone))
    if window in _DAYS:
        return local - timedelta(days=_DAYS[window])
    months = local.year * 12 + local.month - 1 - _MONTHS[window]
    year, month = months // 12, months % 12 + 1
    return local.replace(year=year, month=month, day=min(local.day, monthrange(year, month)[1]))


def mandates_of(chain: Sequence[UUID], mandate_id: UUID) -> tuple[UUID, ...]:
    """
    Return whose budgets count; without a chain the mandate's own.
    """
    return tuple(chain) or (mandate_id,)
