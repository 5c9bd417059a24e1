"""
Event streams: how they are cut, metered and passed on.
"""

from __future__ import annotations

import json

import pytest

from tokenworks.gateway import sse
from tokenworks.gateway.ports import (
    AnswerTooLargeError,
    BadAnswerError,
    CutAnswerError,
    ErrorAnswerError,
)
from tokenworks.gateway.sse import Event, EventSplitter, StreamMeter

DONE = b"data: [DONE]\n\n"
USAGE = b'data: {"model":"up","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'


def piece(text: str, *, index: int = 0, finish_reason: str = "null") -> bytes:
    """
    Return a chunk with some text.
    """
    return (
        f'data: {{"id":"c","model":"up","choices":[{{"index":{index},'
        f'"delta":{{"content":"{text}"}},"finish_reason":{finish_reason}}}]}}\n\n'
    ).encode()


def events_of(stream: bytes) -> list[Event]:
    """
    Return the events of a whole stream, fed at once.
    """
    splitter = EventSplitter()
    return [*splitter.feed(stream), *splitter.finish()]


def meter(*, wants_usage_chunk: bool = False) -> StreamMeter:
    """
    Return a meter of a model sold as ``pub``.
    """
    return StreamMeter(public_model="pub", wants_usage_chunk=wants_usage_chunk)


@pytest.mark.parametrize(
    ("stream", "data"),
    [
        (b"data: a\n\n", [b"a"]),
        (b"data:a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
        (b"data: a\n\rdata: b\r\n\n", [b"a", b"b"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b": comment\n\ndata: a\n\n", [None, b"a"]),
        (b"event: x\nid: 7\ndata: a\nretry: 5\n: c\n\n", [b"a"]),
        (b"data\n\n", [b""]),
        (b"data:\n\n", [b""]),
        (b"data:  a\n\n", [b" a"]),
        (b"database: a\n\n", [None]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"\n\n\ndata: a\n\n", [None, b"a"]),
        (b"data: a\n\ndata: [DONE]", [b"a", b"[DONE]"]),
        (b"data: a\n\ndata: b\r", [b"a", b"b"]),
        (b"data: a\n\n\n", [b"a"]),
        (b"", []),
    ],
)
def test_events_are_those_of_the_standard(stream: bytes, data: list[bytes | None]) -> None:
    """
    Every line end, comments, fields, several data lines, a missing last line.
    """
    assert [event.data for event in events_of(stream)] == data


def test_an_event_over_the_limit_is_a_fault_and_those_before_it_are_not() -> None:
    """
    A supplier cannot fill the hub's memory; what was whole is passed on.
    """
    for pieces in (
        [b"data: a\n\ndata: 12345678901234567890"],
        [b"data: a\n\n", b"x" * 9, b"y" * 9],
    ):
        splitter = EventSplitter(event_bytes_max=16)
        fed = (event for part in pieces for event in splitter.feed(part))
        assert next(fed).data == b"a"
        with pytest.raises(AnswerTooLargeError):
            next(fed)


def test_a_stream_is_renamed_and_counted() -> None:
    """
    Every chunk has the public name; pieces, characters and reasons are known.
    """
    stream = piece("Hel") + piece("lo") + piece("", finish_reason='"stop"') + USAGE + DONE
    seen = meter()
    passed = seen.feed(stream) + seen.finish()
    assert passed == stream.replace(b'"up"', b'"pub"').replace(
        USAGE.replace(b'"up"', b'"pub"'), b""
    ).replace(DONE, b"")
    assert (seen.choices[0].text, seen.pieces, seen.characters) == ("Hello", 2, 5)
    assert seen.choices[0].finish_reason == "stop"
    assert seen.usage == {"prompt_tokens": 1, "completion_tokens": 2}
    assert (seen.answer_id, seen.upstream_model) == ("c", "up")
    assert seen.is_done
    assert seen.fault is None
    assert not seen.is_empty


def test_the_usage_chunk_stays_when_the_client_asked_for_it() -> None:
    """
    It is renamed like every chunk.
    """
    assert meter(wants_usage_chunk=True).feed(USAGE) == USAGE.replace(b'"up"', b'"pub"')


def test_a_chunk_without_choices_and_usage_stays() -> None:
    """
    Azure begins with one; only the usage chunk is the hub's to remove.
    """
    first = b'data: {"choices":[],"model":"","prompt_filter_results":[]}\n\n'
    assert meter().feed(first) == first.replace(b'""', b'"pub"')


def test_usage_beside_a_last_choice_is_seen_and_passed_on() -> None:
    """
    DeepSeek and older vLLM report so; the text must not be lost.
    """
    chunk = (
        b'data: {"choices":[{"delta":{"content":"x"},"finish_reason":"stop"}],'
        b'"usage":{"completion_tokens":1}}\n\n'
    )
    seen = meter()
    assert seen.feed(chunk) == chunk
    assert seen.usage == {"completion_tokens": 1}


def test_timings_of_an_engine_are_seen_and_passed_on() -> None:
    """
    llama.cpp tells them in its last chunk, beside the usage.
    """
    last = (
        b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2},'
        b'"timings":{"prompt_n":1,"prompt_ms":2.5,"predicted_n":2,"predicted_ms":7.5}}\n\n'
    )
    meter = StreamMeter(public_model="up", wants_usage_chunk=True)
    passed = meter.feed(piece("hi") + last + DONE)

    assert passed == piece("hi") + last
    assert meter.timings == {
        "prompt_n": 1,
        "prompt_ms": 2.5,
        "predicted_n": 2,
        "predicted_ms": 7.5,
    }


def test_each_choice_has_its_own_count() -> None:
    """
    Interleaved choices are told apart by their index.
    """
    seen = meter()
    seen.feed(piece("a") + piece("bb", index=1) + piece("c", finish_reason='"length"'))
    assert [(i, c.text, c.finish_reason) for i, c in seen.choices.items()] == [
        (0, "ac", "length"),
        (1, "bb", None),
    ]
    assert not seen.is_finished


def test_several_usages_are_kept_in_order_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    One per chunk is a known habit; the last ones matter.
    """
    monkeypatch.setattr(sse, "KEPT_USAGES_MAX", 3)
    seen = meter()
    for count in range(5):
        seen.feed(b'data: {"choices":[],"usage":{"completion_tokens":%d}}\n\n' % count)
    assert seen.usages == [{"completion_tokens": count} for count in (2, 3, 4)]


def test_kept_text_is_bounded_and_counts_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A long stream costs bounded memory.
    """
    monkeypatch.setattr(sse, "KEPT_TEXT_CHARACTERS_MAX", 4)
    seen = meter()
    seen.feed(piece("abc") + piece("def"))
    assert (seen.choices[0].text, seen.characters) == ("abc", 6)


@pytest.mark.parametrize("event", [b": ping\n\n", b"data:\n\n", b"event: x\n\n", b"\n\n"])
def test_what_is_no_chunk_is_passed_on(event: bytes) -> None:
    """
    Comments and keep-alives reach the client as they are.
    """
    seen = meter()
    assert seen.feed(event) == event
    assert seen.fault is None


def test_done_is_withheld_and_ends_the_stream() -> None:
    """
    The receipt comes before it, and nothing after.
    """
    seen = meter()
    assert seen.feed(DONE + piece("late")) == b""
    assert seen.feed(piece("later")) == b""
    assert seen.is_done
    assert seen.characters == 0


def test_an_error_event_is_withheld_and_is_a_fault() -> None:
    """
    The gateway writes its own error event; the supplier's words are the operator's.
    """
    seen = meter()
    passed = seen.feed(piece("a") + b'data: {"error":{"message":"sk-1"}}\n\n' + piece("b"))
    assert passed == piece("a").replace(b'"up"', b'"pub"')
    assert isinstance(seen.fault, ErrorAnswerError)
    assert seen.fault.supplier_error == {"message": "sk-1"}
    assert "sk-1" not in str(seen.fault)
    assert seen.feed(piece("c")) == b""


@pytest.mark.parametrize(
    "data", [b"{", b"[1]", b"hello", b'{"choices":{}}', b"\xff", b"[" * 99_999]
)
def test_an_event_that_is_no_chunk_is_a_fault(data: bytes) -> None:
    """
    What cannot be metered is not passed on; what came before it is.
    """
    seen = meter()
    assert seen.feed(piece("a") + b"data: " + data + b"\n\n") == piece("a").replace(b"up", b"pub")
    assert isinstance(seen.fault, BadAnswerError)


def test_a_stream_that_ends_early_is_a_fault() -> None:
    """
    Neither DONE nor a reason for every choice: the answer is not whole.
    """
    seen = meter()
    seen.feed(piece("a"))
    assert seen.finish() == b""
    assert isinstance(seen.fault, CutAnswerError)


def test_a_stream_without_done_is_whole_when_every_choice_ended() -> None:
    """
    Some suppliers leave DONE out.
    """
    seen = meter()
    seen.feed(piece("a", finish_reason='"stop"'))
    seen.finish()
    assert seen.fault is None
    assert seen.is_finished


def test_an_unended_last_event_is_completed() -> None:
    """
    The client gets it with its empty line, so that nothing is glued to it.
    """
    seen = meter()
    seen.feed(piece("a", finish_reason='"stop"')[:-2])
    assert seen.finish() == piece("a", finish_reason='"stop"').replace(b'"up"', b'"pub"')


def test_a_half_event_at_the_end_is_a_fault() -> None:
    """
    A cut chunk never reaches the client.
    """
    seen = meter()
    seen.feed(piece("a")[:40])
    assert seen.finish() == b""
    assert isinstance(seen.fault, BadAnswerError)


@pytest.mark.parametrize(
    "chunk",
    [
        # The head repeats, but the text imitates the member.
        '{"id":"c","model":"up","choices":[{"delta":{"content":"\\"model\\":\\"up\\""}}]}',
        # The tail repeats; the same member stands in a nested object.
        '{"choices":[{"delta":{"content":"x","model":"up"}}],"created":1,"model":"up","object":"o"}',
        # Neither repeats.
        '{"n":%d,"choices":[{"delta":{"content":"x"},"model":"up"}],"model":"up","m":%d}',
        '{"n":%d,"choices":[{"delta":{"content":"\\u4e2d","model":"up"}}],"model":"up","m":%d}',
    ],
)
def test_only_the_top_level_model_is_renamed_in_every_chunk(chunk: str) -> None:
    """
    Wherever suppliers put the member, and whatever else looks like it.
    """
    seen = meter()
    for count in range(3):
        text = chunk % (count, count) if "%d" in chunk else chunk
        passed = seen.feed(f"data: {text}\n\n".encode())
        assert json.loads(passed[6:]) == {**json.loads(text), "model": "pub"}


def test_a_model_that_changes_on_the_way_is_still_renamed() -> None:
    """
    What worked for one chunk is not trusted for the next.
    """
    seen = meter()
    for name in (b"", b"up", b"other", b"up"):
        chunk = piece("x").replace(b'"up"', b'"' + name + b'"')
        assert seen.feed(chunk) == piece("x").replace(b'"up"', b'"pub"')
