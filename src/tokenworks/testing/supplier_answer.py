"""
What the stub supplier answers, as bytes: pure functions of call and behaviour.

Invariants: a plain answer and a stream of the same call say the same words and the same
usage; prompt tokens depend on the bytes of ``messages`` only (one token per eight bytes),
so that a hub which passes messages through untouched gets the count a client would.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import msgspec

from tokenworks.testing.supplier_behaviour import (
    Behaviour,
    Content,
    Malformation,
    UsageShape,
)

BYTES_PER_PROMPT_TOKEN: Final = 8
FINGERPRINT: Final = "simulation"
NOT_JSON_BODY: Final = b"<html><body><h1>502 Bad Gateway</h1></body></html>"
WRONG_JSON_BODY: Final = b'{"status":"ok","result":[1,2,3]}'
_TOKENS_ABSURD: Final = 10**12

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
        return usage_json(prompt, completion)
    match shape:
        case UsageShape.MISSING | UsageShape.NULL:
            return None
        case UsageShape.NEGATIVE:
            return usage_json(prompt, -completion - 1)
        case UsageShape.ABSURD:
            return usage_json(_TOKENS_ABSURD, completion)
        case UsageShape.NON_INTEGER:
            return {**usage_json(prompt, completion), "prompt_tokens": prompt + 0.5}
        case UsageShape.NOT_NUMBERS:
            return {**usage_json(prompt, completion), "completion_tokens": "many"}
        case UsageShape.ONE_CHOICE:
            return usage_json(prompt, completion // call.choices)
        case UsageShape.UNKNOWN_AXIS:
            details = {"hologram_tokens": 7}
            return {**usage_json(prompt, completion), "completion_tokens_details": details}
        case _:
            usage = usage_json(prompt, completion)
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


def usage_json(prompt: int, completion: int) -> JsonObject:
    """
    Return a plain usage object.
    """
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


def tool_name(request: ChatRequest) -> str:
    """
    Return the name of the first tool offered, whatever its shape.
    """
    try:
        tools = msgspec.json.decode(request.tools, type=list[_Tool])
    except msgspec.DecodeError:
        return "unnamed"
    return tools[0].function.name if tools else "unnamed"


def text_of(call: Call) -> str:
    """
    Return the words of one choice.
    """
    match call.content:
        case Content.JSON_OBJECT:
            return _json_text(call.tokens)
        case Content.ECHO:
            return call.body.decode("utf-8", "replace")
        case Content.REASONING:
            return _sentence(call.tokens - call.tokens // 2)
        case _:
            return _sentence(call.tokens)


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
        message["tool_calls"] = [tool_call(call, index)]
    elif content is not Content.EMPTY:
        message["content"] = text_of(call)
    if content is Content.REASONING:
        message["reasoning_content"] = _sentence(call.tokens // 2)
    if call.behaviour.unknown_fields:
        message["x_unknown"] = True
    choice: JsonObject = {"index": index, "message": message, "finish_reason": call.finish_reason}
    if call.request.logprobs:
        choice["logprobs"] = logprobs(words(call.tokens))
    return choice


def tool_call(call: Call, index: int) -> JsonObject:
    """
    Return the call of a tool that a choice makes.
    """
    return {
        "id": f"call-{call.number}-{index}",
        "type": "function",
        "function": {"name": tool_name(call.request), "arguments": '{"city":"Oslo"}'},
    }


def logprobs(tokens: tuple[str, ...]) -> JsonObject:
    """
    Return made-up probabilities of tokens.
    """
    return {
        "content": [
            {"token": token, "logprob": -0.25, "bytes": list(token.encode()), "top_logprobs": []}
            for token in tokens
        ]
    }


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
