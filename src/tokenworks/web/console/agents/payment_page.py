"""
A payment and its receipts, as a plain page: no script runs on it.
"""

from __future__ import annotations

import asyncio
import json
from typing import Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from tokenworks.web.console.agents.model import Payment, Review
from tokenworks.web.console.desk import Desk
from tokenworks.web.console.doors import if_there, nothing, page_facts, with_session
from tokenworks.web.console.journal import to_journal
from tokenworks.web.console.model import Document
from tokenworks.web.console.pages import render
from tokenworks.web.console.seal import read_seal
from tokenworks.web.console.sessions import Session

PART_MAX: Final = 9_999


def add_payment_page(app: FastAPI, desk: Desk) -> None:
    """
    Add a payment's page and its receipt as a file.
    """

    @app.get("/payments/{payment_id}")
    async def show_payment(request: Request, payment_id: str) -> Response:
        return await with_session(desk, request, payment_id, _payment_page, what="payment")

    @app.get("/payments/{payment_id}/receipt.json")
    async def download(request: Request, payment_id: str) -> Response:
        return await with_session(desk, request, payment_id, _receipt_file, what="payment")


async def _payment_page(
    desk: Desk, session: Session, request: Request, payment_id: str
) -> Response:
    hub, key = desk.hub, session.key
    part = _part_of(request)
    path = f"/hub/v1/payments/{payment_id}"
    review_path = f"/hub/v1/reviews/{payment_id}"
    payment, review, document, following, entries, published = await asyncio.gather(
        hub.get(Payment, key, path),
        if_there(hub.get(Review, key, review_path)) if session.reader.spends else nothing(),
        if_there(hub.get(Document, key, f"{path}/receipt", ordinal=part)),
        if_there(hub.get(Document, key, f"{path}/receipt", ordinal=part + 1)),
        if_there(hub.entries(key, payment_id)) if session.reader.is_admin else nothing(),
        if_there(hub.published_keys()),
    )
    journal = to_journal(entries or ())
    jws = document.get("jws") if document else None
    html = render(
        "payment.html",
        **page_facts(request, session),
        payment=payment,
        review=review,
        journal=journal if journal.groups else None,
        part=part,
        has_next=following is not None,
        document=document,
        seal=read_seal(jws, published) if isinstance(jws, str) else None,
        raw=json.dumps(document, indent=2, ensure_ascii=False),
    )
    return HTMLResponse(html)


async def _receipt_file(
    desk: Desk, session: Session, request: Request, payment_id: str
) -> Response:
    path = f"/hub/v1/payments/{payment_id}/receipt"
    document = await desk.hub.get(Document, session.key, path, ordinal=_part_of(request))
    disposition = f'attachment; filename="receipt-{payment_id}.json"'
    content = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    headers = {"content-disposition": disposition, "cache-control": "no-store"}
    return Response(content, media_type="application/json", headers=headers)


def _part_of(request: Request) -> int:
    """
    Return which part's receipt is wanted; a payment of one part has the first alone.
    """
    text = request.query_params.get("part", "0")
    return min(int(text), PART_MAX) if text.isascii() and text.isdigit() else 0
