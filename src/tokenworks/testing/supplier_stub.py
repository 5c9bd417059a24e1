"""
A SIMULATED OpenAI-compatible supplier: for tests, in process or on its own, and as the
upstream of the benchmarks.

::

    async with SupplierStub(Behaviour(status=429, retry_after_s=2)) as stub:
        ...  # point a client at stub.base_url, look at stub.requests and stub.stats()

    python -m tokenworks.testing.supplier_stub --port 0 --script script.json

In a process of its own it prints ``{"port": …, "base_url": …, "pid": …}`` on one line
and is steered over HTTP: ``GET /stub/requests``, ``GET /stub/stats``,
``POST /stub/behaviour`` ``{"behaviour": {…}, "model": null, "times": null}``,
``POST /stub/release``, ``POST /stub/reset``.

Invariants: answers of one connection leave in the order of its requests; a gated call
never answers before the gate opens; each call counts once in ``stats``.
Known limits: HTTP/1.1 only, no TLS; requests are kept for looking at, the last
``recorded_max`` of them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import msgspec

from tokenworks.foundation.clock import Clock, SystemClock
from tokenworks.foundation.errors import InvalidError
from tokenworks.testing.supplier_answer import (
    call_of,
    error_body,
    models_body,
    parse_chat_request,
)
from tokenworks.testing.supplier_behaviour import Behaviour, behaviour_from_json
from tokenworks.testing.supplier_connection import Connection, RecordedRequest
from tokenworks.testing.supplier_delivery import (
    Counts,
    Delivery,
    Gate,
    plain_head,
    send_plain,
    send_status,
)

__all__ = ["Behaviour", "RecordedRequest", "SupplierStub", "main"]

RECORDED_REQUESTS_DEFAULT: Final = 256
BACKLOG_CONNECTIONS: Final = 2_048


@dataclass(frozen=True, slots=True)
class _Rule:
    """
    A behaviour with how often it still applies (``None``: for ever).
    """

    behaviour: Behaviour
    is_immediate: bool
    times: int | None = None


def _rule(behaviour: Behaviour, times: int | None = None) -> _Rule:
    return _Rule(behaviour, behaviour.is_immediate, times)


class SupplierStub:
    """
    A supplier that does as told.

    Args:
        behaviour: What it does with every call that has no behaviour of its own.
        models: The names that ``/v1/models`` lists; any model is answered.
        by_model: Behaviours of single models.
        api_key: When given, any other bearer token gets 401.
        port: 0 picks a free one.
        recorded_max: How many requests are kept.
        clock: Gives the ``created`` time of answers.
    """

    def __init__(
        self,
        behaviour: Behaviour | None = None,
        *,
        models: Sequence[str] = ("stub-model",),
        by_model: Mapping[str, Behaviour] | None = None,
        api_key: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        recorded_max: int = RECORDED_REQUESTS_DEFAULT,
        clock: Clock | None = None,
    ) -> None:
        self.models = tuple(models)
        self.requests: deque[RecordedRequest] = deque(maxlen=recorded_max)
        self.port = port
        self.host = host
        self._first = _rule(behaviour or Behaviour())
        self._by_model_first = {name: _rule(b) for name, b in (by_model or {}).items()}
        self._default = deque([self._first])
        self._by_model = {name: deque([r]) for name, r in self._by_model_first.items()}
        self._authorization = None if api_key is None else f"Bearer {api_key}".encode()
        self._clock = clock or SystemClock()
        self._run = os.urandom(6).hex()
        self._sequence = 0
        self._counts = Counts()
        self._connections: set[Connection] = set()
        self._connections_total = 0
        self._all_closed = asyncio.Event()
        self._all_closed.set()
        self._gate = Gate()
        self._server: asyncio.Server | None = None

    # Life

    async def __aenter__(self) -> Self:
        await self.accept_connections()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse_connections()

    @property
    def url(self) -> str:
        """
        The address without a path.
        """
        return f"http://{self.host}:{self.port}"

    @property
    def base_url(self) -> str:
        """
        The address an OpenAI client takes.
        """
        return f"{self.url}/v1"

    @property
    def waiting(self) -> int:
        """
        How many calls wait at the gate.
        """
        return self._gate.waiting

    async def accept_connections(self) -> None:
        """
        Listen; after ``refuse_connections`` again on the same port.
        """
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self),
            self.host,
            self.port,
            backlog=BACKLOG_CONNECTIONS,
            reuse_address=True,
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse_connections(self) -> None:
        """
        Stop listening and drop every connection: new ones are refused by the system.
        """
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self._connections):
            connection.abort()
        # The transports report their end in the loop's next turns.
        await self._all_closed.wait()

    # Steering

    def set_behaviour(
        self, behaviour: Behaviour, *, model: str | None = None, times: int | None = None
    ) -> None:
        """
        Behave so from now on.

        Args:
            behaviour: What to do; waits for a new release when it has a gate.
            model: For calls of this model only; ``None``: for all without their own.
            times: For so many calls, then as before; several such settings queue up.
        """
        if behaviour.gate or behaviour.gate_after_chunks is not None:
            self._gate.shut()
        rules = self._default
        if model is not None:
            rules = self._by_model.setdefault(model, deque())
        if times is None:
            rules.clear()
            rules.append(_rule(behaviour))
            return
        assert times > 0, "a behaviour that never applies is a mistake"
        if not rules:
            rules.append(self._default[-1])
        rules.insert(len(rules) - 1, _rule(behaviour, times))

    def release(self) -> None:
        """
        Open the gate: let waiting and later calls answer.
        """
        self._gate.open()

    async def wait_until_waiting(self, count: int, *, timeout_s: float = 30.0) -> None:
        """
        Return once at least ``count`` calls wait at the gate.

        Raises:
            TimeoutError: They did not come in time.
        """
        async with asyncio.timeout(timeout_s):
            await self._gate.wait_until_waiting(count)

    def reset(self) -> None:
        """
        Forget requests and counts, behave as at the start, close the gate.
        """
        self.requests.clear()
        self._counts = Counts()
        self._default = deque([self._first])
        self._by_model = {name: deque([r]) for name, r in self._by_model_first.items()}
        self._gate.shut()

    def stats(self) -> dict[str, object]:
        """
        Return the counters; tokens are those truly used by calls answered whole.
        """
        counts = self._counts
        return {
            "requests": counts.requests,
            "calls": counts.calls,
            "streams": counts.streams,
            "answered": counts.answered,
            "aborted": counts.aborted,
            "statuses": {str(status): times for status, times in counts.statuses.items()},
            "prompt_tokens": counts.prompt_tokens,
            "completion_tokens": counts.completion_tokens,
            "waiting": self.waiting,
            "connections": len(self._connections),
            "connections_total": self._connections_total,
        }

    # What the connections ask and tell

    def opened(self, connection: Connection) -> None:
        """
        Count a connection in.
        """
        self._connections.add(connection)
        self._all_closed.clear()
        self._connections_total += 1

    def closed(self, connection: Connection) -> None:
        """
        Count a connection out.
        """
        self._connections.discard(connection)
        if not self._connections:
            self._all_closed.set()

    def answer(self, connection: Connection, request: RecordedRequest) -> None:
        """
        Answer one request, at once or by a task of the connection.
        """
        path = request.path.partition("?")[0]
        if path.startswith("/stub/"):
            self._steer(connection, request, path)
            return
        self._counts.requests += 1
        self.requests.append(request)
        if path == "/v1/chat/completions" and request.method == "POST":
            self._answer_chat(connection, request)
        elif path == "/v1/models" and request.method == "GET":
            self._answer_models(connection, request)
        else:
            send_plain(connection, 404, error_body("unknown_url", 404), self._counts)

    def _answer_chat(self, connection: Connection, request: RecordedRequest) -> None:
        if not self._is_authorised(request):
            send_plain(connection, 401, error_body("invalid_api_key", 401), self._counts)
            return
        try:
            chat = parse_chat_request(request.body)
        except msgspec.DecodeError:
            send_plain(connection, 400, error_body("invalid_json", 400), self._counts)
            return
        self._counts.calls += 1
        self._counts.streams += bool(chat.stream)
        rule = self._rule_of(chat.model)
        self._sequence += 1
        call = call_of(
            chat,
            body=request.body,
            behaviour=rule.behaviour,
            number=f"{self._run}{self._sequence:08x}",
            created_s=int(self._clock.now().timestamp()),
        )
        delivery = Delivery(connection, call, counts=self._counts, gate=self._gate)
        if rule.is_immediate:
            delivery.send_now()
        else:
            connection.start(delivery.run())

    def _answer_models(self, connection: Connection, request: RecordedRequest) -> None:
        behaviour = self._default[0].behaviour
        if not self._is_authorised(request):
            send_plain(connection, 401, error_body("invalid_api_key", 401), self._counts)
        elif behaviour.status != 200:
            send_status(connection, behaviour, self._counts)
        else:
            created_s = int(self._clock.now().timestamp())
            send_plain(connection, 200, models_body(self.models, created_s), self._counts)

    def _is_authorised(self, request: RecordedRequest) -> bool:
        if self._authorization is None:
            return True
        given = request.header("authorization")
        return given is not None and given.encode("latin-1") == self._authorization

    def _rule_of(self, model: str) -> _Rule:
        rules = self._by_model.get(model, self._default) if self._by_model else self._default
        rule = rules[0]
        if rule.times is not None:
            rules.popleft()
            if rule.times > 1:
                rules.appendleft(_rule(rule.behaviour, rule.times - 1))
        return rule

    # Steering over HTTP

    def _steer(self, connection: Connection, request: RecordedRequest, path: str) -> None:
        actions: dict[tuple[str, str], Callable[[RecordedRequest], object]] = {
            ("GET", "/stub/requests"): lambda _: [_to_json(r) for r in self.requests],
            ("GET", "/stub/stats"): lambda _: self.stats(),
            ("POST", "/stub/behaviour"): self._set_from_json,
            ("POST", "/stub/release"): lambda _: self.release(),
            ("POST", "/stub/reset"): lambda _: self.reset(),
        }
        action = actions.get((request.method, path))
        if action is None:
            status, body = 404, error_body("unknown_url", 404)
        else:
            try:
                status, body = 200, msgspec.json.encode(action(request))
            except (InvalidError, msgspec.DecodeError) as error:
                status, body = 400, error_body(str(error), 400)
        connection.write(plain_head(status, body) + body)

    def _set_from_json(self, request: RecordedRequest) -> object:
        order = msgspec.json.decode(request.body, type=_Order)
        behaviour = behaviour_from_json(order.behaviour)
        self.set_behaviour(behaviour, model=order.model, times=order.times)
        return None


class _Order(msgspec.Struct, forbid_unknown_fields=True):
    """
    The body of ``POST /stub/behaviour``.
    """

    behaviour: dict[str, object]
    model: str | None = None
    times: int | None = None


def _to_json(request: RecordedRequest) -> dict[str, object]:
    return {
        "method": request.method,
        "path": request.path,
        "headers": [[k.decode("latin-1"), v.decode("latin-1")] for k, v in request.headers],
        "body": request.body.decode("utf-8", "replace"),
    }


# A process of its own


class _Script(msgspec.Struct, forbid_unknown_fields=True):
    """
    The file given with ``--script``.
    """

    behaviour: dict[str, object] = msgspec.field(default_factory=dict[str, object])
    by_model: dict[str, dict[str, object]] = msgspec.field(
        default_factory=dict[str, dict[str, object]]
    )
    models: tuple[str, ...] = ("stub-model",)
    api_key: str | None = None


def _stub_from(arguments: argparse.Namespace) -> SupplierStub:
    text = Path(arguments.script).read_bytes() if arguments.script else b"{}"
    script = msgspec.json.decode(text, type=_Script)
    return SupplierStub(
        behaviour_from_json(script.behaviour),
        models=script.models,
        by_model={name: behaviour_from_json(b) for name, b in script.by_model.items()},
        api_key=script.api_key,
        host=arguments.host,
        port=arguments.port,
        recorded_max=arguments.recorded_max,
    )


async def _serve(arguments: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with _stub_from(arguments) as stub:
        ready = {"port": stub.port, "base_url": stub.base_url, "pid": os.getpid()}
        sys.stdout.write(msgspec.json.encode(ready).decode() + "\n")
        sys.stdout.flush()
        await stopped.wait()


def main(argv: Sequence[str] | None = None) -> int:
    """
    Serve until SIGINT or SIGTERM.
    """
    parser = argparse.ArgumentParser(description="A SIMULATED OpenAI-compatible supplier.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    parser.add_argument("--script", help="JSON: behaviour, by_model, models, api_key")
    parser.add_argument("--recorded-max", type=int, default=RECORDED_REQUESTS_DEFAULT)
    arguments = parser.parse_args(argv)
    with contextlib.suppress(KeyboardInterrupt):
        _run(_serve(arguments))
    return 0


def _run(serving: Coroutine[object, object, None]) -> None:
    try:
        import uvloop  # noqa: PLC0415 - optional: it does not exist on every platform
    except ImportError:
        asyncio.run(serving)
    else:
        uvloop.run(serving)


if __name__ == "__main__":
    sys.exit(main())
