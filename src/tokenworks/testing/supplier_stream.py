"""
What the stub supplier streams, as bytes: events, and the dialects they are written in.

Invariants: a stream says the same words and the same usage as the plain answer of the
same call; the dialects and odd cuts change bytes, never events.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import msgspec

from tokenworks.testing.supplier_answer import (
    NOT_JSON_BODY,
    WRONG_JSON_BODY,
    Call,
    JsonObject,
    error_body,
    logprobs,
    text_of,
    tool_call,
    tool_name,
    usage_json,
    usage_of,
    words,
)
from tokenworks.testing.supplier_behaviour import (
    Behaviour,
    Content,
    LineEnd,
    Malformation,
    UsageShape,
)

HUGE_PIECE_BYTES: Final = 64 * 1024
_DONE: Final = b"[DONE]"

_encode = msgspec.json.encode


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
            return _StreamUsages(on_content=usage_json(prompt, 1), on_finish=usage, after=(usage,))
        case UsageShape.SPLIT_CHUNKS:
            return _StreamUsages(after=(usage_json(prompt, 0), usage_json(0, completion)))
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
            text = text_of(call)
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
    encoded = [_encode(logprobs(parts[i : i + size])) for i in range(0, tokens, size)]
    pairs = zip(_text_deltas(tokens, size), encoded, strict=True)
    return [b'%b,"logprobs":%b' % pair for pair in pairs]


def _tool_deltas(call: Call) -> list[bytes]:
    function = {"name": tool_name(call.request)}
    first = {"index": 0, **tool_call(call, 0), "function": function}
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
