"""
Payments of agents and their receipts.

An admin sees all. A buyer's key sees what its party, or one below it, pays or is paid; any other
key what its party is paid. Who is paid sees neither mandate nor reasons.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Query

from tokenworks.agents.payments.errors import PaymentNotFoundError
from tokenworks.agents.payments.model import Payment
from tokenworks.agents.payments.store import PaymentFilter
from tokenworks.foundation.errors import InvalidError
from tokenworks.identity.model import Principal, Role
from tokenworks.receipts.views import AUDITOR, BUYER, leg_owner_view
from tokenworks.web.hub_api.access import Caller, Services, visible_party
from tokenworks.web.hub_api.agent_access import visible_mandate
from tokenworks.web.hub_api.rendering.payments import to_payment
from tokenworks.web.hub_api.services import HubServices
from tokenworks.web.hub_api.shapes.parts import Page
from tokenworks.web.hub_api.shapes.payments import PaymentQuery, PaymentShape

router: Final = APIRouter(tags=["payments"])


@router.get("/payments")
async def list_payments(
    query: Annotated[PaymentQuery, Query()], services: Services, caller: Caller
) -> Page[PaymentShape]:
    """
    List payments, newest first; or those that are held.
    """
    wanted = await _filter_of(services, caller, query)
    payments, cursor = await services.agents.payments.list_payments(
        wanted, query.cursor, query.limit
    )
    await services.directory.load(_parties(payments))
    agents = {payment.agent_id for payment in payments}
    own = {agent_id for agent_id in agents if await _sees(services, caller, agent_id)}
    items = [
        to_payment(payment, services.directory, sees_payer=payment.agent_id in own)
        for payment in payments
    ]
    return Page[PaymentShape](items=items, next_cursor=cursor)


@router.get("/payments/{payment_id}")
async def get_payment(payment_id: UUID, services: Services, caller: Caller) -> PaymentShape:
    """
    Show one payment.
    """
    payment = await services.agents.payments.get(payment_id)
    view = await _view_of(services, caller, payment)
    await services.directory.load(_parties([payment]))
    return to_payment(payment, services.directory, sees_payer=view in {AUDITOR, BUYER})


@router.get("/payments/{payment_id}/receipt")
async def get_payment_receipt(
    payment_id: UUID,
    services: Services,
    caller: Caller,
    ordinal: Annotated[int, Query(ge=0, le=10_000)] = 0,
    view: str | None = None,
) -> dict[str, Any]:
    """
    Give the signed receipt of a payment, or of one of its parts, in the caller's view.
    """
    payment = await services.agents.payments.get(payment_id)
    own_view = await _view_of(services, caller, payment)
    if view is not None and view != own_view:
        if caller.role is not Role.ADMIN or view not in {BUYER, leg_owner_view(payment.payee_id)}:
            message = f"This key sees the view {own_view!r}."
            raise InvalidError(message, code="view_not_allowed", param="view")
        own_view = view
    return await services.agents.payments.receipt(payment_id, own_view, ordinal)


async def _filter_of(
    services: HubServices, caller: Principal, query: PaymentQuery
) -> PaymentFilter:
    within = None if caller.role is Role.ADMIN else caller.party_id
    if query.party is not None:
        within = (await visible_party(services, caller, query.party)).party_id
    agent = payee = None
    if query.agent is not None:
        agent = (await visible_party(services, caller, query.agent)).party_id
    if query.payee is not None:
        payee = await _payee_of(services, caller, query.payee)
    if query.mandate is not None:
        # Else a payee could ask which of its payments were made under a mandate it guesses.
        await visible_mandate(services, caller, query.mandate)
    return PaymentFilter(
        within_party_id=within,
        agent_id=agent,
        payee_id=payee,
        mandate_id=query.mandate,
        since=query.since,
        is_held=query.held,
    )


async def _payee_of(services: HubServices, caller: Principal, reference: str) -> UUID:
    try:
        # A payer knows whom it pays by id; names are for those who may look at the party.
        return UUID(reference)
    except ValueError:
        return (await visible_party(services, caller, reference)).party_id


async def _view_of(services: HubServices, caller: Principal, payment: Payment) -> str:
    if caller.role is Role.ADMIN:
        return AUDITOR
    if await _sees(services, caller, payment.agent_id):
        return BUYER
    if await _sees(services, caller, payment.payee_id):
        return leg_owner_view(payment.payee_id)
    raise PaymentNotFoundError(f"There is no payment {payment.payment_id}.", param="payment_id")


async def _sees(services: HubServices, caller: Principal, party_id: UUID) -> bool:
    if caller.role is Role.ADMIN or caller.party_id == party_id:
        return True
    chain = await services.identity.get_chain(party_id)
    return caller.party_id in {party.party_id for party in chain}


def _parties(payments: Iterable[Payment]) -> set[UUID]:
    return {
        party_id
        for payment in payments
        for party_id in (payment.payee_id, payment.agent_id, payment.organisation_id)
    }
