"""
How a call is held and settled: as the gateway does it, without receipt, or on one account.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Final, Protocol, cast
from uuid import UUID

from benchmarks.ledger.business import TIER, Business
from benchmarks.loader import chat_body
from tokenworks.bootstrap.hub import Hub
from tokenworks.gateway.bill import Bill
from tokenworks.gateway.model import Attempt, AttemptStatus, CallOutcome
from tokenworks.gateway.open_call import OpenCall
from tokenworks.gateway.routing import HealthBook
from tokenworks.gateway.settling import Settling
from tokenworks.identity.model import Principal
from tokenworks.ledger.errors import FundsShortError, LimitShortError, WindowShortError
from tokenworks.ledger.model import (
    ASSET_IDS,
    Outcome,
    Placement,
    Posting,
    PostingKind,
    Reservation,
    Transfer,
)
from tokenworks.ledger.service import PLATFORM_ID, Ledger
from tokenworks.metering.model import Axis, Usage
from tokenworks.pricing.rating import rate

USAGE: Final = Usage(counts={Axis.INPUT: 24, Axis.OUTPUT: 32})
HOLD_LIFETIME: Final = timedelta(minutes=5)
ANSWER_LIFETIME: Final = timedelta(seconds=30)
SHORT: Final = (FundsShortError, LimitShortError, WindowShortError)


class Way(Protocol):
    """
    How one call is held and settled, each durable when it returns.
    """

    async def hold(self, number: int, principal: Principal) -> object | None:
        """
        Return the open call, or ``None`` when it was refused for funds or a limit.
        """
        ...

    async def settle(self, opened: object) -> None:
        """
        End it.
        """
        ...


class FullCalls:
    """
    A call as the gateway makes it: everything but HTTP, parsing and the supplier.
    """

    def __init__(self, hub: Hub, templates: list[OpenCall]) -> None:
        self._hub = hub
        self._templates = templates

    def new_call(self, number: int, principal: Principal) -> OpenCall:
        """
        Return a call that is not held yet, served by the supplier of its number.
        """
        hub = self._hub
        template = self._templates[number % len(self._templates)]
        now, now_s, call_id = hub.clock.now(), hub.clock.monotonic_s(), hub.ids.mint()
        served = Attempt(
            call_id=call_id,
            ordinal=1,
            offer=template.offers[0],
            started_at=now,
            started_s=now_s,
            status=AttemptStatus.SERVED,
            http_status=200,
            duration_ms=1.0,
        )
        return replace(
            template,
            call_id=call_id,
            principal=principal,
            path_version=principal.spend_path_version,
            quote=replace(template.quote),
            attempts=[served],
            parts=(),
            started_at=now,
            started_s=now_s,
            first_token_s=now_s,
            expires_at=now + HOLD_LIFETIME,
        )

    async def hold(self, number: int, principal: Principal) -> OpenCall | None:
        call = self.new_call(number, principal)
        try:
            await self._hub.gateway.holding.hold(call)
        except SHORT:
            return None
        return call

    async def settle(self, opened: object) -> None:
        await settle_as_the_gateway(self._hub.gateway.settling, cast("OpenCall", opened))


async def settle_as_the_gateway(settling: Settling, call: OpenCall) -> None:
    """
    Rate, split, draft the receipt, capture, sign.
    """
    bill = Bill(usage=USAGE, rated=rate(USAGE, call.card))
    await settling.settle(call, call.attempts[0], outcome=CallOutcome.COMPLETED, bill=bill)


class BareCalls(FullCalls):
    """
    The ledger's part alone: the same holds and legs, no receipt and no row of the gateway.

    Which legs a key's calls have is learnt from the gateway: its first call is settled by it.
    """

    def __init__(self, hub: Hub, templates: list[OpenCall]) -> None:
        super().__init__(hub, templates)
        self._recorder = _Recorder(hub.ledger)
        self._settling = Settling(
            ledger=cast("Ledger", self._recorder),
            supply=hub.supply,
            receipts=hub.issuer,
            holding=hub.gateway.holding,
            clock=hub.clock,
            health=HealthBook(),
        )
        self._legs: dict[tuple[object, ...], tuple[Transfer, ...]] = {}

    async def settle(self, opened: object) -> None:
        call = cast("OpenCall", opened)
        same = (call.card.model, *(part.account_id for part in call.parts))
        legs = self._legs.get(same)
        if legs is None:
            await settle_as_the_gateway(self._settling, call)
            self._legs[same] = self._recorder.posted.pop(call.call_id).transfers
            return
        posting = Posting(
            kind=PostingKind.CAPTURE, fact_id=call.call_id, transfers=legs, meta='{"kind":"call"}'
        )
        require_done(await self._hub.ledger.post(posting, is_timed=True))


class _Recorder:
    """
    A ledger that remembers what was posted.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.posted: dict[UUID, Posting] = {}

    def __getattr__(self, name: str) -> object:
        return getattr(self._ledger, name)

    async def post(
        self, posting: Posting, *, is_timed: bool = False, is_recallable: bool = False
    ) -> Outcome:
        self.posted[posting.fact_id] = posting
        return await self._ledger.post(posting, is_timed=is_timed, is_recallable=is_recallable)


class SingleAccount:
    """
    The least a call can be: money of one account, no limits, one leg to the platform.

    Three account changes a call: held, taken, received.
    """

    def __init__(self, hub: Hub, *, cash: int, revenue: int, quanta: int) -> None:
        self._hub = hub
        self._reservations = (
            Reservation(asset_id=ASSET_IDS["USD"], quanta=2 * quanta, account_id=cash),
        )
        self._transfers = (Transfer(debit=cash, credit=revenue, quanta=quanta),)

    async def hold(self, number: int, principal: Principal) -> UUID | None:
        del number, principal
        hub = self._hub
        now = hub.clock.now()
        placement = Placement(
            hold_id=hub.ids.mint(),
            reservations=self._reservations,
            expires_at=now + HOLD_LIFETIME,
            deadline=now + ANSWER_LIFETIME,
        )
        require_done(await hub.ledger.place(placement))
        return placement.hold_id

    async def settle(self, opened: object) -> None:
        posting = Posting(
            kind=PostingKind.CAPTURE, fact_id=cast("UUID", opened), transfers=self._transfers
        )
        require_done(await self._hub.ledger.post(posting, is_timed=True))


def require_done(outcome: Outcome) -> None:
    """
    Refuse to measure what the ledger refuses.
    """
    if not outcome.is_done:
        raise RuntimeError(f"The ledger answered {outcome.code}.")


async def make_way(kind: str, hub: Hub, business: Business, *, suppliers: int) -> Way:
    """
    Return the way of a scenario; ``kind`` is ``full``, ``bare`` or ``single``.
    """
    payer = await hub.identity.authenticate(business.keys_one[0])
    if kind == "single":
        cash = await hub.ledger.account(payer.organisation_id, "cash")
        revenue = await hub.ledger.account(PLATFORM_ID, "platform_revenue")
        return SingleAccount(hub, cash=cash, revenue=revenue, quanta=1_000)
    templates: list[OpenCall] = []
    for model in business.models[:suppliers]:
        # Opened by the gateway once, given back, and copied for every call that is measured.
        body = chat_body(f"{model}@{TIER}", is_stream=True, max_tokens=64)
        call = await hub.gateway.open(payer, body)
        await hub.ledger.void(call.call_id, reason="a template")
        templates.append(call)
    return FullCalls(hub, templates) if kind == "full" else BareCalls(hub, templates)
