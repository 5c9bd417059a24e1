"""
Money in, and what there is.
"""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request

from tokenworks.foundation.errors import InvalidError
from tokenworks.foundation.money import CNY, USD, Amount
from tokenworks.identity.errors import PartyNotFoundError
from tokenworks.identity.model import Level, Party, PartyKind, Principal, Role
from tokenworks.web.hub_api.access import Admin, Caller, Services, visible_party
from tokenworks.web.hub_api.bodies import DepositIn, NameOrId
from tokenworks.web.hub_api.rendering.books import to_account
from tokenworks.web.hub_api.rendering.limits import tightest
from tokenworks.web.hub_api.rendering.money import to_cash
from tokenworks.web.hub_api.routes.limits import own_limits, to_limits
from tokenworks.web.hub_api.services import HubServices
from tokenworks.web.hub_api.shapes.limits import LimitShape
from tokenworks.web.hub_api.shapes.money import BalanceShape, DepositShape

router: Final = APIRouter(tags=["money"])

CURRENCIES: Final = {asset.code: asset for asset in (USD, CNY)}


@router.post("/deposits", status_code=201)
async def deposit(
    body: DepositIn, request: Request, services: Services, caller: Admin
) -> DepositShape:
    """
    Book money that came in; a reference is booked once for ever within its rail.
    """
    party = await services.identity.get_party(body.party)
    _require_purse(party, await services.identity.get_chain(party.party_id))
    asset = CURRENCIES.get(body.currency)
    if asset is None:
        message = f"The hub does not know the currency {body.currency}."
        raise InvalidError(message, param="currency")
    amount = Amount.from_text(body.amount, asset)
    reference = body.reference or request.state.idempotency_key
    if reference is None:
        message = "A deposit needs a reference, or an Idempotency-Key that stands for one."
        raise InvalidError(message, code="reference_required", param="reference")
    posted = await services.ledger.deposit(
        party_id=party.party_id,
        amount=amount,
        rail=body.rail,
        reference=reference,
        actor=str(caller.key_id),
    )
    return DepositShape(
        fact_id=posted.fact_id,
        party=await services.directory.resolve(party.party_id),
        amount=amount.to_text(),
        currency=asset.code,
        rail=body.rail,
        reference=reference,
        recorded_at=posted.recorded_at,
        replayed=posted.replayed,
    )


@router.get("/balance")
async def balance(
    services: Services, caller: Caller, party: NameOrId | None = None
) -> BalanceShape:
    """
    Show the prepaid money of an organisation and what its limits leave.
    """
    asked = await _asked_party(services, caller, party)
    balances = await services.ledger.balances(asked.organisation_id)
    await services.directory.load([asked.organisation_id])
    limits, least = await _limits(services, caller, asked)
    sees_accounts = caller.role is not Role.BUYER
    accounts = [to_account(row, services.directory) for row in balances] if sees_accounts else None
    return BalanceShape(
        party=services.directory.party(asked.organisation_id),
        cash=to_cash(balances),
        limits=limits,
        tightest=least,
        accounts=accounts,
    )


async def _asked_party(services: HubServices, caller: Principal, reference: str | None) -> Party:
    if reference is None:
        return await services.identity.get_party(caller.party_id)
    asked = await visible_party(services, caller, reference)
    if caller.role is not Role.ADMIN and asked.organisation_id != caller.organisation_id:
        message = f"There is no party {reference!r}."
        raise PartyNotFoundError(message, param="party")
    return asked


async def _limits(
    services: HubServices, caller: Principal, asked: Party
) -> tuple[list[LimitShape], LimitShape | None]:
    if caller.role is not Role.ADMIN:
        own = await own_limits(services, caller)
        return own, own[0] if own else None
    chain = await services.identity.get_chain(asked.party_id)
    found = await services.ledger.limits([party.party_id for party in chain])
    least = tightest(found)
    shown = await to_limits(services, found)
    return shown, None if least is None else shown[list(found).index(least)]


def _require_purse(party: Party, chain: tuple[Party, ...]) -> None:
    if party.kind is not PartyKind.BUYER:
        message = f"{party.name!r} is a {party.kind}; deposits are made by buyers."
        raise InvalidError(message, code="not_a_buyer", param="party")
    if party.level is not Level.ORGANISATION:
        message = (
            f"{party.name!r} is a {party.level}: money belongs to its organisation"
            f" {chain[0].name!r}; a {party.level} has limits."
        )
        raise InvalidError(message, code="not_an_organisation", param="party")
