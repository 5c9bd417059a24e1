"""
Limits of parties and keys.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from fastapi import APIRouter

from tokenworks.foundation.errors import InvalidError, NotFoundError
from tokenworks.foundation.money import LIMIT_TOKENS, LIMIT_USD, Amount
from tokenworks.identity.model import Principal, Role
from tokenworks.ledger.model import LimitView
from tokenworks.web.hub_api.access import Admin, Caller, Services
from tokenworks.web.hub_api.bodies import LimitIn, NameOrId
from tokenworks.web.hub_api.rendering.limits import UNIT_TOKENS, tightest, to_limit
from tokenworks.web.hub_api.services import HubServices
from tokenworks.web.hub_api.shapes.limits import LimitRemoved, LimitScope, LimitShape
from tokenworks.web.hub_api.shapes.parts import Items

router: Final = APIRouter(tags=["limits"])


@router.post("/limits", status_code=201)
async def set_limit(body: LimitIn, services: Services, caller: Admin) -> LimitShape:
    """
    Set a limit, or replace the one of the same scope, unit and window.
    """
    scope_id = await _scope_id(services, party=body.party, key=body.key)
    asset = LIMIT_TOKENS if body.unit == UNIT_TOKENS else LIMIT_USD
    limit = await services.ledger.set_limit(
        scope_id=scope_id,
        asset=asset,
        quanta=Amount.from_text(body.amount, asset).quanta,
        window=body.per,
        time_zone=body.time_zone,
        actor=str(caller.key_id),
    )
    return to_limit(limit, await scope_of(services, limit.scope_id))


@router.get("/limits")
async def list_limits(
    services: Services, caller: Caller, party: NameOrId | None = None, key: UUID | None = None
) -> Items[LimitShape]:
    """
    List the limits on one party or key; who is no admin sees its tightest one.
    """
    if caller.role is not Role.ADMIN:
        return Items(items=await own_limits(services, caller))
    if party is None and key is None:
        message = "Name the party or the key whose limits to list."
        raise InvalidError(message, param="party")
    scope_id = await _scope_id(services, party=party, key=key)
    return Items(items=await to_limits(services, await services.ledger.limits([scope_id])))


@router.delete("/limits/{limit_id}")
async def remove_limit(limit_id: int, services: Services, caller: Admin) -> LimitRemoved:
    """
    Remove a limit; holds that took from it end as they began.
    """
    await services.ledger.remove_limit(limit_id, actor=str(caller.key_id))
    return LimitRemoved(limit_id=str(limit_id))


async def own_limits(services: HubServices, caller: Principal) -> list[LimitShape]:
    """
    Return the tightest limit on the caller's way to the money, if there is any.
    """
    scope_ids = [*caller.chain, caller.key_id]
    if caller.mandate_id is not None:
        chain = await services.agents.mandates.chain(caller.mandate_id)
        scope_ids.extend(mandate.mandate_id for mandate in chain)
    found = tightest(await services.ledger.limits(scope_ids))
    return [] if found is None else await to_limits(services, [found])


async def to_limits(services: HubServices, limits: Sequence[LimitView]) -> list[LimitShape]:
    """
    Return limits with their scopes named.
    """
    return [to_limit(limit, await scope_of(services, limit.scope_id)) for limit in limits]


async def scope_of(services: HubServices, scope_id: UUID) -> LimitScope:
    """
    Return what a scope is: a party, a key, or else a mandate.
    """
    with contextlib.suppress(NotFoundError):
        party = await services.identity.get_party(scope_id)
        return LimitScope(kind="party", id=scope_id, name=party.name)
    with contextlib.suppress(NotFoundError):
        key = await services.identity.get_key(scope_id)
        return LimitScope(kind="key", id=scope_id, name=key.prefix)
    mandate = await services.agents.mandates.get(scope_id)
    return LimitScope(kind="mandate", id=scope_id, name=mandate.label or str(scope_id))


async def _scope_id(services: HubServices, *, party: str | None, key: UUID | None) -> UUID:
    if party is not None:
        return (await services.identity.get_party(party)).party_id
    assert key is not None, "the body names one of the two"
    return (await services.identity.get_key(key)).key_id
