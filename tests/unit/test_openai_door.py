"""
The OpenAI door without a hub behind it: bodies, limits, addresses, bugs.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from tokenworks.foundation.errors import InvalidError, SupplierFaultError, TooLargeError
from tokenworks.foundation.limits import REQUEST_BODY_BYTES_MAX
from tokenworks.web.asgi import read_body
from tokenworks.web.metrics import HubMetrics
from tokenworks.web.openai_api.app import OpenAiApi
from tokenworks.web.relaying import to_error_event
from tokenworks.web.switch import Switch

Messages = list[dict[str, Any]]


def receiving(*messages: dict[str, Any]) -> Callable[[], Any]:
    """
    Return an ASGI ``receive`` that gives these messages and then waits for ever.
    """
    rest = list(messages)

    async def receive() -> dict[str, Any]:
        if rest:
            return rest.pop(0)
        await asyncio.Event().wait()
        raise AssertionError("never")

    return receive


def part(body: bytes, *, more: bool = False) -> dict[str, Any]:
    """
    Return one piece of a request's body.
    """
    return {"type": "http.request", "body": body, "more_body": more}


def scope(
    path: str = "/v1/chat/completions",
    *,
    method: str = "POST",
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> dict[str, Any]:
    """
    Return an ASGI scope.
    """
    return {
        "type": "http",
        "path": path,
        "method": method,
        "headers": list(headers),
        "client": ("203.0.113.9", 1),
    }


# ---------------------------------------------------------------------- bodies


@pytest.mark.parametrize(
    ("pieces", "body"),
    [
        ([part(b"whole")], b"whole"),
        ([part(b"")], b""),
        ([part(b"in ", more=True), part(b"two", more=True), part(b"")], b"in two"),
    ],
)
async def test_a_body_is_read_whole(pieces: Messages, body: bytes) -> None:
    """
    However a server hands it over.
    """
    assert await read_body(scope(), receiving(*pieces)) == body


async def test_the_largest_body_is_read() -> None:
    """
    The limit itself is allowed, in one piece and in several.
    """
    body = b"x" * REQUEST_BODY_BYTES_MAX
    assert len(await read_body(scope(), receiving(part(body)))) == REQUEST_BODY_BYTES_MAX
    halves = (part(body[:7], more=True), part(body[7:]))
    assert len(await read_body(scope(), receiving(*halves))) == REQUEST_BODY_BYTES_MAX


@pytest.mark.parametrize("how", ["announced", "whole", "pieces"])
async def test_a_body_over_the_limit_is_refused(how: str) -> None:
    """
    By its announced length without reading it, else as soon as it is too long.
    """
    too_long = b"x" * (REQUEST_BODY_BYTES_MAX + 1)
    length = (b"content-length", str(len(too_long)).encode())
    cases: dict[str, tuple[dict[str, Any], Callable[[], Any]]] = {
        "announced": (scope(headers=[length]), receiving()),
        "whole": (scope(), receiving(part(too_long))),
        "pieces": (scope(), receiving(part(too_long[:-1], more=True), part(b"xx", more=True))),
    }
    asked, receive = cases[how]

    with pytest.raises(TooLargeError):
        await read_body(asked, receive)


async def test_a_client_that_leaves_while_it_sends_is_not_waited_for() -> None:
    """
    Half a body is no request.
    """
    gone = {"type": "http.disconnect"}
    for pieces in ([gone], [part(b"{", more=True), gone]):
        with pytest.raises(InvalidError) as caught:
            await read_body(scope(), receiving(*pieces))
        assert caught.value.code == "client_left"


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    """
    A slow sender gets so long and no longer, from its first piece on.
    """
    with pytest.raises(InvalidError) as caught:
        await read_body(scope(), receiving(part(b"{", more=True)), timeout_s=0.01)

    assert caught.value.code == "body_timeout"


async def test_a_body_that_never_begins_is_not_waited_for() -> None:
    """
    Headers alone hold a connection no longer than a slow body does.
    """
    with pytest.raises(InvalidError) as caught:
        async with asyncio.timeout(30):
            await read_body(scope(), receiving(), timeout_s=0.01)

    assert caught.value.code == "body_timeout"


# ---------------------------------------------------------------------- answers


def test_an_error_event_is_one_event_in_openais_shape() -> None:
    """
    A client library raises on it as on an error body.
    """
    event = to_error_event(SupplierFaultError("It broke\noff.", code="supplier_cut_answer"))

    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    assert event.count(b"\n") == 2
    assert json.loads(event.removeprefix(b"data: "))["error"]["code"] == "supplier_cut_answer"


class BrokenIdentity:
    """
    Raises what no one expects.
    """

    async def authenticate(self, *_: object, **__: object) -> object:
        """
        Fail as a bug would.
        """
        message = "a bug with a password in its message: hunter2"
        raise ZeroDivisionError(message)


def broken_door() -> OpenAiApi:
    """
    Return a door whose first step has a bug.
    """
    unused = cast("Any", None)
    return OpenAiApi(
        gateway=unused,
        streamer=unused,
        identity=cast("Any", BrokenIdentity()),
        metrics=HubMetrics(),
    )


async def answer_of(application: Any, asked: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:  # noqa: ANN401 - as ASGI has it
    """
    Return status, headers and body of an application's answer.
    """
    sent: Messages = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await application(asked, receiving(part(b"{}")), send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(m.get("body", b"") for m in sent[1:])


async def test_a_bug_is_answered_without_its_words() -> None:
    """
    503, to be tried again; what went wrong stands in the log, not in the answer.
    """
    headers = [(b"authorization", b"Bearer tw_x")]

    status, sent, body = await answer_of(broken_door(), scope(headers=headers))

    assert status == 503
    assert "retry-after" in sent
    assert json.loads(body)["error"]["code"] == "internal_error"
    assert b"hunter2" not in body


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/chat/completions", 400, "method_not_allowed"),
        ("DELETE", "/v1/models", 400, "method_not_allowed"),
        ("POST", "/v1/models/tiny", 400, "method_not_allowed"),
        ("POST", "/v1/responses", 404, "unknown_url"),
        ("GET", "/v1", 404, "unknown_url"),
        ("POST", "/v1/chat/completions", 401, "invalid_api_key"),
    ],
)
async def test_addresses_are_checked_before_anything_else(
    method: str, path: str, status: int, code: str
) -> None:
    """
    Without a key nothing behind the door is asked.
    """
    answered, headers, body = await answer_of(broken_door(), scope(path, method=method))

    assert answered == status
    assert headers["content-type"] == "application/json"
    assert int(headers["content-length"]) == len(body)
    assert json.loads(body)["error"]["code"] == code


# ---------------------------------------------------------------------- the switch


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/models", (299, b"openai")),
        ("/", (299, b"openai")),
        ("/hub/v1/calls", (298, b"hub")),
        ("/x402/v1/models", (297, b"x402")),
        ("/mcp", (295, b"tools")),
        ("/x402/settle", (296, b"facilitator")),
        ("/healthz", (503, b'{"status":"ledger_unreachable"}')),
        ("/.well-known/jwks.json", (200, b'{"keys":[]}')),
    ],
)
async def test_the_switch_sends_each_path_to_its_door(
    path: str, expected: tuple[int, bytes]
) -> None:
    """
    Health and keys are its own; everything unknown goes to the OpenAI door.
    """
    status, _, body = await answer_of(switch(), scope(path, method="GET"))

    assert (status, body) == expected


async def test_metrics_are_in_prometheus_text() -> None:
    """
    Without labels that could carry a party or a key.
    """
    status, headers, body = await answer_of(switch(), scope("/metrics", method="GET"))

    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    assert b"tokenworks_refusals" in body


def switch() -> Switch:
    """
    Return a switch with doors that say who they are.
    """

    def saying(status: int, body: bytes) -> Any:  # noqa: ANN401 - as ASGI has it
        async def application(_: object, __: object, send: Any) -> None:  # noqa: ANN401 - as ASGI has it
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": body})

        return application

    async def jwks() -> dict[str, object]:
        return {"keys": []}

    return Switch(
        openai_api=saying(299, b"openai"),
        hub_api=saying(298, b"hub"),
        selling=saying(297, b"x402"),
        x402_api=saying(296, b"facilitator"),
        mcp=saying(295, b"tools"),
        metrics=HubMetrics(),
        is_healthy=lambda: False,
        jwks=jwks,
    )
