"""
A SIMULATED OpenAI-compatible supplier: for tests, in process or on its own, and as the
upstream of the benchmarks.

::

    async with SupplierStub(Behaviour(status=429, retry_after_s=2)) as stub:
        ...  # point a client at stub.base_url, look at stub.requests and stub.stats()

    python -m tokenworks.testing.supplier_stub --port 0 --script script.json

In a process of its own it prints ``{"port": …, "base_url": …, "pid": …}`` on one line
and is steered over HTTP: ``GET /stub/requests``, ``GET /stub/stats``,
``POST /stub/behaviour`` ``{"behaviour": {…}, "model": null, "times": null}``,
``POST /stub/release``, ``POST /stub/reset``.

Invariants: answers of one connection leave in the order of its requests; a gated call
never answers before the gate opens; each call counts once in ``stats``.
Known limits: HTTP/1.1 only, no TLS; requests are kept for looking at, the last
``recorded_max`` of them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import struct
import sys
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self, cast

import httptools
import msgspec

from tokenworks.foundation.clock import Clock, SystemClock
from tokenworks.foundation.errors import InvalidError
from tokenworks.foundation.limits import REQUEST_BODY_BYTES_MAX
from tokenworks.testing.supplier_answer import (
    Call,
    call_of,
    error_body,
    event_bytes,
    fragments,
    huge_pieces,
    models_body,
    parse_chat_request,
    plain_body,
    stream_events,
)
from tokenworks.testing.supplier_behaviour import (
    Behaviour,
    Framing,
    Malformation,
    behaviour_from_json,
)

RECORDED_REQUESTS_DEFAULT: Final = 256
BACKLOG_CONNECTIONS: Final = 2_048
_JSON: Final = b"application/json"
_REASONS: Final = {200: b"OK", 400: b"Bad Request", 401: b"Unauthorized", 404: b"Not Found"}
_STREAM_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
_CHUNKED: Final = b"transfer-encoding: chunked\r\n\r\n"
_LAST_CHUNK: Final = b"0\r\n\r\n"
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


@dataclass(slots=True)
class _Counts:
    """
    What has happened since the start or the last reset.
    """

    requests: int = 0
    calls: int = 0
    streams: int = 0
    answered: int = 0
    aborted: int = 0
    """Answers that did not leave whole: the client hung up, or a fault was asked for."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    statuses: Counter[int] = field(default_factory=Counter[int])


@dataclass(frozen=True, slots=True)
class _Rule:
    """
    A behaviour with how often it still applies (``None``: for ever).
    """

    behaviour: Behaviour
    is_immediate: bool
    times: int | None = None


def _rule(behaviour: Behaviour, times: int | None = None) -> _Rule:
    return _Rule(behaviour, behaviour.is_immediate, times)


class SupplierStub:
    """
    A supplier that does as told.

    Args:
        behaviour: What it does with every call that has no behaviour of its own.
        models: The names that ``/v1/models`` lists; any model is answered.
        by_model: Behaviours of single models.
        api_key: When given, any other bearer token gets 401.
        port: 0 picks a free one.
        recorded_max: How many requests are kept.
        clock: Gives the ``created`` time of answers.
    """

    def __init__(
        self,
        behaviour: Behaviour | None = None,
        *,
        models: Sequence[str] = ("stub-model",),
        by_model: Mapping[str, Behaviour] | None = None,
        api_key: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        recorded_max: int = RECORDED_REQUESTS_DEFAULT,
        clock: Clock | None = None,
    ) -> None:
        self.models = tuple(models)
        self.requests: deque[RecordedRequest] = deque(maxlen=recorded_max)
        self.waiting = 0
        self.port = port
        self.host = host
        self._first = _rule(behaviour or Behaviour())
        self._by_model_first = {name: _rule(b) for name, b in (by_model or {}).items()}
        self._default = deque([self._first])
        self._by_model = {name: deque([r]) for name, r in self._by_model_first.items()}
        self._authorization = None if api_key is None else f"Bearer {api_key}".encode()
        self._clock = clock or SystemClock()
        self._run = os.urandom(6).hex()
        self._sequence = 0
        self._counts = _Counts()
        self._connections: set[_Connection] = set()
        self._connections_total = 0
        self._all_closed = asyncio.Event()
        self._all_closed.set()
        self._released = asyncio.Event()
        self._watchers: list[tuple[int, asyncio.Future[None]]] = []
        self._server: asyncio.Server | None = None

    # Life

    async def __aenter__(self) -> Self:
        await self.accept_connections()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse_connections()

    @property
    def url(self) -> str:
        """
        The address without a path.
        """
        return f"http://{self.host}:{self.port}"

    @property
    def base_url(self) -> str:
        """
        The address an OpenAI client takes.
        """
        return f"{self.url}/v1"

    async def accept_connections(self) -> None:
        """
        Listen; after ``refuse_connections`` again on the same port.
        """
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self),
            self.host,
            self.port,
            backlog=BACKLOG_CONNECTIONS,
            reuse_address=True,
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse_connections(self) -> None:
        """
        Stop listening and drop every connection: new ones are refused by the system.
        """
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self._connections):
            connection.abort()
        # The transports report their end in the loop's next turns.
        await self._all_closed.wait()

    # Steering

    def set_behaviour(
        self, behaviour: Behaviour, *, model: str | None = None, times: int | None = None
    ) -> None:
        """
        Behave so from now on.

        Args:
            behaviour: What to do; waits for a new release when it has a gate.
            model: For calls of this model only; ``None``: for all without their own.
            times: For so many calls, then as before; several such settings queue up.
        """
        if behaviour.gate:
            self._released.clear()
        rules = self._default
        if model is not None:
            rules = self._by_model.setdefault(model, deque())
        if times is None:
            rules.clear()
            rules.append(_rule(behaviour))
            return
        assert times > 0, "a behaviour that never applies is a mistake"
        if not rules:
            rules.append(self._first)
        rules.insert(len(rules) - 1, _rule(behaviour, times))

    def release(self) -> None:
        """
        Open the gate: let waiting and later calls answer.
        """
        self._released.set()

    async def wait_until_waiting(self, count: int, *, timeout_s: float = 30.0) -> None:
        """
        Return once at least ``count`` calls wait at the gate.

        Raises:
            TimeoutError: They did not come in time.
        """
        if self.waiting >= count:
            return
        reached = asyncio.get_running_loop().create_future()
        self._watchers.append((count, reached))
        async with asyncio.timeout(timeout_s):
            await reached

    def reset(self) -> None:
        """
        Forget requests and counts, behave as at the start, close the gate.
        """
        self.requests.clear()
        self._counts = _Counts()
        self._default = deque([self._first])
        self._by_model = {name: deque([r]) for name, r in self._by_model_first.items()}
        self._released.clear()

    def stats(self) -> dict[str, object]:
        """
        Return the counters; tokens are those truly used by calls answered whole.
        """
        counts = self._counts
        return {
            "requests": counts.requests,
            "calls": counts.calls,
            "streams": counts.streams,
            "answered": counts.answered,
            "aborted": counts.aborted,
            "statuses": {str(status): times for status, times in counts.statuses.items()},
            "prompt_tokens": counts.prompt_tokens,
            "completion_tokens": counts.completion_tokens,
            "waiting": self.waiting,
            "connections": len(self._connections),
            "connections_total": self._connections_total,
        }

    # What the connections ask and tell

    def opened(self, connection: _Connection) -> None:
        """
        Count a connection in.
        """
        self._connections.add(connection)
        self._all_closed.clear()
        self._connections_total += 1

    def closed(self, connection: _Connection) -> None:
        """
        Count a connection out.
        """
        self._connections.discard(connection)
        if not self._connections:
            self._all_closed.set()

    def answer(self, connection: _Connection, request: RecordedRequest) -> None:
        """
        Answer one request, at once or by a task of the connection.
        """
        path = request.path.partition("?")[0]
        if path.startswith("/stub/"):
            self._steer(connection, request, path)
            return
        self._counts.requests += 1
        self.requests.append(request)
        if path == "/v1/chat/completions" and request.method == "POST":
            self._answer_chat(connection, request)
        elif path == "/v1/models" and request.method == "GET":
            self._answer_models(connection, request)
        else:
            self.send_plain(connection, 404, error_body("unknown_url", 404))

    def _answer_chat(self, connection: _Connection, request: RecordedRequest) -> None:
        if not self._is_authorised(request):
            self.send_plain(connection, 401, error_body("invalid_api_key", 401))
            return
        try:
            chat = parse_chat_request(request.body)
        except msgspec.DecodeError:
            self.send_plain(connection, 400, error_body("invalid_json", 400))
            return
        self._counts.calls += 1
        self._counts.streams += bool(chat.stream)
        rule = self._rule_of(chat.model)
        self._sequence += 1
        call = call_of(
            chat,
            body=request.body,
            behaviour=rule.behaviour,
            number=f"{self._run}{self._sequence:08x}",
            created_s=int(self._clock.now().timestamp()),
        )
        delivery = _Delivery(self, connection, call)
        if rule.is_immediate:
            delivery.send_now()
        else:
            connection.start(delivery.run())

    def _answer_models(self, connection: _Connection, request: RecordedRequest) -> None:
        behaviour = self._default[0].behaviour
        if not self._is_authorised(request):
            self.send_plain(connection, 401, error_body("invalid_api_key", 401))
        elif behaviour.status != 200:
            self.send_status(connection, behaviour)
        else:
            created_s = int(self._clock.now().timestamp())
            self.send_plain(connection, 200, models_body(self.models, created_s))

    def _is_authorised(self, request: RecordedRequest) -> bool:
        if self._authorization is None:
            return True
        given = request.header("authorization")
        return given is not None and given.encode("latin-1") == self._authorization

    def _rule_of(self, model: str) -> _Rule:
        rules = self._by_model.get(model, self._default) if self._by_model else self._default
        rule = rules[0]
        if rule.times is not None:
            rules.popleft()
            if rule.times > 1:
                rules.appendleft(_rule(rule.behaviour, rule.times - 1))
        return rule

    def send_plain(
        self, connection: _Connection, status: int, body: bytes, *, extra: bytes = b""
    ) -> None:
        """
        Send a whole answer and count it.
        """
        self._counts.statuses[status] += 1
        self._counts.answered += 1
        connection.write(_plain_head(status, body, extra=extra) + body)

    def send_status(self, connection: _Connection, behaviour: Behaviour) -> None:
        """
        Send the failure that the behaviour asks for.
        """
        status = behaviour.status
        code = behaviour.error_code or f"status_{status}"
        extra = b""
        if behaviour.retry_after_s is not None:
            extra = b"retry-after: %d\r\n" % behaviour.retry_after_s
        self.send_plain(connection, status, error_body(code, status), extra=extra)

    def count_answered(self, call: Call) -> None:
        """
        Count an answer with status 200 that left whole.
        """
        counts = self._counts
        counts.answered += 1
        counts.statuses[200] += 1
        counts.prompt_tokens += call.prompt_tokens
        counts.completion_tokens += call.completion_tokens

    def count_aborted(self) -> None:
        """
        Count an answer that did not leave whole.
        """
        self._counts.aborted += 1

    async def pass_gate(self, behaviour: Behaviour) -> None:
        """
        Wait until released, or until enough calls wait.
        """
        if self._released.is_set():
            return
        self.waiting += 1
        try:
            self._tell_watchers()
            if behaviour.gate_count is not None and self.waiting >= behaviour.gate_count:
                self._released.set()
            await self._released.wait()
        finally:
            self.waiting -= 1

    def _tell_watchers(self) -> None:
        for count, reached in self._watchers:
            if self.waiting >= count and not reached.done():
                reached.set_result(None)
        self._watchers = [watcher for watcher in self._watchers if not watcher[1].done()]

    # Steering over HTTP

    def _steer(self, connection: _Connection, request: RecordedRequest, path: str) -> None:
        actions: dict[tuple[str, str], Callable[[RecordedRequest], object]] = {
            ("GET", "/stub/requests"): lambda _: [_to_json(r) for r in self.requests],
            ("GET", "/stub/stats"): lambda _: self.stats(),
            ("POST", "/stub/behaviour"): self._set_from_json,
            ("POST", "/stub/release"): lambda _: self.release(),
            ("POST", "/stub/reset"): lambda _: self.reset(),
        }
        action = actions.get((request.method, path))
        if action is None:
            status, body = 404, error_body("unknown_url", 404)
        else:
            try:
                status, body = 200, msgspec.json.encode(action(request))
            except (InvalidError, msgspec.DecodeError) as error:
                status, body = 400, error_body(str(error), 400)
        connection.write(_plain_head(status, body) + body)

    def _set_from_json(self, request: RecordedRequest) -> object:
        order = msgspec.json.decode(request.body, type=_Order)
        behaviour = behaviour_from_json(order.behaviour)
        self.set_behaviour(behaviour, model=order.model, times=order.times)
        return None


class _Order(msgspec.Struct, forbid_unknown_fields=True):
    """
    The body of ``POST /stub/behaviour``.
    """

    behaviour: dict[str, object]
    model: str | None = None
    times: int | None = None


def _to_json(request: RecordedRequest) -> dict[str, object]:
    return {
        "method": request.method,
        "path": request.path,
        "headers": [[k.decode("latin-1"), v.decode("latin-1")] for k, v in request.headers],
        "body": request.body.decode("utf-8", "replace"),
    }


def _plain_head(
    status: int, body: bytes, *, extra: bytes = b"", content_type: bytes = _JSON
) -> bytes:
    return b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\n%bcontent-length: %d\r\n\r\n" % (
        status,
        _REASONS.get(status, b"Simulated"),
        content_type,
        extra,
        len(body),
    )


class _Delivery:
    """
    One answer on its way.
    """

    __slots__ = ("_behaviour", "_call", "_connection", "_stub")

    def __init__(self, stub: SupplierStub, connection: _Connection, call: Call) -> None:
        self._stub = stub
        self._connection = connection
        self._call = call
        self._behaviour = call.behaviour

    def send_now(self) -> None:
        """
        Send the whole answer in this turn of the loop.
        """
        behaviour = self._behaviour
        if behaviour.status != 200:
            self._stub.send_status(self._connection, behaviour)
            return
        if self._call.request.stream:
            self._send_stream_now()
        else:
            head, body = self._plain()
            self._connection.write(head + body)
        self._stub.count_answered(self._call)

    def _send_stream_now(self) -> None:
        behaviour = self._behaviour
        events = self._events()
        pieces = [b"%x\r\n%b\r\n" % (len(event), event) for event in events]
        if not pieces:
            pieces = [b""]
        pieces[0] = _STREAM_HEAD + _CHUNKED + pieces[0]
        pieces[-1] += _LAST_CHUNK
        if behaviour.is_sent_singly:
            self._connection.write_singly(pieces)
        else:
            self._connection.write(b"".join(pieces))

    def _events(self) -> list[bytes]:
        return [event_bytes(data, self._behaviour) for data in stream_events(self._call)]

    def _plain(self) -> tuple[bytes, bytes]:
        behaviour = self._behaviour
        body = plain_body(self._call)
        is_page = behaviour.malformation is Malformation.NOT_JSON
        content_type = b"text/html" if is_page else _JSON
        match behaviour.framing:
            case Framing.NATURAL:
                return _plain_head(200, body, content_type=content_type), body
            case Framing.CHUNKED:
                head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n%b" % (content_type, _CHUNKED)
                return head, b"%x\r\n%b\r\n%b" % (len(body), body, _LAST_CHUNK)
            case Framing.UNTIL_CLOSE:
                head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\nconnection: close\r\n\r\n"
                return head % content_type, body

    async def run(self) -> None:
        """
        Answer with everything that takes time or goes wrong.
        """
        is_answered = False
        try:
            is_answered = await self._run()
        finally:
            if not is_answered:
                self._stub.count_aborted()

    async def _run(self) -> bool:
        behaviour = self._behaviour
        if behaviour.gate:
            await self._stub.pass_gate(behaviour)
        if behaviour.close_before_headers or behaviour.reset_before_headers:
            self._connection.close(is_reset=behaviour.reset_before_headers)
            return False
        if behaviour.first_byte_delay_ms:
            await asyncio.sleep(behaviour.first_byte_delay_ms / 1000)
        if behaviour.hang:
            await _for_ever()
        if behaviour.status != 200:
            self._stub.send_status(self._connection, behaviour)
            return True
        is_whole = await self._send_body()
        if is_whole:
            self._stub.count_answered(self._call)
        return is_whole

    async def _send_body(self) -> bool:
        if self._behaviour.malformation is Malformation.HUGE:
            return await self._send_huge()
        if self._call.request.stream:
            return await self._send_stream()
        return await self._send_plain()

    async def _send_plain(self) -> bool:
        behaviour = self._behaviour
        head, body = self._plain()
        if behaviour.cut_after_chunks is not None:
            self._connection.write(head + body[: len(body) // 2])
            self._connection.close()
            return False
        if behaviour.fragment_bytes_max:
            await self._send_fragments(head + body, behaviour.fragment_bytes_max)
        else:
            self._connection.write(head + body)
        self._close_if_asked()
        return True

    async def _send_stream(self) -> bool:
        behaviour = self._behaviour
        events = self._events()
        if behaviour.fragment_bytes_max:
            pieces = fragments(
                b"".join(events),
                bytes_max=behaviour.fragment_bytes_max,
                seed=behaviour.fragment_seed,
            )
            events = list(pieces)
        self._connection.write(self._stream_head())
        await self._send_paced(events)
        if behaviour.stall_after_chunks is not None:
            await _for_ever()
        if behaviour.cut_after_chunks is not None:
            self._connection.close()
            return False
        if behaviour.framing is not Framing.UNTIL_CLOSE:
            self._connection.write(_LAST_CHUNK)
        self._close_if_asked()
        return True

    def _stream_head(self) -> bytes:
        if self._behaviour.framing is Framing.UNTIL_CLOSE:
            return _STREAM_HEAD + b"connection: close\r\n\r\n"
        return _STREAM_HEAD + _CHUNKED

    async def _send_paced(self, events: Sequence[bytes]) -> None:
        loop = asyncio.get_running_loop()
        pace_s = self._behaviour.chunk_pace_ms / 1000
        is_fragmented = bool(self._behaviour.fragment_bytes_max)
        start_s = loop.time()
        for index, event in enumerate(events):
            if pace_s:
                # Against the start, so that a late turn does not delay the rest.
                await asyncio.sleep(start_s + (index + 1) * pace_s - loop.time())
            frame = self._frame(event)
            if is_fragmented:
                await self._send_fragments(frame, len(frame) // 2 + 1)
            else:
                self._connection.write_singly((frame,))
            await self._connection.drain()

    def _frame(self, event: bytes) -> bytes:
        if self._behaviour.framing is Framing.UNTIL_CLOSE:
            return event
        return b"%x\r\n%b\r\n" % (len(event), event)

    async def _send_fragments(self, data: bytes, bytes_max: int) -> None:
        seed = self._behaviour.fragment_seed
        for piece in fragments(data, bytes_max=bytes_max, seed=seed):
            self._connection.write_singly((piece,))
            # A turn of the loop gives a reader in this process the chance to see it alone.
            await asyncio.sleep(0)

    async def _send_huge(self) -> bool:
        is_stream = bool(self._call.request.stream)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n" + _CHUNKED
        self._connection.write(_STREAM_HEAD + _CHUNKED if is_stream else head)
        for piece in huge_pieces(self._call):
            self._connection.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await self._connection.drain()
        self._connection.write(_LAST_CHUNK)
        return True

    def _close_if_asked(self) -> None:
        behaviour = self._behaviour
        if behaviour.close_after_answer or behaviour.framing is Framing.UNTIL_CLOSE:
            self._connection.close()


async def _for_ever() -> None:
    await asyncio.get_running_loop().create_future()


class _Connection(asyncio.Protocol):
    """
    One client's connection: parses requests, answers them one after the other.
    """

    def __init__(self, stub: SupplierStub) -> None:
        self._stub = stub
        self._parser = httptools.HttpRequestParser(self)
        self._queued: deque[RecordedRequest] = deque()
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._start_request()

    # The transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        connection = cast("socket.socket", transport.get_extra_info("socket"))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = connection.fileno()
        self._socket = connection
        self._stub.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._queued.clear()
        self._writable.set()
        if self._task is None:
            self._stub.closed(self)
            return
        # Counted out only once its answer is counted too.
        self._task.add_done_callback(lambda _: self._stub.closed(self))
        self._task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
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
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        self._body += body
        if len(self._body) > 2 * REQUEST_BODY_BYTES_MAX:
            self.abort()

    def on_message_complete(self) -> None:
        request = RecordedRequest(
            method=self._parser.get_method().decode(),
            path=self._url.decode("latin-1"),
            headers=tuple(self._headers),
            body=self._body,
        )
        self._start_request()
        if self._task is None:
            self._stub.answer(self, request)
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
            self._stub.answer(self, self._queued.popleft())

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


# A process of its own


class _Script(msgspec.Struct, forbid_unknown_fields=True):
    """
    The file given with ``--script``.
    """

    behaviour: dict[str, object] = msgspec.field(default_factory=dict[str, object])
    by_model: dict[str, dict[str, object]] = msgspec.field(
        default_factory=dict[str, dict[str, object]]
    )
    models: tuple[str, ...] = ("stub-model",)
    api_key: str | None = None


def _stub_from(arguments: argparse.Namespace) -> SupplierStub:
    text = Path(arguments.script).read_bytes() if arguments.script else b"{}"
    script = msgspec.json.decode(text, type=_Script)
    return SupplierStub(
        behaviour_from_json(script.behaviour),
        models=script.models,
        by_model={name: behaviour_from_json(b) for name, b in script.by_model.items()},
        api_key=script.api_key,
        host=arguments.host,
        port=arguments.port,
        recorded_max=arguments.recorded_max,
    )


async def _serve(arguments: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with _stub_from(arguments) as stub:
        ready = {"port": stub.port, "base_url": stub.base_url, "pid": os.getpid()}
        sys.stdout.write(msgspec.json.encode(ready).decode() + "\n")
        sys.stdout.flush()
        await stopped.wait()


def main(argv: Sequence[str] | None = None) -> int:
    """
    Serve until SIGINT or SIGTERM.
    """
    parser = argparse.ArgumentParser(description="A SIMULATED OpenAI-compatible supplier.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    parser.add_argument("--script", help="JSON: behaviour, by_model, models, api_key")
    parser.add_argument("--recorded-max", type=int, default=RECORDED_REQUESTS_DEFAULT)
    arguments = parser.parse_args(argv)
    with contextlib.suppress(KeyboardInterrupt):
        _run(_serve(arguments))
    return 0


def _run(serving: Coroutine[object, object, None]) -> None:
    try:
        import uvloop  # noqa: PLC0415 - optional: it does not exist on every platform
    except ImportError:
        asyncio.run(serving)
    else:
        uvloop.run(serving)


if __name__ == "__main__":
    sys.exit(main())
