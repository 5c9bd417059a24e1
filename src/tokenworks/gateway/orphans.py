"""
Give back what calls held whose process is gone, long before it would expire.

Until then the calls' idempotency keys are in flight, and their clients' next tries are refused.

A process is gone when its machine says so: it ran on this one, and runs no more. Or, where
that cannot be told from here, when it has been silent: for ``SILENCE_S`` it had no lease
(which itself outlives the last sign of life by ``LEASE_LIFETIME_S``) although this process
had one all the time. So a database that was away, full or without its standby makes nobody
silent, and neither does a process that is stopped for less than some 35 seconds.

Invariants: first the process' leases end, then its holds are looked for, so none is missed.
A hold ends once: a settle that comes before the void is charged, and one that comes after it
is refused as ``hold_closed``, so the answer it was for is not given. A process that was
silent and lives gets a new lease and goes on with new calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from tokenworks.foundation.clock import Clock
from tokenworks.gateway.holding import CALL_META_PREFIX
from tokenworks.ledger.leases import Leases
from tokenworks.ledger.model import Posting, PostingKind
from tokenworks.ledger.service import Ledger

SILENCE_S: Final = 15.0
LOOKS_APART_S_MAX: Final = 5.0
"""Between two looks further apart than this nobody was watched: silence is counted anew."""
ORPHANS_MAX: Final = 500
"""How many holds are given back at a time."""

_log = structlog.get_logger("tokenworks.gateway")


class Orphans:
    """
    End the calls of processes that are gone; asked every few seconds by one process.

    Args:
        leases: Who may write.
        ledger: Voids holds.
        clock: Measures silence.
        holder: What this process is called in its own leases.
        is_gone: Whether a holder's process runs no more; ``None``: cannot be told from here.
    """

    def __init__(
        self,
        leases: Leases,
        ledger: Ledger,
        *,
        clock: Clock,
        holder: str,
        is_gone: Callable[[str], bool | None],
    ) -> None:
        self._leases = leases
        self._ledger = ledger
        self._clock = clock
        self._holder = holder
        self._is_gone = is_gone
        self._silent_since_s: dict[str, float] = {}
        self._looked_s = clock.monotonic_s()

    async def give_back(self) -> int:
        """
        Void the holds of calls whose process is gone; return how many.
        """
        await self._end_leases()
        ended = await self._leases.ended()
        if not ended:
            return 0
        orphans = await self._leases.orphans(CALL_META_PREFIX, ORPHANS_MAX)
        if not orphans:
            await self._leases.forget(ended)
            return 0
        outcomes = await self._ledger.post_all(
            [
                Posting(kind=PostingKind.VOID, fact_id=hold_id, meta='{"reason":"process_gone"}')
                for hold_id in orphans
            ]
        )
        given_back = sum(outcome.is_done for outcome in outcomes)
        _log.info("orphaned_holds_given_back", count=given_back)
        return given_back

    async def _end_leases(self) -> None:
        holders = await self._leases.holders()
        silent = self._silent(holders)
        for holder in holders:
            is_gone = self._is_gone(holder)
            if not is_gone and (is_gone is False or holder not in silent):
                continue
            if await self._leases.end(holder, is_gone=bool(is_gone)):
                _log.warning("process_gone", holder=holder, is_certain=bool(is_gone))
            self._silent_since_s.pop(holder, None)

    def _silent(self, holders: dict[str, bool]) -> set[str]:
        """
        Return who had no lease for so long, while this process had one and looked.
        """
        now_s = self._clock.monotonic_s()
        is_watching = now_s - self._looked_s <= LOOKS_APART_S_MAX and holders.get(self._holder)
        self._looked_s = now_s
        before = self._silent_since_s if is_watching else {}
        self._silent_since_s = {
            holder: before.get(holder, now_s)
            for holder, has_lease in holders.items()
            if not has_lease and holder != self._holder
        }
        return {
            holder
            for holder, since_s in self._silent_since_s.items()
            if now_s - since_s >= SILENCE_S
        }
