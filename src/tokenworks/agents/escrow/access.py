"""
Who sees an escrow, and what somebody is to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from tokenworks.agents.escrow.deciding import PAYEE, PAYER
from tokenworks.agents.escrow.errors import EscrowForbiddenError, EscrowNotFoundError
from tokenworks.agents.escrow.model import Actor, Escrow
from tokenworks.agents.escrow.ports import Parties
from tokenworks.agents.escrow.store import EscrowStore, StoredEscrow
from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import InvalidError

ARBITER: Final = "arbiter"
REASON_CHARACTERS_MAX: Final = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class EscrowView:
    """
    An escrow and what the caller is to it.
    """

    escrow: Escrow
    terms: Mapping[str, object]  # as they were signed
    sides: frozenset[str]  # ``payer``, ``payee``, ``arbiter``; an operator may be none


class Access:
    """
    Let in who has a part in an escrow.
    """

    def __init__(self, store: EscrowStore, *, parties: Parties, clock: Clock) -> None:
        self._store = store
        self._parties = parties
        self._clock = clock

    async def visible(self, escrow_id: UUID, by: Actor) -> tuple[StoredEscrow, frozenset[str]]:
        """
        Return an escrow that a caller has a part in, and which; an operator sees all.

        Raises:
            EscrowNotFoundError: There is none, or the caller has no part in it.
        """
        stored = await self._store.get(escrow_id)
        sides = frozenset[str]() if stored is None else await self.sides(stored, by)
        if stored is None or not (sides or by.is_admin):
            raise EscrowNotFoundError(f"There is no escrow {escrow_id}.", param="escrow_id")
        return stored, sides

    async def sides(self, stored: StoredEscrow, by: Actor) -> frozenset[str]:
        """
        Return what a caller is to an escrow: a key acts for its party and all below it.
        """
        escrow = stored.escrow
        sides: set[str] = set()
        for side, party_id in (
            (PAYER, escrow.payer_agent_id),
            (PAYEE, escrow.payee_id),
            (ARBITER, escrow.terms.arbiter_id),
        ):
            if party_id is None:
                continue
            chain = await self._parties.get_chain(party_id)
            if by.party_id in {party.party_id for party in chain}:
                sides.add(side)
        if by.is_admin and self._operator_may_arbitrate(escrow):
            sides.add(ARBITER)
        if sides & {PAYER, PAYEE}:
            sides.discard(ARBITER)
        return frozenset(sides)

    def _operator_may_arbitrate(self, escrow: Escrow) -> bool:
        """
        Let the operator decide where no arbiter is named, or the named one let its time pass.
        """
        if escrow.terms.arbiter_id is None:
            return True
        patience = timedelta(seconds=escrow.terms.decide_by_s)
        times = [item.disputed_at for item in escrow.milestones if item.disputed_at is not None]
        return bool(times) and min(times) + patience <= self._clock.now()


def place_of(escrow: Escrow, milestone: str) -> int:
    """
    Return a milestone's place in the terms.

    Raises:
        EscrowNotFoundError: There is none of this name.
    """
    names = [item.name for item in escrow.terms.milestones]
    if milestone not in names:
        message = f"This escrow has the milestones {', '.join(names)}."
        raise EscrowNotFoundError(message, code="milestone_not_found", param="milestone")
    return names.index(milestone)


def places_of(escrow: Escrow, milestones: Sequence[str]) -> list[int]:
    """
    Return the places of some milestones, each named once.
    """
    places = [place_of(escrow, name) for name in milestones]
    if not places or len(set(places)) != len(places):
        raise InvalidError("Name at least one milestone, each once.", param="milestones")
    return places


def require(side: str, sides: frozenset[str]) -> None:
    """
    Refuse who is not of a side.
    """
    if side not in sides:
        raise EscrowForbiddenError(f"Only the {side} of this escrow may do this.")


def check_reason(reason: str) -> None:
    """
    Refuse words that say nothing, or too many.
    """
    if not 1 <= len(reason.strip()) <= REASON_CHARACTERS_MAX:
        message = f"A reason has 1 to {REASON_CHARACTERS_MAX} characters."
        raise InvalidError(message, param="reason")
