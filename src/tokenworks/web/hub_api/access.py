"""
Who asks, and what they may see.

Three views: an admin sees all; a buyer sees its own party and what is below it; a supplier
(or any other owner of a leg) sees what is owed to its party.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Final, cast
from uuid import UUID

from fastapi import Depends, Request

from tokenworks.foundation.errors import NotFoundError
from tokenworks.gateway.ended_calls import CallFilter, CallRow
from tokenworks.identity.errors import PartyNotFoundError
from tokenworks.identity.model import Party, PartyKind, Principal, Role
from tokenworks.receipts.views import AUDITOR, BUYER, leg_owner_view, supplier_view
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


def actor_of(principal: Principal, name: str | None) -> str:
    """
    Return who did something, as the books keep it: the key, and whom it says it acts for.
    """
    return str(principal.key_id) if not name else f"{name} (key {principal.key_id})"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """
    Who reads calls: an admin all, a buyer its tree, a supplier its own attempts.
    """

    role: Role
    party_id: UUID
    supplier_ids: frozenset[UUID]  # whose attempts a supplier may see; else empty

    @property
    def sees_buyer(self) -> bool:
        """
        Return whether it may see who called and what they paid.
        """
        return self.role is not Role.SUPPLIER

    def sees_supplier(self, supplier_id: UUID | None) -> bool:
        """
        Return whether it may see who answered and what they are owed.
        """
        return self.role is Role.ADMIN or supplier_id in self.supplier_ids


async def reader_of(services: HubServices, principal: Principal) -> Reader:
    """
    Return the caller as a reader of calls.
    """
    owned: frozenset[UUID] = frozenset()
    if principal.role is Role.SUPPLIER:
        owned = frozenset(
            supplier.supplier_id
            for supplier in await services.supply.list_suppliers()
            if supplier.party_id == principal.party_id
        )
    return Reader(role=principal.role, party_id=principal.party_id, supplier_ids=owned)


async def list_visible_calls(
    services: HubServices, reader: Reader, wanted: CallFilter, cursor: str | None, limit: int
) -> tuple[list[CallRow], str | None]:
    """
    Return one page of the calls that a reader may see, newest first, and the next cursor.

    ``within_party_id`` and ``team_id`` of the filter, if set, were checked with
    ``visible_party``.
    """
    if reader.role is not Role.SUPPLIER:
        if reader.role is Role.BUYER:
            within = wanted.within_party_id or reader.party_id
            wanted = replace(wanted, within_party_id=within, supplier_id=None)
        rows, following = await services.calls.list_calls(wanted, cursor, limit)
        return list(rows), following
    # What a supplier may not see it may not ask about either.
    wanted = replace(wanted, within_party_id=None, team_id=None, key_id=None)
    if wanted.supplier_id is not None:
        asked = reader.supplier_ids & {wanted.supplier_id}
    else:
        asked = reader.supplier_ids
    # A cursor is the last call's id, the same for each of a party's suppliers.
    found: list[CallRow] = []
    has_more = False
    for supplier_id in asked:
        rows, following = await services.calls.list_calls(
            replace(wanted, supplier_id=supplier_id), cursor, limit
        )
        found.extend(rows)
        has_more = has_more or following is not None
    found.sort(key=lambda row: row.call_id, reverse=True)
    page = found[:limit]
    is_cut = has_more or len(found) > limit
    return page, str(page[-1].call_id) if is_cut and page else None


async def visible_call(services: HubServices, reader: Reader, call_id: UUID) -> CallRow:
    """
    Return a call that the reader may see.

    Raises:
        NotFoundError: There is none, or it is another's: the answer is the same.
    """
    call = await services.calls.get_call(call_id)
    if call is not None and await _may_see(services, reader, call):
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


async def _may_see(services: HubServices, reader: Reader, call: CallRow) -> bool:
    if reader.role is Role.ADMIN:
        return True
    if reader.role is Role.SUPPLIER:
        return any(attempt.supplier_id in reader.supplier_ids for attempt in call.attempts)
    chain = await services.identity.get_chain(call.party_id)
    return reader.party_id in {party.party_id for party in chain}
