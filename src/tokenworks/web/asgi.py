"""
Read requests and send answers of plain ASGI, for the doors without a framework.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final

import msgspec

from tokenworks.foundation.errors import (
    InvalidError,
    TokenworksError,
    TooLargeError,
    UnavailableError,
)
from tokenworks.foundation.limits import REQUEST_BODY_BYTES_MAX, REQUEST_READ_TIMEOUT_S
from tokenworks.gateway.model import Settled
from tokenworks.web.errors import headers_of, status_of, to_openai_error

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
SendMessage = Callable[[Message], Awaitable[None]]
RawHeaders = list[tuple[bytes, bytes]]

JSON_MEDIA_TYPE: Final = b"application/json"
_encode = msgspec.json.Encoder().encode


async def read_body(
    scope: Scope,
    receive: Receive,
    *,
    bytes_max: int = REQUEST_BODY_BYTES_MAX,
    timeout_s: float = REQUEST_READ_TIMEOUT_S,
) -> bytes:
    """
    Return the request's body, within the limits of size and time.

    Raises:
        TooLargeError: It is larger than ``bytes_max``.
        InvalidError: It did not arrive in time or the client left.
    """
    length = header_of(scope, b"content-length")
    if length is not None and length.isdigit() and int(length) > bytes_max:
        raise _too_large(bytes_max)
    try:
        # From the first piece on: headers alone must not hold a connection either.
        async with asyncio.timeout(timeout_s):
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body"):
                body: bytes = message.get("body", b"")
                if len(body) > bytes_max:
                    raise _too_large(bytes_max)
                return body
            return await _read_rest(message, receive, bytes_max)
    except TimeoutError as error:
        message_text = "The request body did not arrive in time."
        raise InvalidError(message_text, code="body_timeout") from error


async def _read_rest(message: Message, receive: Receive, bytes_max: int) -> bytes:
    body = bytearray()
    while True:
        if message["type"] == "http.disconnect":
            reason = "The client left before its request was complete."
            raise InvalidError(reason, code="client_left")
        body += message.get("body", b"")
        if len(body) > bytes_max:
            raise _too_large(bytes_max)
        if not message.get("more_body"):
            return bytes(body)
        message = await receive()


def header_of(scope: Scope, name: bytes) -> bytes | None:
    """
    Return a request's header, or ``None``.
    """
    for key, value in scope["headers"]:
        if key == name:
            return value
    return None


def settled_headers(settled: Settled) -> RawHeaders:
    """
    Return what a plain answer says about its charge.
    """
    headers: RawHeaders = [
        (b"x-tokenworks-charge", settled.charge.encode()),
        (b"x-tokenworks-currency", settled.currency.encode()),
        (b"x-tokenworks-tier", settled.tier.encode()),
    ]
    if settled.balance is not None:
        headers.append((b"x-tokenworks-balance", settled.balance.encode()))
    return headers


def send_json(
    send: SendMessage, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()
) -> Awaitable[None]:
    """
    Send a whole answer in JSON.
    """
    return send_whole(send, status, body, JSON_MEDIA_TYPE, headers)


async def send_whole(
    send: SendMessage,
    status: int,
    body: bytes,
    media_type: bytes,
    headers: Iterable[tuple[bytes, bytes]] = (),
) -> None:
    """
    Send a whole answer.
    """
    length = (b"content-length", str(len(body)).encode())
    shown = [(b"content-type", media_type), length, *headers]
    await send({"type": "http.response.start", "status": status, "headers": shown})
    await send({"type": "http.response.body", "body": body})


async def send_error(
    send: SendMessage,
    error: TokenworksError,
    headers: Iterable[tuple[bytes, bytes]] = (),
    *,
    status: int | None = None,
) -> None:
    """
    Send an error in OpenAI's shape, with its own status unless told otherwise.
    """
    extra = [(name.encode(), value.encode()) for name, value in headers_of(error).items()]
    body = _encode(to_openai_error(error))
    await send_json(send, status or status_of(error), body, [*headers, *extra])


def unexpected_error() -> UnavailableError:
    """
    Return what a caller is told about a bug.
    """
    message = "Something went wrong in the hub; the call was not acknowledged."
    return UnavailableError(message, code="internal_error")


def _too_large(bytes_max: int) -> TooLargeError:
    return TooLargeError(f"The request body is larger than {bytes_max:,} bytes.")
