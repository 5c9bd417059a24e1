"""
Between a hub and PostgreSQL: cuts a ledger writer's connection around a commit, when told.

Reads the frontend's side of PostgreSQL's protocol (version 3): messages of one type byte and a
length, in groups that end with Sync or a simple Query. A batch is a group that binds a
statement prepared from ``ledger.place_v…`` or ``ledger.post_v…``; it is one transaction, which
commits before the server answers.
"""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

SOCKET_NAME: Final = ".s.PGSQL.5432"
READ_BYTES: Final = 65_536
START_TIMEOUT_S: Final = 60.0
STATEMENTS: Final = (b"ledger.place_v", b"ledger.post_v")
GROUP_ENDS: Final = frozenset(b"SQX")
READY: Final = b"Z\x00\x00\x00\x05I"
"""The server is ready and in no transaction: what came before is committed or undone."""
LENGTH_BYTES: Final = 4


class Cut(StrEnum):
    """
    Where a batch's connection is cut.
    """

    BEFORE = "before"
    """The server never sees the batch."""
    WHILE = "while"
    """The server gets the batch, and its connection is gone when it wants to answer."""
    AFTER = "after"
    """The server has committed and said so; the writer never hears it."""


@dataclass(slots=True)
class _Frontend:
    """
    The messages of one connection's client, cut into groups.
    """

    pending: bytearray = field(default_factory=bytearray)
    has_started: bool = False
    statements: set[bytes] = field(default_factory=set)
    """Names of the prepared statements that run a batch."""

    def groups(self, data: bytes) -> list[tuple[bytes, bool]]:
        """
        Take bytes; return every group that is complete now, and whether it runs a batch.
        """
        self.pending += data
        found: list[tuple[bytes, bool]] = []
        offset = group_start = 0
        is_batch = False
        while (end := self._message_end(offset)) is not None:
            kind = self.pending[offset] if self.has_started else ord("S")
            if self.has_started:
                is_batch = self._note(kind, bytes(self.pending[offset + 5 : end])) or is_batch
            self.has_started = True
            offset = end
            if kind in GROUP_ENDS:
                found.append((bytes(self.pending[group_start:offset]), is_batch))
                group_start, is_batch = offset, False
        # What belongs to a group that has not ended is looked at again with its rest.
        del self.pending[:group_start]
        return found

    def _message_end(self, offset: int) -> int | None:
        at = offset + int(self.has_started)  # the first message has no type
        if len(self.pending) < at + LENGTH_BYTES:
            return None
        (length,) = struct.unpack_from(">I", self.pending, at)
        return at + length if len(self.pending) >= at + length else None

    def _note(self, kind: int, body: bytes) -> bool:
        if kind == ord("P"):
            name, query = body.split(b"\x00", 2)[:2]
            if any(statement in query for statement in STATEMENTS):
                self.statements.add(name)
        if kind == ord("B"):
            return body.split(b"\x00", 2)[1] in self.statements
        return False


class CuttingProxy:
    """
    Passes everything on, but for the batches it was told to cut.
    """

    def __init__(self, front: Path, back: Path) -> None:
        self._front = front / SOCKET_NAME
        self._back = back / SOCKET_NAME
        self._orders: list[Cut] = []
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._is_listening = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="cutting-proxy", daemon=True)
        self.cuts: list[Cut] = []
        self.batches = 0

    def cut_next(self, cut: Cut) -> None:
        """
        Cut the connection of the next batch.
        """
        with self._lock:
            self._orders.append(cut)

    def start(self) -> None:
        """
        Listen.
        """
        self._thread.start()
        assert self._is_listening.wait(START_TIMEOUT_S), "the proxy listens"

    def stop(self) -> None:
        """
        Close every connection.
        """
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_TIMEOUT_S)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_unix_server(self._relay, str(self._front))
        )
        self._is_listening.set()
        try:
            self._loop.run_forever()
        finally:
            server.close()
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()

    async def _relay(
        self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter
    ) -> None:
        try:
            server_in, server_out = await asyncio.open_unix_connection(str(self._back))
        except OSError:
            client_out.close()
            return
        backward = asyncio.create_task(_pass_on(server_in, client_out))
        try:
            await self._forward(client_in, server_out, server_in, backward)
        except (OSError, asyncio.CancelledError):
            pass  # one side is gone, and both are closed below
        finally:
            backward.cancel()
            client_out.close()
            server_out.close()

    async def _forward(
        self,
        client_in: asyncio.StreamReader,
        server_out: asyncio.StreamWriter,
        server_in: asyncio.StreamReader,
        backward: asyncio.Task[None],
    ) -> None:
        frontend = _Frontend()
        while data := await client_in.read(READ_BYTES):
            for group, is_batch in frontend.groups(data):
                cut = self._order() if is_batch else None
                if cut is None:
                    server_out.write(group)
                    continue
                backward.cancel()
                with suppress(asyncio.CancelledError):
                    await backward
                if cut is not Cut.BEFORE:
                    server_out.write(group)
                    await server_out.drain()
                if cut is Cut.AFTER:
                    await _until_ready(server_in)
                self.cuts.append(cut)
                return
            await server_out.drain()

    def _order(self) -> Cut | None:
        with self._lock:
            self.batches += 1
            return self._orders.pop(0) if self._orders else None


async def _pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(READ_BYTES):
            target.write(data)
            await target.drain()
    except OSError:
        pass  # the reader of the other direction notices too
    finally:
        target.close()


async def _until_ready(server: asyncio.StreamReader) -> None:
    answer = b""
    while not answer.endswith(READY):
        data = await server.read(READ_BYTES)
        if not data:
            return
        answer += data


@contextmanager
def cutting(front: Path, back: Path) -> Generator[CuttingProxy]:
    """
    Run a proxy whose socket is in ``front``, before the server whose socket is in ``back``.
    """
    proxy = CuttingProxy(front, back)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
