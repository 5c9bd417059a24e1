"""
``/mcp`` at the hub: the tools for agents elsewhere, over streamable HTTP.

A translator without any authority: each tool is one request to a door of this hub, made in this
process with what the caller brought, and that door decides as it does for everybody.

====================  ====================================================================
the caller brings     and it goes
====================  ====================================================================
``Authorization``     as it is: an agent's API key
``x402/payment``      (``_meta``) as ``PAYMENT-SIGNATURE``: what a wallet signed for the
                      request that the tool stands for (x402's MCP transport)
``tokenworks/request``  (``_meta``) as ``x-tokenworks-wallet``: a signed request, for reading
====================  ====================================================================

Without sessions: a call that is sent again is the same payment again, at any gateway. The
protocol's package is loaded with the first request; most hubs never see one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import httpx
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.types import CallToolResult
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from tokenworks import __version__
from tokenworks.sdk import SdkError
from tokenworks.sdk.asking import (
    CHAT_PATH,
    JSON_HEADERS,
    SETTLE_PATH,
    WALLET_HEADER,
    chat_body,
    direct_requirements,
    path_part,
    quote_of,
)
from tokenworks.sdk.model import X402_VERSION, JsonObject, object_of
from tokenworks.sdk.paying import SIGNATURE_HEADER
from tokenworks.web.mcp.results import answered, asking, completion, refusal, refused, settlement
from tokenworks.web.mcp.words import (
    READ,
    SPEND,
    AmountText,
    MaxTokens,
    Messages,
    Model,
    Payee,
    PaymentId,
    Reference,
    options,
    plain,
)

INSTRUCTIONS: Final = (
    "Buy model calls and pay parties of this hub. A tool that costs money answers with what it"
    " asks (x402: isError, accepts); send the same call again with the payment in _meta"
    " 'x402/payment', or come with an API key. A payment that waits for a person or whose answer"
    " was lost is not made anew: send the same call with the same payment again."
)
PAYMENT_META: Final = "x402/payment"
REQUEST_META: Final = "tokenworks/request"
KEYED_CHAT_PATH: Final = "/v1/chat/completions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """
    What came with a tool call.
    """

    base: str  # the hub as its client calls it, e.g. ``https://hub.example``
    address: tuple[str, int]
    key: str | None  # the header ``Authorization``
    payment: JsonObject | None  # x402's payload
    signature: str | None  # of the request that the tool stands for


class Doors:
    """
    The doors of this hub, asked from within; what was begun is finished.

    Args:
        doors: The hub's application.
    """

    def __init__(self, doors: ASGIApp) -> None:
        self._doors = doors
        self._running: set[asyncio.Task[httpx.Response]] = set()

    async def ask(
        self,
        caller: Caller,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """
        Send a request for a caller; that the caller hangs up does not end it.
        """
        request = httpx.Request(
            method, caller.base + path, content=body, headers={**JSON_HEADERS, **(headers or {})}
        )
        task = asyncio.create_task(self._send(request, caller.address))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def _send(self, request: httpx.Request, address: tuple[str, int]) -> httpx.Response:
        transport = httpx.ASGITransport(self._doors, client=address, raise_app_exceptions=False)
        answer = await transport.handle_async_request(request)
        await answer.aread()
        return answer

    async def close(self) -> None:
        """
        Wait for what was begun.
        """
        await asyncio.gather(*self._running, return_exceptions=True)


def make_tools(doors: Doors, *, network: str) -> MCPServer[Any]:
    """
    Return a server whose tools are requests to the hub's doors.
    """
    server: MCPServer[Any] = MCPServer(
        "tokenworks", instructions=INSTRUCTIONS, version=__version__, log_level="WARNING"
    )

    @server.tool(annotations=READ)
    async def quote(
        model: Model, messages: Messages, context: Context, max_tokens: MaxTokens = None
    ) -> CallToolResult:
        """Say what a model call would cost at most; nothing is paid."""
        body = chat_body(model, plain(messages), options(max_tokens))
        answer = await doors.ask(caller_of(context), "POST", CHAT_PATH, body=body)
        try:
            quoted = quote_of(answer, network=network)
        except SdkError as error:
            return refused(getattr(error, "reason", error.code), str(error))
        return answered(
            {
                "amount_max": format(quoted.amount, "f"),
                "currency": quoted.currency,
                "scheme": quoted.requirements.scheme,
            }
        )

    @server.tool(annotations=SPEND)
    async def call_model(
        model: Model, messages: Messages, context: Context, max_tokens: MaxTokens = None
    ) -> CallToolResult:
        """Buy a chat completion; only the tokens it used are charged."""
        caller = caller_of(context)
        body = chat_body(model, plain(messages), options(max_tokens))
        if caller.payment is None and caller.key is not None:
            keyed = {"authorization": caller.key}
            return completion(
                await doors.ask(caller, "POST", KEYED_CHAT_PATH, body=body, headers=keyed)
            )
        headers: dict[str, str] = {}
        if caller.payment is not None:
            content = json.dumps(caller.payment, separators=(",", ":")).encode()
            headers[SIGNATURE_HEADER] = b64encode(content).decode()
        return completion(await doors.ask(caller, "POST", CHAT_PATH, body=body, headers=headers))

    @server.tool(annotations=SPEND)
    async def pay(
        payee: Payee,
        amount: AmountText,
        context: Context,
        reference: Reference = None,
        currency: str = "USD",
    ) -> CallToolResult:
        """Pay a party of the hub; what asks for the payment says what is to be signed."""
        caller = caller_of(context)
        try:
            asked = direct_requirements(
                caller.base, network, payee, amount, currency=currency, reference=reference
            )
        except ValueError as error:
            return refused("invalid_amount", str(error))
        if caller.payment is None:
            return asking(caller.base + SETTLE_PATH, asked, "Payment required")
        body = {
            "x402Version": X402_VERSION,
            "paymentPayload": caller.payment,
            "paymentRequirements": asked,
        }
        return settlement(
            await doors.ask(caller, "POST", SETTLE_PATH, body=json.dumps(body).encode())
        )

    @server.tool(annotations=READ)
    async def balance(context: Context) -> CallToolResult:
        """Say what is left of each of this agent's limits."""
        return await _read(doors, caller_of(context), "agents/tree")

    @server.tool(annotations=READ)
    async def mandate(context: Context) -> CallToolResult:
        """Show what this agent may spend: its mandates with their terms."""
        return await _read(doors, caller_of(context), "mandates")

    @server.tool(annotations=READ)
    async def receipt(payment_id: PaymentId, context: Context) -> CallToolResult:
        """Show the signed receipt of a payment, or of a call."""
        name = path_part(payment_id)
        caller = caller_of(context)
        return await _read(doors, caller, f"payments/{name}/receipt", f"receipts/{name}")

    # The decorator has registered them; the names are not used again.
    del quote, call_model, pay, balance, mandate, receipt
    return server


class RemoteTools:
    """
    The ASGI application of ``/mcp``.

    Args:
        doors: The hub's application.
        network: The hub's network.
    """

    def __init__(self, doors: ASGIApp, *, network: str) -> None:
        self._doors = Doors(doors)
        self._manager = StreamableHTTPSessionManager(
            make_tools(self._doors, network=network)._lowlevel_server,  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - the public way makes a whole application
            json_response=True,
            stateless=True,
        )
        self._is_closing = asyncio.Event()
        self._is_ready = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Answer one request.
        """
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        await self._is_ready.wait()
        await self._manager.handle_request(scope, receive, send)

    async def _run(self) -> None:
        # One task enters and leaves the manager: its group of tasks belongs to it.
        async with self._manager.run():
            self._is_ready.set()
            await self._is_closing.wait()

    async def close(self) -> None:
        """
        Finish what was begun and end.
        """
        await self._doors.close()
        self._is_closing.set()
        if self._running is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self._running


# ---------------------------------------------------------------------- callers


def caller_of(context: Context[Any, Any]) -> Caller:
    """
    Return what came with a tool call.
    """
    asked = context.request_context
    request = cast("Request", asked.request)
    meta: Mapping[str, Any] = asked.meta or {}
    payment, signature = meta.get(PAYMENT_META), meta.get(REQUEST_META)
    client = request.client
    return Caller(
        base=f"{request.url.scheme}://{request.headers.get('host', '')}",
        address=("", 0) if client is None else (client.host, client.port),
        key=_header(request.headers.get("authorization")),
        payment=cast("JsonObject", payment) if isinstance(payment, dict) else None,
        signature=_header(signature),
    )


def _header(value: object) -> str | None:
    """
    Return what can be a header's text; keys and signatures are ASCII.
    """
    return value if isinstance(value, str) and value.isascii() and value.isprintable() else None


async def _read(
    doors: Doors, caller: Caller, path: str, otherwise: str | None = None
) -> CallToolResult:
    """
    Read a resource, or another one when it is not there for the caller.
    """
    headers: dict[str, str] = {}
    if caller.signature is not None:
        headers[WALLET_HEADER] = caller.signature
    elif caller.key is not None:
        headers["authorization"] = caller.key
    answer = await doors.ask(caller, "GET", f"/hub/v1/{path}", headers=headers)
    if answer.is_success:
        return answered(dict(object_of(answer.content) or {}))
    return refusal(answer) if otherwise is None else await _read(doors, caller, otherwise)
