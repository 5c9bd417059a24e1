"""
Offers: which supplier serves which model at which tier, and who gets what.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Query

from tokenworks.foundation.errors import InvalidError
from tokenworks.identity.model import PartyKind, Principal, Role
from tokenworks.metering.model import Axis
from tokenworks.pricing.model import nano_per_million_from_text
from tokenworks.pricing.tiers import check_tier
from tokenworks.supply.costing import axis_card, share_card
from tokenworks.supply.errors import OfferNotFoundError
from tokenworks.supply.model import CostCard, Offer, OfferState, OfferTerms, Split
from tokenworks.web.hub_api.access import ADMIN_ONLY, Caller, Services
from tokenworks.web.hub_api.bodies import (
    ModelName,
    NameOrId,
    OfferIn,
    OfferPatch,
    PageQuery,
    SplitIn,
    TierName,
)
from tokenworks.web.hub_api.errors import AmbiguousPartyError
from tokenworks.web.hub_api.pagination import cut_page
from tokenworks.web.hub_api.rendering.supply import split_parties, to_offer
from tokenworks.web.hub_api.services import HubServices
from tokenworks.web.hub_api.shapes.parts import Page
from tokenworks.web.hub_api.shapes.supply import OfferShape

router: Final = APIRouter(tags=["offers"])


class OfferQuery(PageQuery):
    """
    Which offers.
    """

    supplier: NameOrId | None = None
    model: ModelName | None = None
    tier: TierName | None = None
    state: OfferState | None = None


@router.post("/offers", status_code=201, dependencies=ADMIN_ONLY)
async def add_offer(body: OfferIn, services: Services) -> OfferShape:
    """
    Add an offer; the next call of the model at the tier may use it.
    """
    check_tier(body.tier, services.prices.tiers)
    card = _cost_card(body.supplier_share_ppm, body.costs)
    assert card is not None, "the body has one of the two"
    terms = OfferTerms(
        upstream_model=body.upstream_model or body.model,
        cost_card=card,
        split=await _split(services, body.split),
        context_tokens_max=body.context_tokens_max,
        priority=body.priority,
    )
    offer = await services.supply.add_offer(
        body.supplier, model=body.model, tier=body.tier, terms=terms
    )
    return await _shape(services, offer)


@router.get("/offers")
async def list_offers(
    query: Annotated[OfferQuery, Query()], services: Services, caller: Caller
) -> Page[OfferShape]:
    """
    List offers, oldest first; a supplier sees its own.
    """
    caller.require_role(Role.ADMIN, Role.SUPPLIER)
    rows = [
        row
        for row in await services.supply.list_offers(supplier=query.supplier, model=query.model)
        if _is_visible(row, caller)
        and (query.tier is None or row.tier == query.tier)
        and (query.state is None or row.state is query.state)
    ]
    page, cursor = cut_page(
        rows, position=lambda row: str(row.offer_id), cursor=query.cursor, limit=query.limit
    )
    return Page(items=[await _shape(services, row) for row in page], next_cursor=cursor)


@router.get("/offers/{offer_id}")
async def get_offer(offer_id: UUID, services: Services, caller: Caller) -> OfferShape:
    """
    Show one offer.
    """
    caller.require_role(Role.ADMIN, Role.SUPPLIER)
    offer = await services.supply.get_offer(offer_id)
    if not _is_visible(offer, caller):
        message = f"There is no offer {offer_id}."
        raise OfferNotFoundError(message)
    return await _shape(services, offer)


@router.patch("/offers/{offer_id}", dependencies=ADMIN_ONLY)
async def change_offer(offer_id: UUID, body: OfferPatch, services: Services) -> OfferShape:
    """
    Put new terms in force for calls that begin from now on, or pause and resume.
    """
    offer = await services.supply.get_offer(offer_id)
    terms = offer.terms
    card = _cost_card(body.supplier_share_ppm, body.costs)
    if card is not None:
        terms = replace(terms, cost_card=card)
    if body.split is not None:
        terms = replace(terms, split=await _split(services, body.split))
    if body.upstream_model is not None:
        terms = replace(terms, upstream_model=body.upstream_model)
    if body.context_tokens_max is not None:
        terms = replace(terms, context_tokens_max=body.context_tokens_max)
    if body.priority is not None:
        terms = replace(terms, priority=body.priority)
    if terms != offer.terms:
        offer = await services.supply.edit_offer(offer_id, terms)
    if body.state == "active":
        offer = await services.supply.resume_offer(offer_id)
    elif body.state == "paused":
        offer = await services.supply.pause_offer(offer_id)
    return await _shape(services, offer)


@router.delete("/offers/{offer_id}", dependencies=ADMIN_ONLY)
async def close_offer(offer_id: UUID, services: Services) -> OfferShape:
    """
    Close an offer: no new call uses it, its terms stay on record.
    """
    return await _shape(services, await services.supply.pause_offer(offer_id))


def _cost_card(share_ppm: int | None, costs: Mapping[Axis, str] | None) -> CostCard | None:
    if share_ppm is not None:
        return share_card(share_ppm)
    if costs is None:
        return None
    return axis_card({axis: nano_per_million_from_text(text) for axis, text in costs.items()})


async def _split(services: HubServices, body: SplitIn) -> Split:
    owners = (
        ("reseller", body.reseller_ppm, body.reseller, PartyKind.RESELLER),
        ("rights", body.rights_ppm, body.rights, PartyKind.RIGHTS_HOLDER),
        ("power", body.power_ppm, body.power, PartyKind.POWER_PRODUCER),
    )
    ids = [
        await _owner(services, share=share, ppm=ppm, name=name, kind=kind)
        for share, ppm, name, kind in owners
    ]
    return Split(
        tax_ppm=body.tax_ppm,
        reseller_ppm=body.reseller_ppm,
        reseller_id=ids[0],
        rights_ppm=body.rights_ppm,
        rights_id=ids[1],
        power_ppm=body.power_ppm,
        power_id=ids[2],
    )


async def _owner(
    services: HubServices, *, share: str, ppm: int, name: str | None, kind: PartyKind
) -> UUID | None:
    if name is not None:
        party = await services.identity.get_party(name)
        if party.kind is not kind:
            message = f"{party.name!r} is a {party.kind}; the {share} share is owed to a {kind}."
            raise InvalidError(message, code="wrong_party_kind", param=f"split.{share}")
        return party.party_id
    if ppm == 0:
        return None
    found = await services.identity.list_parties(kind=kind, count=2)
    if len(found) != 1:
        which = f"there is no {kind} yet" if not found else f"there are several of kind {kind}"
        message = f"Name the party of the {share} share: {which}."
        raise AmbiguousPartyError(message, param=f"split.{share}")
    return found[0].party_id


def _is_visible(offer: Offer, caller: Principal) -> bool:
    return caller.role is Role.ADMIN or offer.supplier_party_id == caller.party_id


async def _shape(services: HubServices, offer: Offer) -> OfferShape:
    await services.directory.load(split_parties(offer.split))
    return to_offer(offer, services.directory)
