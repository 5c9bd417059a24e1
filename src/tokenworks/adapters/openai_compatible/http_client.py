"""
The upstream on aiohttp: the portable client, and the reference for the fast one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Final

import aiohttp
from aiohttp import ClientResponse, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector

from tokenworks import __version__
from tokenworks.adapters.openai_compatible.addresses import REFUSED_TEXT, open_public_socket
from tokenworks.foundation.errors import SupplierFaultError
from tokenworks.gateway.ports import (
    ANSWER_HEADERS,
    AddressRefusedError,
    AnswerTooLargeError,
    BadAnswerError,
    ConnectFaultError,
    CutAnswerError,
    RedirectRefusedError,
    UpstreamRequest,
    UpstreamTimeoutError,
)

CONNECTIONS_MAX: Final = 1_024
KEEPALIVE_S: Final = 15.0
READ_BUFFER_BYTES: Final = 64 * 1024

_OWN_HEADERS: Final = {
    "Accept-Encoding": "identity",
    "User-Agent": f"tokenworks/{__version__}",
}


@dataclass(slots=True)
class _Try:
    """
    What aiohttp's tracing tells of one request.
    """

    is_reused: bool = False


class HttpUpstream:
    """
    Send requests to suppliers over kept-alive connections.

    Sessions are made at the first request, inside the running event loop.

    Args:
        connections_max: Open at once; a request beyond waits for its connect time.
    """

    def __init__(self, *, connections_max: int = CONNECTIONS_MAX) -> None:
        self._connections_max = connections_max
        # By (may lead to private addresses, makes a fresh connection for each request).
        self._sessions: dict[tuple[bool, bool], ClientSession] = {}

    async def send(self, request: UpstreamRequest) -> HttpAnswer:
        """
        Send one request and return its answer as soon as the head is there.
        """
        state = _Try()
        try:
            response = await self._request(request, state, is_fresh=False)
        except aiohttp.ClientError as error:
            if not (state.is_reused and _is_dead_connection(error)):
                raise _to_fault(error) from error
            response = await self._send_fresh(request)
        except (OSError, ValueError) as error:
            raise _to_fault(error) from error
        _check_head(response)
        _set_idle_timeout(response, request.idle_timeout_s)
        return HttpAnswer(response, answer_bytes_max=request.answer_bytes_max)

    async def close(self) -> None:
        """
        Close every connection; answers still open are cut.
        """
        sessions = list(self._sessions.values())
        self._sessions.clear()
        for session in sessions:
            await session.close()

    async def _send_fresh(self, request: UpstreamRequest) -> ClientResponse:
        try:
            return await self._request(request, _Try(), is_fresh=True)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _to_fault(error) from error

    async def _request(
        self, request: UpstreamRequest, state: _Try, *, is_fresh: bool
    ) -> ClientResponse:
        return await self._session(allow_private=request.allow_private, is_fresh=is_fresh).request(
            request.method,
            request.url,
            data=request.body or None,
            headers={**request.headers, **_OWN_HEADERS},
            timeout=_timeout(request.connect_timeout_s, request.first_byte_timeout_s),
            allow_redirects=False,
            trace_request_ctx=state,
        )

    def _session(self, *, allow_private: bool, is_fresh: bool) -> ClientSession:
        session = self._sessions.get((allow_private, is_fresh))
        if session is None:
            session = _open_session(
                connections_max=self._connections_max,
                allow_private=allow_private,
                is_fresh=is_fresh,
            )
            self._sessions[allow_private, is_fresh] = session
        return session


class HttpAnswer:
    """
    An answer whose head has arrived.
    """

    def __init__(self, response: ClientResponse, *, answer_bytes_max: int) -> None:
        self._response = response
        self._answer_bytes_max = answer_bytes_max
        self.status: int = response.status
        self.headers: Mapping[str, str] = {
            name: value for name in ANSWER_HEADERS if (value := response.headers.get(name))
        }

    async def read(self, max_bytes: int) -> bytes:
        """
        Return the whole body of at most ``max_bytes``.
        """
        return b"".join([piece async for piece in self._pieces(max_bytes)])

    def chunks(self) -> AsyncIterator[bytes]:
        """
        Yield the body's bytes as they arrive.
        """
        return self._pieces(self._answer_bytes_max)

    async def close(self) -> None:
        """
        Give the connection back when the body was read, drop it otherwise.
        """
        self._response.close()

    async def _pieces(self, max_bytes: int) -> AsyncIterator[bytes]:
        left = max_bytes
        try:
            async for piece in self._response.content.iter_any():
                left -= len(piece)
                if left < 0:
                    self._response.close()
                    raise AnswerTooLargeError(
                        f"The supplier's answer is larger than {max_bytes:,} bytes."
                    )
                yield piece
        except (aiohttp.ClientError, OSError) as error:
            self._response.close()
            raise _to_fault(error) from error


def _open_session(*, connections_max: int, allow_private: bool, is_fresh: bool) -> ClientSession:
    connector = TCPConnector(
        limit=connections_max,
        force_close=is_fresh,
        socket_factory=None if allow_private else open_public_socket,
        # None: aiohttp takes no keep-alive time for connections that are not kept.
        keepalive_timeout=None if is_fresh else KEEPALIVE_S,
    )
    return ClientSession(
        connector=connector,
        auto_decompress=False,
        cookie_jar=DummyCookieJar(),
        read_bufsize=READ_BUFFER_BYTES,
        trace_configs=[] if is_fresh else [_tracing()],
        trust_env=False,
    )


def _tracing() -> aiohttp.TraceConfig:
    async def note_reuse(
        _session: ClientSession, context: SimpleNamespace, _params: object
    ) -> None:
        context.trace_request_ctx.is_reused = True

    config = aiohttp.TraceConfig()
    config.on_connection_reuseconn.append(note_reuse)
    return config


@lru_cache(maxsize=256)
def _timeout(connect_timeout_s: float, first_byte_timeout_s: float) -> ClientTimeout:
    return ClientTimeout(
        total=None, connect=connect_timeout_s, sock_read=first_byte_timeout_s, ceil_threshold=3600
    )


def _set_idle_timeout(response: ClientResponse, idle_timeout_s: float) -> None:
    connection = response.connection
    # A short answer is complete by now and its connection given back.
    if connection is not None and connection.protocol is not None:
        connection.protocol.read_timeout = idle_timeout_s
        connection.protocol.start_timeout()


def _check_head(response: ClientResponse) -> None:
    if 300 <= response.status < 400:
        response.close()
        raise RedirectRefusedError("The supplier answered with a redirect.")
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        response.close()
        raise BadAnswerError("The supplier packed its answer although it was asked not to.")


def _is_dead_connection(error: aiohttp.ClientError) -> bool:
    """
    Return whether a kept-alive connection ended without a byte of the answer.
    """
    if isinstance(error, aiohttp.ServerDisconnectedError):
        # Otherwise the message is the part of the head that came.
        return isinstance(error.message, str)
    return isinstance(
        error, (aiohttp.ClientOSError, aiohttp.ClientConnectionResetError)
    ) and not isinstance(error, aiohttp.ClientConnectorError)


_FAULTS: Final[tuple[tuple[type[Exception], Callable[[str], SupplierFaultError], str], ...]] = (
    # The first that fits counts: subclasses stand before their parents.
    (aiohttp.ConnectionTimeoutError, ConnectFaultError, "accepted no connection in time"),
    (TimeoutError, UpstreamTimeoutError, "did not answer in time"),
    (aiohttp.ClientConnectorDNSError, ConnectFaultError, "has a name that leads nowhere"),
    (aiohttp.ClientConnectorCertificateError, ConnectFaultError, "has no valid certificate"),
    (aiohttp.ClientConnectorError, ConnectFaultError, "accepted no connection"),
    (aiohttp.InvalidURL, ConnectFaultError, "has no usable address"),
    (aiohttp.NonHttpUrlClientError, ConnectFaultError, "has no http address"),
    (aiohttp.ClientResponseError, BadAnswerError, "answered with broken HTTP"),
    (aiohttp.ClientPayloadError, CutAnswerError, "cut its answer"),
    (aiohttp.ClientConnectionError, CutAnswerError, "closed the connection"),
    (aiohttp.ClientError, CutAnswerError, "broke off"),
    (OSError, CutAnswerError, "broke off"),
    (ValueError, ConnectFaultError, "has no usable address or headers"),
)


def _to_fault(error: Exception) -> SupplierFaultError:
    if isinstance(error, aiohttp.ClientConnectorError) and REFUSED_TEXT in str(error):
        return AddressRefusedError(f"The supplier's name {REFUSED_TEXT}.")
    for kind, fault, what in _FAULTS:
        if isinstance(error, kind):
            return fault(f"The supplier {what}.")
    raise AssertionError("the last rows take every error that is caught") from error
