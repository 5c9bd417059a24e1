"""
Limits and their windows, naively: when a window begins, and what was granted to it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

WindowId = tuple[int, datetime]


@dataclass
class NaiveLimit:
    """
    One limit of a scope; a removed one is no longer open.
    """

    limit_id: int
    scope: UUID
    asset: int
    quanta: int
    kind: str
    zone: str
    opened_at: datetime
    is_open: bool = True

    def window_start(self, moment: datetime) -> datetime:
        """
        Return where the window that contains a moment begins.
        """
        if self.kind == "ever":
            return self.opened_at
        local = moment.astimezone(ZoneInfo(self.zone))
        year, month, day = local.year, local.month, local.day
        if self.kind == "hour":
            # Of the zones that are drawn none is off by part of an hour.
            return moment.replace(minute=0, second=0, microsecond=0)
        if self.kind == "week":
            monday = local.date() - timedelta(days=local.weekday())
            year, month, day = monday.year, monday.month, monday.day
        elif self.kind != "day":
            day = 1
            month = {"year": 1, "quarter": month - (month - 1) % 3}.get(self.kind, month)
        return datetime(year, month, day, tzinfo=ZoneInfo(self.zone)).astimezone(UTC)


@dataclass
class NaiveWindow:
    """
    One window's account: what it should have been granted, and what it was.
    """

    account: int
    target: int
    granted: int


@dataclass
class NaiveLimits:
    """
    Every limit there ever was, and every window that was opened.
    """

    limits: dict[int, NaiveLimit] = field(default_factory=dict[int, NaiveLimit])
    windows: dict[WindowId, NaiveWindow] = field(default_factory=dict[WindowId, NaiveWindow])

    def of_scope(self, scope: UUID) -> list[NaiveLimit]:
        """
        Return a scope's open limits.
        """
        return [limit for limit in self.limits.values() if limit.scope == scope and limit.is_open]

    def find(self, scope: UUID, asset: int, kind: str) -> NaiveLimit | None:
        """
        Return the one open limit of a scope, asset and kind of window.
        """
        return next((x for x in self.of_scope(scope) if (x.asset, x.kind) == (asset, kind)), None)

    def needed(self, scopes: list[UUID], moment: datetime) -> set[WindowId]:
        """
        Return the windows that a hold below these scopes needs.
        """
        return {
            (limit.limit_id, limit.window_start(moment))
            for scope in scopes
            for limit in self.of_scope(scope)
        }

    def accounts(self, scopes: list[UUID], moment: datetime) -> list[tuple[UUID, int]]:
        """
        Return the account of each open limit's current window, root first.
        """
        return [
            (scope, self.windows[limit.limit_id, start].account)
            for scope in scopes
            for limit in self.of_scope(scope)
            if (limit.limit_id, start := limit.window_start(moment)) in self.windows
        ]

    def current(self, limit: NaiveLimit, moment: datetime) -> NaiveWindow | None:
        """
        Return a limit's open window.
        """
        return self.windows.get((limit.limit_id, limit.window_start(moment)))
