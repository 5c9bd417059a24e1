"""
API keys.
"""

from __future__ import annotations

from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Query

from tokenworks.identity.model import ROLES_BY_KIND, ApiKey, Party, Principal, Role
from tokenworks.web.hub_api.access import ADMIN_ONLY, Caller, Services, visible_party
from tokenworks.web.hub_api.bodies import KeyIn, NameOrId, PageQuery
from tokenworks.web.hub_api.pagination import from_cursor_id, to_cursor
from tokenworks.web.hub_api.rendering.parties import to_key
from tokenworks.web.hub_api.services import HubServices
from tokenworks.web.hub_api.shapes.parties import KeyShape
from tokenworks.web.hub_api.shapes.parts import Page

router: Final = APIRouter(tags=["keys"])


class KeyQuery(PageQuery):
    """
    Which keys.
    """

    party: NameOrId | None = None


@router.post("/keys", status_code=201, dependencies=ADMIN_ONLY)
async def add_key(body: KeyIn, services: Services) -> KeyShape:
    """
    Add a key; its secret is in this answer and nowhere else.
    """
    party = await services.identity.get_party(body.party)
    bounds = None
    if body.mandate is not None:
        bounds = await services.agents.mandates.bounds_of_calls(
            body.mandate,
            agent_id=party.party_id,
            models=body.models,
            network=services.agents.network,
        )
    key, secret = await services.opening.add_key(
        party.party_id,
        role=body.role or default_role(party),
        label=body.label,
        models=body.models,
        requests_per_minute=body.requests_per_minute,
        expires_at=body.expires_at,
        bounds=bounds,
    )
    return await _shape(services, key, secret=secret)


@router.get("/keys")
async def list_keys(
    query: Annotated[KeyQuery, Query()], services: Services, caller: Caller
) -> Page[KeyShape]:
    """
    List keys, oldest first; who is no admin sees those of its own party.
    """
    party_id = await _listed_party(services, caller, query.party)
    rows = await services.identity.list_keys(
        party_id=party_id,
        after=None if query.cursor is None else from_cursor_id(query.cursor),
        count=query.limit,
    )
    items = [await _shape(services, row) for row in rows]
    cursor = to_cursor(str(rows[-1].key_id)) if len(rows) == query.limit else None
    return Page(items=items, next_cursor=cursor)


@router.delete("/keys/{key_id}", dependencies=ADMIN_ONLY)
async def revoke_key(key_id: UUID, services: Services) -> KeyShape:
    """
    Revoke a key for good; a repeat changes nothing.
    """
    return await _shape(services, await services.opening.revoke_key(key_id))


@router.post("/keys/{key_id}/rotate", dependencies=ADMIN_ONLY)
async def rotate_key(key_id: UUID, services: Services) -> KeyShape:
    """
    Replace the secret; limits and label stay, the old secret stops working.
    """
    key, secret = await services.identity.rotate_key(key_id)
    return await _shape(services, key, secret=secret)


def default_role(party: Party) -> Role:
    """
    Return the role of a key of a party when none is named; the weaker one of two.
    """
    allowed = ROLES_BY_KIND[party.kind]
    return Role.BUYER if Role.BUYER in allowed else min(allowed)


async def _listed_party(
    services: HubServices, caller: Principal, reference: str | None
) -> UUID | None:
    if reference is not None:
        return (await visible_party(services, caller, reference)).party_id
    return None if caller.role is Role.ADMIN else caller.party_id


async def _shape(services: HubServices, key: ApiKey, *, secret: str | None = None) -> KeyShape:
    await services.directory.load([key.party_id])
    return to_key(key, services.directory, now=services.clock.now(), secret=secret)
