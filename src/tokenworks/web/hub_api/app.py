"""
Put the hub API together.

The description is ``GET /hub/v1/openapi.json`` alone: the usual page around it would load
scripts from elsewhere.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

import psycopg
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from psycopg_pool import PoolTimeout
from starlette.exceptions import HTTPException
from starlette.responses import Response

from tokenworks import __version__
from tokenworks.foundation.errors import (
    ErrorKind,
    InvalidError,
    NotFoundError,
    TokenworksError,
    UnavailableError,
)
from tokenworks.web.hub_api.callers import Callers
from tokenworks.web.hub_api.errors import PathNotFoundError
from tokenworks.web.hub_api.gate import Gate, problem_response
from tokenworks.web.hub_api.idempotency import IdempotencyStore
from tokenworks.web.hub_api.routes import (
    agents,
    books,
    brake,
    calls,
    corrections,
    economics,
    escrows,
    factory,
    keys,
    limits,
    mandates,
    money,
    offers,
    parties,
    payments,
    prices,
    reviews,
    statements,
    suppliers,
)
from tokenworks.web.hub_api.services import HubServices

PREFIX: Final = "/hub/v1"
FAULTS_SHOWN_MAX: Final = 20

_ROUTERS: Final = (
    parties.router,
    keys.router,
    limits.router,
    money.router,
    suppliers.router,
    offers.router,
    prices.router,
    calls.router,
    books.router,
    corrections.router,
    statements.router,
    escrows.router,
    payments.router,
    agents.router,
    mandates.router,
    brake.router,
    reviews.router,
    economics.router,
    factory.router,
)

_log = structlog.get_logger("tokenworks.hub_api")


def create_hub_api(services: HubServices) -> FastAPI:
    """
    Return the hub API as an ASGI application that answers paths below ``/hub/v1``.
    """
    app = FastAPI(
        title="Tokenworks hub API",
        version=__version__,
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.services = services
    for router in _ROUTERS:
        app.include_router(router, prefix=PREFIX)
    app.add_exception_handler(TokenworksError, _on_refusal)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(psycopg.OperationalError, _on_database)
    app.add_exception_handler(PoolTimeout, _on_database)
    app.add_exception_handler(psycopg.DataError, _on_data)
    app.add_exception_handler(Exception, _on_bug)
    app.add_middleware(
        Gate,
        authenticator=Callers(
            identity=services.identity,
            mandates=services.agents.mandates,
            network=services.agents.network,
            clock=services.clock,
        ),
        idempotency=IdempotencyStore(services.pool, clock=services.clock, ids=services.ids),
    )
    return app


async def _on_refusal(_request: Request, error: Exception) -> Response:
    assert isinstance(error, TokenworksError), "registered for it"
    return problem_response(error)


async def _on_invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError), "registered for it"
    faults = [
        {"field": ".".join(str(part) for part in fault["loc"][1:]), "message": str(fault["msg"])}
        for fault in error.errors()
    ]
    # Only places and rules, never what was sent: it may hold a supplier's key.
    first = faults[0]
    place = first["field"] or "the request"
    problem = InvalidError(
        f"{place}: {first['message']}.",
        param=first["field"] or None,
        details={"faults": faults[:FAULTS_SHOWN_MAX]},
    )
    return problem_response(problem)


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "registered for it"
    if error.status_code == HTTPStatus.NOT_FOUND:
        message = f"The hub API has no path {request.url.path}."
        return problem_response(PathNotFoundError(message))
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        message = f"{request.url.path} does not take {request.method}."
        response = problem_response(NotFoundError(message, code="method_not_allowed"))
        response.status_code = HTTPStatus.METHOD_NOT_ALLOWED
        return response
    return problem_response(InvalidError(str(error.detail)))


async def _on_database(request: Request, error: Exception) -> Response:
    _log.warning("database_unavailable", error=type(error).__name__, path=request.url.path)
    message = "The database does not answer right now."
    return problem_response(UnavailableError(message, retry_after_s=1))


async def _on_data(request: Request, error: Exception) -> Response:
    # A NUL in a text, most of all: JSON and addresses can say it, no column can hold it.
    _log.warning("value_not_storable", error=type(error).__name__, path=request.url.path)
    message = "The request holds a character or a number that cannot be stored."
    return problem_response(InvalidError(message, code="value_not_storable"))


async def _on_bug(_request: Request, _error: Exception) -> Response:
    # Starlette raises it again after this answer, so the server logs the traceback.
    problem = UnavailableError("Something went wrong inside the hub.", code="internal_error")
    assert problem.kind is ErrorKind.UNAVAILABLE, "nobody can mend it by another request"
    response = problem_response(problem)
    response.status_code = HTTPStatus.INTERNAL_SERVER_ERROR
    return response
