"""
Change what a mandate may do after it was issued: raise, freeze, thaw, revoke.

Whatever narrows changes the ledger's scope in the same transaction, so it binds the next hold of
every process at once; captures within holds that are open still pass.
"""

from __future__ import annotations

from uuid import UUID

from tokenworks.agents.mandates import store
from tokenworks.agents.mandates.attenuation import least_containing
from tokenworks.agents.mandates.directory import Directory
from tokenworks.agents.mandates.errors import (
    MandateConflictError,
    MandateNotAttenuatedError,
    MandateNotFoundError,
)
from tokenworks.agents.mandates.model import Mandate, MandateState, Window
from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import InvalidError
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.money import ASSETS, quanta_to_text
from tokenworks.identity.model import Party, PartyState
from tokenworks.identity.service import Identity
from tokenworks.ledger.errors import LimitMissingError
from tokenworks.ledger.service import Ledger
from tokenworks.postgres.pool import Connection, Pool


class Changing:
    """
    Raise, freeze, thaw and revoke.
    """

    def __init__(
        self,
        pool: Pool,
        directory: Directory,
        *,
        ledger: Ledger,
        identity: Identity,
        clock: Clock,
        ids: IdentifierSource,
    ) -> None:
        self._pool = pool
        self._directory = directory
        self._ledger = ledger
        self._identity = identity
        self._clock = clock
        self._ids = ids

    async def raise_limit(
        self, mandate_id: UUID, window: Window, quanta: int, *, actor: str
    ) -> Mandate:
        """
        Raise one of a mandate's limits of money; the signed terms stay as they are.

        Args:
            mandate_id: Whose limit.
            window: Which of its budgets.
            quanta: The new limit; the same as now changes nothing.
            actor: Who allowed it; kept with the event.

        Raises:
            MandateNotFoundError, LimitMissingError: There is no such mandate or budget.
            InvalidError: It would be lower than it is.
            MandateNotAttenuatedError: It would be above an ancestor's.
            MandateConflictError: The mandate was revoked.
        """
        known = await self._directory.fresh(mandate_id)
        mandate = known.mandate
        if mandate.state is MandateState.REVOKED:
            raise MandateConflictError("The mandate was revoked; nothing is raised any more.")
        asset = ASSETS[f"LIMIT.{mandate.terms.currency}"]
        views = [
            view
            for view in await self._ledger.limits([m.mandate_id for m in known.mandates])
            if view.asset == asset.code
        ]
        current = next(
            (v for v in views if v.scope_id == mandate_id and v.window == window.value), None
        )
        if current is None:
            message = f"The mandate has no budget per {window}."
            raise LimitMissingError(message, param="window")
        if quanta == current.quanta:
            return mandate
        if quanta < current.quanta:
            message = "A limit is raised here, never lowered; issue a narrower mandate instead."
            raise InvalidError(message, code="limit_not_raised", param="amount")
        above = least_containing(
            window, [(Window(v.window), v.quanta) for v in views if v.scope_id != mandate_id]
        )
        if above is not None and quanta > above[1]:
            most = quanta_to_text(above[1], scale=asset.scale)
            message = f"A mandate above allows {most} {mandate.terms.currency} per {above[0]}."
            raise MandateNotAttenuatedError(message, param="budgets", details={"most": most})
        await self._ledger.set_limit(
            scope_id=mandate_id, asset=asset, quanta=quanta, window=window.value, actor=actor
        )
        async with self._pool.connection() as connection:
            await self._note(
                connection,
                mandate_id,
                "raised",
                actor=actor,
                details={
                    "window": window.value,
                    "from": quanta_to_text(current.quanta, scale=asset.scale),
                    "to": quanta_to_text(quanta, scale=asset.scale),
                },
            )
        return mandate

    async def revoke(self, mandate_id: UUID, *, actor: str) -> Mandate:
        """
        Revoke a mandate for good, and so all below it; a repeat returns the first.

        Raises:
            MandateNotFoundError: There is none.
        """
        return await self._set_state(mandate_id, MandateState.REVOKED, "revoked", actor=actor)

    async def freeze(self, party_or_mandate: UUID | str, *, actor: str) -> Mandate | Party:
        """
        Stop everything below a mandate, an agent or an owner, in one call.

        Holds that are open may still be captured; nothing new is held.

        Raises:
            PartyNotFoundError: There is neither such a mandate nor such a party.
            PartyStateError, MandateConflictError: It is closed or revoked.
        """
        return await self._freeze_or_thaw(party_or_mandate, is_frozen=True, actor=actor)

    async def thaw(self, party_or_mandate: UUID | str, *, actor: str) -> Mandate | Party:
        """
        Let a frozen mandate, agent or owner go on; whoever is frozen above it stays so.

        Raises:
            TokenworksError: As ``freeze``.
        """
        return await self._freeze_or_thaw(party_or_mandate, is_frozen=False, actor=actor)

    async def _freeze_or_thaw(
        self, reference: UUID | str, *, is_frozen: bool, actor: str
    ) -> Mandate | Party:
        mandate_id = _as_id(reference)
        if mandate_id is not None:
            known = await self._directory.chain(mandate_id, is_fresh=True)
            if known is not None:
                state = MandateState.FROZEN if is_frozen else MandateState.ACTIVE
                kind = "frozen" if is_frozen else "thawed"
                return await self._set_state(mandate_id, state, kind, actor=actor)
        state = PartyState.FROZEN if is_frozen else PartyState.ACTIVE
        async with self._pool.connection() as connection, connection.transaction():
            party = await self._identity.set_party_state(reference, state, connection=connection)
            await self._ledger.set_scope_state(party.party_id, state.value, connection=connection)
        self._identity.invalidate_all()
        return party

    async def _set_state(
        self, mandate_id: UUID, state: MandateState, kind: str, *, actor: str
    ) -> Mandate:
        async with self._pool.connection() as connection, connection.transaction():
            before = await store.lock_mandate(connection, mandate_id)
            if before is None:
                message = f"There is no mandate {mandate_id}."
                raise MandateNotFoundError(message, param="mandate_id")
            if before is MandateState.REVOKED and state is not MandateState.REVOKED:
                raise MandateConflictError("The mandate was revoked, and that is final.")
            if before is not state:
                revoked_at = self._clock.now() if state is MandateState.REVOKED else None
                await store.update_state(connection, mandate_id, state, revoked_at=revoked_at)
                scope_state = "closed" if state is MandateState.REVOKED else state.value
                await self._ledger.set_scope_state(mandate_id, scope_state, connection=connection)
                await self._note(connection, mandate_id, kind, actor=actor, details={})
                await store.notify(connection, str(mandate_id))
        known = await self._directory.fresh(mandate_id)
        await self._tell(known.mandate.agent_id)
        return known.mandate

    async def _tell(self, agent_id: UUID) -> None:
        async with self._pool.connection() as connection:
            await store.notify(connection, str(agent_id))
        self._directory.forget(str(agent_id))

    async def _note(
        self,
        connection: Connection,
        mandate_id: UUID,
        kind: str,
        *,
        actor: str,
        details: dict[str, object],
    ) -> None:
        await store.insert_event(
            connection,
            event_id=self._ids.mint(),
            mandate_id=mandate_id,
            kind=kind,
            happened_at=self._clock.now(),
            actor=actor,
            details=details,
        )


def _as_id(reference: UUID | str) -> UUID | None:
    if isinstance(reference, UUID):
        return reference
    try:
        return UUID(reference)
    except ValueError:
        return None
