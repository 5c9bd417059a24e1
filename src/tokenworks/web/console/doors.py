"""
The plain pages: login, logout, colours, the receipt of a call. No script runs on them.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final, TypeAlias, TypeVar, cast
from urllib.parse import parse_qs

from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from tokenworks.foundation.errors import (
    ForbiddenError,
    LimitExceededError,
    NotFoundError,
    TokenworksError,
    TooLargeError,
    UnauthenticatedError,
)
from tokenworks.web.console import theme as themes
from tokenworks.web.console.bill import to_bill
from tokenworks.web.console.desk import Desk
from tokenworks.web.console.factory.call_energy import Addenda, read_energy
from tokenworks.web.console.guard import (
    LIVE_PAGE,
    SCRIPTED_PAGE,
    cookie_of,
    login_address,
    session_of,
)
from tokenworks.web.console.journal import own_journal, to_journal
from tokenworks.web.console.model import Call, Document, Entry
from tokenworks.web.console.pages import render
from tokenworks.web.console.palette import css_variables
from tokenworks.web.console.seal import read_seal
from tokenworks.web.console.sessions import COOKIE_NAME, SESSION_LIFETIME_S, Session
from tokenworks.web.console.theme import Theme, to_theme
from tokenworks.web.console.wording import words

FORM_BYTES_MAX: Final = 4_096
TRY_AGAIN_S: Final = 3
STATIC: Final = Path(__file__).parent / "static"
FONTS_PREFIX: Final = f"/_nicegui/{version('nicegui')}/static/fonts"
FONTS_URL: Final = f"{FONTS_PREFIX}.css"

OPEN_PATHS: Final = frozenset(
    {"/login", "/theme", "/healthz", "/console/console.css", "/console/icon.svg"}
)
OPEN_PREFIXES: Final = (FONTS_PREFIX,)

REASONS: Final[Mapping[str, tuple[str, str]]] = {
    "expired": ("warn", "Your session has ended. Log in again."),
    "key_refused": ("bad", "The hub no longer accepts this key. Log in with another one."),
    "forbidden": ("bad", "This key may no longer see the console's pages."),
    "logged_out": ("good", "You are logged out."),
}

FLOOR_NAMES: Final[Mapping[str, tuple[str, str]]] = {
    "tokens_per_s_min": ("Speed, promised", "tokens/s"),
    "tokens_per_s": ("Speed, measured", "tokens/s"),
    "first_token_ms_max": ("First token, promised (p95)", "ms"),
    "first_token_ms": ("First token, measured", "ms"),
    "is_missed": ("Floor missed", ""),
}

_KEY: Final = re.compile(r"[\x21-\x7e]{8,256}")
_FACT_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_LOCAL_PAGE: Final = re.compile(
    rf"{LIVE_PAGE.pattern}|{SCRIPTED_PAGE}|/login|/(calls|payments)/{_FACT_ID.pattern}"
)

Answer = TypeVar("Answer")
Door: TypeAlias = "Callable[[Desk, Session, Request], Awaitable[Response]]"
FactDoor: TypeAlias = "Callable[[Desk, Session, Request, str], Awaitable[Response]]"


def add_doors(app: FastAPI, desk: Desk) -> None:
    """
    Add the plain pages and the files they need.
    """
    _add_files(app)
    _add_login(app, desk)
    _add_receipt(app, desk)


def _add_files(app: FastAPI) -> None:
    sheet = css_variables() + (STATIC / "console.css").read_text(encoding="utf-8")
    icon = (STATIC / "icon.svg").read_bytes()
    cached = {"cache-control": "max-age=300"}

    @app.get("/console/console.css")
    async def style_sheet() -> Response:
        return Response(sheet, media_type="text/css", headers=cached)

    @app.get("/console/icon.svg")
    async def icon_file() -> Response:
        return Response(icon, media_type="image/svg+xml", headers=cached)

    @app.get("/healthz")
    async def health() -> Response:
        return JSONResponse({"status": "ok"})

    @app.post("/theme")
    async def choose_theme(request: Request) -> Response:
        form = await _form(request)
        answer = RedirectResponse(local_page(form.get("next")), status_code=303)
        answer.set_cookie(
            themes.COOKIE_NAME,
            to_theme(form.get("theme")),
            max_age=themes.COOKIE_LIFETIME_S,
            httponly=True,
            samesite="strict",
        )
        return answer


def _add_login(app: FastAPI, desk: Desk) -> None:
    @app.get("/login")
    async def show_login(request: Request) -> Response:
        if session_of(request.scope) is not None:
            return RedirectResponse("/", status_code=303)
        tone, message = REASONS.get(request.query_params.get("reason", ""), ("", ""))
        return _login_page(desk, request, tone=tone, message=message)

    @app.post("/login")
    async def take_login(request: Request) -> Response:
        form = await _form(request)
        key, goal = form.get("key", "").strip(), local_page(form.get("next"))
        address = request.client.host if request.client else ""
        try:
            session, cookie = await log_in(desk, key, address)
        except TokenworksError as error:
            return _login_page(desk, request, tone="bad", message=error.message, error=error)
        before = session_of(request.scope)
        if before is not None and before is not session:
            desk.sessions.end(before, "logged_out")
        answer = RedirectResponse(goal, status_code=303)
        answer.set_cookie(
            COOKIE_NAME,
            cookie,
            max_age=SESSION_LIFETIME_S,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    @app.post("/logout")
    async def log_out(request: Request) -> Response:
        session = session_of(request.scope)
        if session is not None:
            desk.sessions.end(session, "logged_out")
        answer = RedirectResponse(login_address("/", reason="logged_out"), status_code=303)
        answer.delete_cookie(COOKIE_NAME, httponly=True, samesite="strict")
        return answer


async def log_in(desk: Desk, key: str, address: str) -> tuple[Session, str]:
    """
    Exchange a key for a session; the hub decides whether it is one.

    Raises:
        LimitExceededError: Too many failed logins; the hub is not asked.
        UnauthenticatedError: It is no key, or not a valid one.
        UnavailableError: The hub does not answer; this attempt does not count.
    """
    wait_s = desk.brake.take(address)
    if wait_s > 0:
        raise LimitExceededError(
            f"Too many failed logins. Try again in {wait_s:.0f} seconds.", retry_after_s=wait_s
        )
    if _KEY.fullmatch(key) is None:
        raise UnauthenticatedError("That is not an API key: one begins with tw_.")
    try:
        reader = await desk.hub.whoami(key)
    except (UnauthenticatedError, ForbiddenError):
        raise
    except TokenworksError:
        desk.brake.forgive(address)
        raise
    desk.brake.forgive(address)
    return desk.sessions.begin(key, reader)


def _add_receipt(app: FastAPI, desk: Desk) -> None:
    @app.get("/calls/{call_id}")
    async def show_call(request: Request, call_id: str) -> Response:
        return await with_session(desk, request, call_id, _call_page, what="call")

    @app.get("/calls/{call_id}/receipt.json")
    async def download_receipt(request: Request, call_id: str) -> Response:
        return await with_session(desk, request, call_id, _receipt_file, what="call")


async def with_session(
    desk: Desk, request: Request, fact_id: str, answer: FactDoor, *, what: str
) -> Response:
    """
    Answer for a session and a call or payment, and turn what goes wrong into a page.
    """
    missing = f"No such {what}"
    if _FACT_ID.fullmatch(fact_id) is None:
        text, session = f"That is no {what}'s id.", session_of(request.scope)
        return message_page(request, title=missing, text=text, status=404, session=session)

    async def with_fact(desk: Desk, session: Session, request: Request) -> Response:
        return await answer(desk, session, request, fact_id)

    return await answered(desk, request, with_fact, missing=missing)


async def answered(
    desk: Desk, request: Request, answer: Door, *, missing: str, page: str | None = None
) -> Response:
    """
    Answer for a session, and turn what goes wrong into a page.

    Args:
        desk: What the pages share.
        request: Of a page, or of a part of it.
        answer: Makes the page.
        missing: The heading when the hub has no such thing.
        page: Where to come back to after a login; ``None``: the request's own path.
    """
    session = session_of(request.scope)
    assert session is not None, "the guard lets nobody else in"
    try:
        return await answer(desk, session, request)
    except NotFoundError as error:
        text = error.message
        return message_page(request, title=missing, text=text, status=404, session=session)
    except (UnauthenticatedError, ForbiddenError) as error:
        reason = "key_refused" if isinstance(error, UnauthenticatedError) else "forbidden"
        desk.sessions.end(session, reason)
        return RedirectResponse(
            login_address(page or request.url.path, reason=session.ended_because), status_code=303
        )
    except TokenworksError as error:
        return message_page(
            request,
            title="The hub does not answer",
            text=f"{error.message} This page tries again every few seconds.",
            status=503,
            session=session,
            refresh_s=TRY_AGAIN_S,
        )


async def _call_page(desk: Desk, session: Session, request: Request, call_id: str) -> Response:
    hub, key, reader = desk.hub, session.key, session.reader
    call, document, addenda, entries, published = await asyncio.gather(
        hub.call(key, call_id),
        if_there(hub.receipt_document(key, call_id)),
        if_there(hub.get(Addenda, key, f"/hub/v1/receipts/{call_id}/addenda")),
        if_there(hub.entries(key, call_id)) if reader.is_admin else nothing(),
        if_there(hub.published_keys()),
    )
    receipt: Document = document["receipt"] if document else {}
    journal = to_journal(entries or (), call.key) if reader.is_admin else own_journal(call, receipt)
    html = render(
        "call.html",
        **page_facts(request, session),
        call=call,
        bill=to_bill(call),
        floor=_floor_rows(receipt),
        energy=read_energy(addenda, published),
        outcome=str(receipt.get("outcome") or ""),
        journal=journal if journal and journal.groups else None,
        is_whole_journal=reader.is_admin,
        places=_places(entries or ()),
        document=document,
        seal=read_seal(document["jws"], published) if document else None,
        receipt_notice=_receipt_notice(call),
        raw=json.dumps(document, indent=2, ensure_ascii=False),
    )
    return HTMLResponse(html)


async def _receipt_file(desk: Desk, session: Session, _: Request, call_id: str) -> Response:
    document = await desk.hub.receipt_document(session.key, call_id)
    disposition = f'attachment; filename="receipt-{call_id}.json"'
    content = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    headers = {"content-disposition": disposition, "cache-control": "no-store"}
    return Response(content, media_type="application/json", headers=headers)


async def if_there(asked: Awaitable[Answer]) -> Answer | None:
    """
    Return the answer, or nothing when there is none that this key may see.
    """
    try:
        return await asked
    except (NotFoundError, ForbiddenError):
        return None


async def nothing() -> None:
    """
    Return nothing, where something is awaited.
    """
    return


def _floor_rows(receipt: Document) -> list[tuple[str, str]]:
    """
    Return what the tier promised and what was measured, as the receipt says it.
    """
    floor: object = receipt.get("tier_floor")
    if not isinstance(floor, dict):
        return []
    named = cast("Document", floor)
    rows: list[tuple[str, str]] = []
    for name, value in named.items():
        title, unit = FLOOR_NAMES.get(name, (words(name).capitalize(), ""))
        rows.append((title, _fact_text(value) + (f" {unit}" if unit and value is not None else "")))
    return rows


def _fact_text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _places(entries: tuple[Entry, ...]) -> list[Entry]:
    return [entry for entry in entries if entry.legs]


def _receipt_notice(call: Call) -> str:
    if call.is_open:
        return "The receipt is signed when the answer ends."
    return "There is no receipt: nothing was sold."


def message_page(
    request: Request,
    *,
    title: str,
    text: str,
    status: int,
    session: Session | None = None,
    refresh_s: int | None = None,
) -> Response:
    """
    Return a page that says one thing.
    """
    frame = page_facts(request, session)
    html = render("message.html", **frame, title=title, text=text, refresh_s=refresh_s)
    return HTMLResponse(html, status_code=status)


def _login_page(
    desk: Desk,
    request: Request,
    *,
    tone: str,
    message: str,
    error: TokenworksError | None = None,
) -> Response:
    html = render(
        "login.html",
        **page_facts(request, None),
        hub_url=desk.hub.url,
        tone=tone,
        message=message,
        next=local_page(request.query_params.get("next")),
    )
    answer = HTMLResponse(html, status_code=_status_of(error))
    if error is not None and error.retry_after_s:
        answer.headers["retry-after"] = f"{error.retry_after_s:.0f}"
    return answer


def _status_of(error: TokenworksError | None) -> int:
    match error:
        case None:
            return 200
        case UnauthenticatedError() | ForbiddenError():
            return 401
        case LimitExceededError():
            return 429
        case _:
            return 503


def page_facts(request: Request, session: Session | None) -> dict[str, object]:
    """
    Return what every plain page needs.
    """
    path = request.url.path
    here = path if _LOCAL_PAGE.fullmatch(path) else "/"
    return header_facts(session, theme=theme_of(request), here=here) | {"fonts_url": FONTS_URL}


def header_facts(session: Session | None, *, theme: Theme, here: str) -> dict[str, object]:
    """
    Return what the header of every page needs.
    """
    return {
        "reader": session.reader if session else None,
        "reviews_waiting": session.reviews_waiting if session else None,
        "theme": theme,
        "here": here,
    }


def theme_of(request: Request) -> Theme:
    """
    Return the colours a reader chose.
    """
    return to_theme(cookie_of(request.headers, themes.COOKIE_NAME))


def local_page(path: str | None) -> str:
    """
    Return a page of the console to go to; anything else is the live page.
    """
    return path if path and _LOCAL_PAGE.fullmatch(path) else "/"


async def _form(request: Request) -> dict[str, str]:
    """
    Return a small form's fields.

    Raises:
        TooLargeError: Nobody's form is that long.
    """
    content = b""
    try:
        async for chunk in request.stream():
            content += chunk
            if len(content) > FORM_BYTES_MAX:
                raise TooLargeError("The form is too large.")
    except ClientDisconnect:
        return {}
    fields = parse_qs(content.decode("utf-8", "replace"), max_num_fields=16)
    return {name: values[-1] for name, values in fields.items()}
