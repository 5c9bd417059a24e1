"""
A way to suppliers that never leaves the process: each answers as its script says.

A script is a list of acts. ``Pause`` stops the exchange until somebody lets it go on, so that a
simulation decides in which order answers arrive and what happens in between; no time passes by
itself. Whatever a supplier can do wrong is ``Break`` with one of the port's errors.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tokenworks.foundation.errors import SupplierFaultError
from tokenworks.gateway.ports import AnswerTooLargeError, CutAnswerError, UpstreamRequest


@dataclass(frozen=True, slots=True)
class Pause:
    """
    Wait until the exchange is let go on.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """
    Begin the answer.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Piece:
    """
    Send bytes of the body.
    """

    data: bytes


@dataclass(frozen=True, slots=True)
class Break:
    """
    End the exchange with a fault.
    """

    fault: SupplierFaultError


Act = Pause | Head | Piece | Break
Script = Sequence[Act]


@dataclass(slots=True, kw_only=True)
class Parked:
    """
    An exchange that waits at a pause, and the task that waits for it.
    """

    request: UpstreamRequest
    task: asyncio.Task[object] | None
    gate: asyncio.Future[None]


class SimulatedUpstream:
    """
    The gateway's port to suppliers, SIMULATED.

    Args:
        direct: Says how the supplier that a request goes to will answer it.
        on_park: Called whenever an exchange has come to a pause.
    """

    def __init__(
        self,
        direct: Callable[[UpstreamRequest], Script],
        *,
        on_park: Callable[[], None] = lambda: None,
    ) -> None:
        self._direct = direct
        self._on_park = on_park
        self.parked: list[Parked] = []

    async def send(self, request: UpstreamRequest) -> SimulatedAnswer:
        """
        Follow the script up to the answer's head.
        """
        acts = iter(self._direct(request))
        for act in acts:
            match act:
                case Pause():
                    await self.pause(request)
                case Head():
                    return SimulatedAnswer(self, request, act, acts)
                case Break():
                    raise act.fault
                case Piece():
                    raise AssertionError("an answer begins with its head")
        raise CutAnswerError("The simulated supplier said nothing.")

    async def pause(self, request: UpstreamRequest) -> None:
        """
        Wait until the simulation lets this exchange go on.
        """
        gate = asyncio.get_running_loop().create_future()
        waiting = Parked(request=request, task=asyncio.current_task(), gate=gate)
        self.parked.append(waiting)
        self._on_park()
        try:
            await gate
        finally:
            self.parked.remove(waiting)

    async def close(self) -> None:
        """
        Cut every exchange that still waits.
        """
        for waiting in list(self.parked):
            if not waiting.gate.done():
                waiting.gate.set_exception(CutAnswerError("The hub closed."))


class SimulatedAnswer:
    """
    An answer whose head has been said.
    """

    def __init__(
        self, upstream: SimulatedUpstream, request: UpstreamRequest, head: Head, acts: Iterator[Act]
    ) -> None:
        self._upstream = upstream
        self._request = request
        self._head = head
        self._acts = acts

    @property
    def status(self) -> int:
        """
        Return the HTTP status.
        """
        return self._head.status

    @property
    def headers(self) -> Mapping[str, str]:
        """
        Return the head's headers.
        """
        return self._head.headers

    async def read(self, max_bytes: int) -> bytes:
        """
        Return the whole body.
        """
        body = b"".join([chunk async for chunk in self.chunks()])
        if len(body) > max_bytes:
            raise AnswerTooLargeError("The simulated answer is too large.")
        return body

    async def chunks(self) -> AsyncIterator[bytes]:
        """
        Yield the pieces, waiting at each pause.
        """
        for act in self._acts:
            match act:
                case Pause():
                    await self._upstream.pause(self._request)
                case Piece():
                    yield act.data
                case Break():
                    raise act.fault
                case Head():
                    raise AssertionError("an answer has one head")

    async def close(self) -> None:
        """
        Stop reading.
        """
        self._acts = iter(())
