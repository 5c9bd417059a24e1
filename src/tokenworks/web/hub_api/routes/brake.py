"""
Rules of the brake, and webhooks that are told of reviews: set by owners, never by agents.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Body

from tokenworks.agents.brake.errors import RulesOwnerRequiredError
from tokenworks.identity.model import Level, Party, Principal, Role
from tokenworks.web.hub_api.access import Caller, Services, actor_of, visible_party
from tokenworks.web.hub_api.bodies import NameOrId
from tokenworks.web.hub_api.rendering.reviews import to_brake, to_webhook
from tokenworks.web.hub_api.services import HubServices
from tokenworks.web.hub_api.shapes.reviews import (
    BrakeShape,
    WebhookIn,
    WebhookRemoved,
    WebhookShape,
)

router: Final = APIRouter(tags=["brake"])


@router.get("/parties/{party}/brake")
async def get_rules(party: NameOrId, services: Services, caller: Caller) -> BrakeShape:
    """
    Show the rules that a party set, and all that count for it.
    """
    chain = await _visible_chain(services, caller, party)
    view = await services.agents.brake.rules([link.party_id for link in chain])
    return to_brake(await services.directory.resolve(chain[-1].party_id), view)


@router.put("/parties/{party}/brake")
async def set_rules(
    party: NameOrId,
    body: Annotated[dict[str, Any], Body()],
    services: Services,
    caller: Caller,
) -> BrakeShape:
    """
    Set the rules of a party, for all that is judged from now on; the old stay on record.
    """
    chain = await _owned_chain(services, caller, party)
    view = await services.agents.brake.set_rules(
        [link.party_id for link in chain], body, actor=actor_of(caller, None)
    )
    return to_brake(await services.directory.resolve(chain[-1].party_id), view)


@router.get("/parties/{party}/webhook")
async def get_webhook(party: NameOrId, services: Services, caller: Caller) -> WebhookShape:
    """
    Show a party's webhook and the last messages to it.
    """
    party_id = (await _owned_chain(services, caller, party))[-1].party_id
    webhook, deliveries = await services.agents.brake.webhooks.get(party_id)
    return to_webhook(webhook, await services.directory.resolve(party_id), deliveries)


@router.put("/parties/{party}/webhook")
async def set_webhook(
    party: NameOrId, body: WebhookIn, services: Services, caller: Caller
) -> WebhookShape:
    """
    Tell a party of its reviews; the answer holds the secret that signs the messages, once.
    """
    party_id = (await _owned_chain(services, caller, party))[-1].party_id
    if body.allow_private:
        caller.require_role(Role.ADMIN)
    webhook, secret = await services.agents.brake.webhooks.put(
        party_id, body.url, allow_private=body.allow_private, actor=actor_of(caller, None)
    )
    return to_webhook(webhook, await services.directory.resolve(party_id), secret=secret)


@router.delete("/parties/{party}/webhook")
async def remove_webhook(party: NameOrId, services: Services, caller: Caller) -> WebhookRemoved:
    """
    Tell a party no more; what is still in the outbox is given up.
    """
    party_id = (await _owned_chain(services, caller, party))[-1].party_id
    await services.agents.brake.webhooks.remove(party_id)
    return WebhookRemoved(party=await services.directory.resolve(party_id))


async def _visible_chain(
    services: HubServices, caller: Principal, reference: str
) -> tuple[Party, ...]:
    caller.require_role(Role.ADMIN, Role.BUYER)
    party = await visible_party(services, caller, reference)
    return await services.identity.get_chain(party.party_id)


async def _owned_chain(
    services: HubServices, caller: Principal, reference: str
) -> tuple[Party, ...]:
    chain = await _visible_chain(services, caller, reference)
    levels = {link.party_id: link.level for link in chain}
    if caller.role is not Role.ADMIN and levels[caller.party_id] is Level.AGENT:
        message = "An agent changes no rules; this needs a key of an owner above it."
        raise RulesOwnerRequiredError(message)
    return chain
