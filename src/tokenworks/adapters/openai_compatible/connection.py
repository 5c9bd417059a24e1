"""
One connection to a supplier on bare asyncio and httptools: bytes in, an exchange's parts out.

Owns: the parser, the head's limits, the deadline of the exchange, and stopping a supplier that
sends faster than its bytes are taken. Does not own: what was received (``answer``), which
request comes next (``pool``).

Invariants:

- One exchange at a time, no pipelining.
- A byte that no exchange asked for closes the connection: answers never change places.
- A connection goes back to its pool the moment its answer is complete, so the pool never holds
  bytes of an answer.

Known limit: HTTP/1.1 only.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol, cast

import httptools

from tokenworks.adapters.openai_compatible.answer import RelayAnswer
from tokenworks.foundation.errors import SupplierFaultError
from tokenworks.gateway.ports import (
    ANSWER_HEADERS,
    BadAnswerError,
    CutAnswerError,
    UpstreamRequest,
    UpstreamTimeoutError,
)

HEAD_BYTES_MAX: Final = 32 * 1024

_ANSWER_HEADERS: Final = {name.encode(): name for name in ANSWER_HEADERS}

PoolKey = tuple[str, int, bool, bool]
"""
Host, port, whether by TLS, whether private addresses are allowed: what one pool is for.
"""


class Keeper(Protocol):
    """
    Who is told what becomes of a connection.
    """

    def opened(self, connection: Connection) -> None:
        """
        Count a connection in.
        """
        ...

    def released(self, connection: Connection) -> None:
        """
        Keep a connection whose answer is complete for the next request.
        """
        ...

    def ended(self, connection: Connection) -> None:
        """
        Forget a closed connection.
        """
        ...


class Connection(asyncio.Protocol):
    """
    A connection to a supplier: idle, or busy with one exchange.
    """

    def __init__(self, keeper: Keeper, key: PoolKey, loop: asyncio.AbstractEventLoop) -> None:
        self.key = key
        self.loop = loop
        self.ended: asyncio.Future[None] = loop.create_future()
        self._keeper = keeper
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

    # What the pool and the exchange ask

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
        """
        Count the connection in.
        """
        self._transport = cast("asyncio.Transport", transport)
        self._keeper.opened(self)

    def data_received(self, data: bytes) -> None:
        """
        Feed the parser; what it finds comes back as calls (below).
        """
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
        """
        End an answer whose end is the connection's.
        """
        self._finish_until_close()

    def connection_lost(self, exc: Exception | None) -> None:
        """
        Cut the exchange, and tell the keeper.
        """
        if exc is None:
            self._finish_until_close()
        self._transport = None
        self._parser = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._fail(CutAnswerError("The supplier closed the connection."))
        self._keeper.ended(self)
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
            self._keeper.released(self)
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
