"""
Keep one session's view of the hub fresh: asked for by pages, polled at most once a second.

All tabs of a session share one feed. Nothing is polled while no page asks. The last good
answer stays when the hub does not answer, with a notice that says so.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from typing import Final

from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import (
    ForbiddenError,
    TokenworksError,
    UnauthenticatedError,
)
from tokenworks.web.console.hub import RETRY_AFTER_S_DEFAULT, Hub
from tokenworks.web.console.model import Balance, Call, Flow, Link, Node, TrialBalance
from tokenworks.web.console.rates import (
    HISTORY_S,
    RATE_SPAN_S,
    Point,
    history_of,
    own_flow,
    point_at,
    totals_between,
)
from tokenworks.web.console.sessions import Session
from tokenworks.web.console.wording import to_decimal

WINDOWS_S: Final = (60, 300, 3_600)
WINDOW_S_DEFAULT: Final = 300

FRESH_FOR_S: Final = 0.9
FLOW_FRESH_FOR_S: Final = 1.8
STANDING_FRESH_FOR_S: Final = 10.0
GAP_S_MAX: Final = 6.0
LAST_CALLS: Final = 20
OWN_CALLS_MAX: Final = 200
BACKFILL_CALLS_MAX: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """
    What flowed in the chosen window.
    """

    window_s: int
    calls: int = 0
    tokens: int = 0
    value: Decimal = Decimal(0)
    nodes: tuple[Node, ...] = ()
    links: tuple[Link, ...] = ()
    is_cut: bool = False  # there were more calls than the console asks for


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """
    How the reader stands: a buyer's or supplier's money, or the state of the books.
    """

    balance: Balance | None = None
    trial_balance: TrialBalance | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """
    Everything the live page shows, as of its last good answers.
    """

    is_loaded: bool = False
    currency: str = "USD"
    calls_per_s: Decimal = Decimal(0)
    tokens_per_s: Decimal = Decimal(0)
    value_per_s: Decimal = Decimal(0)
    window: Window = field(default_factory=lambda: Window(window_s=WINDOW_S_DEFAULT))
    standing: Standing = field(default_factory=Standing)
    last_calls: tuple[Call, ...] = ()
    history: tuple[Point, ...] = ()
    now_s: float = 0.0  # seconds since 1970, when it was read
    notice: str | None = None  # what is wrong now, for people


class Feed:
    """
    One session's view of the hub.
    """

    def __init__(self, hub: Hub, session: Session, clock: Clock) -> None:
        self._hub = hub
        self._session = session
        self._clock = clock
        self._lock = asyncio.Lock()
        self._history: deque[Point] = deque()
        self._latest = Snapshot()
        self._windows: dict[int, tuple[float, Window]] = {}
        self._read_at_s: float | None = None
        self._standing_at_s: float | None = None
        self._not_before_s = 0.0

    async def read(self, window_s: int) -> Snapshot:
        """
        Return what is known now; asks the hub when that is older than a second.

        Raises:
            UnauthenticatedError: The hub does not accept the session's key any more.
            ForbiddenError: The key may no longer see this.
        """
        assert window_s in WINDOWS_S, "a page offers these windows only"
        async with self._lock:
            now_s = self._clock.monotonic_s()
            is_fresh = self._is_newer(self._read_at_s, now_s, FRESH_FOR_S)
            is_same_window = self._latest.window.window_s == window_s
            if now_s >= self._not_before_s and not (is_fresh and is_same_window):
                await self._refresh(window_s, now_s)
            return replace(self._latest, now_s=self._clock.now().timestamp())

    async def _refresh(self, window_s: int, now_s: float) -> None:
        try:
            if self._read_at_s is None or now_s - self._read_at_s > GAP_S_MAX:
                await self._backfill()
            if self._session.reader.is_admin:
                fresh = await self._read_whole_hub(window_s, now_s)
            else:
                fresh = await self._read_own_calls(window_s)
            standing = await self._read_standing(now_s)
        except (UnauthenticatedError, ForbiddenError):
            raise
        except TokenworksError as error:
            wait_s = error.retry_after_s or RETRY_AFTER_S_DEFAULT
            self._not_before_s = self._clock.monotonic_s() + wait_s
            self._latest = replace(self._latest, notice=error.message)
            return
        self._read_at_s = self._clock.monotonic_s()
        while self._history and self._history[0].at_s < self._history[-1].at_s - HISTORY_S:
            self._history.popleft()
        self._latest = replace(
            fresh, is_loaded=True, standing=standing, history=tuple(self._history)
        )

    async def _read_whole_hub(self, window_s: int, now_s: float) -> Snapshot:
        recent = await self._hub.flow(self._session.key, RATE_SPAN_S)
        charge_per_s = to_decimal(recent.charge_per_s)
        self._history.append(
            Point(
                at_s=self._clock.now().timestamp(),
                tokens_per_s=recent.tokens_per_s,
                value_per_s=float(charge_per_s),
            )
        )
        known = self._windows.get(window_s)
        if known is None or not self._is_newer(known[0], now_s, FLOW_FRESH_FOR_S):
            flow = await self._hub.flow(self._session.key, window_s)
            known = (now_s, _window_of(flow, window_s))
            self._windows[window_s] = known
        return Snapshot(
            currency=recent.currency,
            calls_per_s=Decimal(repr(recent.calls_per_s)),
            tokens_per_s=Decimal(repr(recent.tokens_per_s)),
            value_per_s=charge_per_s,
            window=known[1],
            last_calls=recent.last_calls[:LAST_CALLS],
        )

    async def _read_own_calls(self, window_s: int) -> Snapshot:
        page = await self._hub.calls(self._session.key, limit=OWN_CALLS_MAX)
        calls = page.items
        now_s = self._clock.now().timestamp()
        self._history.append(point_at(calls, now_s))
        recent = totals_between(calls, now_s - RATE_SPAN_S, now_s)
        return Snapshot(
            currency=calls[0].currency if calls else "USD",
            calls_per_s=Decimal(recent.calls) / RATE_SPAN_S,
            tokens_per_s=Decimal(recent.tokens) / RATE_SPAN_S,
            value_per_s=recent.value / RATE_SPAN_S,
            window=self._own_window(calls, window_s, now_s, has_more=page.next_cursor is not None),
            last_calls=calls[:LAST_CALLS],
        )

    def _own_window(
        self, calls: Sequence[Call], window_s: int, now_s: float, *, has_more: bool
    ) -> Window:
        since_s = now_s - window_s
        inside = [call for call in calls if totals_between([call], since_s, now_s).calls]
        totals = totals_between(inside, since_s, now_s)
        reader = self._session.reader
        nodes, links = own_flow(
            inside, is_supplier=reader.is_supplier, own_name=reader.organisation.name
        )
        return Window(
            window_s=window_s,
            calls=totals.calls,
            tokens=totals.tokens,
            value=totals.value,
            nodes=nodes,
            links=links,
            is_cut=has_more and len(inside) == len(calls),
        )

    async def _read_standing(self, now_s: float) -> Standing:
        if self._is_newer(self._standing_at_s, now_s, STANDING_FRESH_FOR_S):
            return self._latest.standing
        self._standing_at_s = now_s
        if self._session.reader.is_admin:
            return Standing(trial_balance=await self._hub.trial_balance(self._session.key))
        return Standing(balance=await self._hub.balance(self._session.key))

    async def _backfill(self) -> None:
        now = self._clock.now()
        since = (now - timedelta(seconds=HISTORY_S + RATE_SPAN_S)).strftime("%Y-%m-%dT%H:%M:%SZ")
        page = await self._hub.calls(self._session.key, limit=BACKFILL_CALLS_MAX, since=since)
        is_whole = page.next_cursor is None
        self._history = deque(history_of(page.items, now, is_whole=is_whole))

    @staticmethod
    def _is_newer(moment_s: float | None, now_s: float, span_s: float) -> bool:
        return moment_s is not None and now_s - moment_s < span_s


def _window_of(flow: Flow, window_s: int) -> Window:
    return Window(
        window_s=window_s,
        calls=flow.calls,
        tokens=flow.tokens,
        value=to_decimal(flow.charge),
        nodes=flow.nodes,
        links=flow.links,
    )
