"""
HTTP transports that pay what costs money, for httpx and whatever is built on it.

A request goes out as it is; a 402 with an offer is paid and sent again. When the connection
breaks after the signature, the very same signature is sent again (``repeating``), so nothing is
paid twice; when there is no answer at all, ``PaymentUncertainError`` says so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from http import HTTPStatus
from typing import Final

import httpx

from tokenworks.sdk.errors import PaymentInReviewError
from tokenworks.sdk.model import Settlement
from tokenworks.sdk.paying import (
    REQUIRED_HEADER,
    SETTLEMENT_EXTENSION,
    SIGNATURE_HEADER,
    PaymentDesk,
    Signed,
    StreamWatch,
)
from tokenworks.sdk.repeating import Backoff, send_again, send_again_async

POLL_S: Final = 2.0


class PayingTransport(httpx.BaseTransport):
    """
    Pay 402s on the way.

    Args:
        desk: Decides and signs.
        inner: Sends; httpx's own when omitted.
        backoff: How often, and after how long, what was signed is sent again.
        sleep: Waits some seconds.
    """

    def __init__(
        self,
        desk: PaymentDesk,
        inner: httpx.BaseTransport | None = None,
        *,
        backoff: Backoff | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.desk = desk
        self._inner = inner or httpx.HTTPTransport()
        self._backoff = backoff or Backoff()
        self._sleep = sleep

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """
        Send, and pay when that is asked.
        """
        request.read()
        if (signed := self.desk.resumed(request)) is not None:
            return self._pay(signed)
        answer = self._inner.handle_request(request)
        if not is_offer(request, answer):
            return answer
        answer.read()
        answer.close()
        return self._pay(self.desk.sign(request, answer))

    def _pay(self, signed: Signed) -> httpx.Response:
        def send() -> httpx.Response:
            answer = self._inner.handle_request(signed.request)
            if is_short(answer):
                answer.read()
                answer.close()
            return answer

        try:
            answer = send_again(send, self._backoff, self._sleep)
        except httpx.TransportError as error:
            raise self.desk.uncertain(signed, _words(error)) from error
        answer.request = signed.request
        if self.desk.conclude(signed, answer):
            assert isinstance(answer.stream, httpx.SyncByteStream), "from a transport of it"
            watch = StreamWatch(self.desk, signed, answer)
            answer.stream = _WatchedStream(answer.stream, watch)
        return answer

    def close(self) -> None:
        """
        Close what sends.
        """
        self._inner.close()


class AsyncPayingTransport(httpx.AsyncBaseTransport):
    """
    Pay 402s on the way, asynchronously.

    Args:
        desk: Decides and signs.
        inner: Sends; httpx's own when omitted.
        backoff: How often, and after how long, what was signed is sent again.
        sleep: Waits some seconds.
    """

    def __init__(
        self,
        desk: PaymentDesk,
        inner: httpx.AsyncBaseTransport | None = None,
        *,
        backoff: Backoff | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.desk = desk
        self._inner = inner or httpx.AsyncHTTPTransport()
        self._backoff = backoff or Backoff()
        self._sleep = sleep

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """
        Send, and pay when that is asked.
        """
        await request.aread()
        if (signed := self.desk.resumed(request)) is not None:
            return await self._pay(signed)
        answer = await self._inner.handle_async_request(request)
        if not is_offer(request, answer):
            return answer
        await answer.aread()
        await answer.aclose()
        return await self._pay(self.desk.sign(request, answer))

    async def _pay(self, signed: Signed) -> httpx.Response:
        async def send() -> httpx.Response:
            answer = await self._inner.handle_async_request(signed.request)
            if is_short(answer):
                await answer.aread()
                await answer.aclose()
            return answer

        try:
            answer = await send_again_async(send, self._backoff, self._sleep)
        except httpx.TransportError as error:
            raise self.desk.uncertain(signed, _words(error)) from error
        answer.request = signed.request
        if self.desk.conclude(signed, answer):
            assert isinstance(answer.stream, httpx.AsyncByteStream), "from a transport of it"
            watch = StreamWatch(self.desk, signed, answer)
            answer.stream = _AsyncWatchedStream(answer.stream, watch)
        return answer

    async def aclose(self) -> None:
        """
        Close what sends.
        """
        await self._inner.aclose()


class _WatchedStream(httpx.SyncByteStream):
    def __init__(self, inner: httpx.SyncByteStream, watch: StreamWatch) -> None:
        self._inner = inner
        self._watch = watch

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._inner:
            self._watch.feed(piece)
            yield piece

    def close(self) -> None:
        self._inner.close()


class _AsyncWatchedStream(httpx.AsyncByteStream):
    def __init__(self, inner: httpx.AsyncByteStream, watch: StreamWatch) -> None:
        self._inner = inner
        self._watch = watch

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._inner:
            self._watch.feed(piece)
            yield piece

    async def aclose(self) -> None:
        await self._inner.aclose()


def is_offer(request: httpx.Request, answer: httpx.Response) -> bool:
    """
    Return whether an answer asks for a payment that has not been tried.
    """
    return (
        answer.status_code == HTTPStatus.PAYMENT_REQUIRED
        and REQUIRED_HEADER in answer.headers
        and SIGNATURE_HEADER not in request.headers
    )


def is_short(answer: httpx.Response) -> bool:
    """
    Return whether an answer is read here, so that a connection that breaks in it is tried again.
    """
    return answer.is_error or answer.headers.get("content-type", "").startswith("application/json")


def _words(error: Exception) -> str:
    return f"no answer came ({type(error).__name__})"


# ------------------------------------------------------------------ wrapping a client


def wrap(client: httpx.Client, desk: PaymentDesk) -> httpx.Client:
    """
    Return the same client, which from now on pays 402s.

    What it does otherwise (proxies, mounts, limits) stays as it is.
    """
    # httpx has no public way to put a transport around those that a client has.
    client._transport = PayingTransport(desk, client._transport)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    mounts = client._mounts  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - as above
    for pattern, inner in list(mounts.items()):
        mounts[pattern] = None if inner is None else PayingTransport(desk, inner)
    return client


def wrap_async(client: httpx.AsyncClient, desk: PaymentDesk) -> httpx.AsyncClient:
    """
    Return the same asynchronous client, which from now on pays 402s.
    """
    # httpx has no public way to put a transport around those that a client has.
    client._transport = AsyncPayingTransport(desk, client._transport)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    mounts = client._mounts  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - as above
    for pattern, inner in list(mounts.items()):
        mounts[pattern] = None if inner is None else AsyncPayingTransport(desk, inner)
    return client


def settlement_of(answer: httpx.Response) -> Settlement | None:
    """
    Return what became of an answer's payment; ``None``: free, or a stream that has not ended.
    """
    found = answer.extensions.get(SETTLEMENT_EXTENSION)
    return found if isinstance(found, Settlement) else None


# ------------------------------------------------------------------ a person decides


def wait_for_review(
    client: httpx.Client,
    review: PaymentInReviewError,
    *,
    tries: int = 150,
    every_s: float = POLL_S,
    sleep: Callable[[float], None] = time.sleep,
) -> httpx.Response:
    """
    Send the same signed request until somebody has decided, and return the bought answer.

    Args:
        client: The wrapped client.
        review: What its first try raised.
        tries: How often to ask.
        every_s: Seconds between.
        sleep: Waits.

    Raises:
        PaymentInReviewError: Nobody decided in time.
        PaymentRefusedError: It was denied, or expired.
    """
    for _ in range(tries - 1):
        sleep(every_s)
        try:
            return client.send(review.request)
        except PaymentInReviewError:
            continue
    sleep(every_s)
    return client.send(review.request)


async def wait_for_review_async(
    client: httpx.AsyncClient,
    review: PaymentInReviewError,
    *,
    tries: int = 150,
    every_s: float = POLL_S,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> httpx.Response:
    """
    Do what ``wait_for_review`` does, asynchronously.
    """
    for _ in range(tries - 1):
        await sleep(every_s)
        try:
            return await client.send(review.request)
        except PaymentInReviewError:
            continue
    await sleep(every_s)
    return await client.send(review.request)
