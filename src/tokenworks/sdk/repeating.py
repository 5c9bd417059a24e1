"""
Send a signed request again: whether, and after how long.

Owns: the tries of one request that carries a signature. The hub knows the signature, so a repeat
pays nothing twice; a request without one is never sent twice. Does not own: what an answer means
(``paying``, ``asking``).

Invariants: no try follows another at once; a server that names a time is not asked before it; an
answer that says what became of the payment is not asked for again; tries and waits are bounded.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from secrets import SystemRandom
from typing import Final

import httpx

from tokenworks.sdk.paying import REQUIRED_HEADER, RESPONSE_HEADER

ASKED_TO_WAIT: Final = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """
    How long to wait before a signed request is sent again.

    A broken connection is tried again after ``first_wait_s``, twice that and so on, each time a
    random part of it less, so that clients that broke together do not come back together. An
    answer of 429 or 503 is tried again when it says when (``Retry-After``, RFC 9110 section
    10.2.3), a random part of ``first_wait_s`` later.
    """

    repeats: int = 2
    first_wait_s: float = 0.5
    wait_s_max: float = 8.0
    retry_after_s_max: float = 30.0  # who asks for more than this is answered to the caller
    chance: Callable[[], float] = SystemRandom().random  # from 0 to 1

    def after_fault(self, attempt: int) -> float | None:
        """
        Return the seconds to wait when no answer came; ``None``: no further try.

        Args:
            attempt: The try that failed, counted from 0.
        """
        if attempt >= self.repeats:
            return None
        wait_s = min(self.first_wait_s * 2**attempt, self.wait_s_max)
        return wait_s * (1 - self.chance() / 2)

    def after_answer(self, attempt: int, answer: httpx.Response) -> float | None:
        """
        Return the seconds to wait when an answer asks for it; ``None``: it is the answer.
        """
        if attempt >= self.repeats or answer.status_code not in ASKED_TO_WAIT:
            return None
        if RESPONSE_HEADER in answer.headers or REQUIRED_HEADER in answer.headers:
            return None
        asked_s = retry_after_s(answer)
        if asked_s is None or asked_s > self.retry_after_s_max:
            return None
        return asked_s + self.first_wait_s * self.chance()


def retry_after_s(answer: httpx.Response) -> float | None:
    """
    Return what ``Retry-After`` asks for, in seconds from the answer's own ``Date``.
    """
    said = answer.headers.get("retry-after", "").strip()
    if said.isascii() and said.isdigit():
        return float(said)
    try:
        span = parsedate_to_datetime(said) - parsedate_to_datetime(answer.headers["date"])
    except (KeyError, ValueError, TypeError):
        return None
    return max(span.total_seconds(), 0.0)


def send_again(
    send: Callable[[], httpx.Response], backoff: Backoff, sleep: Callable[[float], None]
) -> httpx.Response:
    """
    Send until there is an answer that does not ask for another try.

    Args:
        send: Sends the same signed request and reads its answer, unless that is a stream.
        backoff: How often, and after how long.
        sleep: Waits some seconds.

    Raises:
        httpx.TransportError: Of the last try.
    """
    attempt = 0
    while True:
        try:
            answer = send()
            wait_s = backoff.after_answer(attempt, answer)
            if wait_s is None:
                return answer
        except httpx.TransportError:
            wait_s = backoff.after_fault(attempt)
            if wait_s is None:
                raise
        sleep(wait_s)
        attempt += 1


async def send_again_async(
    send: Callable[[], Awaitable[httpx.Response]],
    backoff: Backoff,
    sleep: Callable[[float], Awaitable[None]],
) -> httpx.Response:
    """
    Do what ``send_again`` does, asynchronously.
    """
    attempt = 0
    while True:
        try:
            answer = await send()
            wait_s = backoff.after_answer(attempt, answer)
            if wait_s is None:
                return answer
        except httpx.TransportError:
            wait_s = backoff.after_fault(attempt)
            if wait_s is None:
                raise
        await sleep(wait_s)
        attempt += 1
