"""
One answer of the stub supplier on its way: at once, late, in pieces, or not at all.

Invariants: each answer counts once, as answered or as aborted, and before its connection
counts as closed; an answer behind the gate leaves after the gate opened.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tokenworks.testing.supplier_answer import Call, error_body, plain_body
from tokenworks.testing.supplier_behaviour import Behaviour, Framing, Malformation
from tokenworks.testing.supplier_connection import Connection
from tokenworks.testing.supplier_stream import (
    event_bytes,
    fragments,
    huge_pieces,
    stream_events,
)

_JSON: Final = b"application/json"
_REASONS: Final = {200: b"OK", 400: b"Bad Request", 401: b"Unauthorized", 404: b"Not Found"}
_STREAM_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
_CHUNKED: Final = b"transfer-encoding: chunked\r\n\r\n"
_LAST_CHUNK: Final = b"0\r\n\r\n"


@dataclass(slots=True)
class Counts:
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

    def count_answered(self, call: Call) -> None:
        """
        Count an answer with status 200 that left whole.
        """
        self.answered += 1
        self.statuses[200] += 1
        self.prompt_tokens += call.prompt_tokens
        self.completion_tokens += call.completion_tokens


class Gate:
    """
    Where calls wait until they are let through together.
    """

    def __init__(self) -> None:
        self.waiting = 0
        self._opened = asyncio.Event()
        self._watchers: list[tuple[int, asyncio.Future[None]]] = []

    def open(self) -> None:
        """
        Let waiting and later calls through.
        """
        self._opened.set()

    def shut(self) -> None:
        """
        Hold calls from now on.
        """
        self._opened.clear()

    async def wait(self, count: int | None) -> None:
        """
        Wait until opened; ``count`` waiting calls open it, ``None``: only ``open`` does.
        """
        if self._opened.is_set():
            return
        self.waiting += 1
        try:
            self._tell_watchers()
            if count is not None and self.waiting >= count:
                self._opened.set()
            await self._opened.wait()
        finally:
            self.waiting -= 1

    async def wait_until_waiting(self, count: int) -> None:
        """
        Return once at least ``count`` calls wait.
        """
        if self.waiting >= count:
            return
        reached = asyncio.get_running_loop().create_future()
        self._watchers.append((count, reached))
        await reached

    def _tell_watchers(self) -> None:
        for count, reached in self._watchers:
            if self.waiting >= count and not reached.done():
                reached.set_result(None)
        self._watchers = [watcher for watcher in self._watchers if not watcher[1].done()]


def plain_head(
    status: int, body: bytes, *, extra: bytes = b"", content_type: bytes = _JSON
) -> bytes:
    """
    Return the head of an answer with a known length.
    """
    return b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\n%bcontent-length: %d\r\n\r\n" % (
        status,
        _REASONS.get(status, b"Simulated"),
        content_type,
        extra,
        len(body),
    )


def send_plain(
    connection: Connection, status: int, body: bytes, counts: Counts, *, extra: bytes = b""
) -> None:
    """
    Send a whole answer and count it.
    """
    counts.statuses[status] += 1
    counts.answered += 1
    connection.write(plain_head(status, body, extra=extra) + body)


def send_status(connection: Connection, behaviour: Behaviour, counts: Counts) -> None:
    """
    Send the failure that the behaviour asks for.
    """
    status = behaviour.status
    code = behaviour.error_code or f"status_{status}"
    extra = b""
    if behaviour.retry_after_s is not None:
        extra = b"retry-after: %d\r\n" % behaviour.retry_after_s
    send_plain(connection, status, error_body(code, status), counts, extra=extra)


class Delivery:
    """
    One answer on its way.
    """

    __slots__ = ("_behaviour", "_call", "_connection", "_counts", "_gate")

    def __init__(self, connection: Connection, call: Call, *, counts: Counts, gate: Gate) -> None:
        self._counts = counts
        self._gate = gate
        self._connection = connection
        self._call = call
        self._behaviour = call.behaviour

    def send_now(self) -> None:
        """
        Send the whole answer in this turn of the loop.
        """
        behaviour = self._behaviour
        if behaviour.status != 200:
            send_status(self._connection, behaviour, self._counts)
            return
        if self._call.request.stream:
            self._send_stream_now()
        else:
            head, body = self._plain()
            self._connection.write(head + body)
        self._counts.count_answered(self._call)

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
                return plain_head(200, body, content_type=content_type), body
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
                self._counts.aborted += 1

    async def _run(self) -> bool:
        behaviour = self._behaviour
        if behaviour.gate:
            await self._gate.wait(behaviour.gate_count)
        if behaviour.close_before_headers or behaviour.reset_before_headers:
            self._connection.close(is_reset=behaviour.reset_before_headers)
            return False
        if behaviour.first_byte_delay_ms:
            await asyncio.sleep(behaviour.first_byte_delay_ms / 1000)
        if behaviour.hang:
            await _for_ever()
        if behaviour.status != 200:
            send_status(self._connection, behaviour, self._counts)
            return True
        is_whole = await self._send_body()
        if is_whole:
            self._counts.count_answered(self._call)
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
            if index == self._behaviour.gate_after_chunks:
                await self._gate.wait(self._behaviour.gate_count)
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
