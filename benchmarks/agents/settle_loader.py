"""
Closed-loop settle calls of payloads that were signed before, in a process of its own.

``python -m benchmarks.agents.settle_loader --url http://127.0.0.1:9000/x402/settle --orders FILE
--connections 8`` prints one JSON object. The file holds one body of a settle call a line; each
is sent once, so every call is a payment of its own and no signature is made while it measures.

Invariants: each connection has at most one call in flight; a call counts when its answer came
whole within the measured time with status 200 and ``"success": true``. When the orders run out
before the time, the figures end with the last call and say so.
Known limits: HTTP/1.1 without TLS; ``loader_cpu_share`` near 1 is the loader's own ceiling.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast
from urllib.parse import urlsplit

import httptools
import msgspec
import uvloop

from benchmarks.loader import percentiles

DRAIN_TIMEOUT_S: Final = 60.0
REASONS_MAX: Final = 20
_SUCCESS: Final = b'"success":true'
_STATUS_OK: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """
    What to send, how often and for how long.
    """

    url: str
    bodies: tuple[bytes, ...]
    connections: int
    duration_s: float
    warm_up_s: float

    def requests(self) -> list[bytes]:
        """
        Return each call's bytes, last first: they are taken from the end.
        """
        parts = urlsplit(self.url)
        head = f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\n"
        head += "content-type: application/json\r\ncontent-length: "
        return [f"{head}{len(body)}\r\n\r\n".encode() + body for body in reversed(self.bodies)]


@dataclass(slots=True)
class Tally:
    """
    What came back within the measured time; durations in nanoseconds.
    """

    settled: int = 0
    latencies: array[int] = field(default_factory=lambda: array("Q"))
    refusals: Counter[str] = field(default_factory=Counter[str])


class Loader:
    """
    Run one job.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.requests = job.requests()
        self.tally = Tally()
        self.is_measuring = False
        self.is_stopping = False
        self.last_ns = 0
        self.calls_total = 0
        """Answers since the start, warm-up included."""
        self._open = 0
        self._idle = asyncio.Event()

    async def run(self) -> dict[str, object]:
        """
        Return the figures of the measured time.
        """
        parts = urlsplit(self.job.url)
        loop = asyncio.get_running_loop()
        host, port = parts.hostname or "127.0.0.1", parts.port or 80
        for _ in range(self.job.connections):
            await loop.create_connection(lambda: _Connection(self), host, port)
        await self._wait(self.job.warm_up_s)
        self.tally = Tally()
        self.is_measuring = True
        start_ns, start_cpu_s = time.perf_counter_ns(), time.process_time()
        await self._wait(self.job.duration_s)
        self.is_measuring = False
        is_short = self._idle.is_set()
        end_ns = self.last_ns if is_short else time.perf_counter_ns()
        cpu_s = time.process_time() - start_cpu_s
        self.is_stopping = True
        await asyncio.wait_for(self._idle.wait(), DRAIN_TIMEOUT_S)
        took_s = max(1, end_ns - start_ns) / 1e9
        return {
            "connections": self.job.connections,
            "duration_s": round(took_s, 3),
            "settled": self.tally.settled,
            "rate_per_s": round(self.tally.settled / took_s, 1),
            "latency_ms": percentiles(self.tally.latencies),
            "refusals": dict(self.tally.refusals.most_common(REASONS_MAX)),
            "ran_out": is_short,
            "calls_total": self.calls_total,
            "orders": len(self.job.bodies),
            "loader_cpu_share": round(cpu_s / took_s, 3),
        }

    async def _wait(self, seconds: float) -> None:
        """
        Wait so long, or until all orders are sent and answered.
        """
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except TimeoutError:
            return

    def opened(self) -> None:
        """
        Count a connection in.
        """
        self._open += 1

    def closed(self) -> None:
        """
        Count a connection out.
        """
        self._open -= 1
        if self._open == 0:
            self._idle.set()


class _Connection(asyncio.Protocol):
    """
    One seller that waits for each settlement before the next.
    """

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._parser = httptools.HttpResponseParser(self)
        self._body = bytearray()
        self._start_ns = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._loader.opened()
        self._call()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._loader.tally.refusals[f"connection lost: {exc}"] += 1
        self._loader.closed()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        now_ns = time.perf_counter_ns()
        loader = self._loader
        loader.calls_total += 1
        loader.last_ns = now_ns
        if loader.is_measuring:
            self._count(loader.tally, now_ns)
        if not self._parser.should_keep_alive():
            loader.tally.refusals["connection closed by the server"] += 1
            self._transport.close()
            return
        self._call()

    def _call(self) -> None:
        loader = self._loader
        if loader.is_stopping or not loader.requests:
            self._transport.close()
            return
        self._body.clear()
        request = loader.requests.pop()
        self._start_ns = time.perf_counter_ns()
        self._transport.write(request)

    def _count(self, tally: Tally, now_ns: int) -> None:
        status = self._parser.get_status_code()
        if status == _STATUS_OK and _SUCCESS in self._body.replace(b" ", b""):
            tally.settled += 1
            tally.latencies.append(now_ns - self._start_ns)
            return
        tally.refusals[f"{status} {bytes(self._body[:160])!r}"] += 1


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run one job and print its figures as JSON; 1 when nothing was settled.
    """
    parser = argparse.ArgumentParser(description="Closed-loop settle calls.")
    parser.add_argument("--url", required=True, help="of the settle call")
    parser.add_argument("--orders", type=Path, required=True, help="one body a line")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--duration", type=float, default=5.0, help="seconds measured")
    parser.add_argument("--warm-up", type=float, default=1.0, help="seconds before")
    arguments = parser.parse_args(argv)
    job = Job(
        url=arguments.url,
        bodies=tuple(arguments.orders.read_bytes().splitlines()),
        connections=arguments.connections,
        duration_s=arguments.duration,
        warm_up_s=arguments.warm_up,
    )
    report = uvloop.run(Loader(job).run())
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    return 0 if report["settled"] else 1


if __name__ == "__main__":
    sys.exit(main())
