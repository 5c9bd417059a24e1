"""
Split a supplier's event stream, meter it, and pass it on.

Two parts: `EventSplitter` cuts bytes into events as the HTML standard defines them
(https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream),
`StreamMeter` reads each event's JSON and gives back the bytes for the client.

Invariants:

- The same bytes give the same events, however the network cut them.
- The bytes passed on are the supplier's, but for: the top-level ``model`` of each
  chunk (the public name), the usage chunk when the client did not ask for it, and
  ``[DONE]`` and error events, which the gateway writes itself: the receipt comes first.
- Nothing is passed on after ``[DONE]`` or a fault.

Known limits: in a stream that ends its lines with CR alone, an event is seen when the
next one begins. The end of a line that is cut between CR and LF is waited for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from tokenworks.foundation.errors import SupplierFaultError
from tokenworks.gateway.answer import (
    Message,
    as_text,
    find_model,
    output_tokens,
    rename_model,
    text_of,
    to_json,
)
from tokenworks.gateway.ports import (
    AnswerTooLargeError,
    BadAnswerError,
    CutAnswerError,
    ErrorAnswerError,
)

EVENT_BYTES_MAX: Final = 8 * 1024 * 1024
"""
The longest single event; images come as base64 in one.
"""

KEPT_TEXT_CHARACTERS_MAX: Final = 4 * 1024 * 1024
"""
How much of a stream's text is kept for an estimate, in case no usage comes.
"""

KEPT_USAGES_MAX: Final = 64

DONE_EVENT: Final = b"data: [DONE]\n\n"

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
# A CR may be half of a CR LF: it counts when the byte behind it is known.
_EVENT_END: Final = re.compile(rb"(?:\r\n|\n|\r(?=[^\n])){2}")
_LONGEST_EVENT_END: Final = len(b"\r\n\r\n")


class Event(msgspec.Struct, frozen=True, gc=False):
    """
    One event of a stream, or comment lines between two events.
    """

    raw: bytes
    # The data lines joined by LF; None when there is no data line.
    data: bytes | None
    # Where `data` stands in `raw` in one piece; -1 when it does not.
    data_start: int


class EventSplitter:
    """
    Cut a byte stream into events.
    """

    def __init__(self, *, event_bytes_max: int = EVENT_BYTES_MAX) -> None:
        self._event_bytes_max = event_bytes_max
        self._rest = bytearray()
        self._is_first = True

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """
        Yield the events that ``chunk`` completes; exhaust it before feeding more.

        Raises:
            AnswerTooLargeError: An event is over the limit; those before it were yielded.
        """
        if (
            not self._rest
            and chunk.startswith(b"data: ")
            and chunk.endswith(b"\n\n")
            and chunk.find(b"\n") == len(chunk) - 2
            and b"\r" not in chunk
        ):
            # The usual read is exactly one event of one line.
            self._check(len(chunk))
            self._is_first = False
            yield Event(chunk, chunk[6:-2], 6)
            return
        yield from self._split(chunk)

    def _split(self, chunk: bytes) -> Iterator[Event]:
        searched = 0
        if self._rest:
            searched = max(0, len(self._rest) - _LONGEST_EVENT_END)
            self._rest += chunk
            if _EVENT_END.search(self._rest, searched) is None:
                self._check(len(self._rest))
                return
            chunk = bytes(self._rest)
            self._rest.clear()
        start = 0
        is_plain = b"\r" not in chunk
        while True:
            if is_plain:
                end = chunk.find(b"\n\n", max(start, searched)) + 2
                if end == 1:
                    break
            else:
                found = _EVENT_END.search(chunk, max(start, searched))
                if found is None:
                    break
                end = found.end()
            self._check(end - start)
            yield self._to_event(chunk[start:end], is_plain=is_plain)
            start = end
        if start < len(chunk):
            self._rest += chunk[start:]
            self._check(len(self._rest))

    def finish(self) -> Iterator[Event]:
        """
        Yield what stands behind the last event, ended as an event.

        Some suppliers leave out the last empty line.
        """
        rest = bytes(self._rest)
        self._rest.clear()
        if rest.strip(b"\r\n"):
            yield self._to_event(rest.rstrip(b"\r\n") + b"\n\n", is_plain=False)

    def _check(self, event_bytes: int) -> None:
        if event_bytes > self._event_bytes_max:
            raise AnswerTooLargeError(
                f"An event of the supplier's stream is larger than {self._event_bytes_max:,} bytes."
            )

    def _to_event(self, raw: bytes, *, is_plain: bool) -> Event:
        if is_plain and raw.startswith(b"data: ") and raw.find(b"\n") == len(raw) - 2:
            self._is_first = False
            return Event(raw, raw[6:-2], 6)
        skipped = 0
        if self._is_first and raw.startswith(_BYTE_ORDER_MARK):
            skipped = len(_BYTE_ORDER_MARK)
        self._is_first = False
        return _parse_event(raw, skipped)


def _parse_event(raw: bytes, start: int) -> Event:
    lines: list[bytes] = []
    data_start = -1
    while start < len(raw):
        end = _LINE_END.search(raw, start)
        assert end is not None, "an event ends with an empty line"
        value_start = _data_start(raw, start, end.start())
        if value_start is not None:
            data_start = -1 if lines else value_start
            lines.append(raw[value_start : end.start()])
        start = end.end()
    return Event(raw, b"\n".join(lines) if lines else None, data_start)


def _data_start(raw: bytes, start: int, end: int) -> int | None:
    """
    Return where the value of a data line begins; ``None`` for any other line.
    """
    name_end = start + len(b"data")
    if raw[start:name_end] != b"data" or (name_end < end and raw[name_end] != ord(":")):
        return None
    if raw[name_end : name_end + 2] == b": ":
        return name_end + 2
    return min(name_end + 1, end)


# ------------------------------------------------------------- metering


class _StreamChoice(msgspec.Struct, frozen=True):
    index: Any = 0
    delta: Message | None = None
    text: Any = None
    finish_reason: Any = None


class _Chunk(msgspec.Struct, frozen=True):
    choices: list[_StreamChoice] | None = None
    id: Any = None
    model: Any = None
    usage: Any = None
    timings: Any = None  # llama.cpp, in its last chunk
    error: Any = None


_chunk_decoder: Final = msgspec.json.Decoder(_Chunk)


@dataclass(slots=True)
class ChoiceSeen:
    """
    What one choice of a stream has said so far; changes with every chunk.
    """

    # Pieces with text: the usual server sends one token in each.
    pieces: int = 0
    characters: int = 0
    finish_reason: str | None = None
    kept: list[str] = field(default_factory=list[str], repr=False)

    @property
    def text(self) -> str:
        """
        Return what was said: content, reasoning and tool arguments in order of arrival.
        """
        return "".join(self.kept)


class StreamMeter:
    """
    Pass a supplier's stream on and know what it delivered.

    Feed it every read of the body and send the client what it returns; look at
    `fault` after each. At the end of the body call `finish`; then write the receipt
    and `DONE_EVENT`, or an error event when there is a fault.

    Args:
        public_model: The name the client reads in every chunk.
        wants_usage_chunk: Whether the client asked for the usage chunk.
    """

    def __init__(
        self,
        *,
        public_model: str,
        wants_usage_chunk: bool,
        event_bytes_max: int = EVENT_BYTES_MAX,
    ) -> None:
        self.choices: dict[int, ChoiceSeen] = {}
        # Of usage chunks in order, decoded; the newest of them when there are too many.
        self.usages: list[object] = []
        self.timings: object = None
        self.answer_id: str | None = None
        self.upstream_model: str | None = None
        self.is_done = False
        # Why the stream must end with an error event; nothing is passed on behind it.
        self.fault: SupplierFaultError | None = None
        self._wants_usage_chunk = wants_usage_chunk
        self._splitter = EventSplitter(event_bytes_max=event_bytes_max)
        self._renamer = _ModelRenamer(public_model)
        self._kept_characters = 0

    @property
    def usage(self) -> object | None:
        """
        Return the last usage the supplier reported; ``None`` when it reported none.
        """
        return self.usages[-1] if self.usages else None

    @property
    def pieces(self) -> int:
        """
        Return the pieces of text of all choices: about one for each output token.
        """
        return sum(choice.pieces for choice in self.choices.values())

    @property
    def characters(self) -> int:
        """
        Return the characters of all choices.
        """
        return sum(choice.characters for choice in self.choices.values())

    @property
    def is_empty(self) -> bool:
        """
        Return whether nothing was delivered: no text and no output token counted.
        """
        return self.characters == 0 and output_tokens(self.usage) == 0

    @property
    def is_finished(self) -> bool:
        """
        Return whether the answer is whole: ``[DONE]``, or every choice has its reason.
        """
        return self.is_done or (
            bool(self.choices)
            and all(choice.finish_reason is not None for choice in self.choices.values())
        )

    def feed(self, chunk: bytes) -> bytes:
        """
        Take bytes of the supplier and return those for the client, maybe none.
        """
        return self._pass_on(self._splitter.feed(chunk))

    def finish(self) -> bytes:
        """
        Take the end of the body and return the last bytes for the client.

        A stream that ends early is a `CutAnswerError` in `fault`.
        """
        passed = self._pass_on(self._splitter.finish())
        if self.fault is None and not self.is_finished:
            self.fault = CutAnswerError("The supplier's stream ended before its answer did.")
        return passed

    def _pass_on(self, events: Iterator[Event]) -> bytes:
        if self.is_done or self.fault is not None:
            return b""
        passed: list[bytes] = []
        try:
            for event in events:
                raw = self._take(event)
                if self.is_done:
                    break
                if raw:
                    passed.append(raw)
        except SupplierFaultError as fault:
            self.fault = fault
        return passed[0] if len(passed) == 1 else b"".join(passed)

    def _take(self, event: Event) -> bytes:
        """
        Meter one event and return its bytes for the client.
        """
        data = event.data
        if not data or data.isspace():
            return event.raw
        try:
            chunk = _chunk_decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if data.strip() == b"[DONE]":
                self.is_done = True
                return b""
            raise BadAnswerError("The supplier's stream has an event that is no chunk.") from error
        if chunk.error is not None:
            raise ErrorAnswerError(
                "The supplier's stream ended with an error.", supplier_error=chunk.error
            )
        if chunk.choices:
            for choice in chunk.choices:
                self._count(choice)
        if chunk.timings is not None:
            self.timings = chunk.timings
        if chunk.usage is not None:
            self._keep_usage(chunk.usage)
            if not chunk.choices and not self._wants_usage_chunk:
                return b""
        if self.answer_id is None:
            self.answer_id = as_text(chunk.id)
        if type(chunk.model) is not str:
            return event.raw
        if self.upstream_model is None:
            self.upstream_model = chunk.model
        return self._renamer.rename(event, chunk.model)

    def _count(self, choice: _StreamChoice) -> None:
        index = choice.index if type(choice.index) is int else 0
        seen = self.choices.get(index)
        if seen is None:
            seen = self.choices[index] = ChoiceSeen()
        text = text_of(choice.delta) if choice.delta is not None else as_text(choice.text)
        if text:
            seen.pieces += 1
            seen.characters += len(text)
            self._kept_characters += len(text)
            if self._kept_characters <= KEPT_TEXT_CHARACTERS_MAX:
                seen.kept.append(text)
        if choice.finish_reason is not None:
            seen.finish_reason = as_text(choice.finish_reason)

    def _keep_usage(self, usage: object) -> None:
        self.usages.append(usage)
        if len(self.usages) > KEPT_USAGES_MAX:
            del self.usages[0]


class _ModelRenamer:
    """
    Replace the top-level model of each chunk, at the price of one comparison.

    The chunks of a stream are alike before the model's value, or behind it. The first
    chunk is searched properly; where a later one begins with the same bytes up to the
    value's end, its parser is in the same state there, so the value is the top-level
    model again. Where it ends with the same bytes from the comma before ``model`` on,
    and these close one bracket only, the same holds, as the chunk is valid JSON.
    """

    def __init__(self, public_model: str) -> None:
        self._public_model = public_model
        self._public_json = to_json(public_model)
        # The event's bytes up to the end of the model's value; what to write instead.
        self._head = self._new_head = b""
        # From the comma before the model to the event's end.
        self._tail = self._new_tail = b""

    def rename(self, event: Event, model: str) -> bytes:
        """
        Return the event's bytes with the public name; ``model`` is the parsed one.
        """
        raw = event.raw
        if self._head and raw.startswith(self._head):
            return self._new_head + raw[len(self._head) :]
        if self._tail and raw.endswith(self._tail):
            return raw[: -len(self._tail)] + self._new_tail
        if model == self._public_model:
            return raw
        return self._search(event)

    def _search(self, event: Event) -> bytes:
        raw, data, data_start = event.raw, event.data, event.data_start
        assert data is not None, "a model was parsed from it"
        span = find_model(data)
        if data_start < 0 or span is None:
            return _with_data(raw, rename_model(data, self._public_json))
        start, end = data_start + span[0], data_start + span[1]
        self._head = raw[:end]
        self._new_head = raw[:start] + self._public_json
        key = _LAST_KEY.search(raw[:start])
        if key is not None and _closes_one_bracket(raw[end:]):
            self._tail = raw[key.start() :]
            self._new_tail = raw[key.start() : start] + self._public_json + raw[end:]
        return self._new_head + raw[end:]


_LAST_KEY: Final = re.compile(rb',[ \t]*"model"[ \t]*:[ \t]*\Z')


def _closes_one_bracket(raw: bytes) -> bool:
    return raw.count(b"}") == 1 and not any(bracket in raw for bracket in (b"{", b"[", b"]"))


def _with_data(raw: bytes, data: bytes) -> bytes:
    """
    Return the event with other data; its other lines stay, before the data.
    """
    others = [
        line + b"\n"
        for line in _LINE_END.split(raw)
        if line and _data_start(line, 0, len(line)) is None
    ]
    return b"".join(others) + b"data: " + data.replace(b"\n", b"\ndata: ") + b"\n\n"
