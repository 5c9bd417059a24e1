"""
Slowness on purpose: a test that reads too early passes on a fast machine, and fails here.

With ``TEST_CONSOLE_SLOW_MS`` every packet between browser and console, and every answer of the
fake hub, is late by a random time up to that; long answers come in two parts, and the browser
has a fraction of its processor. Off without it. ``make test-console-slow`` sets it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import threading
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

SLOW_MS: Final = int(os.environ.get("TEST_CONSOLE_SLOW_MS", "0"))
SEED: Final = os.environ.get("TEST_CONSOLE_SEED", "1")
PROCESSOR_SLOWDOWN: Final = 4

_READ_BYTES_MAX: Final = 65_536
_CUT_BYTES_MIN: Final = 400
_SAME_ANSWER_S: Final = 0.02
"""Packets that follow each other so closely are one answer, late once."""

_chance = random.Random(SEED)


def delay_s() -> float:
    """
    Return how late something is.
    """
    return _chance.uniform(0, SLOW_MS) / 1000


class LateAnswers:
    """
    An ASGI application whose answers are late, each by another time.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Answer one connection.
        """
        await asyncio.sleep(delay_s())
        await self._app(scope, receive, send)


class SlowWire:
    """
    A port of this machine that leads to another one, slowly; in a thread of its own.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._loop = asyncio.new_event_loop()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """
        Cut every connection and listen no more.
        """
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._connect, sock=self._socket)
        )
        self._loop.run_forever()
        server.close()
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError), contextlib.closing(writer):
            there, back = await asyncio.open_connection("127.0.0.1", self._target_port)
            with contextlib.closing(back):
                ways = [asyncio.create_task(carry(reader, back))]
                ways += [asyncio.create_task(carry(there, writer))]
                # Whoever ends first ends the connection: nobody here sends after an end.
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """
    Carry bytes one way, in order; the first of an answer are late, and cut in two.
    """
    loop = asyncio.get_running_loop()
    last_s = 0.0
    with contextlib.suppress(OSError):
        while packet := await reader.read(_READ_BYTES_MAX):
            if loop.time() - last_s > _SAME_ANSWER_S:
                await asyncio.sleep(delay_s())
                if len(packet) > _CUT_BYTES_MIN:
                    cut = _chance.randrange(_CUT_BYTES_MIN, len(packet))
                    writer.write(packet[:cut])
                    await writer.drain()
                    await asyncio.sleep(delay_s())
                    packet = packet[cut:]
            writer.write(packet)
            await writer.drain()
            last_s = loop.time()
