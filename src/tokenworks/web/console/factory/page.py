"""
The factory page: a plain page, and the parts of it that its script asks for anew.
"""

from __future__ import annotations

import asyncio
from typing import Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from tokenworks.web.console.desk import Desk
from tokenworks.web.console.doors import STATIC, answered, message_page, page_facts
from tokenworks.web.console.factory.live import read_live
from tokenworks.web.console.factory.plan import read_plan, read_systems
from tokenworks.web.console.guard import SCRIPTED_PAGE, session_of
from tokenworks.web.console.pages import render
from tokenworks.web.console.sessions import Session

SCRIPT_PATH: Final = "/console/factory.js"


def add_factory_page(app: FastAPI, desk: Desk) -> None:
    """
    Add the page, its script and its parts.
    """
    script = (STATIC / "factory.js").read_bytes()

    @app.get(SCRIPT_PATH)
    async def script_file() -> Response:
        headers = {"cache-control": "max-age=300"}
        return Response(script, media_type="text/javascript", headers=headers)

    @app.get(SCRIPTED_PAGE)
    async def show_factory(request: Request) -> Response:
        return await answered(desk, request, _factory_page, missing="No such front")

    @app.get(f"{SCRIPTED_PAGE}/plan")
    async def show_plan(request: Request) -> Response:
        return await answered(
            desk, request, _plan_part, missing="No such front", page=SCRIPTED_PAGE
        )

    @app.get(f"{SCRIPTED_PAGE}/live")
    async def show_live(request: Request) -> Response:
        return await answered(
            desk, request, _live_part, missing="No such plant", page=SCRIPTED_PAGE
        )


async def _factory_page(desk: Desk, session: Session, request: Request) -> Response:
    if not session.reader.has_plant:
        return _not_for(request)
    hub, key = desk.hub, session.key
    plan, live, systems = await asyncio.gather(
        read_plan(hub, key, request.query_params), _live(desk, session), read_systems(hub, key)
    )
    facts = page_facts(request, session) | plan | live | systems
    return HTMLResponse(render("factory.html", **facts))


async def _plan_part(desk: Desk, session: Session, request: Request) -> Response:
    if not session.reader.has_plant:
        return _not_for(request)
    plan = await read_plan(desk.hub, session.key, request.query_params)
    return HTMLResponse(render("factory_plan.html", **plan))


async def _live_part(desk: Desk, session: Session, request: Request) -> Response:
    if not session.reader.is_admin:
        return _not_for(request)
    return HTMLResponse(render("factory_live.html", **await _live(desk, session)))


async def _live(desk: Desk, session: Session) -> dict[str, object]:
    """
    Return what the plant does now; a supplier's key may not ask.
    """
    return await read_live(desk.factory_of(session)) if session.reader.is_admin else {}


def _not_for(request: Request) -> Response:
    return message_page(
        request,
        title="Not for this key",
        text="The factory is shown to the hub's operator and to suppliers.",
        status=403,
        session=session_of(request.scope),
    )
