"""
``GET /v1/models`` and ``POST /v1/chat/completions`` as an ASGI application.

No framework and no middleware: a call costs a few microseconds here.
"""

from __future__ import annotations

from typing import Final

import msgspec

from tokenworks.foundation.errors import (
    InvalidError,
    NotFoundError,
    TokenworksError,
    UnauthenticatedError,
)
from tokenworks.gateway.service import Gateway
from tokenworks.gateway.streaming import Streamer
from tokenworks.identity.model import Principal
from tokenworks.identity.service import Identity
from tokenworks.web.asgi import (
    Receive,
    Scope,
    SendMessage,
    header_of,
    read_body,
    send_error,
    send_json,
    settled_headers,
)
from tokenworks.web.guarding import guarded
from tokenworks.web.metrics import HubMetrics
from tokenworks.web.relaying import Relays

_BEARER: Final = b"bearer "

_encode = msgspec.json.Encoder().encode


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
        self._relays = Relays(streamer, metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: SendMessage) -> None:
        """
        Answer one request.
        """
        serving = self._serve(scope, receive, send)
        await guarded(
            serving,
            path=scope["path"],
            metrics=self._metrics,
            tell=lambda error: send_error(send, error),
        )

    async def _serve(self, scope: Scope, receive: Receive, send: SendMessage) -> None:
        path, method = scope["path"], scope["method"]
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

    async def close(self) -> None:
        """
        Wait for the streams that are still being relayed.
        """
        await self._relays.close()

    # ------------------------------------------------------------------ models

    async def _models(self, scope: Scope, send: SendMessage) -> None:
        principal = await self._authenticate(scope)
        names = await self._gateway.models(principal)
        body = {"object": "list", "data": [_model_object(name) for name in names]}
        await send_json(send, 200, _encode(body), ())

    async def _model(self, scope: Scope, send: SendMessage, name: str) -> None:
        principal = await self._authenticate(scope)
        if name not in await self._gateway.models(principal):
            message = f"The model {name!r} does not exist here."
            raise NotFoundError(message, code="model_not_found", param="model")
        await send_json(send, 200, _encode(_model_object(name)), ())

    # ------------------------------------------------------------------ chat

    async def _chat(self, scope: Scope, receive: Receive, send: SendMessage) -> None:
        principal = await self._authenticate(scope)
        self._identity.count_request(principal)
        body = await read_body(scope, receive)
        key = header_of(scope, b"idempotency-key")
        call = await self._gateway.open(
            principal, body, idempotency_key=None if key is None else key.decode("latin-1")
        )
        call_header = (b"x-tokenworks-call-id", str(call.call_id).encode())
        try:
            if call.request.is_stream:
                stream = await self._streamer.begin(call)
                await self._relays.relay(stream, receive, send, [call_header])
                return
            result = await self._gateway.complete(call)
        except TokenworksError as error:
            self._metrics.refused(error.code)
            await send_error(send, error, [call_header])
            return
        settled = result.settled
        self._metrics.settled(settled, stream=False)
        headers = [call_header, *settled_headers(settled)]
        if result.granted_output is not None:
            headers.append((b"x-tokenworks-max-tokens", str(result.granted_output).encode()))
        await send_json(send, 200, result.body, headers)

    # ------------------------------------------------------------------ who asks

    async def _authenticate(self, scope: Scope) -> Principal:
        header = header_of(scope, b"authorization") or b""
        if header[: len(_BEARER)].lower() != _BEARER:
            message = "Send your API key as 'Authorization: Bearer tw_...'."
            raise UnauthenticatedError(message)
        client = scope.get("client")
        return await self._identity.authenticate(
            header[len(_BEARER) :].decode("latin-1").strip(),
            address=client[0] if client else None,
        )


def _require_method(method: str, wanted: str) -> None:
    if method != wanted:
        message = f"Use {wanted} here, not {method}."
        raise InvalidError(message, code="method_not_allowed")


def _model_object(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "tokenworks"}
