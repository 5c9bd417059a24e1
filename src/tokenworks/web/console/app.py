"""
Put the console together: guard, plain pages, live page, in one ASGI application.

NiceGUI has one application per process, so a process has one console.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import uvicorn
from fastapi import FastAPI
from nicegui import app as live_app
from nicegui import ui
from starlette.requests import Request
from starlette.responses import Response

from tokenworks.foundation.clock import SystemClock
from tokenworks.foundation.errors import TooLargeError
from tokenworks.web.console.agents.agents_page import add_agents_page
from tokenworks.web.console.agents.escrows_page import add_escrows_page
from tokenworks.web.console.agents.inbox_page import add_inbox_page
from tokenworks.web.console.agents.payment_page import add_payment_page
from tokenworks.web.console.desk import ConsoleOptions, Desk
from tokenworks.web.console.doors import OPEN_PATHS, OPEN_PREFIXES, add_doors, message_page
from tokenworks.web.console.factory.page import add_factory_page
from tokenworks.web.console.guard import Guard, session_of
from tokenworks.web.console.hub import Hub
from tokenworks.web.console.live import add_live_page
from tokenworks.web.console.sessions import LoginBrake, Sessions

STOP_PATIENCE_S: Final = 3


def make_app(desk: Desk) -> FastAPI:
    """
    Return the console as an ASGI application.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        yield
        await desk.hub.close()

    app = FastAPI(
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        exception_handlers={Exception: _on_failure, TooLargeError: _on_too_large},
    )
    app.add_middleware(
        Guard, sessions=desk.sessions, open_paths=OPEN_PATHS, open_prefixes=OPEN_PREFIXES
    )
    add_doors(app, desk)
    add_live_page(desk)
    add_agents_page(desk)
    add_inbox_page(desk)
    add_escrows_page(desk)
    add_payment_page(app, desk)
    add_factory_page(app, desk)
    live_app.add_exception_handler(404, _on_unknown_page)
    live_app.add_exception_handler(Exception, _on_failure)
    ui.run_with(  # pyright: ignore[reportUnknownMemberType] - bare types of its own
        app,
        title="Tokenworks",
        language="en-US",
        tailwind=False,
        show_welcome_message=False,
    )
    return app


def serve(options: ConsoleOptions) -> None:
    """
    Run the console until it is told to stop.
    """
    clock = SystemClock()
    desk = Desk(
        hub=Hub(options.hub_url),
        clock=clock,
        sessions=Sessions(clock),
        brake=LoginBrake(clock),
    )
    uvicorn.run(
        make_app(desk),
        host=options.host,
        port=options.port,
        # Uvicorn's "info" is a line for every socket that opens and closes.
        log_level="warning" if options.log_level == "info" else options.log_level,
        access_log=False,
        server_header=False,
        proxy_headers=bool(options.trusted_proxies),
        forwarded_allow_ips=list(options.trusted_proxies),
        timeout_graceful_shutdown=STOP_PATIENCE_S,
    )


async def _on_unknown_page(request: Request, _: Exception) -> Response:
    return message_page(
        request,
        title="No such page",
        text="The console has live pages, and one for each call and each payment.",
        status=404,
        session=session_of(request.scope),
    )


async def _on_too_large(request: Request, error: Exception) -> Response:
    return message_page(request, title="Too large", text=str(error), status=413)


async def _on_failure(request: Request, _: Exception) -> Response:
    return message_page(
        request,
        title="Something went wrong",
        text="The console made a mistake. Its log says more.",
        status=500,
        session=session_of(request.scope),
    )
