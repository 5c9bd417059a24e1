"""
Take back what was charged for an answer that was not given.

A plain answer whose settle is not durable in time is refused with 503: not settled = not
acknowledged = not charged. A settle that was not sent yet is recalled by the writer; of one that
was sent nobody knows. So the hold is voided behind the refusal. The writer comes to the void
after the settle: if that is in the books the void is refused, and the whole charge is refunded at
the platform's cost, once, by its reference.

Known limit: a process that dies between such a settle and its refund leaves the charge.
"""

from __future__ import annotations

import asyncio
from typing import Final

import psycopg
import structlog
from psycopg_pool import PoolTimeout

from tokenworks.foundation.errors import TokenworksError
from tokenworks.foundation.money import Amount
from tokenworks.gateway.calls import CallStore
from tokenworks.gateway.model import UNACKNOWLEDGED
from tokenworks.gateway.open_call import OpenCall
from tokenworks.gateway.refunding import Bearer, Refunds
from tokenworks.gateway.settling import Settling

PAUSES_S: Final = (0.1, 1.0, 5.0, 30.0)
"""Between tries to refund, while the database comes back."""

_log = structlog.get_logger("tokenworks.gateway")


class TakingBack:
    """
    End calls whose clients were told that nothing is acknowledged.
    """

    def __init__(self, *, settling: Settling, refunds: Refunds, calls: CallStore) -> None:
        self._settling = settling
        self._refunds = refunds
        self._calls = calls
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, call: OpenCall, error: BaseException) -> None:
        """
        See behind the refusal, or the end of the door, to it that nothing is charged.
        """
        task = asyncio.create_task(self._take_back(call, error))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def quiet(self) -> None:
        """
        Return when nothing is to be taken back any more.
        """
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _take_back(self, call: OpenCall, error: BaseException) -> None:
        for pause_s in (*PAUSES_S, None):
            try:
                if not await self._settling.void(call, error):
                    await self._refund(call)
            except (TokenworksError, psycopg.Error, PoolTimeout, OSError) as failed:
                reason = type(failed).__name__
                _log.warning("call_not_taken_back", call_id=str(call.call_id), reason=reason)
            else:
                return
            if pause_s is not None:
                await asyncio.sleep(pause_s)
        _log.error("call_charged_unacknowledged", call_id=str(call.call_id))

    async def _refund(self, call: OpenCall) -> None:
        row = await self._calls.get_call(call.call_id)
        if row is None or row.status != "settled" or not row.charge_quanta:
            return  # the hold ended otherwise, or the answer was free
        await self._refunds.refund(
            call.call_id,
            Amount(quanta=row.charge_quanta, asset=row.asset),
            reason="the answer was not acknowledged",
            borne_by=Bearer.PLATFORM,
            reference=UNACKNOWLEDGED,
            actor="hub",
        )
        _log.warning("unacknowledged_call_refunded", call_id=str(call.call_id))
