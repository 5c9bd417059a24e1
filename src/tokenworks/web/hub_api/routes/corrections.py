"""
What was booked wrongly is corrected by another entry.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from fastapi import APIRouter

from tokenworks.web.hub_api.access import Admin, Services, actor_of
from tokenworks.web.hub_api.bodies import ReversalIn
from tokenworks.web.hub_api.rendering import amount_text
from tokenworks.web.hub_api.shapes import CorrectionShape

router: Final = APIRouter(tags=["books"])


@router.post("/ledger/entries/{fact_id}/reversal", status_code=201)
async def reverse(
    fact_id: UUID, body: ReversalIn, services: Services, caller: Admin
) -> CorrectionShape:
    """
    Turn an operator's entry round, once; a repeat returns what was booked first.
    """
    done = await services.corrections.reverse(
        fact_id, reason=body.reason, actor=actor_of(caller, body.actor)
    )
    return CorrectionShape(
        fact_id=done.fact_id,
        recorded_at=done.recorded_at,
        replayed=done.replayed,
        owed=amount_text(done.owed_quanta, done.asset),
        currency=done.asset,
    )
