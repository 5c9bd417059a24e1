"""
Suppliers: who answers calls.
"""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query
from pydantic import SecretStr

from tokenworks.foundation.errors import ConflictError
from tokenworks.identity.errors import PartyNotFoundError
from tokenworks.identity.model import Party, PartyKind, Principal, Role
from tokenworks.supply.errors import SupplierNotFoundError
from tokenworks.supply.model import Supplier, SupplierState
from tokenworks.web.hub_api.access import ADMIN_ONLY, Caller, Services
from tokenworks.web.hub_api.bodies import (
    NameOrId,
    PageQuery,
    SupplierIn,
    SupplierPatch,
    SupplierTestIn,
)
from tokenworks.web.hub_api.pagination import cut_page
from tokenworks.web.hub_api.rendering.supply import to_supplier
from tokenworks.web.hub_api.services import HubServices
from tokenworks.web.hub_api.shapes.parts import Page
from tokenworks.web.hub_api.shapes.supply import SupplierShape, SupplierTestShape
from tokenworks.web.hub_api.supplier_test import probe_supplier

router: Final = APIRouter(tags=["suppliers"])


class SupplierQuery(PageQuery):
    """
    Which suppliers.
    """

    state: SupplierState | None = None


@router.post("/suppliers", status_code=201, dependencies=ADMIN_ONLY)
async def add_supplier(body: SupplierIn, services: Services) -> SupplierShape:
    """
    Add a supplier, and the party that is owed when there is none of that name.
    """
    # Checked before a party is opened for it, so that a refusal leaves nothing behind.
    url = await services.supply.check_url(body.base_url, allow_private=body.allow_private)
    party = await _party_of(services, body.name)
    supplier = await services.supply.add_supplier(
        body.name,
        party_id=party.party_id,
        base_url=url,
        kind=body.kind,
        api_key=_reveal(body.api_key),
        allow_private=body.allow_private,
        sends_call_id=body.sends_call_id,
    )
    return await _shape(services, supplier)


@router.get("/suppliers")
async def list_suppliers(
    query: Annotated[SupplierQuery, Query()], services: Services, caller: Caller
) -> Page[SupplierShape]:
    """
    List suppliers by name; a supplier sees its own.
    """
    caller.require_role(Role.ADMIN, Role.SUPPLIER)
    rows = [
        row
        for row in await services.supply.list_suppliers()
        if _is_visible(row, caller) and (query.state is None or row.state is query.state)
    ]
    page, cursor = cut_page(
        rows, position=lambda row: row.name, cursor=query.cursor, limit=query.limit
    )
    return Page(items=[await _shape(services, row) for row in page], next_cursor=cursor)


@router.get("/suppliers/{supplier}")
async def get_supplier(supplier: NameOrId, services: Services, caller: Caller) -> SupplierShape:
    """
    Show one supplier.
    """
    caller.require_role(Role.ADMIN, Role.SUPPLIER)
    found = await services.supply.get_supplier(supplier)
    if not _is_visible(found, caller):
        message = f"There is no supplier {supplier!r}."
        raise SupplierNotFoundError(message)
    return await _shape(services, found)


@router.patch("/suppliers/{supplier}", dependencies=ADMIN_ONLY)
async def change_supplier(
    supplier: NameOrId, body: SupplierPatch, services: Services
) -> SupplierShape:
    """
    Change how a supplier is reached; the next call uses it.
    """
    changed = await services.supply.edit_supplier(
        supplier,
        base_url=body.base_url,
        api_key=_reveal(body.api_key),
        drop_api_key=body.drop_api_key,
        allow_private=body.allow_private,
        sends_call_id=body.sends_call_id,
    )
    return await _shape(services, changed)


@router.post("/suppliers/{supplier}/test", dependencies=ADMIN_ONLY)
async def test_supplier(
    supplier: NameOrId, body: SupplierTestIn, services: Services
) -> SupplierTestShape:
    """
    Ask a supplier for its models and one tiny chat; nothing is booked.
    """
    found = await services.supply.get_supplier(supplier)
    # From the database's present state: the supplier may have been added a moment ago.
    snapshot = await services.supply.reload()
    access = snapshot.suppliers.get(found.supplier_id)
    if access is None:
        reason = snapshot.faults.get(found.supplier_id, "it is not loaded")
        message = f"The supplier {found.name!r} cannot be used: {reason}."
        raise ConflictError(message, code="supplier_unusable")
    return await probe_supplier(
        services.upstream,
        access,
        model=body.model,
        timeout_s=body.timeout_s,
        clock=services.clock,
    )


@router.post("/suppliers/{supplier}/pause", dependencies=ADMIN_ONLY)
async def pause_supplier(supplier: NameOrId, services: Services) -> SupplierShape:
    """
    Send a supplier no new calls.
    """
    return await _shape(services, await services.supply.pause_supplier(supplier))


@router.post("/suppliers/{supplier}/resume", dependencies=ADMIN_ONLY)
async def resume_supplier(supplier: NameOrId, services: Services) -> SupplierShape:
    """
    Send a paused supplier calls again.
    """
    return await _shape(services, await services.supply.resume_supplier(supplier))


async def _party_of(services: HubServices, name: str) -> Party:
    try:
        party = await services.identity.get_party(name)
    except PartyNotFoundError:
        return await services.opening.add_party(name, kind=PartyKind.SUPPLIER)
    if party.kind is not PartyKind.SUPPLIER:
        message = f"The party {name!r} is a {party.kind}; give the supplier another name."
        raise ConflictError(message, code="party_exists", param="name")
    return party


def _is_visible(supplier: Supplier, caller: Principal) -> bool:
    return caller.role is Role.ADMIN or supplier.party_id == caller.party_id


def _reveal(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


async def _shape(services: HubServices, supplier: Supplier) -> SupplierShape:
    await services.directory.load([supplier.party_id])
    return to_supplier(supplier, services.directory)
