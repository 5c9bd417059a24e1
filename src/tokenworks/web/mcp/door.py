"""
The way to ``/mcp``: bounds the rate of an address, and loads the tools with the first request.

The protocol's packages take a third of a second and some 16 MiB; most hubs never need them.
"""

from __future__ import annotations

import asyncio
import importlib
from typing import TYPE_CHECKING, Any, Final

from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import InvalidError, LimitExceededError
from tokenworks.foundation.limits import MCP_REQUESTS_PER_MINUTE_MAX
from tokenworks.identity.rate import RequestLimiter, address_group
from tokenworks.web.asgi import Receive, Scope, SendMessage, send_error

if TYPE_CHECKING:
    from tokenworks.web.mcp.remote import RemoteTools
    from tokenworks.web.switch import Application

MODULE: Final = "tokenworks.web.mcp.remote"


class McpDoor:
    """
    The ASGI application of ``/mcp``.

    Args:
        doors: The hub's application, which the tools ask.
        network: The hub's network.
        clock: For the rate of an address.
    """

    def __init__(self, doors: Application, *, network: str, clock: Clock) -> None:
        self._doors = doors
        self._network = network
        self._clock = clock
        self._limiter = RequestLimiter()
        self._loading = asyncio.Lock()
        self._tools: RemoteTools | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: SendMessage) -> None:
        """
        Answer one request.
        """
        if scope["method"] != "POST":
            # Without sessions there is no stream to listen to: it would only stay open.
            error = InvalidError("Only POST is meant for /mcp.", code="method_not_allowed")
            await send_error(send, error, [(b"allow", b"POST")], status=405)
            return
        client = scope.get("client")
        wait_s = client and self._limiter.take(
            address_group(client[0]),
            per_minute=MCP_REQUESTS_PER_MINUTE_MAX,
            now_s=self._clock.monotonic_s(),
        )
        if wait_s:
            message = f"At most {MCP_REQUESTS_PER_MINUTE_MAX} requests a minute from one address."
            limit = LimitExceededError(message, code="rate_limited", retry_after_s=wait_s)
            await send_error(send, limit)
            return
        tools = self._tools or await self._load()
        await tools(scope, receive, send)

    async def _load(self) -> RemoteTools:
        async with self._loading:
            if self._tools is not None:
                return self._tools
            module: Any = await asyncio.to_thread(importlib.import_module, MODULE)
            tools: RemoteTools = module.RemoteTools(self._doors, network=self._network)
            self._tools = tools
            return tools

    async def close(self) -> None:
        """
        Finish what was begun.
        """
        if self._tools is not None:
            await self._tools.close()
