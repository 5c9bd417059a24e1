"""
Who may see agents and mandates, and who may change them.

Owners change: an admin, or a buyer's key at or above the agent. An agent, by its own key or its
wallet, reads its own and changes nothing; what it signs away (a delegation) its signature says.
"""

from __future__ import annotations

from uuid import UUID

from tokenworks.agents.mandates.errors import MandateNotFoundError, OwnerRequiredError
from tokenworks.agents.mandates.model import Mandate
from tokenworks.identity.errors import PartyNotFoundError
from tokenworks.identity.model import Level, Party, Principal, Role
from tokenworks.web.hub_api.services import HubServices


async def visible_chain(
    services: HubServices, caller: Principal, reference: UUID | str
) -> tuple[Party, ...]:
    """
    Return a party with everybody above it, if the caller is one of them.

    Raises:
        PartyNotFoundError: There is none, or it is another's: the answer is the same.
    """
    chain = await services.identity.get_chain(reference)
    if caller.role is not Role.ADMIN and caller.party_id not in {p.party_id for p in chain}:
        message = f"There is no party {str(reference)[:64]!r}."
        raise PartyNotFoundError(message)
    return chain


async def require_owner(services: HubServices, caller: Principal) -> None:
    """
    Refuse who is no owner of anything: agents, and keys of other roles.

    Raises:
        RoleNotAllowedError: A supplier's key.
        OwnerRequiredError: An agent's key or wallet.
    """
    caller.require_role(Role.ADMIN, Role.BUYER)
    if caller.role is Role.ADMIN:
        return
    party = await services.identity.get_party(caller.party_id)
    if party.level is Level.AGENT or caller.wallet is not None:
        message = "An agent reads what is its own; ask its owner to change it."
        raise OwnerRequiredError(message)


async def owned_chain(
    services: HubServices, caller: Principal, reference: UUID | str
) -> tuple[Party, ...]:
    """
    Return a party with everybody above it, if the caller may change it.

    Raises:
        OwnerRequiredError, RoleNotAllowedError: The caller changes nothing.
        PartyNotFoundError: There is none at or below the caller.
    """
    await require_owner(services, caller)
    return await visible_chain(services, caller, reference)


async def visible_mandate(
    services: HubServices, caller: Principal, mandate_id: UUID
) -> tuple[Mandate, ...]:
    """
    Return a mandate with those above it, if the caller may see its agent.

    Raises:
        MandateNotFoundError: There is none, or it is another's: the answer is the same.
    """
    chain = await services.agents.mandates.chain(mandate_id)
    try:
        await visible_chain(services, caller, chain[-1].agent_id)
    except PartyNotFoundError as error:
        message = f"There is no mandate {mandate_id}."
        raise MandateNotFoundError(message, param="mandate_id") from error
    return chain


async def owned_mandate(
    services: HubServices, caller: Principal, mandate_id: UUID
) -> tuple[Mandate, ...]:
    """
    Return a mandate with those above it, if the caller may change it.

    Raises:
        OwnerRequiredError, RoleNotAllowedError, MandateNotFoundError: It may not.
    """
    await require_owner(services, caller)
    return await visible_mandate(services, caller, mandate_id)
