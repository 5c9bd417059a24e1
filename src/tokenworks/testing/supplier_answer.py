"""
What the stub supplier answers, as bytes: pure functions of call and behaviour.

Invariants: a plain answer and a stream of the same call say the same words and the same
usage; prompt tokens depend on the bytes of ``messages`` only (one token per eight bytes),
so that a hub which passes messages through untouched gets the count a client would.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import msgspec

from tokenworks.testing.supplier_behaviour import (
    Behaviour,
    Content,
    LineEnd,
    Malformation,
    UsageShape,
)

BYTES_PER_PROMPT_TOKEN: Final = 8
FINGERPRINT: Final = "simulation"
NOT_JSON_BODY: Final = b"<html><body><h1>502 Bad Gateway</h1></body></html>"
WRONG_JSON_BODY: Final = b'{"status":"ok","result":[1,2,3]}'
HUGE_PIECE_BYTES: Final = 64 * 1024
_TOKENS_ABSURD: Final = 10**12
_DONE: Final = b"[DONE]"

_encode = msgspec.json.encode

JsonObject = dict[str, object]


class StreamOptions(msgspec.Struct):
    """
    The ``stream_options`` of a request.
    """

    include_usage: bool | None = None


class ChatRequest(msgspec.Struct):
    """
    The members of a chat request the stub looks at; all others are ignored.
    """

    model: str = ""
    messages: msgspec.Raw = msgspec.Raw(b"[]")
    stream: bool | None = None
    n: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stream_options: StreamOptions | None = None
    tools: msgspec.Raw = msgspec.Raw()
    tool_choice: msgspec.Raw = msgspec.Raw()
    response_format: msgspec.Raw = msgspec.Raw()
    logprobs: bool | None = None


class _Function(msgspec.Struct):
    name: str


class _Tool(msgspec.Struct):
    function: _Function


_decoder = msgspec.json.Decoder(ChatRequest)


def parse_chat_request(body: bytes) -> ChatRequest:
    """
    Parse a chat request.

    Raises:
        msgspec.DecodeError: Not JSON, or a member of the wrong type.
    """
    return _decoder.decode(body)


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """
    One request with everything that decides its answer.
    """

    request: ChatRequest
    body: bytes
    behaviour: Behaviour
    number: str
    """Unique text; part of the answer's id."""
    created_s: int
    """Unix seconds."""
    content: Content
    """Never ``AUTO``."""
    choices: int
    tokens: int
    """Tokens of one choice's text."""
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    """Truly used by all choices together, whatever is reported."""


def call_of(
    request: ChatRequest, *, body: bytes, behaviour: Behaviour, number: str, created_s: int
) -> Call:
    """
    Decide what a request is answered with.
    """
    content = behaviour.content
    if content is Content.AUTO:
        content = _content_demanded(request)
    asked = request.max_completion_tokens
    if asked is None:
        asked = request.max_tokens
    tokens = behaviour.completion_tokens
    finish_reason = "stop"
    if asked is not None and asked < tokens:
        tokens, finish_reason = asked, "length"
    if content is Content.EMPTY:
        tokens, finish_reason = 0, ""
    elif content is Content.TOOL_CALLS:
        finish_reason = "tool_calls"
    is_ceiling = behaviour.usage is UsageShape.CEILING and asked is not None
    choices = max(1, request.n or 1)
    prompt_tokens = behaviour.prompt_tokens
    if prompt_tokens is None:
        prompt_tokens = max(1, len(bytes(request.messages)) // BYTES_PER_PROMPT_TOKEN)
    return Call(
        request=request,
        body=body,
        behaviour=behaviour,
        number=number,
        created_s=created_s,
        content=content,
        choices=choices,
        tokens=tokens,
        finish_reason=finish_reason,
        prompt_tokens=prompt_tokens,
        completion_tokens=choices * (asked if is_ceiling and asked is not None else tokens),
    )


def _content_demanded(request: ChatRequest) -> Content:
    choice = bytes(request.tool_choice)
    if request.tools and (choice == b'"required"' or choice.startswith(b"{")):
        return Content.TOOL_CALLS
    if b'"json_' in bytes(request.response_format):
        return Content.JSON_OBJECT
    return Content.TEXT


def usage_of(call: Call) -> JsonObject | None:
    """
    Return the usage the supplier reports, truthful or not; ``None``: none.
    """
    prompt, completion = call.prompt_tokens, call.completion_tokens
    behaviour = call.behaviour
    shape = behaviour.usage
    is_detailed = behaviour.cached_tokens or behaviour.reasoning_tokens
    if shape is UsageShape.REAL and not is_detailed:
        return _usage(prompt, completion)
    match shape:
        case UsageShape.MISSING | UsageShape.NULL:
            return None
        case UsageShape.NEGATIVE:
            return _usage(prompt, -completion - 1)
        case UsageShape.ABSURD:
            return _usage(_TOKENS_ABSURD, completion)
        case UsageShape.NON_INTEGER:
            return {**_usage(prompt, completion), "prompt_tokens": prompt + 0.5}
        case UsageShape.NOT_NUMBERS:
            return {**_usage(prompt, completion), "completion_tokens": "many"}
        case UsageShape.ONE_CHOICE:
            return _usage(prompt, completion // call.choices)
        case UsageShape.UNKNOWN_AXIS:
            details = {"hologram_tokens": 7}
            return {**_usage(prompt, completion), "completion_tokens_details": details}
        case _:
            usage = _usage(prompt, completion)
    return {**usage, **_details(behaviour)} if is_detailed else usage


def _details(behaviour: Behaviour) -> JsonObject:
    return {
        "prompt_tokens_details": {"cached_tokens": behaviour.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": behaviour.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _usage(prompt: int, completion: int) -> JsonObject:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


@lru_cache(maxsize=1_024)
def words(count: int) -> tuple[str, ...]:
    """
    Return ``count`` tokens of text; together they read as one sentence of words.
    """
    return tuple(f"{'' if index == 0 else ' '}w{index}" for index in range(count))


@lru_cache(maxsize=1_024)
def _sentence(count: int) -> str:
    return "".join(words(count))


def _json_text(count: int) -> str:
    return f'{{"answer":"{_sentence(count)}"}}'


def _tool_name(request: ChatRequest) -> str:
    try:
        tools = msgspec.json.decode(request.tools, type=list[_Tool])
    except msgspec.DecodeError:
        return "unnamed"
    return tools[0].function.name if tools else "unnamed"


def _text_of(call: Call) -> str:
    match call.content:
        case Content.JSON_OBJECT:
            return _json_text(call.tokens)
        case Content.ECHO:
            return call.body.decode("utf-8", "replace")
        case Content.REASONING:
            return _sentence(call.tokens - call.tokens // 2)
        case _:
            return _sentence(call.tokens)


# Plain answers


def plain_body(call: Call) -> bytes:
    """
    Return the body of a plain answer.
    """
    behaviour = call.behaviour
    if behaviour.malformation is Malformation.WRONG_JSON:
        return WRONG_JSON_BODY
    if behaviour.malformation is Malformation.NOT_JSON:
        return NOT_JSON_BODY
    answer: JsonObject = {
        "id": "chatcmpl-" + call.number,
        "object": "chat.completion",
        "created": call.created_s,
        "model": call.request.model,
        "choices": [_plain_choice(call, index) for index in range(call.choices)],
        "system_fingerprint": FINGERPRINT,
    }
    usage = usage_of(call)
    if usage is not None or behaviour.usage is UsageShape.NULL:
        answer["usage"] = usage
    if behaviour.unknown_fields:
        answer["x_unknown"] = {"nested": [1, 2.5, None, "ß漢"]}
    return _encode(answer)


def _plain_choice(call: Call, index: int) -> JsonObject:
    content = call.content
    message: JsonObject = {"role": "assistant", "content": ""}
    if content is Content.TOOL_CALLS:
        message["content"] = None
        message["tool_calls"] = [_tool_call(call, index)]
    elif content is not Content.EMPTY:
        message["content"] = _text_of(call)
    if content is Content.REASONING:
        message["reasoning_content"] = _sentence(call.tokens // 2)
    if call.behaviour.unknown_fields:
        message["x_unknown"] = True
    choice: JsonObject = {"index": index, "message": message, "finish_reason": call.finish_reason}
    if call.request.logprobs:
        choice["logprobs"] = _logprobs(words(call.tokens))
    return choice


def _tool_call(call: Call, index: int) -> JsonObject:
    return {
        "id": f"call-{call.number}-{index}",
        "type": "function",
        "function": {"name": _tool_name(call.request), "arguments": '{"city":"Oslo"}'},
    }


def _logprobs(tokens: tuple[str, ...]) -> JsonObject:
    return {
        "content": [
            {"token": token, "logprob": -0.25, "bytes": list(token.encode()), "top_logprobs": []}
            for token in tokens
        ]
    }


# Streams


def stream_events(call: Call) -> list[bytes]:
    """
    Return the data of each event of a stream, ``[DONE]`` included when it is sent.
    """
    behaviour = call.behaviour
    if behaviour.malformation is Malformation.WRONG_JSON:
        return [WRONG_JSON_BODY, _DONE]
    if behaviour.malformation is Malformation.NOT_JSON:
        return [NOT_JSON_BODY]
    events = _chunks(call)
    if behaviour.error_after_chunks is not None:
        return [*events[: behaviour.error_after_chunks], error_body("overloaded", 503)]
    if behaviour.end_after_chunks is not None:
        return events[: behaviour.end_after_chunks]
    if behaviour.cut_after_chunks is not None:
        return events[: behaviour.cut_after_chunks]
    if behaviour.stall_after_chunks is not None:
        return events[: behaviour.stall_after_chunks]
    return events


def _chunks(call: Call) -> list[bytes]:
    head = _chunk_head(call)
    usages = _usages(call)
    tail = _content_tail(call.behaviour, usages)
    finish = b'{},"finish_reason":%b}]' % _encode(call.finish_reason)
    finish += _usage_member(usages.on_finish) + b"}"
    choices = [b'%b"choices":[{"index":%d,"delta":' % (head, i) for i in range(call.choices)]
    events = [choice + delta + tail for delta in _deltas(call) for choice in choices]
    events += [choice + finish for choice in choices]
    events += [b'%b"choices":[]%b}' % (head, _usage_member(usage)) for usage in usages.after]
    events.append(_DONE)
    return events


def _chunk_head(call: Call) -> bytes:
    return (
        b'{"id":"chatcmpl-%b","object":"chat.completion.chunk","created":%d,"model":%b,'
        b'"system_fingerprint":"simulation",'
    ) % (call.number.encode(), call.created_s, _encode(call.request.model))


def _content_tail(behaviour: Behaviour, usages: _StreamUsages) -> bytes:
    tail = b',"finish_reason":null}]'
    if behaviour.unknown_fields:
        tail += b',"x_unknown":{"nested":[1,2.5,null,"\xc3\x9f"]}'
    return tail + _usage_member(usages.on_content) + b"}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _StreamUsages:
    """
    Which chunks of a stream carry which usage.
    """

    on_content: JsonObject | None = None
    on_finish: JsonObject | None = None
    after: tuple[JsonObject, ...] = ()


def _usages(call: Call) -> _StreamUsages:
    usage = usage_of(call)
    options = call.request.stream_options
    is_asked = bool(options and options.include_usage)
    shape = call.behaviour.usage
    if usage is None or not (is_asked or shape is UsageShape.ALWAYS):
        return _StreamUsages()
    prompt, completion = call.prompt_tokens, call.completion_tokens
    match shape:
        case UsageShape.SEVERAL_CHUNKS:
            return _StreamUsages(on_content=_usage(prompt, 1), on_finish=usage, after=(usage,))
        case UsageShape.SPLIT_CHUNKS:
            return _StreamUsages(after=(_usage(prompt, 0), _usage(0, completion)))
        case UsageShape.ON_FINISH_CHUNK:
            return _StreamUsages(on_finish=usage)
        case _:
            return _StreamUsages(after=(usage,))


def _usage_member(usage: JsonObject | None) -> bytes:
    return b"" if usage is None else b',"usage":' + _encode(usage)


def _deltas(call: Call) -> Sequence[bytes]:
    tokens = call.tokens
    size = call.behaviour.tokens_per_chunk
    match call.content:
        case Content.EMPTY:
            return ()
        case Content.TOOL_CALLS:
            return _tool_deltas(call)
        case Content.TEXT:
            if call.request.logprobs:
                return _logprob_deltas(tokens, size)
            return _text_deltas(tokens, size)
        case Content.REASONING:
            thoughts = _text_deltas(tokens // 2, size, "reasoning_content")
            return thoughts + _text_deltas(tokens - tokens // 2, size)
        case _:
            text = _text_of(call)
            return _deltas_of(tuple(text[i : i + 8] for i in range(0, len(text), 8)))


@lru_cache(maxsize=1_024)
def _text_deltas(tokens: int, size: int, member: str = "content") -> tuple[bytes, ...]:
    parts = words(tokens)
    return _deltas_of(tuple("".join(parts[i : i + size]) for i in range(0, tokens, size)), member)


def _deltas_of(parts: tuple[str, ...], member: str = "content") -> tuple[bytes, ...]:
    deltas: list[JsonObject] = [{member: part} for part in parts]
    if deltas:
        deltas[0] = {"role": "assistant", **deltas[0]}
    return tuple(map(_encode, deltas))


def _logprob_deltas(tokens: int, size: int) -> list[bytes]:
    parts = words(tokens)
    logprobs = [_encode(_logprobs(parts[i : i + size])) for i in range(0, tokens, size)]
    pairs = zip(_text_deltas(tokens, size), logprobs, strict=True)
    return [b'%b,"logprobs":%b' % pair for pair in pairs]


def _tool_deltas(call: Call) -> list[bytes]:
    tool_call = _tool_call(call, 0)
    first = {"index": 0, **tool_call, "function": {"name": _tool_name(call.request)}}
    arguments = ('{"city"', ':"Oslo"}')
    rest = [{"index": 0, "function": {"arguments": part}} for part in arguments]
    head = {"role": "assistant", "content": None, "tool_calls": [first]}
    return [_encode(head), *(_encode({"tool_calls": [part]}) for part in rest)]


def event_bytes(data: bytes, behaviour: Behaviour) -> bytes:
    """
    Return one event of a stream as it is written, in the behaviour's dialect.
    """
    prefix = b"data:" if behaviour.is_space_omitted else b"data: "
    if behaviour.multi_line_data and data.startswith(b"{"):
        # A line break between two members is white space to JSON.
        data = data.replace(b',"', b',\n"', 2).replace(b"\n", b"\n" + prefix)
    event = prefix + data + b"\n\n"
    if behaviour.comments:
        event = b": keep-alive\n\nevent: message\nid: 7\n" + event
    match behaviour.line_end:
        case LineEnd.LF:
            return event
        case LineEnd.CRLF:
            return event.replace(b"\n", b"\r\n")
        case LineEnd.CR:
            return event.replace(b"\n", b"\r")


def fragments(data: bytes, *, bytes_max: int, seed: int) -> Iterator[bytes]:
    """
    Cut ``data`` into pieces of 1 to ``bytes_max`` bytes, the same ones for a seed.
    """
    source = random.Random(seed)
    start = 0
    while start < len(data):
        end = start + source.randint(1, bytes_max)
        yield data[start:end]
        start = end


def huge_pieces(call: Call) -> Iterator[bytes]:
    """
    Return the pieces of an answer of about ``huge_answer_bytes``.
    """
    filler = b"x" * HUGE_PIECE_BYTES
    head = _chunk_head(call)
    event = b'data: %b"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % (head, filler)
    is_stream = call.request.stream
    piece = event if is_stream else filler
    if not is_stream:
        yield b'{"choices":[{"index":0,"message":{"role":"assistant","content":"'
    for _ in range(call.behaviour.huge_answer_bytes // HUGE_PIECE_BYTES):
        yield piece
    yield b"data: [DONE]\n\n" if is_stream else b'"},"finish_reason":"stop"}]}'


def error_body(code: str, status: int) -> bytes:
    """
    Return an error in the shape of OpenAI's API.
    """
    kind = "invalid_request_error" if status < 500 else "server_error"
    message = f"SIMULATED failure {status}: {code}"
    return _encode({"error": {"message": message, "type": kind, "param": None, "code": code}})


def models_body(models: tuple[str, ...], created_s: int) -> bytes:
    """
    Return the list of models.
    """
    rows = [
        {"id": model, "object": "model", "created": created_s, "owned_by": FINGERPRINT}
        for model in models
    ]
    return _encode({"object": "list", "data": rows})
