"""
How the stub supplier behaves, as data: the default is a healthy supplier.

A behaviour is one frozen record, so that a test reads as the list of what is wrong
with the supplier, and so that it travels as JSON to a stub in another process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Final

import msgspec

from tokenworks.foundation.errors import InvalidError

COMPLETION_TOKENS_DEFAULT: Final = 32
HUGE_ANSWER_BYTES_DEFAULT: Final = 100 * 1024 * 1024


class Content(StrEnum):
    """
    What a healthy answer contains.
    """

    AUTO = "auto"
    """A tool call or JSON when the request demands one, else words."""
    TEXT = "text"
    TOOL_CALLS = "tool_calls"
    JSON_OBJECT = "json_object"
    REASONING = "reasoning"
    """Half the tokens come as ``reasoning_content`` before the words."""
    ECHO = "echo"
    """The text of the answer is the body of the request, byte for byte."""
    EMPTY = "empty"
    """No content and a blank finish reason, with usage of the prompt only."""


class Malformation(StrEnum):
    """
    What is wrong with the body of an answer whose status is 200.
    """

    NONE = "none"
    WRONG_JSON = "wrong_json"
    """JSON, but not a completion."""
    NOT_JSON = "not_json"
    """A page for people, as proxies send it."""
    HUGE = "huge"
    """An answer of ``huge_answer_bytes``."""


class UsageShape(StrEnum):
    """
    What the supplier says it has used.
    """

    REAL = "real"
    DETAILED = "detailed"
    """Real, with cached prompt tokens and reasoning tokens itemised."""
    CEILING = "ceiling"
    """Completion tokens are all that were asked for; use with ``prompt_tokens``."""
    MISSING = "missing"
    NULL = "null"
    NEGATIVE = "negative"
    ABSURD = "absurd"
    """More prompt tokens than any context holds."""
    NON_INTEGER = "non_integer"
    NOT_NUMBERS = "not_numbers"
    UNKNOWN_AXIS = "unknown_axis"
    """A detail nobody has a price for (``hologram_tokens``)."""
    ONE_CHOICE = "one_choice"
    """Counts one choice only when ``n`` is above 1, as some engines do."""
    SEVERAL_CHUNKS = "several_chunks"
    """Cumulative usage in every chunk of a stream, as some engines send it."""
    SPLIT_CHUNKS = "split_chunks"
    """Two usage chunks at the end of a stream whose counts add up."""
    ON_FINISH_CHUNK = "on_finish_chunk"
    """On the chunk that carries the finish reason instead of a chunk of its own."""
    ALWAYS = "always"
    """A usage chunk even when the request did not ask for one."""


class LineEnd(StrEnum):
    """
    How the lines of an event stream end; all three are legal.
    """

    LF = "lf"
    CRLF = "crlf"
    CR = "cr"


class Framing(StrEnum):
    """
    How the receiver learns where an answer ends.
    """

    NATURAL = "natural"
    """``content-length`` for plain answers, ``chunked`` for streams."""
    CHUNKED = "chunked"
    UNTIL_CLOSE = "until_close"


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """
    What the stub does with a call; the defaults are those of a healthy supplier.

    Faults are looked at in the order of the life of an answer: key, gate, connection,
    delay, hang, status, body, stream, usage.
    """

    gate: bool = False
    """Hold every answer until released."""
    gate_count: int | None = None
    """Release by itself once that many calls wait; ``None``: only when told to."""
    gate_after_chunks: int | None = None
    """Begin a stream, and hold it after that many events until released."""
    close_before_headers: bool = False
    reset_before_headers: bool = False
    """Like close, but with a TCP reset."""
    first_byte_delay_ms: int = 0
    hang: bool = False
    """Never answer, keep the connection open."""
    status: int = 200
    retry_after_s: int | None = None
    """The ``retry-after`` header of an answer whose status is not 200."""
    error_code: str | None = None

    malformation: Malformation = Malformation.NONE
    huge_answer_bytes: int = HUGE_ANSWER_BYTES_DEFAULT
    content: Content = Content.AUTO
    unknown_fields: bool = False
    """Add members no client knows, on every level."""
    framing: Framing = Framing.NATURAL
    close_after_answer: bool = False
    """Close the kept-alive connection without announcing it."""

    chunk_pace_ms: int = 0
    """Time between two events of a stream; 0: as fast as possible."""
    is_sent_singly: bool = True
    """Each event of an unpaced stream is a write to the socket of its own."""
    tokens_per_chunk: int = 1
    cut_after_chunks: int | None = None
    """Lose the connection after that many events; a plain answer is cut in half."""
    end_after_chunks: int | None = None
    """End the stream properly after that many events, without ``[DONE]``."""
    stall_after_chunks: int | None = None
    """Send no more after that many events, keep the connection open."""
    error_after_chunks: int | None = None
    """Send an error event after that many events, then end the stream."""

    line_end: LineEnd = LineEnd.LF
    comments: bool = False
    """Comment lines and ``id:``/``event:`` fields between the events."""
    multi_line_data: bool = False
    """Events whose JSON is spread over several ``data:`` lines."""
    is_space_omitted: bool = False
    """``data:{`` instead of ``data: {``."""
    fragment_bytes_max: int | None = None
    """Cut a stream into pieces of 1 to that many bytes, each sent alone."""
    fragment_seed: int = 0

    prompt_tokens: int | None = None
    """``None``: computed from the bytes of the messages."""
    completion_tokens: int = COMPLETION_TOKENS_DEFAULT
    """Tokens of one choice, unless the request allows fewer."""
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    usage: UsageShape = UsageShape.REAL

    @property
    def is_immediate(self) -> bool:
        """
        Whether a call is answered at once, without waiting for anything.
        """
        return not (
            self.gate
            or self.gate_after_chunks is not None
            or self.hang
            or self.close_before_headers
            or self.reset_before_headers
            or self.first_byte_delay_ms
            or self.chunk_pace_ms
            or self.stall_after_chunks is not None
            or self.cut_after_chunks is not None
            or self.fragment_bytes_max
            or self.malformation is Malformation.HUGE
            or self.framing is Framing.UNTIL_CLOSE
            or self.close_after_answer
        )


_FIELD_NAMES: Final = frozenset(field.name for field in fields(Behaviour))


def behaviour_from_json(value: Mapping[str, object]) -> Behaviour:
    """
    Return the behaviour that a JSON object describes; absent members are healthy.

    Raises:
        InvalidError: A member that does not exist, or of the wrong type.
    """
    unknown = sorted(set(value) - _FIELD_NAMES)
    if unknown:
        message = f"A behaviour has no {', '.join(unknown)}."
        raise InvalidError(message)
    try:
        return msgspec.convert(dict(value), Behaviour)
    except msgspec.ValidationError as error:
        raise InvalidError(str(error)) from error


def behaviour_to_json(behaviour: Behaviour) -> dict[str, object]:
    """
    Return the members that differ from a healthy supplier's.
    """
    healthy = Behaviour()
    return {
        name: getattr(behaviour, name)
        for name in sorted(_FIELD_NAMES)
        if getattr(behaviour, name) != getattr(healthy, name)
    }
