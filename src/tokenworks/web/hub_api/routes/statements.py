"""
Statements of suppliers: import, differences, the correcting entry; payouts.
"""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from tokenworks.foundation.errors import InvalidError
from tokenworks.foundation.money import Amount, Asset, quanta_to_text
from tokenworks.reconciliation.model import Difference, Statement
from tokenworks.web.hub_api.access import ADMIN_ONLY, Admin, Services, actor_of
from tokenworks.web.hub_api.bodies import NameOrId, PageQuery
from tokenworks.web.hub_api.csv_cells import to_cell
from tokenworks.web.hub_api.pagination import from_cursor_id, to_cursor
from tokenworks.web.hub_api.rendering.amounts import amount_text
from tokenworks.web.hub_api.rendering.statements import to_payable, to_report, to_statement
from tokenworks.web.hub_api.services import HubServices
from tokenworks.web.hub_api.shapes.money import CorrectionShape
from tokenworks.web.hub_api.shapes.parts import Page, to_moment_text
from tokenworks.web.hub_api.shapes.statements import (
    ActorIn,
    PayableShape,
    PayoutIn,
    PayoutShape,
    StatementIn,
    StatementReportShape,
    StatementShape,
)

router: Final = APIRouter(tags=["statements"])

CSV_COLUMNS: Final = (
    "verdict",
    "line",
    "reference",
    "call_id",
    "attempt",
    "time",
    "model",
    "billed",
    "owed",
    "difference",
    "currency",
)


class StatementQuery(PageQuery):
    """
    Which statements.
    """

    supplier: NameOrId | None = None


@router.post("/statements", status_code=201)
async def import_statement(
    body: StatementIn, services: Services, caller: Admin
) -> StatementReportShape:
    """
    Match a supplier's statement with the attempts that it bills; all of it or nothing.
    """
    reconciliation = services.reconciliation
    if body.currency not in {None, reconciliation.asset.code}:
        message = f"This hub owes in {reconciliation.asset.code}, not in {body.currency}."
        raise InvalidError(message, param="currency")
    supplier = await services.supply.get_supplier(body.supplier)
    report = await reconciliation.import_statement(
        supplier, body.to_import(reconciliation.asset), actor=str(caller.key_id)
    )
    return to_report(report, supplier.name)


@router.get("/statements", dependencies=ADMIN_ONLY)
async def list_statements(
    query: Annotated[StatementQuery, Query()], services: Services
) -> Page[StatementShape]:
    """
    List statements, newest first.
    """
    supplier_id = None
    if query.supplier is not None:
        supplier_id = (await services.supply.get_supplier(query.supplier)).supplier_id
    found = await services.reconciliation.statements(
        supplier_id=supplier_id,
        before=None if query.cursor is None else from_cursor_id(query.cursor),
        limit=query.limit,
    )
    names = {row.supplier_id: row.name for row in await services.supply.list_suppliers()}
    cursor = to_cursor(str(found[-1].statement_id)) if len(found) == query.limit else None
    return Page(
        items=[to_statement(row, names[row.supplier_id]) for row in found], next_cursor=cursor
    )


@router.get("/statements/{statement_id}", dependencies=ADMIN_ONLY)
async def report(statement_id: UUID, services: Services) -> StatementReportShape:
    """
    Show what differs, by verdict and day, and the correcting entry.
    """
    found = await services.reconciliation.report(statement_id)
    return to_report(found, await _supplier_name(services, found.statement))


@router.get(
    "/statements/{statement_id}/differences",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
    dependencies=ADMIN_ONLY,
)
async def differences(
    statement_id: UUID,
    services: Services,
    *,
    with_matched: Annotated[bool, Query(alias="all")] = False,
) -> StreamingResponse:
    """
    Give every line and attempt that differs as CSV; with ``all`` also those that match.
    """
    statement = await services.reconciliation.statement(statement_id)
    rows = services.reconciliation.differences(statement_id, with_matched=with_matched)
    return StreamingResponse(
        _csv(rows, statement.asset),
        media_type="text/csv; charset=utf-8",
        headers={"content-disposition": f'attachment; filename="statement-{statement_id}.csv"'},
    )


@router.post("/statements/{statement_id}/accept", status_code=201)
async def accept(
    statement_id: UUID, body: ActorIn, services: Services, caller: Admin
) -> CorrectionShape:
    """
    Post the correcting entry; once, however often it is accepted.
    """
    done = await services.reconciliation.accept(statement_id, actor=actor_of(caller, body.actor))
    return CorrectionShape(
        fact_id=done.fact_id,
        recorded_at=done.recorded_at,
        replayed=done.replayed,
        owed=amount_text(done.owed_quanta, done.asset),
        currency=done.asset,
    )


@router.get("/suppliers/{supplier}/payable", dependencies=ADMIN_ONLY)
async def payable(supplier: NameOrId, services: Services) -> PayableShape:
    """
    Show what a supplier is owed, what is on hold, and what may be paid out now.
    """
    found = await services.supply.get_supplier(supplier)
    party = await services.directory.resolve(found.party_id)
    return to_payable(await services.reconciliation.payable(found.party_id), party)


@router.post("/suppliers/{supplier}/payouts", status_code=201)
async def pay(
    supplier: NameOrId, body: PayoutIn, request: Request, services: Services, caller: Admin
) -> PayoutShape:
    """
    Book what was paid to a supplier; never more than may be paid out, a reference once.
    """
    found = await services.supply.get_supplier(supplier)
    amount = Amount.from_text(body.amount, services.reconciliation.asset)
    reference = body.reference or request.state.idempotency_key
    if reference is None:
        message = "A payout needs a reference, or an Idempotency-Key that stands for one."
        raise InvalidError(message, code="reference_required", param="reference")
    posted = await services.reconciliation.pay(
        found.party_id,
        amount,
        rail=body.rail,
        reference=reference,
        actor=actor_of(caller, body.actor),
    )
    return PayoutShape(
        fact_id=posted.fact_id,
        party=await services.directory.resolve(found.party_id),
        amount=amount.to_text(),
        currency=amount.asset.code,
        rail=body.rail,
        reference=reference,
        recorded_at=posted.recorded_at,
        replayed=posted.replayed,
    )


async def _supplier_name(services: HubServices, statement: Statement) -> str:
    return (await services.supply.get_supplier(statement.supplier_id)).name


async def _csv(rows: AsyncIterator[Difference], asset: Asset) -> AsyncIterator[str]:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(CSV_COLUMNS)
    async for row in rows:
        # A difference may be below zero, and is no text of anybody's.
        writer.writerow([*map(to_cell, _cells(row, asset)), _difference(row, asset), asset.code])
        if text.tell() > 65_536:
            yield text.getvalue()
            text.seek(0)
            text.truncate()
    yield text.getvalue()


def _cells(row: Difference, asset: Asset) -> list[object]:
    billed, owed = row.billed_quanta, row.owed_quanta
    return [
        row.verdict.value,
        row.line_number,
        row.reference,
        row.call_id,
        row.ordinal,
        None if row.occurred_at is None else to_moment_text(row.occurred_at),
        row.model,
        None if billed is None else quanta_to_text(billed, scale=asset.scale),
        None if owed is None else quanta_to_text(owed, scale=asset.scale),
    ]


def _difference(row: Difference, asset: Asset) -> str:
    return quanta_to_text((row.billed_quanta or 0) - (row.owed_quanta or 0), scale=asset.scale)
