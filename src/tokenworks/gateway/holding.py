"""
Hold what a call may use: once before any supplier is asked, more when it grows.

Invariants: one ledger operation takes the money and every limit, or nothing; a hold is
kept alive while its call is in flight, and expires by itself when nobody beats for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import ForbiddenError
from tokenworks.foundation.limits import (
    DRAIN_AFTER_DISCONNECT_S,
    GRANTED_OUTPUT_TOKENS_DEFAULT,
    HOLD_LIFETIME_S,
    LEDGER_ANSWER_TIMEOUT_S,
)
from tokenworks.foundation.money import USD, quanta_to_text
from tokenworks.gateway.open_call import LIMIT_PAYMENTS, LIMIT_TOKENS, OpenCall
from tokenworks.ledger.errors import LedgerUnavailableError
from tokenworks.ledger.model import Outcome, Placement, Refusal, Reservation
from tokenworks.ledger.service import Ledger

HEARTBEATS_PER_LIFETIME: Final = 3
CALL_META_PREFIX: Final = '{"key":'
"""Begins the meta of a call's hold, and of no other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRules:
    """
    What the operator may set about calls.
    """

    granted_output_tokens: int = GRANTED_OUTPUT_TOKENS_DEFAULT
    hold_lifetime_s: int = HOLD_LIFETIME_S
    drain_after_disconnect_s: float = DRAIN_AFTER_DISCONNECT_S


class Heartbeat:
    """
    Repeat ``beat`` while a block runs; a beat that fails is tried again at the next.
    """

    __slots__ = ("_beat", "_interval_s", "_task", "_timer")

    def __init__(self, beat: Callable[[], Awaitable[object]], interval_s: float) -> None:
        self._beat = beat
        self._interval_s = interval_s
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._interval_s, self._start)

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._run())
        self._timer = loop.call_later(self._interval_s, self._start)

    async def _run(self) -> None:
        with contextlib.suppress(LedgerUnavailableError):
            await self._beat()


class Holding:
    """
    Place, grow and keep the holds of calls.
    """

    def __init__(self, *, ledger: Ledger, clock: Clock, rules: CallRules) -> None:
        self._ledger = ledger
        self._clock = clock
        self.rules = rules

    async def hold(self, call: OpenCall) -> None:
        """
        Hold a call's quote: money and every limit on the key's path.

        Raises:
            ForbiddenError: The key or someone above it is closed, or one call of it may cost less.
            InsufficientFundsError, LimitExceededError: Money or a limit is short; names the
                tightest.
            LedgerUnavailableError: The books did not answer in time.
        """
        most = call.principal.call_quanta_max
        if most is not None and call.quote.quanta > most:
            text = quanta_to_text(most, scale=USD.scale)
            message = (
                f"The mandate of this key allows at most {text} for one call; this one could cost"
                f" {quanta_to_text(call.quote.quanta, scale=USD.scale)}. Ask for fewer tokens."
            )
            raise ForbiddenError(message, code="amount_not_allowed", details={"amount_max": text})
        outcome = await self._place(call)
        if outcome.code == Refusal.SPEND_PATH_STALE:
            version = await self._ledger.path_version(call.principal.spend_path_id)
            call.path_version = version or call.path_version
            outcome = await self._place(call)
        if outcome.code == Refusal.SCOPE_CLOSED:
            # The key, or someone above it, was closed a moment ago elsewhere.
            message = "This API key, or the party it belongs to, is closed."
            raise ForbiddenError(message, code="scope_closed")
        if not outcome.is_done:
            raise await self._ledger.refusal(outcome)
        call.parts = outcome.parts

    async def _place(self, call: OpenCall) -> Outcome:
        principal = call.principal
        offer = call.offers[0]
        return await self._ledger.place(
            Placement(
                hold_id=call.call_id,
                path_id=principal.spend_path_id,
                path_version=call.path_version,
                reservations=_reservations(
                    call,
                    call.quote.quanta,
                    call.quote.tokens,
                    # A call through a mandate is one of the payments that it counts.
                    payments=1 if principal.mandate_id is not None else 0,
                ),
                expires_at=call.expires_at,
                deadline=self._clock.now() + timedelta(seconds=LEDGER_ANSWER_TIMEOUT_S),
                meta=(
                    f'{CALL_META_PREFIX}"{principal.key_id}","offer":"{offer.offer_id}",'
                    f'"quoted":"{call.quote.quanta}"}}'
                ),
            )
        )

    async def extend(self, call: OpenCall, *, quanta: int, tokens: int) -> bool:
        """
        Grow a call's hold on every part, all or none; return whether it grew.
        """
        most = call.principal.call_quanta_max
        if most is not None and call.quote.quanta + quanta > most:
            return False
        call.extensions += 1
        call.expires_at = self._clock.now() + timedelta(seconds=self.rules.hold_lifetime_s)
        outcome = await self._ledger.place(
            Placement(
                hold_id=call.call_id,
                extension=call.extensions,
                reservations=_reservations(call, quanta, tokens),
                expires_at=call.expires_at,
                deadline=self._clock.now() + timedelta(seconds=LEDGER_ANSWER_TIMEOUT_S),
            )
        )
        if outcome.is_done:
            call.quote.quanta += quanta
        return outcome.is_done

    def heartbeat(self, call: OpenCall) -> Heartbeat:
        """
        Keep a call's hold from expiring for as long as the block runs.
        """
        interval_s = self.rules.hold_lifetime_s / HEARTBEATS_PER_LIFETIME
        return Heartbeat(lambda: self.extend(call, quanta=0, tokens=0), interval_s)


def _reservations(
    call: OpenCall, quanta: int, tokens: int, *, payments: int = 0
) -> tuple[Reservation, ...]:
    # In the order of the assets: so the ledger takes them by sets.
    return tuple(
        Reservation(asset_id=asset_id, quanta=amount)
        for asset_id, amount in (
            (call.money_asset, quanta),
            (call.money_limit_asset, quanta),
            (LIMIT_TOKENS, tokens),
            (LIMIT_PAYMENTS, payments),
        )
        if amount
    )
