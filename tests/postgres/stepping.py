"""
A way to suppliers on which the hub sees each event of a stream alone, at whatever pace.

What comes in one read depends on how busy the machine is, and with it where a hold grows and
a stream is ended. Here every read gives one event.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from tokenworks.gateway.ports import Upstream, UpstreamAnswer, UpstreamRequest

_END = b"\n\n"


class SteppingUpstream:
    """
    Another way to suppliers, event by event.
    """

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def send(self, request: UpstreamRequest) -> UpstreamAnswer:
        """
        Send as the other does.
        """
        return _SteppingAnswer(await self._upstream.send(request))

    async def close(self) -> None:
        """
        Close the other.
        """
        await self._upstream.close()


class _SteppingAnswer:
    def __init__(self, answer: UpstreamAnswer) -> None:
        self._answer = answer

    @property
    def status(self) -> int:
        return self._answer.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._answer.headers

    async def read(self, max_bytes: int) -> bytes:
        return await self._answer.read(max_bytes)

    async def chunks(self) -> AsyncIterator[bytes]:
        rest = b""
        async for chunk in self._answer.chunks():
            rest += chunk
            while _END in rest:
                event, _, rest = rest.partition(_END)
                yield event + _END
        if rest:
            yield rest

    async def close(self) -> None:
        await self._answer.close()
