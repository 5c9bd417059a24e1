"""
Who asks, and what they may see.

Three views: an admin sees all; a buyer sees its own party and what is below it; a supplier
(or any other owner of a leg) sees what is owed to its party.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Final, cast
from uuid import UUID

from fastapi import Depends, Request

from tokenworks.foundation.errors import NotFoundError
from tokenworks.identity.errors import PartyNotFoundError
from tokenworks.identity.model import Party, PartyKind, Principal, Role
from tokenworks.receipts.views import AUDITOR, BUYER, leg_owner_view, supplier_view
from tokenworks.web.hub_api.ports import CallFilter, CallRow
from tokenworks.web.hub_api.services import HubServices


def services_of(request: Request) -> HubServices:
    """
    Return the services of the app.
    """
    return cast("HubServices", request.app.state.services)


def principal_of(request: Request) -> Principal:
    """
    Return who the gate let through.
    """
    return cast("Principal", request.state.principal)


def admin_of(request: Request) -> Principal:
    """
    Return the caller if it is an admin.

    Raises:
        RoleNotAllowedError: It is not.
    """
    principal = principal_of(request)
    principal.require_role(Role.ADMIN)
    return principal


Services = Annotated[HubServices, Depends(services_of)]
Caller = Annotated[Principal, Depends(principal_of)]
Admin = Annotated[Principal, Depends(admin_of)]

ADMIN_ONLY: Final = [Depends(admin_of)]
"""Dependencies of a route that needs an admin and not its name."""


async def visible_party(
    services: HubServices, principal: Principal, reference: UUID | str
) -> Party:
    """
    Return a party that the caller may see.

    Raises:
        PartyNotFoundError: There is none, or it is another's: the answer is the same.
    """
    if principal.role is Role.ADMIN:
        return await services.identity.get_party(reference)
    chain = await services.identity.get_chain(reference)
    if principal.party_id not in {party.party_id for party in chain}:
        message = f"There is no party {str(reference)[:64]!r}."
        raise PartyNotFoundError(message)
    return chain[-1]


def narrow(wanted: CallFilter, principal: Principal) -> CallFilter:
    """
    Return the part of a filter that the caller may see.

    ``within_party_id`` of the filter, if set, was checked with ``visible_party``.
    """
    if principal.role is Role.ADMIN:
        return wanted
    if principal.role is Role.SUPPLIER:
        # What a supplier may not see it may not ask about either.
        return replace(
            wanted,
            within_party_id=None,
            team_id=None,
            key_id=None,
            supplier_party_id=principal.party_id,
        )
    within = wanted.within_party_id or principal.party_id
    return replace(wanted, within_party_id=within, supplier_id=None, supplier_party_id=None)


async def visible_call(services: HubServices, principal: Principal, call_id: UUID) -> CallRow:
    """
    Return a call that the caller may see.

    Raises:
        NotFoundError: There is none, or it is another's: the answer is the same.
    """
    call = await services.calls.get_call(call_id)
    if call is not None and await _may_see(services, principal, call):
        return call
    message = f"There is no call {call_id}."
    raise NotFoundError(message, code="call_not_found")


async def receipt_view(services: HubServices, principal: Principal) -> str:
    """
    Return the name of the caller's view of a receipt.
    """
    if principal.role is Role.ADMIN:
        return AUDITOR
    if principal.role is Role.BUYER:
        return BUYER
    party = await services.identity.get_party(principal.party_id)
    if party.kind is PartyKind.SUPPLIER:
        return supplier_view(party.party_id)
    return leg_owner_view(party.party_id)


async def _may_see(services: HubServices, principal: Principal, call: CallRow) -> bool:
    if principal.role is Role.ADMIN:
        return True
    if principal.role is Role.SUPPLIER:
        owners = {attempt.supplier_party_id for attempt in call.attempts}
        return principal.party_id in owners
    chain = await services.identity.get_chain(call.party_id)
    return principal.party_id in {party.party_id for party in chain}
