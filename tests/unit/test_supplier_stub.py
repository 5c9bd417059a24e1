"""
The stub supplier does as its behaviour says, and counts what it did.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import aiohttp
import pytest

from tokenworks.foundation.errors import InvalidError
from tokenworks.testing.supplier_behaviour import (
    Behaviour,
    Content,
    Framing,
    LineEnd,
    Malformation,
    UsageShape,
    behaviour_from_json,
    behaviour_to_json,
)
from tokenworks.testing.supplier_connection import Connection
from tokenworks.testing.supplier_process import running_supplier
from tokenworks.testing.supplier_stub import SupplierStub

Json = Any
"""What a JSON text holds; the tests index into it."""

QUESTION: dict[str, Any] = {
    "model": "stub-model",
    "messages": [{"role": "user", "content": "What is a token?"}],
}
STREAM: dict[str, Any] = {
    **QUESTION,
    "stream": True,
    "stream_options": {"include_usage": True},
}


class Client:
    """
    A plain client of one stub.
    """

    def __init__(self, session: aiohttp.ClientSession, stub: SupplierStub) -> None:
        self.session = session
        self.stub = stub

    def post(
        self, request: dict[str, Any], path: str = "/v1/chat/completions"
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """
        Send a request as JSON.
        """
        return self.session.post(self.stub.url + path, json=request)

    async def ask(self, request: dict[str, Any] = QUESTION) -> tuple[int, Json]:
        """
        Return status and parsed body.
        """
        async with self.post(request) as answer:
            return answer.status, json.loads(await answer.read())

    async def read(self, request: dict[str, Any]) -> bytes:
        """
        Return the whole body.
        """
        async with self.post(request) as answer:
            return await answer.read()

    async def events(self, request: dict[str, Any] = STREAM) -> list[str]:
        """
        Return the data of each event of a stream.
        """
        return parse_events(await self.read(request))

    async def read_until_lost(self, *, timeout_s: float = 5.0) -> tuple[bytes, Exception | None]:
        """
        Return what came of a stream and the error that ended it.
        """
        seen = b""
        try:
            async with asyncio.timeout(timeout_s), self.post(STREAM) as answer:
                async for piece in answer.content.iter_any():
                    seen += piece
        except (TimeoutError, aiohttp.ClientError) as error:
            return seen, error
        return seen, None


@asynccontextmanager
async def client_of(
    behaviour: Behaviour | None = None,
    *,
    models: Sequence[str] = ("stub-model",),
    by_model: Mapping[str, Behaviour] | None = None,
    api_key: str | None = None,
) -> AsyncGenerator[Client]:
    """
    Give a client of a stub that lives as long as the block.
    """
    stub = SupplierStub(behaviour, models=models, by_model=by_model, api_key=api_key)
    async with stub, aiohttp.ClientSession() as session:
        yield Client(session, stub)


def parse_events(body: bytes) -> list[str]:
    """
    Read an event stream as WHATWG HTML §9.2.6 says, without its last, unfinished event.
    """
    text = body.decode().replace("\r\n", "\n").replace("\r", "\n")
    events: list[str] = []
    data: list[str] = []
    for line in text.split("\n"):
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif line == "" and data:
            events.append("\n".join(data))
            data = []
    return events


def contents(events: list[str], index: int = 0) -> str:
    """
    Return the text of one choice of a stream.
    """
    choices = [c for e in events if e != "[DONE]" for c in json.loads(e).get("choices", [])]
    return "".join(c["delta"].get("content") or "" for c in choices if c["index"] == index)


def usages(events: list[str]) -> list[Json]:
    """
    Return every usage in a stream.
    """
    chunks = [json.loads(event) for event in events if event != "[DONE]"]
    return [chunk["usage"] for chunk in chunks if chunk.get("usage")]


# A healthy supplier


async def test_plain_answer_has_words_usage_and_its_own_id() -> None:
    """
    Two calls never share an id, and usage adds up.
    """
    async with client_of() as client:
        first_status, first = await client.ask()
        _, second = await client.ask()
    assert first_status == 200
    assert first["id"] != second["id"]
    assert first["choices"][0]["message"]["content"].split()[:2] == ["w0", "w1"]
    assert first["choices"][0]["finish_reason"] == "stop"
    usage = first["usage"]
    assert usage["completion_tokens"] == 32
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]
    assert first["system_fingerprint"] == "simulation"


async def test_prompt_tokens_depend_on_the_messages_only() -> None:
    """
    A hub that renames the model or adds options does not change the count.
    """
    async with client_of() as client:
        _, plain = await client.ask()
        _, renamed = await client.ask({**QUESTION, "model": "other", "seed": 3})
        longer = [{"role": "user", "content": "What is a token? " * 10}]
        _, long = await client.ask({**QUESTION, "messages": longer})
    assert plain["usage"]["prompt_tokens"] == renamed["usage"]["prompt_tokens"]
    assert long["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"]


async def test_stream_says_what_the_plain_answer_says() -> None:
    """
    32 chunks of content, a finish chunk, usage when asked for, then [DONE].
    """
    async with client_of() as client:
        _, plain = await client.ask()
        events = await client.events()
        without_usage = await client.events({**QUESTION, "stream": True})
    assert contents(events) == plain["choices"][0]["message"]["content"]
    assert events[-1] == "[DONE]"
    assert len(events) == 32 + 3
    assert json.loads(events[-3])["choices"][0]["finish_reason"] == "stop"
    assert usages(events) == [plain["usage"]]
    assert usages(without_usage) == []
    assert without_usage[-1] == "[DONE]"


@pytest.mark.parametrize("member", ["max_tokens", "max_completion_tokens"])
async def test_fewer_tokens_end_with_length(member: str) -> None:
    """
    The token limit of the request cuts the answer.
    """
    async with client_of() as client:
        _, plain = await client.ask({**QUESTION, member: 5})
        events = await client.events({**STREAM, member: 5})
    assert plain["usage"]["completion_tokens"] == 5
    assert plain["choices"][0]["finish_reason"] == "length"
    assert contents(events) == "w0 w1 w2 w3 w4"


async def test_n_choices_multiply_the_completion_tokens() -> None:
    """
    ``n`` gives so many choices, each with its index, in plain answers and streams.
    """
    async with client_of() as client:
        _, plain = await client.ask({**QUESTION, "n": 3})
        events = await client.events({**STREAM, "n": 3})
    assert [choice["index"] for choice in plain["choices"]] == [0, 1, 2]
    assert plain["usage"]["completion_tokens"] == 96
    assert [contents(events, index) == contents(events) for index in range(3)] == [True] * 3
    assert usages(events) == [plain["usage"]]


async def test_models_are_listed() -> None:
    """
    ``/v1/models`` gives the names the stub was made with.
    """
    async with (
        client_of(models=("one", "two")) as client,
        client.session.get(client.stub.base_url + "/models") as answer,
    ):
        listed = await answer.json()
    assert [row["id"] for row in listed["data"]] == ["one", "two"]


async def test_wrong_key_bad_body_and_unknown_path_are_refused() -> None:
    """
    401 for another key, 400 for a body that is not JSON, 404 for anything else.
    """
    async with client_of(api_key="sk-right") as client:
        wrong, _ = await client.ask()
        client.session.headers["authorization"] = "Bearer sk-right"
        right, _ = await client.ask()
        url = client.stub.base_url + "/chat/completions"
        async with client.session.post(url, data=b"{") as answer:
            bad_body = answer.status
        async with client.session.get(client.stub.base_url + "/none") as answer:
            unknown = answer.status
    assert (wrong, right, bad_body, unknown) == (401, 200, 400, 404)


async def test_requests_are_recorded_byte_for_byte() -> None:
    """
    A test can look at what arrived, headers included.
    """
    body = b'{"model":"m","messages":[],"x_unknown":  1.50}'
    async with client_of() as client:
        url = client.stub.base_url + "/chat/completions"
        headers = {"Authorization": "Bearer sk-1"}
        async with client.session.post(url, data=body, headers=headers) as answer:
            assert answer.status == 200
        (request,) = client.stub.requests
    assert request.body == body
    assert request.header("authorization") == "Bearer sk-1"
    assert request.path == "/v1/chat/completions"
    assert request.json() == {"model": "m", "messages": [], "x_unknown": 1.5}


# What answers contain


async def test_forced_tool_and_json_mode_shape_the_answer() -> None:
    """
    A required tool gets a tool call, a JSON format gets JSON; plain and streamed.
    """
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    with_tool = {"tools": tools, "tool_choice": "required"}
    as_json = {"response_format": {"type": "json_object"}}
    async with client_of() as client:
        _, tool = await client.ask({**QUESTION, **with_tool})
        tool_events = await client.events({**STREAM, **with_tool})
        _, optional = await client.ask({**QUESTION, "tools": tools, "tool_choice": "auto"})
        _, jsonish = await client.ask({**QUESTION, **as_json})
        json_events = await client.events({**STREAM, **as_json})
    call = tool["choices"][0]["message"]["tool_calls"][0]
    assert call["function"] == {"name": "weather", "arguments": '{"city":"Oslo"}'}
    assert tool["choices"][0]["finish_reason"] == "tool_calls"
    deltas = [json.loads(event)["choices"][0]["delta"] for event in tool_events[:3]]
    parts = [delta["tool_calls"][0]["function"].get("arguments", "") for delta in deltas]
    assert "".join(parts) == '{"city":"Oslo"}'
    assert "tool_calls" not in optional["choices"][0]["message"]
    assert json.loads(jsonish["choices"][0]["message"]["content"])["answer"]
    assert contents(json_events) == jsonish["choices"][0]["message"]["content"]


async def test_logprobs_reasoning_echo_and_unknown_fields() -> None:
    """
    The rarer members of an answer appear when asked for.
    """
    async with client_of() as client:
        _, logs = await client.ask({**QUESTION, "logprobs": True, "max_tokens": 2})
        log_events = await client.events({**STREAM, "logprobs": True})
        client.stub.set_behaviour(Behaviour(content=Content.REASONING))
        _, reasoned = await client.ask()
        reasoned_events = await client.events()
        client.stub.set_behaviour(Behaviour(content=Content.ECHO))
        _, echo = await client.ask()
        client.stub.set_behaviour(Behaviour(unknown_fields=True))
        _, unknown = await client.ask()
        unknown_events = await client.events()
    assert [t["token"] for t in logs["choices"][0]["logprobs"]["content"]] == ["w0", " w1"]
    assert json.loads(log_events[0])["choices"][0]["logprobs"]["content"]
    assert reasoned["choices"][0]["message"]["reasoning_content"].startswith("w0")
    assert json.loads(reasoned_events[0])["choices"][0]["delta"]["reasoning_content"] == "w0"
    assert json.loads(echo["choices"][0]["message"]["content"]) == QUESTION
    assert unknown["x_unknown"]["nested"] == [1, 2.5, None, "ß漢"]
    assert "x_unknown" in json.loads(unknown_events[0])


async def test_empty_answer_has_no_content_and_a_blank_finish() -> None:
    """
    The empty answer of flaky suppliers: status 200, nothing said.
    """
    async with client_of(Behaviour(content=Content.EMPTY)) as client:
        _, plain = await client.ask()
        events = await client.events()
    assert plain["choices"][0]["message"]["content"] == ""
    assert plain["choices"][0]["finish_reason"] == ""
    assert plain["usage"]["completion_tokens"] == 0
    assert contents(events) == ""


# Usage


USAGE_CASES: list[tuple[UsageShape, Callable[[Json], bool]]] = [
    (UsageShape.NEGATIVE, lambda usage: usage["completion_tokens"] < 0),
    (UsageShape.ABSURD, lambda usage: usage["prompt_tokens"] > 10**9),
    (UsageShape.NON_INTEGER, lambda usage: isinstance(usage["prompt_tokens"], float)),
    (UsageShape.NOT_NUMBERS, lambda usage: usage["completion_tokens"] == "many"),
    (UsageShape.UNKNOWN_AXIS, lambda usage: "hologram_tokens" in str(usage)),
    (UsageShape.CEILING, lambda usage: usage["completion_tokens"] == 2 * 500),
    (UsageShape.ONE_CHOICE, lambda usage: usage["completion_tokens"] == 32),
]


@pytest.mark.parametrize(("shape", "is_as_said"), USAGE_CASES)
async def test_usage_has_the_shape_asked_for(
    shape: UsageShape, is_as_said: Callable[[Json], bool]
) -> None:
    """
    A false usage is the same in plain answers and in streams.
    """
    more = {"n": 2, "max_tokens": 500}
    async with client_of(Behaviour(usage=shape, prompt_tokens=11)) as client:
        _, plain = await client.ask({**QUESTION, **more})
        events = await client.events({**STREAM, **more})
    assert is_as_said(plain["usage"])
    assert usages(events) == [plain["usage"]]


async def test_usage_may_be_missing_or_null() -> None:
    """
    Suppliers that meter nothing leave the member out or say null.
    """
    async with client_of(Behaviour(usage=UsageShape.MISSING)) as client:
        _, missing = await client.ask()
        events = await client.events()
        client.stub.set_behaviour(Behaviour(usage=UsageShape.NULL))
        _, null = await client.ask()
    assert "usage" not in missing
    assert usages(events) == []
    assert null["usage"] is None


async def test_usage_details_name_cached_and_reasoning_tokens() -> None:
    """
    The itemised variant says how many prompt tokens were cached.
    """
    behaviour = Behaviour(prompt_tokens=100, cached_tokens=64, reasoning_tokens=8)
    async with client_of(behaviour) as client:
        _, plain = await client.ask()
    assert plain["usage"]["prompt_tokens"] == 100
    assert plain["usage"]["prompt_tokens_details"]["cached_tokens"] == 64
    assert plain["usage"]["completion_tokens_details"]["reasoning_tokens"] == 8


async def test_usage_of_a_stream_may_come_in_several_places() -> None:
    """
    On every chunk, on the finish chunk, split in two, or unasked.
    """
    async with client_of(Behaviour(usage=UsageShape.SEVERAL_CHUNKS)) as client:
        several = usages(await client.events())
        client.stub.set_behaviour(Behaviour(usage=UsageShape.SPLIT_CHUNKS))
        split = usages(await client.events())
        client.stub.set_behaviour(Behaviour(usage=UsageShape.ON_FINISH_CHUNK))
        finish_events = await client.events()
        client.stub.set_behaviour(Behaviour(usage=UsageShape.ALWAYS))
        unasked = usages(await client.events({**QUESTION, "stream": True}))
    assert len(several) == 32 + 2
    assert sum(usage["completion_tokens"] for usage in split) == 32
    assert len(split) == 2
    assert json.loads(finish_events[-2])["choices"][0]["finish_reason"] == "stop"
    assert len(usages(finish_events)) == 1
    assert len(unasked) == 1


# Faults before the body


@pytest.mark.parametrize("status", [401, 429, 500, 503])
async def test_status_comes_with_an_error_body(status: int) -> None:
    """
    A failing supplier answers in OpenAI's error shape, with retry-after when told to.
    """
    async with client_of(Behaviour(status=status, retry_after_s=7)) as client:
        async with client.post(STREAM) as answer:
            body = await answer.json()
            retry_after = answer.headers["retry-after"]
        assert client.stub.stats()["statuses"] == {str(status): 1}
    assert answer.status == status
    assert body["error"]["code"] == f"status_{status}"
    assert retry_after == "7"


@pytest.mark.parametrize(
    "behaviour", [Behaviour(close_before_headers=True), Behaviour(reset_before_headers=True)]
)
async def test_connection_ends_before_the_headers(behaviour: Behaviour) -> None:
    """
    The client sees a lost connection, the stub counts an aborted call.
    """
    async with client_of(behaviour) as client:
        with pytest.raises(aiohttp.ClientError):
            await client.ask()
        assert client.stub.stats()["aborted"] == 1
        assert client.stub.stats()["answered"] == 0


async def test_connections_can_be_refused_and_accepted_again() -> None:
    """
    The port refuses while the supplier is down, and is the same afterwards.
    """
    async with client_of() as client:
        port = client.stub.port
        await client.stub.refuse_connections()
        with pytest.raises(aiohttp.ClientConnectorError):
            await client.ask()
        await client.stub.accept_connections()
        status, _ = await client.ask()
        assert client.stub.port == port
    assert status == 200


async def test_slow_first_byte_and_paced_chunks_take_their_time() -> None:
    """
    The delays are lower bounds.
    """
    behaviour = Behaviour(first_byte_delay_ms=30, chunk_pace_ms=5, completion_tokens=4)
    async with client_of(behaviour) as client:
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        async with client.post(STREAM) as answer:
            headers_s = loop.time() - start_s
            await answer.read()
        took_s = loop.time() - start_s
    assert headers_s >= 0.029
    assert took_s >= headers_s + 0.029


async def test_hanging_call_ends_when_the_client_gives_up() -> None:
    """
    A call that is never answered is cleaned up and counted.
    """
    async with client_of(Behaviour(hang=True)) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.ask()
        await client.stub.refuse_connections()
        assert client.stub.stats()["aborted"] == 1


# Faults of the body


async def test_bodies_may_be_wrong() -> None:
    """
    JSON of another shape, a page, or far too much.
    """
    async with client_of(Behaviour(malformation=Malformation.WRONG_JSON)) as client:
        _, wrong = await client.ask()
        wrong_events = await client.events()
        client.stub.set_behaviour(Behaviour(malformation=Malformation.NOT_JSON))
        page = await client.read(QUESTION)
        page_events = await client.events()
        huge = Behaviour(malformation=Malformation.HUGE, huge_answer_bytes=3_000_000)
        client.stub.set_behaviour(huge)
        large = await client.read(QUESTION)
        large_stream = await client.read(STREAM)
    assert "choices" not in wrong
    assert json.loads(wrong_events[0]) == wrong
    assert page.startswith(b"<html>")
    assert page_events == [page.decode()]
    assert len(large) > 2_900_000
    assert len(large_stream) > 2_900_000
    assert json.loads(large)["choices"]


async def test_stream_is_cut_after_chunks() -> None:
    """
    The connection is lost in the middle: no [DONE], no end of the body.
    """
    async with client_of(Behaviour(cut_after_chunks=3)) as client:
        seen, error = await client.read_until_lost()
        with pytest.raises(aiohttp.ClientPayloadError):
            await client.ask()
        assert client.stub.stats()["aborted"] == 2
    assert isinstance(error, aiohttp.ClientPayloadError)
    assert len(parse_events(seen)) == 3


async def test_stream_ends_early_without_done() -> None:
    """
    A body that ends properly, before its time.
    """
    async with client_of(Behaviour(end_after_chunks=3)) as client:
        events = await client.events()
    assert len(events) == 3


async def test_stream_stalls_after_chunks() -> None:
    """
    The connection stays open and says no more.
    """
    async with client_of(Behaviour(stall_after_chunks=2)) as client:
        seen, error = await client.read_until_lost(timeout_s=0.1)
    assert isinstance(error, TimeoutError)
    assert len(parse_events(seen)) == 2


async def test_error_event_comes_mid_stream() -> None:
    """
    After some chunks the supplier says error instead of going on.
    """
    async with client_of(Behaviour(error_after_chunks=2)) as client:
        events = await client.events()
    assert json.loads(events[-1])["error"]["code"] == "overloaded"
    assert len(events) == 3


# How it is written


DIALECTS = [
    Behaviour(line_end=LineEnd.CRLF),
    Behaviour(line_end=LineEnd.CR),
    Behaviour(comments=True),
    Behaviour(multi_line_data=True),
    Behaviour(is_space_omitted=True),
    Behaviour(framing=Framing.UNTIL_CLOSE),
    Behaviour(is_sent_singly=False),
    Behaviour(fragment_bytes_max=7, fragment_seed=1),
    Behaviour(fragment_bytes_max=1, completion_tokens=2),
    Behaviour(
        fragment_bytes_max=11,
        line_end=LineEnd.CRLF,
        comments=True,
        multi_line_data=True,
        framing=Framing.UNTIL_CLOSE,
    ),
]


@pytest.mark.parametrize("behaviour", DIALECTS)
async def test_dialects_of_a_stream_say_the_same(behaviour: Behaviour) -> None:
    """
    Line ends, comments, spread data and odd cuts change the bytes, not the events.
    """
    async with client_of(Behaviour(completion_tokens=behaviour.completion_tokens)) as client:
        expected = [drop_id(event) for event in await client.events()]
        client.stub.set_behaviour(behaviour)
        events = [drop_id(event) for event in await client.events()]
    assert events == expected


def drop_id(event: str) -> Json:
    """
    Return an event without what differs from call to call.
    """
    if event == "[DONE]":
        return event
    chunk = json.loads(event)
    return {name: value for name, value in chunk.items() if name not in ("id", "created")}


async def test_plain_answers_may_be_chunked_or_end_with_the_connection() -> None:
    """
    Every legal framing carries the same answer.
    """
    async with client_of(Behaviour(framing=Framing.CHUNKED)) as client:
        async with client.post(QUESTION) as answer:
            assert answer.headers["transfer-encoding"] == "chunked"
            chunked = await answer.json()
        client.stub.set_behaviour(Behaviour(framing=Framing.UNTIL_CLOSE))
        _, until_close = await client.ask()
    assert chunked["usage"] == until_close["usage"]


async def test_kept_connection_may_be_closed_unannounced() -> None:
    """
    The answer says nothing of closing, so that a pool keeps a dead connection.
    """
    async with SupplierStub(Behaviour(close_after_answer=True)) as stub:
        reader, writer = await asyncio.open_connection(stub.host, stub.port)
        writer.write(raw_request(QUESTION))
        answer = await reader.read()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"connection: close" not in answer.lower()


def raw_request(request: dict[str, Any]) -> bytes:
    """
    Return a request as bytes for a bare connection.
    """
    body = json.dumps(request).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def test_each_event_is_a_write_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A reader in between may see single events, as from a real supplier.
    """
    written: list[bytes] = []
    send = Connection._send

    def noted(connection: Connection, piece: bytes) -> int:
        written.append(piece)
        return send(connection, piece)

    monkeypatch.setattr(Connection, "_send", noted)
    async with SupplierStub(Behaviour(chunk_pace_ms=1, completion_tokens=3)) as stub:
        reader, writer = await asyncio.open_connection(stub.host, stub.port)
        writer.write(raw_request(STREAM))
        await reader.readuntil(b"[DONE]")
        writer.close()
    assert [piece.count(b"data: ") for piece in written] == [1] * len(written)
    assert len(written) >= 5


async def test_pipelined_requests_are_answered_in_order() -> None:
    """
    The second answer waits for the first, even when only the first is slow.
    """
    slow = Behaviour(first_byte_delay_ms=20)
    async with SupplierStub(by_model={"slow": slow}) as stub:
        reader, writer = await asyncio.open_connection(stub.host, stub.port)
        for model in ("slow", "quick"):
            writer.write(raw_request({**QUESTION, "model": model}))
        answers: list[Json] = []
        for _ in range(2):
            head_bytes = await reader.readuntil(b"\r\n\r\n")
            length = int(head_bytes.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            answers.append(json.loads(await reader.readexactly(length)))
        writer.close()
    assert [answer["model"] for answer in answers] == ["slow", "quick"]


# Steering


async def test_gate_holds_every_answer_until_released() -> None:
    """
    Waiting calls are counted and none answers early; afterwards all do.
    """
    async with client_of(Behaviour(gate=True)) as client:
        requests = [QUESTION, STREAM] * 4
        calls = [asyncio.create_task(client.read(request)) for request in requests]
        await client.stub.wait_until_waiting(8)
        assert client.stub.waiting == 8
        assert not any(call.done() for call in calls)
        client.stub.release()
        bodies = await asyncio.gather(*calls)
        assert client.stub.waiting == 0
    assert all(bodies)


async def test_gate_opens_by_itself_at_its_count() -> None:
    """
    With ``gate_count`` the last awaited call releases all.
    """
    async with client_of(Behaviour(gate=True, gate_count=3)) as client:
        answers = await asyncio.gather(*(client.ask() for _ in range(3)))
    assert [status for status, _ in answers] == [200, 200, 200]


async def test_gate_holds_a_stream_in_the_middle() -> None:
    """
    What comes before is there, what comes after waits for the release.
    """
    async with SupplierStub(Behaviour(gate_after_chunks=3)) as stub:
        reader, writer = await asyncio.open_connection(stub.host, stub.port)
        writer.write(raw_request(STREAM))
        await stub.wait_until_waiting(1)
        before = await reader.readuntil(b"\r\n\r\n")
        for _ in range(3):
            before += await reader.readuntil(b"\n\n\r\n")
        assert before.count(b"data: ") == 3
        assert stub.waiting == 1
        stub.release()
        assert b"data: " in await reader.readuntil(b"[DONE]")
        writer.close()


async def test_client_that_leaves_the_gate_is_not_waiting() -> None:
    """
    A call whose client hung up is counted out.
    """
    async with client_of(Behaviour(gate=True)) as client:
        call = asyncio.create_task(client.ask())
        await client.stub.wait_until_waiting(1)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await client.stub.refuse_connections()
        assert client.stub.waiting == 0
        assert client.stub.stats()["aborted"] == 1


async def test_behaviours_queue_up_and_belong_to_models() -> None:
    """
    ``times`` counts calls down; a model's own behaviour comes before the general one.
    """
    async with client_of(by_model={"broken": Behaviour(status=500)}) as client:
        stub = client.stub
        stub.set_behaviour(Behaviour(status=429), times=1)
        stub.set_behaviour(Behaviour(status=503), times=2)
        general = [(await client.ask())[0] for _ in range(5)]
        broken, _ = await client.ask({**QUESTION, "model": "broken"})
        stub.set_behaviour(Behaviour(status=502), model="odd", times=1)
        odd = [(await client.ask({**QUESTION, "model": "odd"}))[0] for _ in range(2)]
    assert general == [429, 503, 503, 200, 200]
    assert broken == 500
    assert odd == [502, 200]


async def test_stats_count_what_was_truly_used() -> None:
    """
    The counters reconcile with what the answers said.
    """
    async with client_of(Behaviour(prompt_tokens=10)) as client:
        await client.ask()
        await client.events()
        stats = client.stub.stats()
        client.stub.reset()
        after = client.stub.stats()
    assert stats["calls"] == 2
    assert stats["streams"] == 1
    assert stats["answered"] == 2
    assert (stats["prompt_tokens"], stats["completion_tokens"]) == (20, 64)
    assert after["calls"] == 0


async def test_behaviour_is_steered_over_http() -> None:
    """
    Another process sets behaviours, releases the gate and reads what came.
    """
    async with client_of() as client:
        order = {"behaviour": {"status": 503, "usage": "missing"}, "times": 1}
        async with client.post(order, "/stub/behaviour") as answer:
            assert answer.status == 200
        assert (await client.ask())[0] == 503
        async with client.session.get(client.stub.url + "/stub/requests") as answer:
            (request,) = await answer.json()
        assert json.loads(request["body"]) == QUESTION
        async with client.post({"behaviour": {"stutter": 1}}, "/stub/behaviour") as answer:
            assert answer.status == 400
        async with client.session.get(client.stub.url + "/stub/stats") as answer:
            assert (await answer.json())["calls"] == 1


def test_behaviour_travels_as_json() -> None:
    """
    Only what differs is written; a misspelt member is refused, never ignored.
    """
    behaviour = Behaviour(gate=True, usage=UsageShape.CEILING, cut_after_chunks=0)
    text = behaviour_to_json(behaviour)
    assert text == {"gate": True, "usage": "ceiling", "cut_after_chunks": 0}
    assert behaviour_from_json(text) == behaviour
    with pytest.raises(InvalidError):
        behaviour_from_json({"stutter": 1})
    with pytest.raises(InvalidError):
        behaviour_from_json({"status": "bad"})


async def test_process_of_its_own() -> None:
    """
    The stub runs as a process, prints where it listens, and stops when told to.
    """
    with running_supplier(Behaviour(gate=True, gate_count=2), api_key="sk-1") as supplier:
        headers = {"authorization": "Bearer sk-1"}
        async with aiohttp.ClientSession(headers=headers) as session:
            url = supplier.base_url + "/chat/completions"
            answers = await asyncio.gather(*(session.post(url, json=QUESTION) for _ in range(2)))
            bodies = await asyncio.gather(*(answer.json() for answer in answers))
        assert len({body["id"] for body in bodies}) == 2
        assert supplier.stats()["answered"] == 2
        assert len(supplier.requests()) == 2
        supplier.set_behaviour(Behaviour(status=500))
        supplier.release()
        supplier.reset()
        assert supplier.stats()["answered"] == 0
