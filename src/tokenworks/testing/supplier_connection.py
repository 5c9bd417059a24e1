"""
One client's connection to the stub supplier: bytes to requests, answers to bytes.

Invariants: requests of a connection are answered one after the other, in their order; a
connection is counted out only after its last answer was counted.
Known limits: HTTP/1.1 only, no TLS.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import Final, Protocol, cast

import httptools
import msgspec

from tokenworks.foundation.limits import REQUEST_BODY_BYTES_MAX

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with no time to linger: closing sends a reset."""


class RecordedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """
    A request as it arrived.
    """

    method: str
    path: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """
        Return the last header of that name, in any case; ``None``: there is none.
        """
        wanted = name.lower().encode()
        values = [value for key, value in self.headers if key.lower() == wanted]
        return values[-1].decode("latin-1") if values else None

    def json(self) -> object:
        """
        Return the body, parsed.
        """
        return msgspec.json.decode(self.body)


class AnsweringSupplier(Protocol):
    """
    What a connection needs of the supplier behind it.
    """

    def opened(self, connection: Connection) -> None:
        """
        Count a connection in.
        """
        ...

    def closed(self, connection: Connection) -> None:
        """
        Count a connection out.
        """
        ...

    def answer(self, connection: Connection, request: RecordedRequest) -> None:
        """
        Answer one request, at once or by ``connection.start``.
        """
        ...


class Connection(asyncio.Protocol):
    """
    One client's connection: parses requests, answers them one after the other.
    """

    def __init__(self, supplier: AnsweringSupplier) -> None:
        self._supplier = supplier
        self._parser = httptools.HttpRequestParser(self)
        self._queued: deque[RecordedRequest] = deque()
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._start_request()

    # The transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """
        Begin; small writes leave at once (TCP_NODELAY).
        """
        self._transport = cast("asyncio.Transport", transport)
        connection = cast("socket.socket", transport.get_extra_info("socket"))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = connection.fileno()
        self._socket = connection
        self._supplier.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """
        Drop what is queued and end the answer on its way.
        """
        del exc
        self._queued.clear()
        self._writable.set()
        if self._task is None:
            self._supplier.closed(self)
            return
        # Counted out only once its answer is counted too.
        self._task.add_done_callback(lambda _: self._supplier.closed(self))
        self._task.cancel()

    def pause_writing(self) -> None:
        """
        Let ``drain`` wait: the client reads too slowly.
        """
        self._writable.clear()

    def resume_writing(self) -> None:
        """
        Let ``drain`` go on.
        """
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """
        Parse; what is not HTTP ends the connection.
        """
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            # A bug in here, not in the request: the loop reports it.
            self.abort()
            raise
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.abort()

    # The parser's calls

    def on_url(self, url: bytes) -> None:
        """
        Take a piece of the path.
        """
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """
        Take a header.
        """
        self._headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        """
        Take a piece of the body, up to twice what the hub lets through.
        """
        self._body += body
        if len(self._body) > 2 * REQUEST_BODY_BYTES_MAX:
            self.abort()

    def on_message_complete(self) -> None:
        """
        Answer the request, or queue it behind the one being answered.
        """
        request = RecordedRequest(
            method=self._parser.get_method().decode(),
            path=self._url.decode("latin-1"),
            headers=tuple(self._headers),
            body=self._body,
        )
        self._start_request()
        if self._task is None:
            self._supplier.answer(self, request)
        else:
            self._queued.append(request)

    def _start_request(self) -> None:
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = b""

    # What answers use

    def start(self, answer: Coroutine[object, object, None]) -> None:
        """
        Let an answer take its time; later requests wait for it.
        """
        assert self._task is None, "answers leave in order"
        self._task = asyncio.get_running_loop().create_task(self._finish(answer))

    async def _finish(self, answer: Coroutine[object, object, None]) -> None:
        try:
            await answer
        finally:
            self._task = None
        while self._queued and self._task is None:
            self._supplier.answer(self, self._queued.popleft())

    def write(self, data: bytes) -> None:
        """
        Send bytes, maybe together with earlier ones.
        """
        self._transport.write(data)

    def write_singly(self, pieces: Sequence[bytes]) -> None:
        """
        Send each piece by a system call of its own, as far as the socket takes them.

        The event loop would join writes of one turn into one, which no real supplier
        does. What the socket does not take is left to the transport.
        """
        if self._transport.is_closing():
            return
        index = 0
        if self._transport.get_write_buffer_size() == 0:
            for piece in pieces:
                sent = self._send(piece)
                if sent < len(piece):
                    self._transport.write(piece[sent:])
                    index += 1
                    break
                index += 1
        for piece in pieces[index:]:
            self._transport.write(piece)

    def _send(self, piece: bytes) -> int:
        try:
            return os.write(self._file, piece)
        except BlockingIOError:
            return 0
        except OSError:
            self._transport.abort()
            return len(piece)

    async def drain(self) -> None:
        """
        Wait until the client reads on.
        """
        if not self._writable.is_set():
            await self._writable.wait()

    def close(self, *, is_reset: bool = False) -> None:
        """
        End the connection after what was written; with a reset: at once.
        """
        if not is_reset:
            self._transport.close()
            return
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._transport.abort()

    def abort(self) -> None:
        """
        End the connection at once.
        """
        self._transport.abort()
