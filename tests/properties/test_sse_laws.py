"""
Laws of event streams, for every stream and every way the network may cut it.
"""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from tokenworks.gateway.answer import rename_model
from tokenworks.gateway.request import parse_chat_request, to_upstream_body
from tokenworks.gateway.sse import DONE_EVENT, Event, EventSplitter, StreamMeter

# Few bytes, so that line ends of every kind meet often.
RAW_STREAMS = st.lists(
    st.sampled_from([b"\n", b"\r", b"\r\n", b"data: ", b"data", b":", b" ", b"x", b"\xef\xbb\xbf"])
).map(b"".join)
LINE_ENDS = st.sampled_from(["\n", "\r\n", "\r"])

# Texts that imitate the member, names of it in odd places, every kind of escape.
TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(['"model":"up"', '\\"model":"up"', ',"model":"up","', "[DONE]", "data: x\n\n"]),
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["model", "a", '"model', "x"]) | TEXTS, inner, max_size=3)
    ),
    max_leaves=6,
)
MEMBERS = st.dictionaries(
    st.sampled_from(["created", "object", "x", "timings"]), JSON_VALUES, max_size=3
)


@st.composite
def cuts(draw: st.DrawFn, stream: bytes) -> list[bytes]:
    """
    Return the stream in pieces.
    """
    places = draw(st.lists(st.integers(0, len(stream)), max_size=8))
    return [stream[a:b] for a, b in pairwise(sorted({0, *places, len(stream)}))]


def events_of(pieces: list[bytes]) -> list[Event]:
    """
    Return all events, as compared by value.
    """
    splitter = EventSplitter()
    events = [event for piece in pieces for event in splitter.feed(piece)]
    return [*events, *splitter.finish()]


@given(st.data(), RAW_STREAMS)
@example(None, b"data: x\r\n\r\ndata: x\r\r\n")
def test_cutting_a_stream_does_not_change_its_events(
    data: st.DataObject | None, stream: bytes
) -> None:
    """
    The network's pieces mean nothing: whole, drawn, and byte by byte are the same.
    """
    whole = events_of([stream])
    if data is not None:
        assert events_of(data.draw(cuts(stream))) == whole
    assert events_of([stream[i : i + 1] for i in range(len(stream))]) == whole


@given(RAW_STREAMS)
def test_events_join_to_the_stream(stream: bytes) -> None:
    """
    No byte is lost, added or moved; only an event without its end is completed.
    """
    stream += b"\n\n"
    splitter = EventSplitter()
    joined = b"".join(event.raw for event in splitter.feed(stream))
    rest = b"".join(event.raw for event in splitter.finish())
    assert (joined + rest).rstrip(b"\r\n") == stream.rstrip(b"\r\n")
    if not rest:
        assert stream.startswith(joined)


@given(RAW_STREAMS)
def test_events_are_those_of_a_plain_reading_of_the_standard(stream: bytes) -> None:
    """
    A line-by-line reader finds the same data.
    """
    stream += b"\n\n"
    text = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    expected: list[bytes] = []
    data: list[bytes] | None = None
    for line in text.split(b"\n"):
        name, _, value = line.partition(b":")
        if not line and data is not None:
            expected.append(b"\n".join(data))
            data = None
        elif name == b"data":
            data = [*(data or []), value.removeprefix(b" ")]
    assert [e.data for e in events_of([stream]) if e.data is not None] == expected


@given(
    MEMBERS, MEMBERS, st.sampled_from(["up", "", 'a"b', "\u4e2d", "pub"]), st.booleans(), st.data()
)
def test_renaming_changes_only_the_model(
    before: dict[str, object],
    after: dict[str, object],
    model: str,
    is_ascii: bool,
    data: st.DataObject,
) -> None:
    """
    With the other values and all bytes around, wherever the member stands.
    """
    separators = data.draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", " : ")]))
    after = {name: value for name, value in after.items() if name not in before}
    document = json.dumps(
        {**before, "model": model, **after}, ensure_ascii=is_ascii, separators=separators
    ).encode()
    expected = json.dumps(
        {**before, "model": "P", **after}, ensure_ascii=is_ascii, separators=separators
    ).encode()
    assert rename_model(document, b'"P"') == expected


@st.composite
def chunk_members(draw: st.DrawFn) -> dict[str, object]:
    """
    Return a chunk: its members in any order, with text of any kind.
    """
    choice: dict[str, object] = {
        "index": draw(st.integers(0, 2)),
        "delta": {"content": draw(TEXTS)},
        "finish_reason": draw(st.none() | st.just("stop")),
    }
    kind = draw(st.sampled_from(["text", "text", "text", "usage", "empty"]))
    members: dict[str, object] = {
        "id": "c-1",
        "choices": [choice] if kind == "text" else [],
        "usage": {"completion_tokens": 1} if kind == "usage" else None,
        "model": "up",
        **draw(MEMBERS),
    }
    return dict(draw(st.permutations(list(members.items()))))


@given(
    st.lists(chunk_members(), max_size=6),
    LINE_ENDS,
    st.booleans(),
    st.booleans(),
    st.data(),
)
def test_a_stream_passes_but_for_model_usage_and_done(
    chunks: list[dict[str, object]],
    line_end: str,
    wants_usage_chunk: bool,
    is_ascii: bool,
    data: st.DataObject,
) -> None:
    """
    What is passed on is the input with the name replaced and two kinds of events out.
    """

    def written(chunk: dict[str, object]) -> bytes:
        text = json.dumps(chunk, ensure_ascii=is_ascii, separators=(",", ":"))
        return f": c{line_end}data: {text}{line_end}{line_end}".encode()

    stream = b"".join(written(chunk) for chunk in chunks) + DONE_EVENT
    kept = [
        chunk for chunk in chunks if chunk["choices"] or chunk["usage"] is None or wants_usage_chunk
    ]
    meter = StreamMeter(public_model="pub", wants_usage_chunk=wants_usage_chunk)
    passed = b"".join(meter.feed(piece) for piece in data.draw(cuts(stream)))
    passed += meter.finish()
    assert passed == b"".join(written({**chunk, "model": "pub"}) for chunk in kept)
    assert meter.is_done
    assert meter.fault is None


@given(
    st.dictionaries(
        st.sampled_from(["temperature", "x", "seed", "metadata", "user"]),
        st.just(None) | st.integers(0, 10**30),
        max_size=4,
    ).filter(lambda members: not isinstance(members.get("user"), int)),
    st.sampled_from(["1.0", "1E5", "-0.0", '"\\u0041"', '{"a" : [1.50]}']),
)
def test_a_request_is_sent_on_byte_for_byte(members: dict[str, object], value: str) -> None:
    """
    Only the model's value changes, so long as nothing else must.
    """
    rest = json.dumps(members)[1:-1]
    parts = ['"messages":[{"content":' + value + "}]", '"model":"m"', '"z":' + value]
    body = ("{" + ",".join(parts) + "}").encode()
    if rest:
        body = body[:-1] + ("," + rest.replace(", ", ",").replace(": ", ":") + "}").encode()
    sent = to_upstream_body(
        body,
        parse_chat_request(body),
        upstream_model="up",
        granted_output=None,
        force_usage=True,
    )
    assert sent == body.replace(b'"model":"m"', b'"model":"up"')
