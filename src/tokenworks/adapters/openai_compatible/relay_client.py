"""
The upstream on bare asyncio and httptools: the same rules as `HttpUpstream`, at about a
fifth of its processor time.

One connection carries one exchange at a time (no pipelining). A connection goes back to
its pool the moment its answer is complete, so the pool never holds bytes of an answer.

Invariants:

- A byte that no exchange asked for closes its connection: answers never change places.
- An answer holds at most `BUFFER_BYTES_MAX` and one read before the supplier is stopped.
- A pool belongs to one scheme, host, port and permission for private addresses.

Known limits: HTTP/1.1 only; the addresses of a name are tried one after the other, each
with its share of the connect time.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, cast
from urllib.parse import urlsplit

import httptools

from tokenworks import __version__
from tokenworks.adapters.openai_compatible.addresses import (
    REFUSED_TEXT,
    AddressInfo,
    is_public_address,
)
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

CONNECTIONS_MAX: Final = 4_096
KEEPALIVE_S: Final = 15.0
CLOSE_TIMEOUT_S: Final = 1.0
ADDRESSES_MAX: Final = 4
HEAD_BYTES_MAX: Final = 32 * 1024
BUFFER_BYTES_MAX: Final = 256 * 1024

_OWN_HEADERS: Final = (
    f"accept-encoding: identity\r\nuser-agent: tokenworks/{__version__}\r\n".encode()
)
_ANSWER_HEADERS: Final = {name.encode(): name for name in ANSWER_HEADERS}
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PATH: Final = re.compile(r"[!-~]+")
_NOT_IN_VALUE: Final = re.compile(r"[\r\n\0]")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """
    Where a URL leads, and the first line and host of its requests.
    """

    host: str
    port: int
    is_tls: bool
    path: str
    host_header: str

    def head_of(self, method: str) -> bytes:
        """
        Return the request line and the host.
        """
        return f"{method} {self.path} HTTP/1.1\r\nhost: {self.host_header}\r\n".encode("ascii")


_PoolKey = tuple[str, int, bool, bool]


class RelayUpstream:
    """
    Send requests to suppliers over kept-alive connections.

    Use it from one event loop. TLS settings are loaded at the first ``https`` request.

    Args:
        connections_max: Open at once; an idle one makes room for a request beyond, and
            where there is none the request is refused.
        tls: Replaces the system's trust, for tests.
    """

    def __init__(
        self, *, connections_max: int = CONNECTIONS_MAX, tls: ssl.SSLContext | None = None
    ) -> None:
        self._connections_max = connections_max
        self._tls = tls
        self._open: set[_Connection] = set()
        self._opening = 0
        self._idle: dict[_PoolKey, deque[_Connection]] = {}
        self._sweep: asyncio.TimerHandle | None = None

    async def send(self, request: UpstreamRequest) -> RelayAnswer:
        """
        Send one request and return its answer as soon as the head is there.
        """
        target = _to_target(request.url)
        message = _to_message(request, target)
        key = (target.host, target.port, target.is_tls, request.allow_private)
        connection = self._take_idle(key)
        if connection is not None:
            answer = connection.exchange(message, request)
            try:
                return await _head_of(answer)
            except CutAnswerError:
                if not answer.is_untouched:
                    raise
        connection = await self._connect(key, target, request.connect_timeout_s)
        return await _head_of(connection.exchange(message, request))

    async def close(self) -> None:
        """
        Close every connection; answers still open are cut.
        """
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        self._idle.clear()
        ended = [connection.ended for connection in self._open]
        for connection in list(self._open):
            connection.abort()
        if ended:
            await asyncio.wait(ended, timeout=CLOSE_TIMEOUT_S)

    # What connections tell

    def opened(self, connection: _Connection) -> None:
        """
        Count a connection in.
        """
        self._open.add(connection)

    def released(self, connection: _Connection) -> None:
        """
        Keep a connection whose answer is complete for the next request.
        """
        self._idle.setdefault(connection.key, deque()).append(connection)
        if self._sweep is None:
            self._sweep = connection.loop.call_later(KEEPALIVE_S, self._drop_expired)

    def ended(self, connection: _Connection) -> None:
        """
        Forget a closed connection.
        """
        self._open.discard(connection)
        idle = self._idle.get(connection.key)
        if idle is not None and connection in idle:
            idle.remove(connection)

    # The pool

    def _take_idle(self, key: _PoolKey) -> _Connection | None:
        idle = self._idle.get(key)
        while idle:
            # The newest is the likeliest to be alive.
            connection = idle.pop()
            if connection.is_usable(KEEPALIVE_S):
                return connection
            connection.abort()
        return None

    def _drop_expired(self) -> None:
        self._sweep = None
        for key, idle in list(self._idle.items()):
            while idle and not idle[0].is_usable(KEEPALIVE_S):
                idle.popleft().abort()
            if not idle:
                del self._idle[key]
        if self._idle:
            loop = asyncio.get_running_loop()
            self._sweep = loop.call_later(KEEPALIVE_S, self._drop_expired)

    def _make_room(self) -> None:
        if len(self._open) + self._opening < self._connections_max:
            return
        for idle in self._idle.values():
            if idle:
                idle.popleft().abort()
                return
        raise ConnectFaultError("The hub has too many connections to suppliers open.")

    async def _connect(
        self, key: _PoolKey, target: _Target, connect_timeout_s: float
    ) -> _Connection:
        self._make_room()
        self._opening += 1
        try:
            async with asyncio.timeout(connect_timeout_s):
                connection = await self._open_connection(key, target, connect_timeout_s)
        except TimeoutError as error:
            raise ConnectFaultError("The supplier accepted no connection in time.") from error
        except ssl.SSLCertVerificationError as error:
            raise ConnectFaultError("The supplier has no valid certificate.") from error
        except (OSError, UnicodeError) as error:
            raise ConnectFaultError("The supplier accepted no connection.") from error
        finally:
            self._opening -= 1
        return connection

    async def _open_connection(
        self, key: _PoolKey, target: _Target, connect_timeout_s: float
    ) -> _Connection:
        loop = asyncio.get_running_loop()
        addresses = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        allowed = _allowed(cast("list[AddressInfo]", addresses), allow_private=key[3])
        sock = await _connect_first(loop, allowed, connect_timeout_s)
        try:
            _, connection = await loop.create_connection(
                lambda: _Connection(self, key, loop),
                sock=sock,
                ssl=self._tls_context() if target.is_tls else None,
                server_hostname=target.host if target.is_tls else None,
            )
        except BaseException:
            sock.close()
            raise
        return connection

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls


class RelayAnswer:
    """
    One exchange: made when the request is sent, handed out when the head is there.
    """

    __slots__ = (
        "_answer_bytes_max",
        "_buffered",
        "_connection",
        "_fault",
        "_is_complete",
        "_is_head_complete",
        "_parts",
        "_waiter",
        "headers",
        "idle_timeout_s",
        "is_untouched",
        "status",
    )

    def __init__(self, connection: _Connection, request: UpstreamRequest) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.idle_timeout_s = request.idle_timeout_s
        # No byte of the answer came.
        self.is_untouched = True
        self._answer_bytes_max = request.answer_bytes_max
        # None once the answer is complete or faulty: the connection is not its own then.
        self._connection: _Connection | None = connection
        self._parts: list[bytes] = []
        self._buffered = 0
        self._is_head_complete = False
        self._is_complete = False
        self._fault: SupplierFaultError | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def wait_for_head(self) -> None:
        """
        Return when status and headers are there.
        """
        while not self._is_head_complete:
            if self._fault is not None:
                raise self._fault
            await self._wait()

    async def read(self, max_bytes: int) -> bytes:
        """
        Return the whole body of at most ``max_bytes``.
        """
        if self._is_complete and self._buffered <= max_bytes:
            return self._take()
        return b"".join([piece async for piece in self._pieces(max_bytes)])

    def chunks(self) -> AsyncIterator[bytes]:
        """
        Yield the body's bytes as they arrive.
        """
        return self._pieces(self._answer_bytes_max)

    async def close(self) -> None:
        """
        Drop the connection when the answer is not complete.
        """
        self.drop()

    def drop(self) -> None:
        """
        Stop the exchange; a complete answer keeps its bytes.
        """
        if self._connection is not None:
            self._connection.abort()

    async def _pieces(self, max_bytes: int) -> AsyncIterator[bytes]:
        left = max_bytes
        while True:
            if self._parts:
                left -= self._buffered
                if left < 0:
                    self.drop()
                    raise AnswerTooLargeError(
                        f"The supplier's answer is larger than {max_bytes:,} bytes."
                    )
                yield self._take()
            elif self._is_complete:
                return
            elif self._fault is not None:
                raise self._fault
            else:
                await self._wait()

    def _take(self) -> bytes:
        parts = self._parts
        piece = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self._buffered = 0
        if self._connection is not None:
            self._connection.resume()
        return piece

    async def _wait(self) -> None:
        assert self._connection is not None, "an exchange without connection has ended"
        self._waiter = self._connection.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    # What the connection tells

    def add(self, part: bytes) -> bool:
        """
        Take bytes of the body; return whether the supplier must wait.
        """
        self._parts.append(part)
        self._buffered += len(part)
        self._wake()
        return self._buffered > BUFFER_BYTES_MAX

    def head_is_complete(self, status: int) -> None:
        """
        Note that status and headers are there.
        """
        self.status = status
        self._is_head_complete = True
        self._wake()

    def is_complete(self) -> None:
        """
        Note that the body is whole.
        """
        self._is_complete = True
        self._connection = None
        self._wake()

    def fail(self, fault: SupplierFaultError) -> None:
        """
        Note that nothing more will come.
        """
        self._fault = fault
        self._connection = None
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class _Connection(asyncio.Protocol):
    """
    A connection to a supplier: idle, or busy with one exchange.
    """

    def __init__(
        self, upstream: RelayUpstream, key: _PoolKey, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.key = key
        self.loop = loop
        self.ended: asyncio.Future[None] = loop.create_future()
        self._upstream = upstream
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._answer: RelayAnswer | None = None
        self._idle_since_s = 0.0
        self._deadline_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._is_paused = False
        self._reset_head()

    def _reset_head(self) -> None:
        self._head_bytes = 0
        # Of the final head; 0 until it is there and good.
        self._status = 0
        self._is_bad_head = False
        self._is_until_close = True

    # What the upstream asks

    def exchange(self, message: bytes, request: UpstreamRequest) -> RelayAnswer:
        """
        Send a request; the connection must be idle.
        """
        assert self._answer is None, "one exchange at a time"
        assert self._transport is not None, "connected"
        self._reset_head()
        self._answer = answer = RelayAnswer(self, request)
        self._set_deadline(request.first_byte_timeout_s)
        self._transport.write(message)
        return answer

    def is_usable(self, keepalive_s: float) -> bool:
        """
        Return whether the next request may go here.
        """
        return (
            self._transport is not None
            and not self._transport.is_closing()
            and self.loop.time() - self._idle_since_s < keepalive_s
        )

    def abort(self) -> None:
        """
        Close at once; an exchange is cut.
        """
        self._fail(CutAnswerError("The answer was dropped before it was complete."))
        if self._transport is not None:
            self._transport.abort()

    def resume(self) -> None:
        """
        Let the supplier send again.
        """
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()
            if self._answer is not None:
                self._set_deadline(self._answer.idle_timeout_s)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._upstream.opened(self)

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None or self._parser is None:
            self.abort()
            return
        answer.is_untouched = False
        if self._status:
            self._deadline_s = self.loop.time() + answer.idle_timeout_s
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._end(BadAnswerError("The supplier answered with broken HTTP."))
            return
        if self._is_bad_head or self._head_bytes > HEAD_BYTES_MAX:
            self._end(BadAnswerError("The head of the supplier's answer is broken or too large."))
        elif not self._status:
            # Also counts what the parser has not told yet: a line without an end.
            self._head_bytes += len(data)

    def eof_received(self) -> None:
        self._finish_until_close()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None:
            self._finish_until_close()
        self._transport = None
        self._parser = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._fail(CutAnswerError("The supplier closed the connection."))
        self._upstream.ended(self)
        if not self.ended.done():
            self.ended.set_result(None)

    # httptools

    def on_message_begin(self) -> None:
        """
        Close when a supplier sends more than it was asked for.
        """
        if self._answer is None:
            self.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        """
        Keep the headers of the port; note how the body ends.
        """
        answer = self._answer
        if answer is None:
            return
        self._head_bytes += len(name) + len(value) + 4
        name = name.lower()
        if name in _ANSWER_HEADERS:
            answer.headers.setdefault(_ANSWER_HEADERS[name], value.decode("latin-1"))
        elif name == b"content-length" or (
            name == b"transfer-encoding" and value.lower().rstrip().endswith(b"chunked")
        ):
            self._is_until_close = False

    def on_headers_complete(self) -> None:
        """
        Hand the head out, unless it only announces another one.
        """
        answer, parser = self._answer, self._parser
        if answer is None or parser is None:
            return
        status = parser.get_status_code()
        if status < 200:
            # 100 and 103 announce another head; 101 would change the protocol.
            self._is_bad_head = status not in {100, 102, 103}
            answer.headers.clear()
            self._is_until_close = True
            return
        if self._head_bytes > HEAD_BYTES_MAX:
            return
        self._status = status
        if status in {204, 304}:
            self._is_until_close = False
        self._set_deadline(answer.idle_timeout_s)
        answer.head_is_complete(status)

    def on_body(self, body: bytes) -> None:
        """
        Hand bytes on, and stop the supplier when nobody takes them.
        """
        if self._answer is not None and self._answer.add(body) and not self._is_paused:
            assert self._transport is not None, "connected"
            self._is_paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """
        End the exchange, and keep the connection when the supplier does.
        """
        answer, parser = self._answer, self._parser
        if answer is None or parser is None or not self._status:
            return
        assert self._transport is not None, "connected"
        self._answer = None
        if parser.should_keep_alive() and not self._transport.is_closing():
            self.resume()
            self._idle_since_s = self.loop.time()
            self._upstream.released(self)
        else:
            self._transport.abort()
        answer.is_complete()

    # Ends

    def _finish_until_close(self) -> None:
        answer = self._answer
        if answer is not None and self._status and self._is_until_close:
            self._answer = None
            answer.is_complete()

    def _end(self, fault: SupplierFaultError) -> None:
        self._fail(fault)
        self.abort()

    def _fail(self, fault: SupplierFaultError) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.fail(fault)

    # Time

    def _set_deadline(self, timeout_s: float) -> None:
        """
        Let the exchange fail at a time, by a timer that is moved only when it is late.
        """
        self._deadline_s = self.loop.time() + timeout_s
        if self._timer is not None:
            if self._timer.when() <= self._deadline_s:
                return
            self._timer.cancel()
        self._timer = self.loop.call_at(self._deadline_s, self._look_at_time)

    def _look_at_time(self) -> None:
        self._timer = None
        answer = self._answer
        if answer is None:
            return
        if self._is_paused:
            # The supplier waits for the client, not the other way round.
            self._set_deadline(answer.idle_timeout_s)
        elif self.loop.time() < self._deadline_s:
            self._timer = self.loop.call_at(self._deadline_s, self._look_at_time)
        else:
            self._end(UpstreamTimeoutError("The supplier did not answer in time."))


async def _head_of(answer: RelayAnswer) -> RelayAnswer:
    try:
        await answer.wait_for_head()
    except BaseException:
        answer.drop()
        raise
    if 300 <= answer.status < 400:
        answer.drop()
        raise RedirectRefusedError("The supplier answered with a redirect.")
    if answer.headers.get("content-encoding", "identity").lower() != "identity":
        answer.drop()
        raise BadAnswerError("The supplier packed its answer although it was asked not to.")
    return answer


def _to_message(request: UpstreamRequest, target: _Target) -> bytes:
    head = _to_headers(tuple(request.headers.items()))
    return b"%b%b%bcontent-length: %d\r\n\r\n%b" % (
        target.head_of(request.method),
        _OWN_HEADERS,
        head,
        len(request.body),
        request.body,
    )


@lru_cache(maxsize=256)
def _to_headers(headers: tuple[tuple[str, str], ...]) -> bytes:
    """
    Return header lines; few sets exist, one for each supplier and kind of answer.
    """
    for name, value in headers:
        if not _TOKEN.fullmatch(name) or _NOT_IN_VALUE.search(value):
            raise ConnectFaultError("The supplier's headers cannot be sent.")
    return "".join(f"{name}: {value}\r\n" for name, value in headers).encode("latin-1", "replace")


@lru_cache(maxsize=1024)
def _to_target(url: str) -> _Target:
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna").decode() if parts.hostname else ""
        is_tls = parts.scheme == "https"
        port = parts.port or (443 if is_tls else 80)
    except (ValueError, UnicodeError) as error:
        raise ConnectFaultError("The supplier has no usable address.") from error
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if (
        parts.scheme not in {"http", "https"}
        or not host
        or parts.username is not None
        or not _PATH.fullmatch(path)
        or not _PATH.fullmatch(host)
    ):
        raise ConnectFaultError("The supplier has no usable address.")
    shown = f"[{host}]" if ":" in host else host
    if parts.port is not None:
        shown = f"{shown}:{parts.port}"
    return _Target(host=host, port=port, is_tls=is_tls, path=path, host_header=shown)


def _allowed(addresses: list[AddressInfo], *, allow_private: bool) -> list[AddressInfo]:
    allowed = [
        address for address in addresses if allow_private or is_public_address(str(address[4][0]))
    ]
    if addresses and not allowed:
        raise AddressRefusedError(f"The supplier's name {REFUSED_TEXT}.")
    return allowed[:ADDRESSES_MAX]


async def _connect_first(
    loop: asyncio.AbstractEventLoop, addresses: list[AddressInfo], connect_timeout_s: float
) -> socket.socket:
    last: OSError = OSError("no address")
    for family, kind, protocol, _, address in addresses:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout(connect_timeout_s / len(addresses)):
                await loop.sock_connect(sock, address)
        except OSError as error:
            # Also TimeoutError: the next address may answer.
            sock.close()
            last = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise last
