"""
The fake hub's door: HTTP on a port of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
import uuid
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from types import SimpleNamespace

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.middleware.base import RequestResponseEndpoint
from starlette.responses import Response

from tests.console.fake_agents_door import serve_agents
from tests.console.fake_hub import (
    ADMIN_KEY,
    BUYER_KEY,
    SUPPLIER_KEY,
    Document,
    FakeHub,
    Sale,
    moment,
    party,
)
from tests.console.problems import problem
from tests.console.slow_wire import SLOW_MS, LateAnswers
from tokenworks.foundation.errors import TokenworksError
from tokenworks.pricing.tiers import load_tiers
from tokenworks.web.hub_api.gate import problem_response
from tokenworks.web.hub_api.routes import economics

READERS: dict[str, Document] = {
    ADMIN_KEY: {"role": "admin", "party": party("platform"), "organisation": party("platform")},
    BUYER_KEY: {"role": "buyer", "party": party("research"), "organisation": party("acme")},
    SUPPLIER_KEY: {
        "role": "supplier",
        "party": party("riverside"),
        "organisation": party("riverside"),
    },
}


def make_app(hub: FakeHub) -> FastAPI:
    """
    Return the endpoints of the contract that the console uses.
    """
    app = FastAPI()
    _admit(app, hub)
    _serve_readers(app, hub)
    _serve_calls(app, hub)
    _serve_books(app, hub)
    serve_agents(app, hub)
    _serve_plant(app, hub)
    # Shipped facts and arithmetic: the hub's own doors, with its own tiers.
    app.state.services = SimpleNamespace(prices=SimpleNamespace(tiers=load_tiers()))
    app.include_router(economics.router, prefix="/hub/v1")
    app.add_exception_handler(TokenworksError, _on_refusal)
    return app


async def _on_refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, TokenworksError), "registered for it"
    return problem_response(error)


def _refusal(hub: FakeHub, path: str, key: str) -> Response | None:
    if hub.is_unready:
        return problem(503, "unavailable", "The database does not answer.")
    if hub.is_strange:
        return JSONResponse(["not", "a", "hub"])
    if not path.startswith("/hub/"):
        return None
    if key not in READERS or key in hub.revoked:
        return problem(401, "invalid_api_key", "The API key is not valid.")
    words = path.split("/")
    is_plant = words[3:4] == ["factory"] and words[4] in {"live", "models", "chain"}
    if key != ADMIN_KEY and (is_plant or words[3] in {"flow", "ledger"}):
        return problem(403, "role_not_allowed", "Only an admin may do this.")
    if words[3] in hub.forbidden:
        return problem(403, "role_not_allowed", "This key may not do this.")
    return None


def _admit(app: FastAPI, hub: FakeHub) -> None:
    @app.middleware("http")
    async def admit(request: Request, call_next: RequestResponseEndpoint) -> Response:
        key = request.headers.get("authorization", "").removeprefix("Bearer ")
        path = request.url.path
        hub.requests.append((path, key))
        while any(part in path for part in hub.held):  # noqa: ASYNC110 - let go by another thread
            await asyncio.sleep(0.01)
        request.state.key = key
        return _refusal(hub, path, key) or await call_next(request)


def _serve_readers(app: FastAPI, hub: FakeHub) -> None:
    @app.get("/hub/v1/whoami", response_model=None)
    async def whoami(request: Request) -> Document:
        key = request.state.key
        return READERS[key] | {
            "key_id": str(uuid.uuid4()),
            "prefix": key[:10],
            "chain": [],
            "models": None,
            "requests_per_minute": None,
            "expires_at": None,
            "default_tier": "standard",
        }

    @app.get("/hub/v1/balance", response_model=None)
    async def balance(request: Request) -> Document:
        cash = {"currency": "USD", "available": "82.417355914", "held": "0.0408", "posted": "82.5"}
        reader = READERS[request.state.key]
        limits: list[Document] = []
        answer = {"party": reader["organisation"], "limits": limits, "tightest": None}
        is_supplier = request.state.key == SUPPLIER_KEY
        owed = {"purpose": "supplier_payable", "asset": "USD", "credits_posted": "12.75"}
        accounts = [owed | {"account_id": "77", "debits_posted": "2.5"}] if is_supplier else None
        return answer | {"cash": [] if is_supplier else [cash], "accounts": accounts}

    @app.get("/hub/v1/prices", response_model=None)
    async def prices() -> Document:
        row = {"model": "smollm2", "tier": "standard", "axis": "input", "usd_per_million": "0.75"}
        return {"items": [row], "next_cursor": None}

    @app.get("/.well-known/jwks.json", response_model=None)
    async def jwks() -> Document:
        return hub.jwks()


def _serve_calls(app: FastAPI, hub: FakeHub) -> None:
    @app.get("/hub/v1/flow", response_model=None)
    async def flow(seconds: int = 60) -> Document:
        return hub.flow(seconds)

    @app.get("/hub/v1/calls", response_model=None)
    async def calls(request: Request, limit: int = 50, since: str = "") -> Document:
        rows = [
            seen_by(request.state.key, sale.call)
            for sale in hub.newest()
            if visible_to(request.state.key, sale) and sale.call["started_at"] >= since
        ]
        return {"items": rows[:limit], "next_cursor": "more" if len(rows) > limit else None}

    @app.get("/hub/v1/calls/{call_id}", response_model=None)
    async def call(request: Request, call_id: str) -> Document | Response:
        sale = hub.sales.get(call_id)
        if sale is None or not visible_to(request.state.key, sale):
            return problem(404, "call_not_found", f"There is no call {call_id}.")
        return seen_by(request.state.key, sale.detail)

    @app.get("/hub/v1/receipts/{call_id}", response_model=None)
    async def receipt(request: Request, call_id: str) -> Document | Response:
        sale = hub.sales.get(call_id)
        is_sold = sale is not None and sale.call["status"] == "settled"
        if sale is None or not is_sold or not visible_to(request.state.key, sale):
            return problem(404, "receipt_not_found", f"There is no receipt of {call_id}.")
        return hub.receipt(sale, is_admin=request.state.key == ADMIN_KEY)

    @app.get("/hub/v1/receipts/{call_id}/addenda", response_model=None)
    async def addenda(request: Request, call_id: str) -> Document | Response:
        sale = hub.sales.get(call_id)
        if sale is None or not visible_to(request.state.key, sale):
            return problem(404, "call_not_found", f"There is no call {call_id}.")
        return {"items": hub.addenda.get(call_id, [])}


def _serve_books(app: FastAPI, hub: FakeHub) -> None:
    @app.get("/hub/v1/ledger/entries/{fact_id}", response_model=None)
    async def entries(fact_id: str) -> Document | Response:
        sale = hub.sales.get(fact_id)
        if sale is None:
            return problem(404, "fact_not_found", "There is no such fact.")
        place = {"fact_id": fact_id, "recorded_at": sale.call["started_at"], "lane": 3}
        return {
            "items": [
                place | {"operation": "place", "ordinal": 0, "batch": 90_410, "legs": []},
                place | {"operation": "settle", "ordinal": 0, "batch": 90_412, "legs": sale.legs},
            ]
        }

    @app.get("/hub/v1/ledger/trial-balance", response_model=None)
    async def trial_balance() -> Document:
        totals = [
            {
                "asset": asset,
                "debits_posted": "1204.5",
                "credits_posted": "1204.5" if hub.is_balanced else "1204.4",
                "debits_pending": "0",
                "credits_pending": "0",
                "is_balanced": hub.is_balanced,
            }
            for asset in ("USD", "LIMIT.USD", "LIMIT.TOK")
        ]
        as_of = moment(datetime.now(UTC))
        return {"as_of": as_of, "is_balanced": hub.is_balanced, "rows": [], "totals": totals}


def _serve_plant(app: FastAPI, hub: FakeHub) -> None:
    @app.get("/hub/v1/factory/live", response_model=None)
    async def live(minutes: int = 15) -> Document:
        return hub.plant.live(minutes)

    @app.get("/hub/v1/factory/models", response_model=None)
    async def models(hours: int = 24) -> Document:
        return hub.plant.model_list(hours)

    @app.get("/hub/v1/factory/chain", response_model=None)
    async def chain(hours: int = 24) -> Document:
        return hub.plant.value_chain(hours)


def visible_to(key: str, sale: Sale) -> bool:
    """
    Tell whether a reader may see a call.
    """
    if key == ADMIN_KEY:
        return True
    reader = READERS[key]["organisation"]["name"]
    return reader in sale.names.values()


def seen_by(key: str, call: Document) -> Document:
    """
    Return a call as a role sees it: what it may not see is null, never left out.
    """
    hidden: Document = {}
    if key == BUYER_KEY:
        hidden = {"supplier": None, "payable": None}
    elif key == SUPPLIER_KEY:
        hidden = dict.fromkeys(("party", "organisation", "team", "key", "charge", "quoted"))
    shown = call | hidden
    if key != ADMIN_KEY and "attempts" in shown:
        blank = {"supplier": None, "offer_id": None, "payable": None}
        shown["attempts"] = [attempt | blank for attempt in shown["attempts"]]
    if key == SUPPLIER_KEY and "lines" in shown:
        shown["lines"] = []
    return shown


class Server:
    """
    The fake hub on a port of its own, in a thread; it can be stopped and started again.
    """

    def __init__(self, hub: FakeHub) -> None:
        self._app = LateAnswers(make_app(hub)) if SLOW_MS else make_app(hub)
        self.port = free_port()
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """
        Return where it listens.
        """
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """
        Listen; returns when it does.
        """
        config = uvicorn.Config(
            self._app, host="127.0.0.1", port=self.port, log_level="error", lifespan="off"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        wait_for_port(self.port)

    def stop(self) -> None:
        """
        Stop listening and end all connections.
        """
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._server.force_exit = True
            self._thread.join(timeout=10)
        self._server = self._thread = None

    @contextlib.contextmanager
    def stopped(self) -> Generator[None]:
        """
        Be away for a while.
        """
        self.stop()
        try:
            yield
        finally:
            self.start()


def free_port() -> int:
    """
    Return a port nobody listens on.
    """
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


def wait_for_port(
    port: int, *, timeout_s: float = 90.0, is_hopeless: Callable[[], bool] = lambda: False
) -> None:
    """
    Return when somebody listens on a port of this machine; give up when it is hopeless.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
            return
        if is_hopeless() or time.monotonic() > deadline:
            raise TimeoutError(f"nobody listens on {port}")
        time.sleep(0.05)
