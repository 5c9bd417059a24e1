"""
Calls, their receipts, and spend.
"""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
from fastapi import APIRouter
from fastapi.responses import Response, StreamingResponse

from tokenworks.foundation.errors import InvalidError, NotFoundError
from tokenworks.foundation.limits import PAGE_ROWS_MAX
from tokenworks.foundation.money import USD
from tokenworks.gateway.ended_calls import CallFilter, CallRow, SpendRow
from tokenworks.identity.model import Principal, Role
from tokenworks.metering.model import INPUT_AXES, OUTPUT_AXES
from tokenworks.receipts.views import AUDITOR, BUYER
from tokenworks.web.hub_api.access import (
    ADMIN_ONLY,
    Caller,
    Reader,
    Services,
    list_visible_calls,
    reader_of,
    receipt_view,
    visible_call,
    visible_party,
)
from tokenworks.web.hub_api.bodies import CallParameters, CallQuery, MomentIn, NameOrId, SpendBy
from tokenworks.web.hub_api.csv_cells import to_cell
from tokenworks.web.hub_api.rendering.calls import (
    call_parties,
    to_call,
    to_call_detail,
    to_spend_row,
)
from tokenworks.web.hub_api.services import HubServices
from tokenworks.web.hub_api.shapes.calls import CallDetailShape, CallShape, SpendShape
from tokenworks.web.hub_api.shapes.parts import Page, to_moment_text

router: Final = APIRouter(tags=["calls"])

SPEND_SPAN_DEFAULT: Final = timedelta(days=30)
CSV_COLUMNS: Final = (
    "call_id",
    "started_at",
    "ended_at",
    "status",
    "organisation",
    "team",
    "party",
    "key_prefix",
    "model",
    "tier",
    "supplier",
    "is_stream",
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "is_estimate",
    "charge",
    "currency",
    "duration_ms",
    "first_token_ms",
    "error_code",
)


@router.get(
    "/calls",
    response_model=Page[CallShape],
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
)
async def list_calls(query: CallParameters, services: Services, caller: Caller) -> Response:
    """
    List calls, newest first, as pages or all of them as CSV.
    """
    wanted = await _filter_of(services, caller, query)
    reader = await reader_of(services, caller)
    if query.format == "csv":
        # Read before the answer begins, so that an error still has its status.
        first = await list_visible_calls(services, reader, wanted, query.cursor, PAGE_ROWS_MAX)
        return StreamingResponse(
            _csv(services, reader, wanted, first),
            media_type="text/csv; charset=utf-8",
            headers={"content-disposition": 'attachment; filename="calls.csv"'},
        )
    rows, cursor = await list_visible_calls(services, reader, wanted, query.cursor, query.limit)
    await services.directory.load(call_parties(rows))
    items = [to_call(row, services.directory, reader) for row in rows]
    page = Page[CallShape](items=items, next_cursor=cursor)
    return Response(page.model_dump_json(), media_type="application/json")


@router.get("/calls/{call_id}")
async def get_call(call_id: UUID, services: Services, caller: Caller) -> CallDetailShape:
    """
    Show one call with its rated lines and attempts.
    """
    reader = await reader_of(services, caller)
    call = await visible_call(services, reader, call_id)
    await services.directory.load(call_parties([call]))
    return to_call_detail(call, services.directory, reader)


@router.get("/receipts/{call_id}")
async def get_receipt(
    call_id: UUID, services: Services, caller: Caller, view: str | None = None
) -> dict[str, Any]:
    """
    Give the signed receipt of a call in the caller's view.
    """
    own_view = await receipt_view(services, caller)
    if caller.role is not Role.SUPPLIER:
        await visible_call(services, await reader_of(services, caller), call_id)
    if view is not None and view != own_view:
        if caller.role is not Role.ADMIN or view != BUYER:
            message = f"This key sees the view {own_view!r}."
            raise InvalidError(message, code="view_not_allowed", param="view")
        own_view = view
    return await services.receipts.receipt_document(call_id, own_view)


@router.get(
    "/receipts",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}}},
    dependencies=ADMIN_ONLY,
)
async def export_receipts(
    services: Services, since: MomentIn | None = None, until: MomentIn | None = None
) -> StreamingResponse:
    """
    Give every receipt as JSON lines, in the auditor's view: calls, then payments, newest first.

    A lane's chain has both, so it is whole only with both.
    """
    wanted = CallFilter(since=since, until=until)
    first = await services.calls.list_calls(wanted, None, PAGE_ROWS_MAX)
    return StreamingResponse(
        _receipt_lines(services, wanted, first), media_type="application/x-ndjson"
    )


@router.get("/spend")
async def spend(
    by: SpendBy,
    services: Services,
    caller: Caller,
    since: MomentIn | None = None,
    until: MomentIn | None = None,
    party: NameOrId | None = None,
) -> SpendShape:
    """
    Sum calls, tokens and charges by group; the last 30 days unless said otherwise.
    """
    caller.require_role(*((Role.ADMIN,) if by == "supplier" else (Role.ADMIN, Role.BUYER)))
    party_id = None if caller.role is Role.ADMIN else caller.party_id
    if party is not None:
        party_id = (await visible_party(services, caller, party)).party_id
    end = until or services.clock.now()
    start = since or end - SPEND_SPAN_DEFAULT
    if start > end:
        message = "The span ends before it begins."
        raise InvalidError(message, code="invalid_span", param="since")
    rows = await services.calls.spend(by=by, since=start, until=end, party_id=party_id)
    labels = await _labels(services, by, rows)
    currency = USD.code
    items = [
        to_spend_row(row, label=labels.get(row.group, row.group), currency=currency) for row in rows
    ]
    return SpendShape(
        by=by,
        since=start,
        until=end,
        currency=currency,
        items=items,
        total=to_spend_row(_total(rows), label="total", currency=currency),
    )


async def _filter_of(services: HubServices, caller: Principal, query: CallQuery) -> CallFilter:
    party_id = team_id = supplier_id = None
    if query.party is not None:
        party_id = (await visible_party(services, caller, query.party)).party_id
    if query.team is not None:
        team_id = (await visible_party(services, caller, query.team)).party_id
    if query.supplier is not None:
        caller.require_role(Role.ADMIN, Role.SUPPLIER)
        supplier_id = (await services.supply.get_supplier(query.supplier)).supplier_id
    return CallFilter(
        within_party_id=party_id,
        team_id=team_id,
        key_id=query.key,
        model=query.model,
        tier=query.tier,
        status=query.status,
        supplier_id=supplier_id,
        since=query.since,
        until=query.until,
    )


async def _csv(
    services: HubServices,
    reader: Reader,
    wanted: CallFilter,
    page: tuple[Sequence[CallRow], str | None],
) -> AsyncIterator[str]:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(CSV_COLUMNS)
    rows, cursor = page
    while True:
        await services.directory.load(call_parties(rows))
        for row in rows:
            shape = to_call(row, services.directory, reader)
            writer.writerow([to_cell(value) for value in _csv_values(shape)])
        yield text.getvalue()
        text.seek(0)
        text.truncate()
        if cursor is None:
            return
        rows, cursor = await list_visible_calls(services, reader, wanted, cursor, PAGE_ROWS_MAX)


def _csv_values(call: CallShape) -> list[object]:
    usage = call.usage or {}
    return [
        call.call_id,
        to_moment_text(call.started_at),
        None if call.ended_at is None else to_moment_text(call.ended_at),
        call.status,
        call.organisation and call.organisation.name,
        call.team and call.team.name,
        call.party and call.party.name,
        call.key and call.key.prefix,
        call.model,
        call.tier,
        call.supplier,
        call.is_stream,
        sum(usage.get(axis, 0) for axis in INPUT_AXES),
        sum(usage.get(axis, 0) for axis in OUTPUT_AXES),
        call.total_tokens,
        call.is_estimate,
        call.charge,
        call.currency,
        call.duration_ms,
        call.first_token_ms,
        call.error_code,
    ]


async def _receipt_lines(
    services: HubServices, wanted: CallFilter, page: tuple[Sequence[CallRow], str | None]
) -> AsyncIterator[bytes]:
    rows, cursor = page
    while True:
        for row in rows:
            try:
                document = await services.receipts.receipt_document(row.call_id, AUDITOR)
            except NotFoundError:
                continue  # Refused and open calls have none.
            yield msgspec.json.encode(document) + b"\n"
        if cursor is None:
            break
        rows, cursor = await services.calls.list_calls(wanted, cursor, PAGE_ROWS_MAX)
    async for document in _payment_receipts(services, wanted):
        yield msgspec.json.encode(document) + b"\n"


async def _payment_receipts(
    services: HubServices, wanted: CallFilter
) -> AsyncIterator[dict[str, Any]]:
    payments = services.agents.payments
    last: tuple[UUID, int] | None = None
    while True:
        captures = await payments.store.list_captures(
            since=wanted.since, until=wanted.until, before=last
        )
        for payment_id, ordinal in captures:
            yield await payments.receipt(payment_id, AUDITOR, ordinal)
        if len(captures) < PAGE_ROWS_MAX:
            return
        last = captures[-1]


async def _labels(services: HubServices, by: str, rows: Sequence[SpendRow]) -> dict[str, str]:
    groups = [row.group for row in rows if row.group]
    if by in {"team", "user"}:
        ids = [UUID(group) for group in groups]
        await services.directory.load(ids)
        return {str(party_id): services.directory.name(party_id) for party_id in ids}
    if by == "supplier":
        suppliers = await services.supply.list_suppliers()
        return {str(supplier.supplier_id): supplier.name for supplier in suppliers}
    if by == "key":
        keys = [await services.identity.get_key(UUID(group)) for group in groups]
        return {str(key.key_id): f"{key.prefix} {key.label}".strip() for key in keys}
    return {}


def _total(rows: Sequence[SpendRow]) -> SpendRow:
    return SpendRow(
        group="total",
        calls=sum(row.calls for row in rows),
        input_tokens=sum(row.input_tokens for row in rows),
        output_tokens=sum(row.output_tokens for row in rows),
        total_tokens=sum(row.total_tokens for row in rows),
        charge_quanta=sum(row.charge_quanta for row in rows),
    )
