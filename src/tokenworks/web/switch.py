"""
One server, several doors: pick the ASGI application by path.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from tokenworks.web.asgi import Receive, Scope, SendMessage, send_json, send_whole
from tokenworks.web.metrics import MEDIA_TYPE, HubMetrics

Application = Callable[[Any, Any, Any], Awaitable[None]]

MCP_PATHS: Final = frozenset({"/mcp", "/mcp/"})

_encode = msgspec.json.Encoder().encode


class Switch:
    """
    Send ``/v1`` to the OpenAI door, ``/hub/v1`` to the hub API, ``/x402`` to the facilitator,
    ``/x402/v1`` to the selling door and ``/mcp`` to the tools.

    Args:
        openai_api: The hot path.
        hub_api: The management API.
        x402_api: The facilitator.
        selling: Calls for sale by x402.
        mcp: Tools for agents elsewhere.
        metrics: For ``/metrics``.
        is_healthy: Whether the books can be reached.
        jwks: Public keys of receipts, retired ones included.
    """

    def __init__(
        self,
        *,
        openai_api: Application,
        hub_api: Application,
        selling: Application,
        x402_api: Application,
        mcp: Application,
        metrics: HubMetrics,
        is_healthy: Callable[[], bool],
        jwks: Callable[[], Awaitable[dict[str, object]]],
    ) -> None:
        self._openai_api = openai_api
        self._hub_api = hub_api
        self._selling = selling
        self._x402_api = x402_api
        self._mcp = mcp
        self._metrics = metrics
        self._is_healthy = is_healthy
        self._jwks = jwks

    async def __call__(self, scope: Scope, receive: Receive, send: SendMessage) -> None:
        """
        Answer one request.
        """
        if scope["type"] != "http":
            return
        path: str = scope["path"]
        if path.startswith("/hub/v1"):
            await self._hub_api(scope, receive, send)
        elif path.startswith("/x402/v1/"):
            await self._selling(scope, receive, send)
        elif path.startswith("/x402/"):
            await self._x402_api(scope, receive, send)
        elif path in MCP_PATHS:
            await self._mcp(scope, receive, send)
        elif path == "/healthz":
            healthy = self._is_healthy()
            status = {"status": "ok" if healthy else "ledger_unreachable"}
            await send_json(send, 200 if healthy else 503, _encode(status))
        elif path == "/metrics":
            await send_whole(send, 200, self._metrics.exposition(), MEDIA_TYPE.encode())
        elif path == "/.well-known/jwks.json":
            await send_json(send, 200, _encode(await self._jwks()))
        else:
            await self._openai_api(scope, receive, send)
