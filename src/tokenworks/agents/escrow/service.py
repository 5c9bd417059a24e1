"""
The service of escrows: what others call, put together from its parts.

Order of an escrow's life: ``open`` -> ``submit``/``attest``* -> (``dispute`` -> ``arbitrate``) ->
over. Each may be repeated: the same authorisation is the same escrow, the same submission the same
verdict. What is decided is written down first; the money follows (``advancing.py``).
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

import structlog

from tokenworks.agents.escrow.access import Access, EscrowView, place_of
from tokenworks.agents.escrow.advancing import Advancing
from tokenworks.agents.escrow.delivering import Delivering
from tokenworks.agents.escrow.disputing import Disputing
from tokenworks.agents.escrow.model import Actor, Escrow, EscrowState
from tokenworks.agents.escrow.opening import Opening
from tokenworks.agents.escrow.ports import (
    Evaluator,
    MandateBook,
    MeteredCalls,
    Parties,
    Purse,
)
from tokenworks.agents.escrow.store import EscrowStore
from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import TokenworksError
from tokenworks.postgres.pool import Pool

DUE_MAX: Final = 100

_log = structlog.get_logger("tokenworks.escrow")


class Escrows:
    """
    Payments that are due when a condition is met.

    ``open`` is that of ``Opening``; ``submit`` and ``attest`` are those of ``Delivering``;
    ``dispute``, ``arbitrate`` and ``cancel`` those of ``Disputing``.

    Args:
        pool: Where escrows are written down.
        purse: Holds and moves the money.
        mandates: Says what a wallet may spend.
        parties: Knows who belongs to whom.
        evaluator: Evaluates conditions.
        calls: Knows what calls of models used.
        clock: When something is due.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        purse: Purse,
        mandates: MandateBook,
        parties: Parties,
        evaluator: Evaluator,
        calls: MeteredCalls,
        clock: Clock,
    ) -> None:
        self._clock = clock
        self._store = store = EscrowStore(pool)
        self._advancing = Advancing(store, purse=purse, evaluator=evaluator, clock=clock)
        self._access = Access(store, parties=parties, clock=clock)
        self._opening = Opening(
            store,
            self._advancing,
            purse=purse,
            mandates=mandates,
            parties=parties,
            evaluator=evaluator,
            clock=clock,
        )
        delivering = Delivering(
            store, self._advancing, self._access, parties=parties, calls=calls, clock=clock
        )
        disputing = Disputing(store, self._advancing, self._access)
        self.open = self._opening.open
        self.submit = delivering.submit
        self.attest = delivering.attest
        self.dispute = disputing.dispute
        self.arbitrate = disputing.arbitrate
        self.cancel = disputing.cancel

    async def ensure_partitions(self) -> None:
        """
        Make the partitions of the ledger's months; call after the ledger's own.
        """
        await self._store.ensure_partitions()

    async def get(self, escrow_id: UUID, *, by: Actor) -> EscrowView:
        """
        Return an escrow that the caller has a part in.

        Raises:
            EscrowNotFoundError: There is none, or the caller has no part in it.
        """
        stored, sides = await self._access.visible(escrow_id, by)
        return EscrowView(escrow=stored.escrow, terms=stored.terms, sides=sides)

    async def result(self, escrow_id: UUID, milestone: str, *, by: Actor) -> bytes | None:
        """
        Return what was last submitted for a milestone, as canonical JSON.

        Raises:
            EscrowNotFoundError: There is no such escrow or milestone for the caller.
        """
        stored, _ = await self._access.visible(escrow_id, by)
        return await self._store.result(escrow_id, place_of(stored.escrow, milestone))

    async def list_escrows(
        self, *, by: Actor, state: EscrowState | None, cursor: str | None, limit: int
    ) -> tuple[list[Escrow], str | None]:
        """
        Return one page of the caller's escrows (an operator's: all), newest first.
        """
        rows, following = await self._store.list_escrows(
            within_party_id=None if by.is_admin else by.party_id,
            state=state,
            cursor=cursor,
            limit=limit,
        )
        return [row.escrow for row in rows], following

    async def settle_due(self, limit: int = DUE_MAX) -> int:
        """
        Do what time brings about, and finish what others began; return how many were looked at.
        """
        due = await self._store.due(self._clock.now(), limit)
        for escrow_id in due:
            stored = await self._store.get(escrow_id)
            assert stored is not None, "it was due a moment ago"
            if stored.escrow.state is not EscrowState.OPENING:
                continue
            try:
                await self._opening.look_after(stored)
            except TokenworksError as error:
                _log.warning("escrow_not_opened", escrow_id=str(escrow_id), code=error.code)
        await self._advancing.advance_some(due)
        return len(due)
