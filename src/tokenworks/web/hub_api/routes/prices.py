"""
The price book and the tiers.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final

from fastapi import APIRouter, Query

from tokenworks.foundation.limits import PAGE_ROWS_MAX
from tokenworks.pricing.model import RateCard, nano_per_million_from_text
from tokenworks.web.hub_api.access import ADMIN_ONLY, Services
from tokenworks.web.hub_api.bodies import ModelName, MomentIn, PageQuery, PricesIn, TierName
from tokenworks.web.hub_api.pagination import from_cursor_id, to_cursor
from tokenworks.web.hub_api.rendering.prices import to_prices, to_tier
from tokenworks.web.hub_api.services import HubServices
from tokenworks.web.hub_api.shapes.parts import Items, Page
from tokenworks.web.hub_api.shapes.prices import PriceShape, TierShape

router: Final = APIRouter(tags=["prices"])

CARD_PAGES_MAX: Final = 20


class PriceQuery(PageQuery):
    """
    Which prices.
    """

    model: ModelName | None = None
    tier: TierName | None = None
    at: MomentIn | None = None


@router.post("/prices", status_code=201, dependencies=ADMIN_ONLY)
async def set_prices(body: PricesIn, services: Services) -> Items[PriceShape]:
    """
    Record a new version of all prices of a model at a tier.
    """
    card = await services.prices.set_prices(
        body.model,
        body.tier,
        {axis: nano_per_million_from_text(text) for axis, text in body.prices.items()},
        body.effective_at,
    )
    return Items(items=to_prices(card))


@router.get("/prices")
async def list_prices(
    query: Annotated[PriceQuery, Query()], services: Services
) -> Page[PriceShape]:
    """
    List prices, the newest version first, or what is in force at one moment.
    """
    if query.at is not None:
        cards = await _in_force(services, query, query.at)
        return Page(items=[price for card in cards for price in to_prices(card)])
    before = None if query.cursor is None else from_cursor_id(query.cursor)
    cards = await services.prices.list_cards(
        model=query.model, tier=query.tier, before=before, rows_max=query.limit
    )
    items: list[PriceShape] = []
    for index, card in enumerate(cards):
        items.extend(to_prices(card))
        if len(items) >= query.limit:
            is_last = index == len(cards) - 1 and len(cards) < query.limit
            return Page(items=items, next_cursor=None if is_last else to_cursor(str(card.card_id)))
    return Page(items=items)


@router.get("/tiers")
async def list_tiers(services: Services) -> Items[TierShape]:
    """
    List the tiers with their default prices and floors.
    """
    return Items(items=[to_tier(tier) for tier in services.prices.tiers.values()])


async def _in_force(services: HubServices, query: PriceQuery, at: datetime) -> list[RateCard]:
    newest: dict[tuple[str, str], RateCard] = {}
    before = None
    for _ in range(CARD_PAGES_MAX):
        cards = await services.prices.list_cards(
            model=query.model, tier=query.tier, before=before, rows_max=PAGE_ROWS_MAX
        )
        for card in cards:
            known = newest.get((card.model, card.tier))
            is_newer = known is None or card.effective_at > known.effective_at
            if card.effective_at <= at and is_newer:
                newest[card.model, card.tier] = card
        if len(cards) < PAGE_ROWS_MAX:
            break
        before = cards[-1].card_id
    return [newest[key] for key in sorted(newest)]
