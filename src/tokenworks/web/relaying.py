"""
Relay streams to clients, whatever becomes of the clients.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
import structlog

from tokenworks.foundation.errors import TokenworksError
from tokenworks.gateway.model import Settled
from tokenworks.gateway.streaming import Closing, OpenStream, Streamer
from tokenworks.web.asgi import RawHeaders, Receive, SendMessage, unexpected_error
from tokenworks.web.errors import to_openai_error
from tokenworks.web.metrics import HubMetrics

_SSE: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)

_encode = msgspec.json.Encoder().encode
_log = structlog.get_logger("tokenworks.openai_api")

OnSettled = Callable[[Settled], Awaitable[None]]


def to_error_event(error: TokenworksError) -> bytes:
    """
    Return the event that ends a broken stream.
    """
    return b"data: " + _encode(to_openai_error(error)) + b"\n\n"


class Relays:
    """
    The streams of one door.

    Args:
        streamer: Relays.
        metrics: Counts.
    """

    def __init__(self, streamer: Streamer, metrics: HubMetrics) -> None:
        self._streamer = streamer
        self._metrics = metrics
        self._relays: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        """
        Wait for the streams that are still being relayed.
        """
        if self._relays:
            await asyncio.wait(self._relays)

    async def relay(
        self,
        stream: OpenStream,
        receive: Receive,
        send: SendMessage,
        headers: RawHeaders,
        *,
        on_settled: OnSettled | None = None,
        closing: Closing | None = None,
    ) -> None:
        """
        Send a stream to its end; it is metered to its end also when the client leaves.
        """
        is_gone = False

        async def watch() -> None:
            nonlocal is_gone
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    is_gone = True
                    return

        async def pass_on(data: bytes) -> None:
            nonlocal is_gone
            if is_gone:
                return
            try:
                await send({"type": "http.response.body", "body": data, "more_body": True})
            except (OSError, RuntimeError):
                is_gone = True

        async def run() -> None:
            nonlocal is_gone
            tier_header = (b"x-tokenworks-tier", stream.attempt.offer.tier.encode())
            sent = [*_SSE, *headers, tier_header]
            try:
                await send({"type": "http.response.start", "status": 200, "headers": sent})
            except (OSError, RuntimeError):
                is_gone = True
            try:
                settled = await self._streamer.relay(
                    stream, send=pass_on, is_gone=lambda: is_gone, closing=closing
                )
            except Exception:  # noqa: BLE001 - the headers are out: a bug still gets an event
                _log.exception("unexpected_error", call_id=str(stream.call.call_id))
                self._metrics.refused("internal_error")
                await pass_on(to_error_event(unexpected_error()))
            else:
                if settled is not None:
                    self._metrics.settled(settled, stream=True)
                    if on_settled is not None:
                        await on_settled(settled)
            if not is_gone:
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        watching = asyncio.create_task(watch())
        relaying = asyncio.create_task(run())
        self._relays.add(relaying)
        relaying.add_done_callback(self._relays.discard)
        try:
            # A door that is torn down does not take the metering with it.
            await asyncio.shield(relaying)
        finally:
            watching.cancel()
