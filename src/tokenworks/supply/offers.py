"""
Offers: added, put on new terms, paused, blocked.

Owns: which offers there are, with every version of their terms.
Does not own: the rules for terms (``vetting``), which offer a call gets (``gateway/``).
Invariants: terms are never changed, new ones take their place for calls that begin from then on;
a blocked offer is used again only when an operator resumes it, and keeps its first reason.
"""

from __future__ import annotations

from uuid import UUID

from tokenworks.foundation.clock import Clock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.postgres.pool import Connection
from tokenworks.supply import store, vetting
from tokenworks.supply.connections import Connections
from tokenworks.supply.errors import OfferExistsError, OfferNotFoundError
from tokenworks.supply.model import Offer, OfferState, OfferTerms
from tokenworks.supply.suppliers import stored_supplier


class Offers:
    """
    The offers of a hub.

    Args:
        connections: Where statements run.
        clock: The time of changes.
        ids: Mints the ids of offers.
    """

    def __init__(self, connections: Connections, *, clock: Clock, ids: IdentifierSource) -> None:
        self._connections = connections
        self._clock = clock
        self._ids = ids

    async def add_offer(
        self,
        supplier: UUID | str,
        *,
        model: str,
        tier: str,
        terms: OfferTerms,
        connection: Connection | None = None,
    ) -> Offer:
        """
        Add an offer, active.

        The order of the checks: model, tier, terms, supplier, offer exists, leg parties.

        Args:
            supplier: Id or name.
            model: The public name, without ``@``.
            tier: The class of service it is sold as.
            terms: Upstream name, cost card, split, context, priority.
            connection: The caller's, in a transaction; ``None`` opens one.

        Raises:
            InvalidOfferError: A value breaks a rule.
            SupplierNotFoundError: There is no such supplier.
            OfferExistsError: The supplier already offers the model at the tier.
            LegPartyNotFoundError: A party of the split does not exist.
        """
        vetting.check_model_and_tier(model, tier)
        terms = vetting.complete_terms(terms)
        async with self._connections.changing(connection) as open_connection:
            stored = await stored_supplier(open_connection, supplier)
            offer_id = self._ids.mint()
            is_new = await store.insert_offer(
                open_connection,
                offer_id=offer_id,
                supplier_id=stored.supplier.supplier_id,
                model=model,
                tier=tier,
                terms=terms,
                now=self._clock.now(),
            )
            if not is_new:
                message = f"{stored.supplier.name!r} already offers {model!r} at tier {tier!r}."
                raise OfferExistsError(message)
            return await _offer_of(open_connection, offer_id)

    async def edit_offer(
        self, offer_id: UUID, terms: OfferTerms, *, connection: Connection | None = None
    ) -> Offer:
        """
        Put new terms in force for calls that begin from now on; the old stay on record.

        Args:
            offer_id: The offer.
            terms: All of them; see ``Offer.terms`` and ``dataclasses.replace``.
            connection: The caller's, in a transaction; ``None`` opens one.

        Raises:
            InvalidOfferError: A value breaks a rule.
            OfferNotFoundError: There is no such offer.
            LegPartyNotFoundError: A party of the split does not exist.
        """
        terms = vetting.complete_terms(terms)
        async with self._connections.changing(connection) as open_connection:
            is_known = await store.replace_terms(
                open_connection, offer_id=offer_id, terms=terms, now=self._clock.now()
            )
            if not is_known:
                raise _no_offer(offer_id)
            return await _offer_of(open_connection, offer_id)

    async def pause_offer(self, offer_id: UUID, *, connection: Connection | None = None) -> Offer:
        """
        Stop using an offer for new calls; a repeat changes nothing.

        Raises:
            OfferNotFoundError: There is no such offer.
        """
        return await self._set_offer_state(offer_id, OfferState.PAUSED, None, connection)

    async def resume_offer(self, offer_id: UUID, *, connection: Connection | None = None) -> Offer:
        """
        Use a paused or blocked offer again; a repeat changes nothing.

        Raises:
            OfferNotFoundError: There is no such offer.
        """
        return await self._set_offer_state(offer_id, OfferState.ACTIVE, None, connection)

    async def block_offer(
        self, offer_id: UUID, reason: str, *, connection: Connection | None = None
    ) -> Offer:
        """
        Refuse to use an offer until an operator resumes it.

        A repeat keeps the first reason.

        Args:
            offer_id: The offer.
            reason: For the operator; made one line and cut to a bounded length.
            connection: The caller's, in a transaction; ``None`` opens one.

        Raises:
            OfferNotFoundError: There is no such offer.
        """
        cleaned = vetting.clean_reason(reason)
        return await self._set_offer_state(offer_id, OfferState.BLOCKED, cleaned, connection)

    async def get_offer(self, offer_id: UUID, *, connection: Connection | None = None) -> Offer:
        """
        Return an offer with its terms in force.

        Raises:
            OfferNotFoundError: There is no such offer.
        """
        async with self._connections.reading(connection) as open_connection:
            return await _offer_of(open_connection, offer_id)

    async def get_terms(
        self, offer_id: UUID, version: int, *, connection: Connection | None = None
    ) -> OfferTerms:
        """
        Return one version of an offer's terms, in force or not: what a past call was paid by.

        Raises:
            OfferNotFoundError: There is no such offer or version.
        """
        async with self._connections.reading(connection) as open_connection:
            terms = await store.find_terms(open_connection, offer_id=offer_id, version=version)
        if terms is None:
            raise _no_offer(offer_id)
        return terms

    async def list_offers(
        self,
        *,
        supplier: UUID | str | None = None,
        model: str | None = None,
        connection: Connection | None = None,
    ) -> tuple[Offer, ...]:
        """
        Return offers by model, tier and priority, paused and blocked ones included.

        Raises:
            SupplierNotFoundError: There is no such supplier.
        """
        async with self._connections.reading(connection) as open_connection:
            supplier_id = None
            if supplier is not None:
                supplier_id = (
                    await stored_supplier(open_connection, supplier)
                ).supplier.supplier_id
            offers = await store.list_offers(open_connection, supplier_id=supplier_id, model=model)
            return tuple(offers)

    async def _set_offer_state(
        self,
        offer_id: UUID,
        state: OfferState,
        reason: str | None,
        connection: Connection | None,
    ) -> Offer:
        async with self._connections.changing(connection) as open_connection:
            await store.update_offer_state(
                open_connection,
                offer_id=offer_id,
                state=state,
                blocked_reason=reason,
                now=self._clock.now(),
            )
            return await _offer_of(open_connection, offer_id)


async def _offer_of(connection: Connection, offer_id: UUID) -> Offer:
    offer = await store.find_offer(connection, offer_id)
    if offer is None:
        raise _no_offer(offer_id)
    return offer


def _no_offer(offer_id: UUID) -> OfferNotFoundError:
    return OfferNotFoundError(f"There is no such offer as {offer_id}.", param="offer_id")
