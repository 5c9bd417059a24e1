"""
Who I am, and parties.
"""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query
from pydantic import Field

from tokenworks.foundation.limits import PAGE_ROWS_MAX
from tokenworks.identity.admission import resolve_tier
from tokenworks.identity.model import Party, PartyKind, PartyState, Principal, Role
from tokenworks.web.hub_api.access import ADMIN_ONLY, Caller, Services, visible_party
from tokenworks.web.hub_api.bodies import NameOrId, PageQuery, PartyIn, PartyPatch
from tokenworks.web.hub_api.pagination import from_cursor_id, to_cursor
from tokenworks.web.hub_api.rendering.parties import to_party
from tokenworks.web.hub_api.services import HubServices
from tokenworks.web.hub_api.shapes.parties import PartyShape, Whoami
from tokenworks.web.hub_api.shapes.parts import Page, PartyRef

router: Final = APIRouter(tags=["parties"])

PREFIX_CHARACTERS: Final = 10
SCANNED_PAGES_MAX: Final = 20
"""How many pages of the directory one request looks through for a filter."""


class PartyQuery(PageQuery):
    """
    Which parties.
    """

    kind: PartyKind | None = None
    state: PartyState | None = None
    parent: Annotated[NameOrId | None, Field()] = None


@router.get("/whoami")
async def whoami(services: Services, caller: Caller) -> Whoami:
    """
    Tell what the key is and may do.
    """
    directory = services.directory
    await directory.load(caller.chain)
    if caller.wallet is None:
        prefix = (await services.identity.get_key(caller.key_id)).prefix
    else:
        prefix = f"wallet:{caller.wallet[:PREFIX_CHARACTERS]}"
    return Whoami(
        key_id=caller.key_id,
        prefix=prefix,
        role=str(caller.role),
        party=directory.party(caller.party_id),
        organisation=PartyRef(party_id=caller.organisation_id, name=caller.organisation_name),
        chain=[directory.party(party_id) for party_id in caller.chain],
        models=None if caller.models is None else sorted(caller.models),
        requests_per_minute=caller.requests_per_minute,
        expires_at=caller.expires_at,
        default_tier=caller.default_tier,
    )


@router.post("/parties", status_code=201, dependencies=ADMIN_ONLY)
async def add_party(body: PartyIn, services: Services) -> PartyShape:
    """
    Add a party with its accounts and its place among the limits.
    """
    party = await services.opening.add_party(
        body.name,
        kind=body.kind,
        level=body.level,
        parent=body.parent,
        default_tier=body.default_tier,
    )
    return await _shape(services, party)


@router.get("/parties")
async def list_parties(
    query: Annotated[PartyQuery, Query()], services: Services, caller: Caller
) -> Page[PartyShape]:
    """
    List parties, oldest first; who is no admin sees its own organisation's.
    """
    parent_id = None
    if query.parent is not None:
        parent_id = (await visible_party(services, caller, query.parent)).party_id
    after = None if query.cursor is None else from_cursor_id(query.cursor)
    found: list[Party] = []
    for _ in range(SCANNED_PAGES_MAX):
        rows = await services.identity.list_parties(
            kind=query.kind,
            organisation_id=None if caller.role is Role.ADMIN else caller.organisation_id,
            after=after,
            count=PAGE_ROWS_MAX,
        )
        for row in rows:
            after = row.party_id
            if _matches(row, query, parent_id) and await _is_visible(services, caller, row):
                found.append(row)
            if len(found) == query.limit:
                break
        is_end = len(rows) < PAGE_ROWS_MAX and (not rows or after == rows[-1].party_id)
        if is_end or len(found) == query.limit:
            cursor = None if is_end or after is None else to_cursor(str(after))
            break
    else:
        cursor = to_cursor(str(after))
    return Page(items=[await _shape(services, row) for row in found], next_cursor=cursor)


@router.get("/parties/{party}")
async def get_party(party: NameOrId, services: Services, caller: Caller) -> PartyShape:
    """
    Show one party.
    """
    return await _shape(services, await visible_party(services, caller, party))


@router.patch("/parties/{party}", dependencies=ADMIN_ONLY)
async def change_party(party: NameOrId, body: PartyPatch, services: Services) -> PartyShape:
    """
    Freeze, thaw or close a party, or set its default tier.
    """
    changed = await services.identity.get_party(party)
    if body.default_tier is not None:
        changed = await services.identity.set_default_tier(changed.party_id, body.default_tier)
    if body.state is not None:
        changed = await services.opening.set_party_state(changed, body.state)
    return await _shape(services, changed)


def _matches(party: Party, query: PartyQuery, parent_id: object) -> bool:
    return (query.state is None or party.state is query.state) and (
        parent_id is None or party.parent_id == parent_id
    )


async def _is_visible(services: HubServices, caller: Principal, party: Party) -> bool:
    if caller.role is Role.ADMIN or caller.party_id == caller.organisation_id:
        return True
    chain = await services.identity.get_chain(party.party_id)
    return caller.party_id in {link.party_id for link in chain}


async def _shape(services: HubServices, party: Party) -> PartyShape:
    await services.directory.load([party.parent_id])
    tier = party.default_tier
    if tier is None:
        tier = resolve_tier(await services.identity.get_chain(party.party_id))
    return to_party(party, services.directory, default_tier=tier)
