"""
Which processes may write, and what is left of those that are gone.

A lease is a lane in an epoch. Ending a process' leases puts their epochs up, so whatever it
still tries to commit under them is refused, and the holds under them can be no more than
there are: who looks for them afterwards finds all. Whether a process *is* gone is decided by
the caller (``gateway/orphans.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from tokenworks.foundation.clock import Clock
from tokenworks.ledger.batching.lane_connection import Lane
from tokenworks.ledger.store import Store
from tokenworks.postgres.pool import Pool


class Leases:
    """
    Read and end leases.
    """

    def __init__(self, pool: Pool, clock: Clock) -> None:
        self._store = Store(pool)
        self._clock = clock

    async def holders(self) -> dict[str, bool]:
        """
        Return who has leases that were not ended, and whether one of them still runs.
        """
        rows = await self._store.fetch_all("leaseholders", {"now": self._clock.now()})
        return dict(rows)

    async def end(self, holder: str, *, is_gone: bool) -> bool:
        """
        End all leases of a process; return false, and end none, when it may live after all.

        Args:
            holder: Who.
            is_gone: Whether that is certain; else a lease that runs speaks against it.
        """
        parameters = {"holder": holder, "now": self._clock.now(), "is_gone": is_gone}
        rows = await self._store.fetch_all("end_leases", parameters)
        return bool(rows[0][0])

    async def ended(self) -> list[Lane]:
        """
        Return the leases that ended and are not forgotten.
        """
        return [Lane(row[0], row[1]) for row in await self._store.fetch_all("ended_leases", {})]

    async def orphans(self, meta: str, limit: int) -> list[UUID]:
        """
        Return open holds under leases that ended, of those whose meta begins with ``meta``.
        """
        rows = await self._store.fetch_all("orphaned_holds", {"meta": meta, "limit": limit})
        return [row[0] for row in rows]

    async def forget(self, leases: Sequence[Lane]) -> None:
        """
        Forget leases that ended: nothing under them is looked for any more.
        """
        lanes = [lease.number for lease in leases]
        epochs = [lease.epoch for lease in leases]
        await self._store.fetch_all("forget_leases", {"lanes": lanes, "epochs": epochs})
