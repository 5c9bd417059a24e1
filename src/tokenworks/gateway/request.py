"""
Parse a client's chat completion request, and make the body its supplier gets.

Only what the hub must know is typed: who is asked (``model``), how much may be used
(``max_tokens``, ``n``, the messages) and how the answer comes back (``stream``).
Other fields of the OpenAI protocol are checked for their type where a wrong one is
certainly a mistake; unknown fields are the supplier's business.

Invariants:

- The supplier reads the request as the hub read it: a field that stands twice at the
  top level counts, and is sent, once (the last), so no limit can be smuggled past.
- Every value the hub does not set is sent byte for byte: numbers keep their digits,
  text keeps its escapes, fields keep their order.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw

from tokenworks.foundation.errors import InvalidError, TokenworksError, TooLargeError
from tokenworks.foundation.limits import (
    REQUEST_BODY_BYTES_MAX,
    REQUEST_CHOICES_MAX,
    REQUEST_MESSAGES_MAX,
)

OUTPUT_TOKENS_MAX: Final = 2**31 - 1
"""
The largest ``max_tokens`` a request may name.
"""

MODEL_NAME_CHARACTERS_MAX: Final = 128

_MODEL: Final = re.compile(
    r"(?P<name>[A-Za-z0-9_][A-Za-z0-9_./:+-]{0,127})(?:@(?P<tier>[a-z][a-z0-9_-]{0,31}))?"
)

OutputTokens = Annotated[int, Meta(ge=1, le=OUTPUT_TOKENS_MAX)]


class StreamOptions(msgspec.Struct, frozen=True):
    """
    How a stream reports; members the hub does not know are passed on.
    """

    include_usage: bool | None = None


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """
    A chat completion request as the client sent it.

    ``None`` means not given, or given as ``null``.
    """

    model: str
    # Each message as its bytes; certainly JSON objects.
    messages: Annotated[list[Raw], Meta(min_length=1, max_length=REQUEST_MESSAGES_MAX)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: OutputTokens | None = None
    max_completion_tokens: OutputTokens | None = None
    n: Annotated[int, Meta(ge=1, le=REQUEST_CHOICES_MAX)] | None = None
    # Type checks only, from here on.
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    tools: list[Raw] | None = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    user: str | None = None

    @property
    def model_name(self) -> str:
        """
        Return the public model name without its tier.
        """
        return self.model.partition("@")[0]

    @property
    def tier(self) -> str | None:
        """
        Return the tier named after ``@``, or ``None`` when the party's default serves.
        """
        return self.model.partition("@")[2] or None

    @property
    def is_stream(self) -> bool:
        """
        Return whether the answer is to come as events.
        """
        return self.stream is True

    @property
    def wants_usage_chunk(self) -> bool:
        """
        Return whether the client asked for the usage chunk at the end of its stream.
        """
        return self.stream_options is not None and self.stream_options.include_usage is True

    @property
    def choices_asked(self) -> int:
        """
        Return how many answers are asked for, at least 1.
        """
        return self.n or 1

    @property
    def output_tokens_asked(self) -> int | None:
        """
        Return the output limit per choice, or ``None`` when the client named none.

        Where both names are given the larger counts: the supplier may obey either.
        """
        if self.max_completion_tokens is None:
            return self.max_tokens
        return max(self.max_completion_tokens, self.max_tokens or 0)

    @property
    def message_bytes(self) -> int:
        """
        Return the bytes of all messages as sent, which no count of UTF-8 bytes exceeds.
        """
        return sum(len(memoryview(message)) for message in self.messages)


_COUNTED: Final = frozenset(
    {"model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n"}
)
"""What is held and charged follows from these."""
_TAKEN_FOR_THEM: Final = _COUNTED | {"n_predict", "n_cmpl"}
"""
With llama.cpp ``n_predict`` overrules ``max_tokens``, and ``n_cmpl`` ``n``; what is written in Go
reads names in whatever case. Passed on, they would bring more than is held, or is reported.
"""

_request_decoder: Final = msgspec.json.Decoder(ChatRequest)
_members_decoder: Final = msgspec.json.Decoder(dict[str, Raw])
_encoder: Final = msgspec.json.Encoder()


def parse_chat_request(body: bytes) -> ChatRequest:
    """
    Parse and check a request body.

    The checks, in this order: size, UTF-8, JSON, an object, each field's type and range in
    the body's order, required fields, messages are objects, the model's name, stream
    options only with a stream.

    Raises:
        TooLargeError: The body is over the limit.
        InvalidError: Anything else; ``param`` names the field.
    """
    if len(body) > REQUEST_BODY_BYTES_MAX:
        raise TooLargeError(f"The request body is larger than {REQUEST_BODY_BYTES_MAX:,} bytes.")
    try:
        if not body.isascii():
            body.decode()
        request = _request_decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _from_validation(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidError(
            f"We could not parse the JSON body of your request: {error}.", code="invalid_json"
        ) from error
    _check_messages(request)
    _check_model(request.model)
    if request.stream_options is not None and not request.is_stream:
        raise InvalidError(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
            param="stream_options",
        )
    return request


def to_upstream_body(
    raw_body: bytes,
    request: ChatRequest,
    *,
    upstream_model: str,
    granted_output: int | None,
    force_usage: bool,
) -> bytes:
    """
    Return the body for a supplier: the client's, with as little changed as possible.

    ``model`` becomes ``upstream_model``. With ``granted_output`` every output limit the
    client named above it is lowered to it, and where there is none ``max_tokens`` is
    set. With ``force_usage`` a stream's ``stream_options.include_usage`` is set true.
    What some engine takes for one of these fields and the hub does not is left out.
    White space between the top-level fields may go. ``raw_body`` must be the body
    ``request`` was parsed from.
    """
    members = _members_decoder.decode(raw_body)
    for name in [n for n in members if n not in _COUNTED and n.casefold() in _TAKEN_FOR_THEM]:
        del members[name]
    members["model"] = Raw(_encoder.encode(upstream_model))
    if granted_output is not None:
        _grant_output(members, request, granted_output)
    if force_usage and request.is_stream and not request.wants_usage_chunk:
        members["stream_options"] = _with_usage(members.get("stream_options"))
    return _encoder.encode(members)


def _grant_output(members: dict[str, Raw], request: ChatRequest, granted_output: int) -> None:
    assert granted_output >= 1, "a grant is at least one token"
    granted = Raw(b"%d" % granted_output)
    if request.output_tokens_asked is None:
        members["max_tokens"] = granted
        return
    if request.max_tokens is not None and request.max_tokens > granted_output:
        members["max_tokens"] = granted
    if request.max_completion_tokens is not None and request.max_completion_tokens > granted_output:
        members["max_completion_tokens"] = granted


def _with_usage(stream_options: Raw | None) -> Raw:
    if stream_options is None or bytes(stream_options) == b"null":
        return Raw(b'{"include_usage":true}')
    options = _members_decoder.decode(stream_options)
    options["include_usage"] = Raw(b"true")
    return Raw(_encoder.encode(options))


def _check_messages(request: ChatRequest) -> None:
    for index, message in enumerate(request.messages):
        if memoryview(message)[0] != ord("{"):
            param = f"messages[{index}]"
            raise InvalidError(
                f"Invalid type for '{param}': expected an object.",
                code="invalid_type",
                param=param,
            )


def _check_model(model: str) -> None:
    if _MODEL.fullmatch(model) is None:
        raise InvalidError(
            "Invalid 'model': expected 'name' or 'name@tier', where a name has at most "
            f"{MODEL_NAME_CHARACTERS_MAX} letters, digits and any of '_./:+-'.",
            code="invalid_value",
            param="model",
        )


# ------------------------------------------------------------- words of the refusals

_EXPECTED: Final = re.compile(
    r"Expected (?P<expected>.*?)(?:, got (?P<got>.*?))?(?: - at `(?P<path>.*)`)?"
)
_MISSING: Final = re.compile(r"Object missing required field `(?P<field>.*?)`.*")
_OUT_OF_RANGE: Final = re.compile(r"(?P<reason>.*?)(?: - at `(?P<path>.*)`)?")
_WORDS: Final = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "a boolean",
    "array": "an array",
    "object": "an object",
    "null": "null",
}


def _from_validation(text: str) -> TokenworksError:
    if missing := _MISSING.fullmatch(text):
        field = missing["field"]
        return InvalidError(
            f"Missing required parameter: '{field}'.",
            code="missing_required_parameter",
            param=field,
        )
    found = _EXPECTED.fullmatch(text)
    if found is None:
        found = _OUT_OF_RANGE.fullmatch(text)
        assert found is not None, "the pattern takes any single line"
        param = _to_param(found["path"])
        return InvalidError(f"Invalid '{param}': {found['reason']}.", param=param)
    param = _to_param(found["path"])
    subject = f"'{param}'" if param else "the request body"
    if found["got"] is None:
        return InvalidError(
            f"Invalid value for {subject}: expected {_to_words(found['expected'])}.",
            code="invalid_value",
            param=param,
        )
    return InvalidError(
        f"Invalid type for {subject}: expected {_to_words(found['expected'])}, "
        f"but got {_to_words(found['got'])} instead.",
        code="invalid_type",
        param=param,
    )


def _to_param(path: str | None) -> str | None:
    return path.removeprefix("$").removeprefix(".") or None if path else None


def _to_words(types: str) -> str:
    """
    Return msgspec's type names, the rest of its sentence kept, as a person says them.
    """
    quoted, _, rest = types.removeprefix("`").partition("`")
    words = " or ".join(_WORDS.get(name, name) for name in quoted.split(" | "))
    return words + rest
