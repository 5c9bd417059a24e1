"""
Closed-loop load on a chat endpoint over kept-alive connections, in its own process.

``python -m benchmarks.loader --url http://127.0.0.1:9000/v1 --connections 64`` prints one
JSON object: rates, statuses, latency and, for streams, time to first byte.

Invariants: each connection has at most one call in flight; a call counts when its
answer came whole within the measured time, with status 200 and, for a stream, a
``[DONE]``. Calls in flight at the end are finished, not counted.
Known limits: HTTP/1.1 without TLS; the loader's own share of a core is printed
(``loader_cpu_share``): near 1 the figure is the loader's ceiling, not the server's.
"""

from __future__ import annotations

import argparse
import asyncio
import os
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

DRAIN_TIMEOUT_S: Final = 30.0
RECONNECT_DELAY_S: Final = 0.05
_STATUS_OK: Final = 200
_TAIL_BYTES: Final = 32
_DONE: Final = b"data: [DONE]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """
    What to send, how often and for how long.
    """

    url: str
    """The base URL with ``/v1``."""
    body: bytes
    connections: int
    duration_s: float
    warm_up_s: float
    is_stream: bool
    authorization: str | None
    headers: tuple[str, ...] = ()

    def request_bytes(self) -> bytes:
        """
        Return the one request that every connection repeats.
        """
        parts = urlsplit(self.url)
        lines = [
            f"POST {parts.path}/chat/completions HTTP/1.1",
            f"host: {parts.netloc}",
            "content-type: application/json",
            f"content-length: {len(self.body)}",
            *self.headers,
        ]
        if self.authorization:
            lines.append(f"authorization: {self.authorization}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode() + self.body


@dataclass(slots=True)
class Tally:
    """
    What came back within the measured time; durations in nanoseconds.
    """

    ok: int = 0
    latencies: array[int] = field(default_factory=lambda: array("Q"))
    first_bytes: array[int] = field(default_factory=lambda: array("Q"))
    statuses: Counter[int] = field(default_factory=Counter[int])
    errors: Counter[str] = field(default_factory=Counter[str])
    first_error: str | None = None


class Loader:
    """
    Run one job.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.request = job.request_bytes()
        self.tally = Tally()
        self.calls_total = 0
        """Answers of any status since the start, warm-up included."""
        self.is_measuring = False
        self.is_stopping = False
        self._idle = asyncio.Event()
        self._open = 0
        self._reconnects: set[asyncio.Task[None]] = set()

    async def run(self) -> dict[str, object]:
        """
        Return the figures of the measured time.
        """
        await asyncio.gather(*(self.connect() for _ in range(self.job.connections)))
        await asyncio.sleep(self.job.warm_up_s)
        self.tally = Tally()
        self.is_measuring = True
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        await asyncio.sleep(self.job.duration_s)
        self.is_measuring = False
        took_s = time.perf_counter() - start_s
        cpu_s = time.process_time() - start_cpu_s
        await self._drain()
        return self._report(took_s, cpu_s)

    async def connect(self) -> None:
        """
        Open one connection, which begins to call at once.
        """
        parts = urlsplit(self.job.url)
        host, port = parts.hostname or "127.0.0.1", parts.port or 80
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: _Connection(self), host, port)
        except OSError as error:
            self.count_error("connect", str(error))
            self.reconnect()

    def opened(self) -> None:
        """
        Count a connection in.
        """
        self._open += 1

    def closed(self, *, is_early: bool) -> None:
        """
        Count a connection out; one lost early is an error and is opened again.
        """
        self._open -= 1
        if self._open == 0:
            self._idle.set()
        if is_early:
            self.count_error("connection_lost", None)
        self.reconnect()

    def reconnect(self) -> None:
        """
        Open a connection in place of a lost one, after a pause.
        """
        if self.is_stopping:
            return
        task = asyncio.get_running_loop().create_task(self._reconnect())
        self._reconnects.add(task)
        task.add_done_callback(self._reconnects.discard)

    async def _reconnect(self) -> None:
        await asyncio.sleep(RECONNECT_DELAY_S)
        if not self.is_stopping:
            await self.connect()

    def count_error(self, kind: str, text: str | None) -> None:
        """
        Count what was not an answer.
        """
        if self.is_measuring:
            self.tally.errors[kind] += 1
            self.tally.first_error = self.tally.first_error or text

    async def _drain(self) -> None:
        self.is_stopping = True
        if self._open:
            try:
                await asyncio.wait_for(self._idle.wait(), DRAIN_TIMEOUT_S)
            except TimeoutError:
                self.tally.errors["not_drained"] += self._open

    def _report(self, took_s: float, cpu_s: float) -> dict[str, object]:
        tally = self.tally
        report: dict[str, object] = {
            "connections": self.job.connections,
            "is_stream": self.job.is_stream,
            "duration_s": round(took_s, 3),
            "ok": tally.ok,
            "rate_per_s": round(tally.ok / took_s, 1),
            "statuses": {str(status): count for status, count in tally.statuses.items()},
            "errors": dict(tally.errors),
            "first_error": tally.first_error,
            "latency_ms": percentiles(tally.latencies),
            "calls_total": self.calls_total,
            "loader_cpu_share": round(cpu_s / took_s, 3),
        }
        if self.job.is_stream:
            report["first_byte_ms"] = percentiles(tally.first_bytes)
        return report


def percentiles(durations: Sequence[int]) -> dict[str, float]:
    """
    Return percentiles in milliseconds of durations in nanoseconds.
    """
    if not durations:
        return {}
    ordered = sorted(durations)
    last = len(ordered) - 1
    ranks = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: round(ordered[round(last * rank)] / 1e6, 3) for name, rank in ranks.items()}


class _Connection(asyncio.Protocol):
    """
    One caller that waits for each answer before the next call.
    """

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._is_stream = loader.job.is_stream
        if self._is_stream:
            self.on_body = self._on_stream_body
        # The parser looks its callbacks up here, once: a plain answer's body costs nothing.
        self._parser = httptools.HttpResponseParser(self)
        self._is_calling = False
        self._first_ns = 0
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._loader.opened()
        self._call()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._loader.closed(is_early=self._is_calling)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._loader.count_error("not_http", str(error))
            self._transport.abort()

    def _call(self) -> None:
        self._is_calling = True
        self._tail = b""
        self._first_ns = 0
        self._start_ns = time.perf_counter_ns()
        self._transport.write(self._loader.request)

    def _on_stream_body(self, body: bytes) -> None:
        if not self._first_ns:
            self._first_ns = time.perf_counter_ns()
        self._tail = (self._tail + body)[-_TAIL_BYTES:]

    def on_message_complete(self) -> None:
        self._is_calling = False
        loader = self._loader
        loader.calls_total += 1
        if loader.is_measuring:
            self._count(time.perf_counter_ns())
        if loader.is_stopping or not self._parser.should_keep_alive():
            self._transport.close()
            return
        self._call()

    def _count(self, now_ns: int) -> None:
        tally = self._loader.tally
        status = self._parser.get_status_code()
        tally.statuses[status] += 1
        if status != _STATUS_OK:
            return
        if self._is_stream:
            if _DONE not in self._tail:
                tally.errors["no_done"] += 1
                return
            tally.first_bytes.append(self._first_ns - self._start_ns)
        tally.ok += 1
        tally.latencies.append(now_ns - self._start_ns)


def chat_body(model: str, *, is_stream: bool, max_tokens: int) -> bytes:
    """
    Return the request of the benchmarks: one short question.
    """
    request: dict[str, object] = {
        "model": model,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "Say in thirty-two words what a waterworks does."},
        ],
        "max_tokens": max_tokens,
    }
    if is_stream:
        request |= {"stream": True, "stream_options": {"include_usage": True}}
    return msgspec.json.encode(request)


def _job_from(arguments: argparse.Namespace) -> Job:
    body = chat_body(arguments.model, is_stream=arguments.stream, max_tokens=arguments.max_tokens)
    key = os.environ.get(arguments.key_env)
    return Job(
        url=arguments.url.rstrip("/"),
        body=Path(arguments.body).read_bytes() if arguments.body else body,
        connections=arguments.connections,
        duration_s=arguments.duration,
        warm_up_s=arguments.warm_up,
        is_stream=arguments.stream,
        authorization=f"Bearer {key}" if key else None,
        headers=tuple(arguments.header),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run one job and print its figures as JSON; 1 when nothing was answered.
    """
    parser = argparse.ArgumentParser(description="Closed-loop load on a chat endpoint.")
    parser.add_argument("--url", required=True, help="base URL with /v1")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--duration", type=float, default=5.0, help="seconds measured")
    parser.add_argument("--warm-up", type=float, default=1.0, help="seconds before")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--model", default="stub-model")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--body", help="file with another request")
    parser.add_argument("--header", action="append", default=[], help="'name: value'")
    parser.add_argument(
        "--key-env", default="BENCHMARK_KEY", help="variable that holds the bearer key"
    )
    job = _job_from(parser.parse_args(argv))
    report = uvloop.run(Loader(job).run())
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
