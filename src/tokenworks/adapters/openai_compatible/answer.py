"""
One exchange as its caller sees it: the head, then the body in pieces, or the fault that ended it.

Owns: the bytes that arrived and were not taken yet, and whoever waits for them.
Does not own: how bytes become a head and a body, and time (``connection``).

Invariants: an exchange is whole, faulty or still on its line, never two of these; at most
``BUFFER_BYTES_MAX`` and one read wait here before the supplier is stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final, Protocol

from tokenworks.foundation.errors import SupplierFaultError
from tokenworks.gateway.ports import (
    AnswerTooLargeError,
    BadAnswerError,
    RedirectRefusedError,
    UpstreamRequest,
)

BUFFER_BYTES_MAX: Final = 256 * 1024


class Line(Protocol):
    """
    What an exchange asks of the connection that carries it.
    """

    loop: asyncio.AbstractEventLoop

    def resume(self) -> None:
        """
        Let the supplier send again.
        """
        ...

    def abort(self) -> None:
        """
        Close at once; the exchange is cut.
        """
        ...


class RelayAnswer:
    """
    One exchange: made when the request is sent, handed out when the head is there.
    """

    __slots__ = (
        "_answer_bytes_max",
        "_buffered",
        "_fault",
        "_is_complete",
        "_is_head_complete",
        "_line",
        "_parts",
        "_waiter",
        "headers",
        "idle_timeout_s",
        "is_untouched",
        "status",
    )

    def __init__(self, line: Line, request: UpstreamRequest) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.idle_timeout_s = request.idle_timeout_s
        # No byte of the answer came.
        self.is_untouched = True
        self._answer_bytes_max = request.answer_bytes_max
        # None once the answer is complete or faulty: the line is not its own then.
        self._line: Line | None = line
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
        if self._line is not None:
            self._line.abort()

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
        if self._line is not None:
            self._line.resume()
        return piece

    async def _wait(self) -> None:
        assert self._line is not None, "an exchange without connection has ended"
        self._waiter = self._line.loop.create_future()
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
        self._line = None
        self._wake()

    def fail(self, fault: SupplierFaultError) -> None:
        """
        Note that nothing more will come.
        """
        self._fault = fault
        self._line = None
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


async def head_of(answer: RelayAnswer) -> RelayAnswer:
    """
    Wait for an answer's head, and refuse what the hub does not follow or unpack.

    Raises:
        RedirectRefusedError: The supplier sends elsewhere.
        BadAnswerError: The body is packed.
        SupplierFaultError: The exchange ended before its head.
    """
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
