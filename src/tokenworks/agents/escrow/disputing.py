"""
What people say of an escrow: dispute, the arbiter's word, letting go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from tokenworks.agents.escrow import deciding
from tokenworks.agents.escrow.access import ARBITER, Access, check_reason, places_of, require
from tokenworks.agents.escrow.advancing import Advancing
from tokenworks.agents.escrow.deciding import PAYEE, PAYER
from tokenworks.agents.escrow.errors import EscrowForbiddenError
from tokenworks.agents.escrow.model import Actor, Escrow, Evidence, Share
from tokenworks.agents.escrow.store import EscrowStore
from tokenworks.foundation.errors import InvalidError


class Disputing:
    """
    What only the sides, or the arbiter, may decide.
    """

    def __init__(self, store: EscrowStore, advancing: Advancing, access: Access) -> None:
        self._store = store
        self._advancing = advancing
        self._access = access

    async def dispute(
        self,
        escrow_id: UUID,
        milestones: Sequence[str],
        *,
        reason: str,
        evidence: Sequence[Evidence] = (),
        by: Actor,
    ) -> Escrow:
        """
        Stop milestones until the arbiter decides; again: add evidence.

        Raises:
            EscrowForbiddenError: The caller is neither payer nor payee.
            EscrowStateError: Nothing is there to dispute, or it is decided.
        """
        stored, sides = await self._access.visible(escrow_id, by)
        side = next((side for side in (PAYER, PAYEE) if side in sides), None)
        if side is None:
            raise EscrowForbiddenError("Only payer and payee dispute.")
        places = places_of(stored.escrow, milestones)
        check_reason(reason)
        async with self._store.locked(escrow_id) as (locked, connection):
            assert locked is not None, "an escrow is never deleted"
            events = deciding.dispute(
                locked.escrow,
                places,
                by=side,
                reason=reason,
                evidence=evidence,
                actor=by.name,
                now=self._advancing.now(locked.escrow),
            )
            await self._advancing.append(connection, locked, events)
        return await self._advancing.standing(escrow_id)

    async def arbitrate(
        self,
        escrow_id: UUID,
        shares: Mapping[str, Share | int],
        *,
        reason: str,
        by: Actor,
    ) -> Escrow:
        """
        Decide disputed milestones, for good.

        Args:
            escrow_id: Which escrow.
            shares: By milestone what the payee gets: a share of it, or quanta.
            reason: Why; it stands on the receipt.
            by: The named arbiter, else an operator of the hub; never a side.

        Raises:
            EscrowForbiddenError: The caller is not the arbiter.
            EscrowStateError: A milestone is not disputed.
        """
        stored, sides = await self._access.visible(escrow_id, by)
        require(ARBITER, sides)
        check_reason(reason)
        places = places_of(stored.escrow, list(shares))
        quanta: dict[int, int] = {}
        for place, share in zip(places, shares.values(), strict=True):
            whole = stored.escrow.terms.milestones[place].quanta
            amount = share if isinstance(share, int) else share.of_quanta(whole)
            if not 0 <= amount <= whole:
                raise InvalidError("A part is at most the milestone's amount.", param="parts")
            quanta[place] = amount
        async with self._store.locked(escrow_id) as (locked, connection):
            assert locked is not None, "an escrow is never deleted"
            events = deciding.arbitrate(
                locked.escrow,
                quanta,
                reason=reason,
                actor=by.name,
                now=self._advancing.now(locked.escrow),
            )
            await self._advancing.append(connection, locked, events)
        return await self._advancing.advanced(escrow_id)

    async def cancel(self, escrow_id: UUID, *, by: Actor) -> Escrow:
        """
        Let an escrow go (payee), or ask the payee to (payer, before a submission).

        Raises:
            EscrowForbiddenError: The caller is neither.
            EscrowStateError: It is too late.
        """
        _, sides = await self._access.visible(escrow_id, by)
        side = next((side for side in (PAYEE, PAYER) if side in sides), None)
        if side is None:
            raise EscrowForbiddenError("Only payer and payee cancel.")
        async with self._store.locked(escrow_id) as (locked, connection):
            assert locked is not None, "an escrow is never deleted"
            now = self._advancing.now(locked.escrow)
            events = deciding.cancel(locked.escrow, by=side, actor=by.name, now=now)
            if events:
                await self._advancing.append(connection, locked, events)
        return await self._advancing.advanced(escrow_id)
