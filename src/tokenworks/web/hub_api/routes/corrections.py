"""
What was booked wrongly is corrected by another entry; dates that are over are closed.
"""

from __future__ import annotations

from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Query, Request

from tokenworks.foundation.errors import InvalidError
from tokenworks.foundation.limits import PAGE_ROWS_DEFAULT, PAGE_ROWS_MAX
from tokenworks.foundation.money import Amount
from tokenworks.ledger.closing import Closing
from tokenworks.ledger.closing_statement import AssetProof, TrialRow
from tokenworks.web.hub_api.access import ADMIN_ONLY, Admin, Services, actor_of
from tokenworks.web.hub_api.bodies import ClosingIn, RefundIn, ReversalIn
from tokenworks.web.hub_api.rendering.amounts import amount_text
from tokenworks.web.hub_api.shapes.books import ClosingProof, ClosingRow, ClosingShape
from tokenworks.web.hub_api.shapes.money import CorrectionShape, RefundShape
from tokenworks.web.hub_api.shapes.parts import Items

router: Final = APIRouter(tags=["books"])


@router.post("/ledger/entries/{fact_id}/reversal", status_code=201)
async def reverse(
    fact_id: UUID, body: ReversalIn, services: Services, caller: Admin
) -> CorrectionShape:
    """
    Turn an operator's entry round, once; a repeat returns what was booked first.
    """
    done = await services.corrections.reverse(
        fact_id,
        reason=body.reason,
        actor=actor_of(caller, body.actor),
        accounting_date=body.accounting_date,
    )
    return CorrectionShape(
        fact_id=done.fact_id,
        recorded_at=done.recorded_at,
        replayed=done.replayed,
        owed=amount_text(done.owed_quanta, done.asset),
        currency=done.asset,
    )


@router.post("/calls/{call_id}/refunds", status_code=201)
async def refund(
    call_id: UUID, body: RefundIn, request: Request, services: Services, caller: Admin
) -> RefundShape:
    """
    Give a part of a call's charge back; a reference is refunded once.
    """
    reference = body.reference or request.state.idempotency_key
    if reference is None:
        message = "A refund needs a reference, or an Idempotency-Key that stands for one."
        raise InvalidError(message, code="reference_required", param="reference")
    done = await services.refunds.refund(
        call_id,
        Amount.from_text(body.amount, services.reconciliation.asset),
        reason=body.reason,
        borne_by=body.borne_by,
        reference=reference,
        actor=actor_of(caller, body.actor),
    )
    return RefundShape(
        refund_id=done.refund_id,
        call_id=call_id,
        amount=done.amount.to_text(),
        refunded=done.refunded.to_text(),
        currency=done.amount.asset.code,
        borne_by=done.borne_by.value,
        reference=reference,
        recorded_at=done.recorded_at,
        replayed=done.replayed,
    )


@router.post("/ledger/closings", status_code=201)
async def close(body: ClosingIn, services: Services, caller: Admin) -> ClosingShape:
    """
    Close an accounting date; a repeat returns the stored close.
    """
    closing = await services.closings.close(body.date, actor=actor_of(caller, body.actor))
    return _to_closing(closing)


@router.get("/ledger/closings", dependencies=ADMIN_ONLY)
async def closings(
    services: Services, limit: Annotated[int, Query(ge=1, le=PAGE_ROWS_MAX)] = PAGE_ROWS_DEFAULT
) -> Items[ClosingShape]:
    """
    List closed dates with their trial balances, the newest first.
    """
    return Items(items=[_to_closing(row) for row in await services.closings.closings(limit)])


def _to_closing(closing: Closing) -> ClosingShape:
    statement = closing.statement
    return ClosingShape(
        date=statement.date,
        closed_at=statement.closed_at,
        actor=statement.actor,
        entries=statement.entries,
        rows=[_to_row(row) for row in statement.rows],
        totals=[_to_proof(proof) for proof in statement.proofs],
        statement=closing.content,
        signature=closing.signature,
        replayed=closing.replayed,
    )


def _to_row(row: TrialRow) -> ClosingRow:
    net = int(row.credits) - int(row.debits)
    return ClosingRow(
        asset=row.asset,
        purpose=row.purpose,
        account_class=row.account_class,
        debits_of_day=amount_text(int(row.debits_of_day), row.asset),
        credits_of_day=amount_text(int(row.credits_of_day), row.asset),
        debits=amount_text(int(row.debits), row.asset),
        credits=amount_text(int(row.credits), row.asset),
        balance=amount_text(net if row.normal_side == "credit" else -net, row.asset),
    )


def _to_proof(proof: AssetProof) -> ClosingProof:
    return ClosingProof(
        asset=proof.asset,
        debits=amount_text(int(proof.debits), proof.asset),
        credits=amount_text(int(proof.credits), proof.asset),
        client_money=amount_text(int(proof.client_money), proof.asset),
        safeguarded=amount_text(int(proof.safeguarded), proof.asset),
    )
