"""
Read a plain answer: what it holds for the books, and its bytes under the public name.

Invariants:

- Only the value of the top-level ``model`` changes; every other byte is the supplier's.
- An answer that is not JSON, is no completion or names an error raises; nothing of it
  may reach the buyer or the bill.

The model's value is found, not searched for: text inside an answer can contain
anything, and nested objects may have a ``model`` of their own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final, cast

import msgspec
from msgspec import Raw

from tokenworks.gateway.ports import BadAnswerError, ErrorAnswerError

SUPPLIER_MESSAGE_CHARACTERS_MAX: Final = 500


class Message(msgspec.Struct, frozen=True):
    """
    What a choice says: the message of a plain answer or a stream's next piece of it.

    Members are typed only as far as all suppliers agree.
    """

    content: Any = None
    reasoning_content: Any = None  # DeepSeek, vLLM, llama.cpp
    reasoning: Any = None  # OpenRouter and newer vLLM
    refusal: Any = None
    audio: Any = None
    tool_calls: Any = None
    function_call: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainAnswer:
    """
    What the books need of a plain answer, and the bytes for the client.
    """

    body: bytes = field(repr=False)
    answer_id: str | None
    # The name the supplier gave its model; None when it gave none.
    upstream_model: str | None
    finish_reasons: tuple[str | None, ...]
    # What each choice says, tool arguments and reasoning included, for an estimate.
    texts: tuple[str, ...] = field(repr=False)
    # The supplier's usage as decoded JSON; None when it reports none.
    usage: object | None
    # What an engine told of its own work, as decoded JSON.
    timings: object = None

    @property
    def is_empty(self) -> bool:
        """
        Return whether nothing was delivered: no text anywhere and no output token counted.
        """
        return not any(self.texts) and output_tokens(self.usage) == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SupplierMessage:
    """
    What a supplier says about an error: its words, untrusted and maybe secret.
    """

    message: str | None = None
    type: str | None = None
    code: str | None = None
    param: str | None = None


class _PlainChoice(msgspec.Struct, frozen=True):
    message: Message | None = None
    text: Any = None
    finish_reason: Any = None


class _Completion(msgspec.Struct, frozen=True):
    choices: list[_PlainChoice] | None = None
    id: Any = None
    model: Any = None
    usage: Any = None
    timings: Any = None  # llama.cpp
    error: Any = None


_completion_decoder: Final = msgspec.json.Decoder(_Completion)
_members_decoder: Final = msgspec.json.Decoder(dict[str, Raw])
_encoder: Final = msgspec.json.Encoder()


def read_answer(body: bytes, *, public_model: str) -> PlainAnswer:
    """
    Parse a supplier's plain answer with status 200.

    Raises:
        BadAnswerError: It is not JSON or not a completion.
        ErrorAnswerError: It names an error.
    """
    try:
        completion = _completion_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadAnswerError("The supplier's answer is not a JSON completion.") from error
    if completion.error is not None:
        raise ErrorAnswerError(
            "The supplier answered with an error.", supplier_error=completion.error
        )
    if completion.choices is None:
        raise BadAnswerError("The supplier's answer has no choices.")
    upstream_model = as_text(completion.model)
    if upstream_model is not None and upstream_model != public_model:
        body = rename_model(body, to_json(public_model))
    return PlainAnswer(
        body=body,
        answer_id=as_text(completion.id),
        upstream_model=upstream_model,
        finish_reasons=tuple(as_text(choice.finish_reason) for choice in completion.choices),
        texts=tuple(_text_of_choice(choice) for choice in completion.choices),
        usage=completion.usage,
        timings=completion.timings,
    )


def read_error(body: bytes) -> SupplierMessage:
    """
    Return what an error answer says, in OpenAI's or FastAPI's shape; never raises.

    Its words may quote a key: log them, or show them to an operator; do not pass on.
    """
    try:
        error: object = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return SupplierMessage()
    error = _member(error, "error") or _member(error, "detail") or error
    if not _is_object(error):
        return SupplierMessage(message=_shorten(error))
    return SupplierMessage(
        message=_shorten(_member(error, "message")),
        type=_shorten(_member(error, "type")),
        code=_shorten(_member(error, "code")),
        param=_shorten(_member(error, "param")),
    )


def output_tokens(usage: object) -> int:
    """
    Return the output tokens a raw usage counts; 0 when it names none.
    """
    for name in ("completion_tokens", "output_tokens"):
        count = _member(usage, name)
        if isinstance(count, int):
            return count
    return 0


def text_of(message: Message) -> str:
    """
    Return all a message says in one text: content, reasoning, refusal, tool calls.

    Of audio the transcript counts; content that is not text counts as its JSON.
    """
    # The usual stream piece has content and nothing else.
    text = message.content if type(message.content) is str else _as_said(message.content)
    for more in (message.reasoning_content, message.reasoning, message.refusal):
        if more is not None:
            text += _as_said(more)
    if message.audio is not None:
        text += _as_said(_member(message.audio, "transcript"))
    if message.tool_calls is not None:
        text += _text_of_tool_calls(message.tool_calls)
    if message.function_call is not None:
        text += _text_of_function(message.function_call)
    return text


def as_text(value: object) -> str | None:
    """
    Return ``value`` when it is text, else ``None``.
    """
    return value if isinstance(value, str) else None


def to_json(text: str) -> bytes:
    """
    Return ``text`` as a JSON string.
    """
    return _encoder.encode(text)


def _text_of_choice(choice: _PlainChoice) -> str:
    if choice.message is None:
        return _as_said(choice.text)
    return text_of(choice.message)


def _text_of_tool_calls(calls: object) -> str:
    if not isinstance(calls, list):
        return _as_said(calls)
    return "".join(
        _text_of_function(_member(call, "function")) for call in cast("list[object]", calls)
    )


def _text_of_function(function: object) -> str:
    return _as_said(_member(function, "name")) + _as_said(_member(function, "arguments"))


def _member(value: object, name: str) -> object:
    return cast("dict[str, object]", value).get(name) if isinstance(value, dict) else None


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _as_said(value: object) -> str:
    if isinstance(value, str):
        return value
    return _encoder.encode(value).decode() if value else ""


def _shorten(value: object) -> str | None:
    return None if value is None else _as_said(value)[:SUPPLIER_MESSAGE_CHARACTERS_MAX]


# ------------------------------------------------------------- finding the model

_BEFORE_KEY: Final = re.compile(rb"[ \t\r\n]*[,{][ \t\r\n]*")
_STRING: Final = rb'"[^"\\]*(?:\\.[^"\\]*)*"'
_KEY: Final = re.compile(_STRING + rb"[ \t\r\n]*:[ \t\r\n]*")
_END: Final = re.compile(rb"[ \t\r\n]*\}")
_MODEL_MEMBER: Final = re.compile(rb'"model"[ \t\r\n]*:[ \t\r\n]*(' + _STRING + rb")")


def rename_model(document: bytes, public_model_json: bytes) -> bytes:
    """
    Return a JSON object with the value of its top-level ``model`` replaced.

    ``document`` must be valid JSON and have a top-level ``model`` with a text value.
    Linear in its size; Python sees only the members of the top level.
    """
    span = find_model(document)
    if span is None:
        # A name stands twice at the top level: write each once, with its last value.
        members = _members_decoder.decode(document)
        members["model"] = Raw(public_model_json)
        return _encoder.encode(members)
    start, end = span
    return document[:start] + public_model_json + document[end:]


def find_model(document: bytes) -> tuple[int, int] | None:
    """
    Return where the value of the top-level ``model`` starts and ends.

    ``None`` when a name stands twice at the top level: positions are unclear then.
    """
    # The member exists. Without \\u escapes its name can only be spelled in full, so
    # when that spelling stands here once, it is the one at the top level.
    if document.count(b'"model"') == 1 and b"\\u" not in document:
        found = _MODEL_MEMBER.search(document)
        assert found is not None, "model is there and is text"
        return found.span(1)
    return _walk_to_model(document)


def _walk_to_model(document: bytes) -> tuple[int, int] | None:
    position = 0
    span = None
    for name, value in _members_decoder.decode(document).items():
        before = _BEFORE_KEY.match(document, position)
        key = before and _KEY.match(document, before.end())
        if not key:
            return None
        start, position = key.end(), key.end() + len(memoryview(value))
        # A name that stands twice has its last value here, and fewer items than members.
        if document[start:position] != bytes(value):
            return None
        if name == "model":
            span = (start, position)
    return span if _END.match(document, position) else None
