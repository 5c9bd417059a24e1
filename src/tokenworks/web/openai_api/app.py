"""
``GET /v1/models`` and ``POST /v1/chat/completions`` as an ASGI application.

No framework and no middleware: a call costs a few microseconds here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final

import msgspec
import psycopg
import structlog
from psycopg_pool import PoolTimeout

from tokenworks.foundation.errors import (
    InvalidError,
    NotFoundError,
    TokenworksError,
    TooLargeError,
    UnauthenticatedError,
    UnavailableError,
)
from tokenworks.foundation.limits import REQUEST_BODY_BYTES_MAX, REQUEST_READ_TIMEOUT_S
from tokenworks.gateway.model import Settled
from tokenworks.gateway.service import Gateway
from tokenworks.gateway.streaming import OpenStream, Streamer
from tokenworks.identity.model import Principal
from tokenworks.identity.service import Identity
from tokenworks.web.errors import headers_of, status_of, to_openai_error
from tokenworks.web.metrics import HubMetrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
SendMessage = Callable[[Message], Awaitable[None]]
RawHeaders = list[tuple[bytes, bytes]]

_JSON: Final = (b"content-type", b"application/json")
_SSE: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
_BEARER: Final = b"bearer "

_encode = msgspec.json.Encoder().encode
_log = structlog.get_logger("tokenworks.openai_api")


def to_error_event(error: TokenworksError) -> bytes:
    """
    Return the event that ends a broken stream.
    """
    return b"data: " + _encode(to_openai_error(error)) + b"\n\n"


class OpenAiApi:
    """
    The door's ASGI application.

    Args:
        gateway: Sells calls.
        streamer: Relays streams.
        identity: Turns keys into principals.
        metrics: Counts what passes.
    """

    def __init__(
        self,
        *,
        gateway: Gateway,
        streamer: Streamer,
        identity: Identity,
        metrics: HubMetrics,
    ) -> None:
        self._gateway = gateway
        self._streamer = streamer
        self._identity = identity
        self._metrics = metrics
        self._relays: set[asyncio.Task[Any]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: SendMessage) -> None:
        """
        Answer one request.
        """
        path, method = scope["path"], scope["method"]
        try:
            if path == "/v1/chat/completions":
                _require_method(method, "POST")
                await self._chat(scope, receive, send)
            elif path == "/v1/models":
                _require_method(method, "GET")
                await self._models(scope, send)
            elif path.startswith("/v1/models/"):
                _require_method(method, "GET")
                await self._model(scope, send, path.removeprefix("/v1/models/"))
            else:
                message = f"There is no {method} {path} here; try /v1/chat/completions."
                raise NotFoundError(message, code="unknown_url")
        except TokenworksError as error:
            self._metrics.refused(error.code)
            await _send_error(send, error)
        except (psycopg.OperationalError, PoolTimeout) as error:
            # A look-up outside the ledger (an idempotency key's): nothing is acknowledged.
            _log.warning("database_unavailable", error=type(error).__name__, path=path)
            unavailable = UnavailableError("The database does not answer right now.")
            self._metrics.refused(unavailable.code)
            await _send_error(send, unavailable)
        except Exception:  # noqa: BLE001 - the outermost door: a bug still gets an answer
            _log.exception("unexpected_error", path=path)
            self._metrics.refused("internal_error")
            await _send_error(send, _unexpected())

    async def close(self) -> None:
        """
        Wait for the streams that are still being relayed.
        """
        if self._relays:
            await asyncio.wait(self._relays)

    # ------------------------------------------------------------------ models

    async def _models(self, scope: Scope, send: SendMessage) -> None:
        principal = await self._authenticate(scope)
        names = await self._gateway.models(principal)
        body = {"object": "list", "data": [_model_object(name) for name in names]}
        await _send_json(send, 200, _encode(body), ())

    async def _model(self, scope: Scope, send: SendMessage, name: str) -> None:
        principal = await self._authenticate(scope)
        if name not in await self._gateway.models(principal):
            message = f"The model {name!r} does not exist here."
            raise NotFoundError(message, code="model_not_found", param="model")
        await _send_json(send, 200, _encode(_model_object(name)), ())

    # ------------------------------------------------------------------ chat

    async def _chat(self, scope: Scope, receive: Receive, send: SendMessage) -> None:
        principal = await self._authenticate(scope)
        self._identity.count_request(principal)
        body = await read_body(scope, receive)
        key = _header(scope, b"idempotency-key")
        call = await self._gateway.open(
            principal, body, idempotency_key=None if key is None else key.decode("latin-1")
        )
        call_header = (b"x-tokenworks-call-id", str(call.call_id).encode())
        try:
            if call.request.is_stream:
                stream = await self._streamer.begin(call)
                await self._stream(stream, receive, send, call_header)
                return
            result = await self._gateway.complete(call)
        except TokenworksError as error:
            self._metrics.refused(error.code)
            await _send_error(send, error, [call_header])
            return
        settled = result.settled
        self._metrics.settled(settled, stream=False)
        headers = [call_header, *_settled_headers(settled)]
        if result.granted_output is not None:
            headers.append((b"x-tokenworks-max-tokens", str(result.granted_output).encode()))
        await _send_json(send, 200, result.body, headers)

    async def _stream(
        self,
        stream: OpenStream,
        receive: Receive,
        send: SendMessage,
        call_header: tuple[bytes, bytes],
    ) -> None:
        is_gone = False

        async def watch() -> None:
            nonlocal is_gone
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    is_gone = True
                    return

        async def pass_on(data: bytes) -> None:
            nonlocal is_gone
            if is_gone:
                return
            try:
                await send({"type": "http.response.body", "body": data, "more_body": True})
            except (OSError, RuntimeError):
                is_gone = True

        async def relay() -> None:
            nonlocal is_gone
            tier_header = (b"x-tokenworks-tier", stream.attempt.offer.tier.encode())
            headers = [*_SSE, call_header, tier_header]
            try:
                await send({"type": "http.response.start", "status": 200, "headers": headers})
            except (OSError, RuntimeError):
                is_gone = True
            try:
                settled = await self._streamer.relay(stream, send=pass_on, is_gone=lambda: is_gone)
            except Exception:  # noqa: BLE001 - the headers are out: a bug still gets an event
                _log.exception("unexpected_error", call_id=str(stream.call.call_id))
                self._metrics.refused("internal_error")
                await pass_on(to_error_event(_unexpected()))
            else:
                if settled is not None:
                    self._metrics.settled(settled, stream=True)
            if not is_gone:
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        watching = asyncio.create_task(watch())
        relaying = asyncio.create_task(relay())
        self._relays.add(relaying)
        relaying.add_done_callback(self._relays.discard)
        try:
            # A door that is torn down does not take the metering with it.
            await asyncio.shield(relaying)
        finally:
            watching.cancel()

    # ------------------------------------------------------------------ who asks

    async def _authenticate(self, scope: Scope) -> Principal:
        header = _header(scope, b"authorization") or b""
        if header[: len(_BEARER)].lower() != _BEARER:
            message = "Send your API key as 'Authorization: Bearer tw_...'."
            raise UnauthenticatedError(message)
        client = scope.get("client")
        return await self._identity.authenticate(
            header[len(_BEARER) :].decode("latin-1").strip(),
            address=client[0] if client else None,
        )


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """
    Return the request's body, within the limits of size and time.

    Raises:
        TooLargeError: It is larger than ``REQUEST_BODY_BYTES_MAX``.
        InvalidError: It did not arrive in time or the client left.
    """
    length = _header(scope, b"content-length")
    if length is not None and length.isdigit() and int(length) > REQUEST_BODY_BYTES_MAX:
        raise _too_large()
    try:
        # From the first piece on: headers alone must not hold a connection either.
        async with asyncio.timeout(REQUEST_READ_TIMEOUT_S):
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body"):
                body: bytes = message.get("body", b"")
                if len(body) > REQUEST_BODY_BYTES_MAX:
                    raise _too_large()
                return body
            return await _read_rest(message, receive)
    except TimeoutError as error:
        message_text = "The request body did not arrive in time."
        raise InvalidError(message_text, code="body_timeout") from error


async def _read_rest(message: Message, receive: Receive) -> bytes:
    body = bytearray()
    while True:
        if message["type"] == "http.disconnect":
            reason = "The client left before its request was complete."
            raise InvalidError(reason, code="client_left")
        body += message.get("body", b"")
        if len(body) > REQUEST_BODY_BYTES_MAX:
            raise _too_large()
        if not message.get("more_body"):
            return bytes(body)
        message = await receive()


def _unexpected() -> UnavailableError:
    message = "Something went wrong in the hub; the call was not acknowledged."
    return UnavailableError(message, code="internal_error")


def _too_large() -> TooLargeError:
    return TooLargeError(f"The request body is larger than {REQUEST_BODY_BYTES_MAX:,} bytes.")


def _require_method(method: str, wanted: str) -> None:
    if method != wanted:
        message = f"Use {wanted} here, not {method}."
        raise InvalidError(message, code="method_not_allowed")


def _header(scope: Scope, name: bytes) -> bytes | None:
    for key, value in scope["headers"]:
        if key == name:
            return value
    return None


def _settled_headers(settled: Settled) -> RawHeaders:
    headers: RawHeaders = [
        (b"x-tokenworks-charge", settled.charge.encode()),
        (b"x-tokenworks-currency", settled.currency.encode()),
        (b"x-tokenworks-tier", settled.tier.encode()),
    ]
    if settled.balance is not None:
        headers.append((b"x-tokenworks-balance", settled.balance.encode()))
    return headers


def _model_object(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "tokenworks"}


async def _send_json(
    send: SendMessage, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]]
) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [_JSON, (b"content-length", str(len(body)).encode()), *headers],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def _send_error(
    send: SendMessage, error: TokenworksError, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    extra = [(name.encode(), value.encode()) for name, value in headers_of(error).items()]
    await _send_json(send, status_of(error), _encode(to_openai_error(error)), [*headers, *extra])
