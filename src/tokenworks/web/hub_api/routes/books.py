"""
The ledger as it stands, and the flow of the last seconds.
"""

from __future__ import annotations

from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Query

from tokenworks.foundation.errors import NotFoundError
from tokenworks.foundation.limits import PAGE_ROWS_DEFAULT, PAGE_ROWS_MAX
from tokenworks.web.hub_api.access import ADMIN_ONLY, Admin, Services, reader_of
from tokenworks.web.hub_api.flow import to_flow
from tokenworks.web.hub_api.rendering.books import (
    entry_parties,
    to_entry,
    to_hold,
    to_trial_balance,
)
from tokenworks.web.hub_api.rendering.calls import call_parties
from tokenworks.web.hub_api.shapes.books import EntryShape, HoldShape, TrialBalanceShape
from tokenworks.web.hub_api.shapes.flow import FlowShape
from tokenworks.web.hub_api.shapes.parts import Items

router: Final = APIRouter(tags=["books"])

FLOW_SECONDS_DEFAULT: Final = 60
FLOW_SECONDS_MAX: Final = 3_600


@router.get("/ledger/trial-balance", dependencies=ADMIN_ONLY)
async def trial_balance(services: Services) -> TrialBalanceShape:
    """
    Show every account on one snapshot, and whether debits and credits agree.
    """
    trial = await services.ledger.trial_balance()
    await services.directory.load(row.party_id for row in trial.rows)
    return to_trial_balance(trial, services.directory, as_of=services.clock.now())


@router.get("/ledger/entries/{fact_id}", dependencies=ADMIN_ONLY)
async def entries(fact_id: UUID, services: Services) -> Items[EntryShape]:
    """
    Show every leg that was recorded for a call or a deposit.
    """
    found = await services.ledger.entries_of(fact_id)
    if not found:
        message = f"Nothing is booked under {fact_id}."
        raise NotFoundError(message, code="fact_not_found")
    await services.directory.load(entry_parties(found))
    return Items(items=[to_entry(entry, services.directory) for entry in found])


@router.get("/ledger/holds", dependencies=ADMIN_ONLY)
async def holds(
    services: Services, limit: Annotated[int, Query(ge=1, le=PAGE_ROWS_MAX)] = PAGE_ROWS_DEFAULT
) -> Items[HoldShape]:
    """
    List open holds, oldest first.
    """
    return Items(items=[to_hold(hold) for hold in await services.ledger.open_holds(limit)])


@router.get("/flow")
async def flow(
    services: Services,
    caller: Admin,
    seconds: Annotated[int, Query(ge=1, le=FLOW_SECONDS_MAX)] = FLOW_SECONDS_DEFAULT,
) -> FlowShape:
    """
    Show the money and tokens of the last seconds, for a Sankey picture.
    """
    found = await services.calls.flow(seconds)
    directory = services.directory
    reader = await reader_of(services, caller)
    parties = {party_id for leg in found.legs for party_id in (leg.party_id, leg.payer_id)}
    await directory.load(parties | call_parties(found.last_calls))
    return to_flow(found, directory, reader, seconds=seconds, as_of=services.clock.now())
