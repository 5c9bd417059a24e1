"""
A client process: calls with idempotency keys, and tries each again until it has an end.

    CRASH_KEY=tw_... python -m tests.crash.client --url http://.../v1 --log FILE --seed 1

Writes one JSON line for each try (``sighting``). SIGTERM ends the new calls: what has no end
yet is tried again until it has one or the patience is over, then the process ends.

A try that failed is put aside and others go on: a call that was cut off by a ``kill -9`` stays
``call_in_flight`` until its hold is given back, and the load must not stop for that.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import heapq
import json
import os
import random
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

import httpx
import msgspec

from tests.crash.sighting import Seen, Sighting

ANSWER_TIMEOUT_S: Final = 20.0
CALLS_PER_CONNECTION: Final = 25
"""Then a new one is opened, so that the load finds a gateway that came back."""
RETRY_PAUSE_S: Final = 0.5
PATIENCE_S: Final = 240.0
MODELS: Final = ("quick-model", "slow-model")
RECEIPT: Final = ": tokenworks-receipt "


@dataclass(frozen=True, slots=True, order=True)
class Order:
    """
    One call that the client wants made.
    """

    due_s: float
    key: str
    body: bytes = field(compare=False)
    is_stream: bool = field(compare=False)

    def again(self, pause_s: float) -> Order:
        """
        Return the same call, to be tried later.
        """
        return Order(time.monotonic() + pause_s, self.key, self.body, self.is_stream)


class Client:
    """
    Several slots that call one after the other, and the calls that have no end yet.
    """

    def __init__(self, *, url: str, api_key: str, log: BinaryIO, dice: random.Random) -> None:
        self._url = f"{url}/chat/completions"
        self._headers = {"authorization": f"Bearer {api_key}", "content-type": "application/json"}
        self._log = log
        self._dice = dice
        self._aside: list[Order] = []
        self._running = 0
        self._count = 0
        self.is_over = asyncio.Event()

    async def run(self, *, slots: int, pause_s: float) -> None:
        """
        Call until told to end, then until every call has an end.
        """
        await asyncio.gather(*(self._slot(pause_s) for _ in range(slots)))
        for order in self._aside:
            now_s = time.monotonic()
            self._note(Sighting(key=order.key, seen=Seen.GIVEN_UP, begun_s=now_s, ended_s=now_s))

    async def _slot(self, pause_s: float) -> None:
        give_up_s: float | None = None
        while give_up_s is None or time.monotonic() < give_up_s:
            timeout = httpx.Timeout(ANSWER_TIMEOUT_S)
            async with httpx.AsyncClient(timeout=timeout) as http:
                for _ in range(CALLS_PER_CONNECTION):
                    if self.is_over.is_set() and give_up_s is None:
                        give_up_s = time.monotonic() + PATIENCE_S
                    order = self._next_order()
                    if order is not None:
                        await self._try(http, order)
                    elif give_up_s is not None and not self._aside and not self._running:
                        return
                    await self._rest(pause_s)

    async def _rest(self, pause_s: float) -> None:
        await asyncio.sleep(pause_s * self._dice.uniform(0.5, 1.5))

    def _next_order(self) -> Order | None:
        if self._aside and self._aside[0].due_s <= time.monotonic():
            return heapq.heappop(self._aside)
        if self.is_over.is_set():
            return None
        self._count += 1
        is_stream = self._dice.random() < 0.5
        body = {
            "model": self._dice.choice(MODELS),
            "messages": [{"role": "user", "content": f"call {self._count}"}],
            "max_tokens": self._dice.randint(5, 30),
            "stream": is_stream,
        }
        key = f"{os.getpid()}-{self._count}"
        return Order(time.monotonic(), key, json.dumps(body).encode(), is_stream)

    async def _try(self, http: httpx.AsyncClient, order: Order) -> None:
        begun_s = time.monotonic()
        self._running += 1
        try:
            headers = {**self._headers, "idempotency-key": order.key}
            answer = await http.post(self._url, content=order.body, headers=headers)
            seen = read_sighting(order, answer, begun_s)
        except httpx.HTTPError as error:
            seen = Sighting(
                key=order.key,
                seen=Seen.LOST,
                begun_s=begun_s,
                ended_s=time.monotonic(),
                is_stream=order.is_stream,
                code=type(error).__name__,
            )
        finally:
            self._running -= 1
        self._note(seen)
        if not seen.settles_key:
            pause_s = RETRY_PAUSE_S * self._dice.uniform(0.5, 1.5)
            heapq.heappush(self._aside, order.again(pause_s))

    def _note(self, seen: Sighting) -> None:
        self._log.write(msgspec.json.encode(seen) + b"\n")


def read_sighting(order: Order, answer: httpx.Response, begun_s: float) -> Sighting:
    """
    Say what an answer is worth to its client.
    """
    seen, code, charge = Seen.REFUSED, None, None
    call_id = answer.headers.get("x-tokenworks-call-id")
    if answer.status_code != 200:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            error = answer.json()["error"]
            code = str(error["code"])
            call_id = call_id or error.get("details", {}).get("call_id")
    elif not order.is_stream:
        seen, charge = Seen.ANSWERED, answer.headers["x-tokenworks-charge"]
    elif answer.text.endswith("data: [DONE]\n\n"):
        lines = answer.text.splitlines()
        receipt = next(line for line in lines if line.startswith(RECEIPT))
        fields = json.loads(receipt.removeprefix(RECEIPT))["receipt"]
        seen, charge, call_id = Seen.ANSWERED, fields["charge"], fields["call_id"]
    else:
        seen = Seen.BROKEN
    return Sighting(
        key=order.key,
        seen=seen,
        begun_s=begun_s,
        ended_s=time.monotonic(),
        is_stream=order.is_stream,
        status=answer.status_code,
        code=code,
        call_id=call_id,
        charge=charge,
        has_retry_after="retry-after" in answer.headers,
    )


async def main() -> None:
    """
    Call until SIGTERM.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--log", required=True, type=Path)
    parser.add_argument("--seed", required=True)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--pause-ms", type=int, default=30)
    arguments = parser.parse_args()
    with arguments.log.open("ab", buffering=0) as log:
        client = Client(
            url=arguments.url,
            api_key=os.environ["CRASH_KEY"],
            log=log,
            dice=random.Random(arguments.seed),
        )
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, client.is_over.set)
        await client.run(slots=arguments.slots, pause_s=arguments.pause_ms / 1000)


if __name__ == "__main__":
    asyncio.run(main())
