"""
Step logs and span logs are read strictly, and every refusal names row and column.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from tokenworks.factory.attribution.model import StepPhase, Work
from tokenworks.factory.attribution.span_log import read_span_log
from tokenworks.factory.attribution.step_log import read_step_log
from tokenworks.factory.errors import TableInvalidError
from tokenworks.testing.simulated_engine import simulate_engine

HEADER = "step,start,end,phase,call,state,prefill_tokens,decode_tokens,context_tokens"


def step(number: int, **changes: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON
    """
    Return a step of JSON lines that starts after ``number`` seconds.
    """
    return {
        "step": number,
        "start": number,
        "end": number + 1,
        "phase": "prefill",
        "calls": [{"call": "a", "prefill_tokens": 9}],
    } | changes


def decode(call: str, **changes: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON
    """
    Return a call's decode token.
    """
    return {"call": call, "decode_tokens": 1, "context_tokens": 9} | changes


def json_lines(*steps: dict[str, Any]) -> list[str]:
    """
    Return a log.
    """
    return [json.dumps(one) + "\n" for one in steps]


def test_both_formats_say_the_same() -> None:
    """
    A log in JSON lines and the same log in CSV are read alike.
    """
    from_json = read_step_log(
        json_lines(
            step(0),
            step(
                1,
                phase="mixed",
                calls=[decode("a"), {"call": "b", "prefill_tokens": 5, "context_tokens": 2}],
            ),
            step(2, phase="decode", calls=[decode("b", context_tokens=7)], resident=["a"]),
        ),
        "steps.jsonl",
    )
    from_csv = read_step_log(
        [
            f"{line}\n"
            for line in (
                HEADER,
                "0,0,1,prefill,a,,9,,",
                "1,1,2,mixed,a,working,0,1,9",
                "1,1,2,mixed,b,working,5,0,2",
                "2,2,3,decode,b,,,1,7",
                "2,2,3,decode,a,resident,,,",
            )
        ],
        "steps.csv",
    )

    assert [one.work for one in from_json] == [one.work for one in from_csv]
    assert [one.phase for one in from_csv] == [
        StepPhase.PREFILL,
        StepPhase.MIXED,
        StepPhase.DECODE,
    ]
    assert [(one.name, one.start_us, one.end_us) for one in from_json] == [
        (one.name, one.start_us, one.end_us) for one in from_csv
    ]
    assert from_json[2].work[1] == Work(
        call="a", prefill_tokens=0, decode_tokens=0, context_tokens=0
    )


def test_log_of_the_simulated_engine_is_read_as_it_was_made() -> None:
    """
    What an engine with chunked prefill and a full batch logs passes the strict reader unchanged.
    """
    made = simulate_engine(seed=1, calls=150, calls_per_s=20).steps
    lines = [
        {
            "step": one.name,
            "start": one.start_us / 1e6,
            "end": one.end_us / 1e6,
            "phase": one.phase.value,
            "calls": [
                {
                    "call": part.call,
                    "prefill_tokens": part.prefill_tokens,
                    "decode_tokens": part.decode_tokens,
                    "context_tokens": part.context_tokens,
                }
                for part in one.work
                if part.prefill_tokens or part.decode_tokens
            ],
            "resident": [
                part.call for part in one.work if not part.prefill_tokens and not part.decode_tokens
            ],
        }
        for one in made
    ]

    found = read_step_log(json_lines(*lines), "steps.jsonl")

    assert [(one.name, one.start_us, one.end_us, one.phase) for one in found] == [
        (one.name, one.start_us, one.end_us, one.phase) for one in made
    ]
    assert [_by_call(one.work) for one in found] == [_by_call(one.work) for one in made]


def _by_call(work: Sequence[Work]) -> dict[str, tuple[int, int]]:
    return {one.call: (one.prefill_tokens, one.decode_tokens) for one in work}


@pytest.mark.parametrize(
    ("steps", "place"),
    [
        ([step(0, end=0)], "row 1, column end: is not after the start"),
        ([step(5), step(3)], "row 2, column start: is out of order"),
        ([step(0), step(1, start=0.5)], "row 2, column start: overlaps: step 0 (row 1)"),
        ([step(0), step(0, start=1, end=2)], "row 2, column step: 0 is there twice"),
        ([step(0, phase="think")], "row 1, column phase: is none of prefill, decode, mixed"),
        ([step(0, calls=[decode("a")])], "row 1, column call: a is unknown"),
        ([step(0, resident=["z"])], "row 1, column call: z is unknown"),
        ([step(0, calls=[{"call": "a", "prefill_tokens": 0}])], "row 1, column call: a is unknown"),
        (
            [step(0), step(1, phase="decode", calls=[{"call": "a"}])],
            "row 2, column decode_tokens: a has zero tokens",
        ),
        ([step(0), step(1, calls=[decode("a")])], "row 2, column decode_tokens: are there in a"),
        ([step(0, phase="decode")], "row 1, column prefill_tokens: are there in a step of phase"),
        ([step(0, phase="mixed")], "row 1, column phase: mixed needs"),
        ([step(0, calls=[])], "row 1, column calls: step 0 works for no call"),
        ([step(0, calls="a")], "row 1, column calls: is no list"),
        ([step(0, calls=["a"])], "row 1, column calls[0]: is no JSON object"),
        ([step(0, calls=[{"call": "a", "watts": 1}])], "row 1, column calls[0].watts: is unknown"),
        (
            [step(0, calls=[{"call": "a", "prefill_tokens": 1}] * 2)],
            "row 1, column call: a is there twice",
        ),
        (
            [step(0, calls=[{"call": "a", "prefill_tokens": -1}])],
            "row 1, column prefill_tokens: is no whole number",
        ),
        (
            [step(0, calls=[{"call": "a", "prefill_tokens": 1.5}])],
            "row 1, column prefill_tokens: is no whole number",
        ),
        (
            [step(0, calls=[{"call": "a", "prefill_tokens": True}])],
            "row 1, column prefill_tokens: is no whole number",
        ),
        ([step(0, start="yesterday")], "row 1, column start: is neither"),
        ([step(0, watts=1)], "row 1, column watts: is unknown"),
        ([step(0, call="a")], "row 1, column call: stands inside 'calls'"),
    ],
)
def test_wrong_step_is_refused_with_row_and_column(steps: list[dict[str, Any]], place: str) -> None:
    """
    Nothing is dropped, reordered or guessed.
    """
    with pytest.raises(TableInvalidError) as caught:
        read_step_log(json_lines(*steps), "steps.jsonl")

    assert caught.value.message.startswith(f"steps.jsonl: {place}")
    assert caught.value.details["row"] == int(place.split(",", maxsplit=1)[0].removeprefix("row "))


@pytest.mark.parametrize(
    ("rows", "place"),
    [
        (["0,0,1,prefill,a,,9,,", "0,0,2,prefill,b,,9,,"], "row 3, column end: differs from row 2"),
        (["0,0,1,prefill,a,asleep,9,,"], "row 2, column state"),
        (["0,0,1,prefill,a,resident,9,,"], "row 2, column state: a is resident and yet"),
        (["0,0,1,prefill,a,,9"], "row 2, column decode_tokens: the row has 7 cells"),
        (["0,0,1,prefill,,,9,,"], "row 2, column call: is empty"),
    ],
)
def test_wrong_row_of_a_csv_log_is_refused(rows: list[str], place: str) -> None:
    """
    The same in CSV, with the row of the call.
    """
    with pytest.raises(TableInvalidError) as caught:
        read_step_log([f"{line}\n" for line in (HEADER, *rows)], "steps.csv")

    assert caught.value.message.startswith(f"steps.csv: {place}")


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ('{"step": 1, "step": 2}', "a member is there twice"),
        ('{"step": ', "is no JSON"),
        ('{"a":' * 20_000, "is no JSON"),
    ],
)
def test_line_that_is_no_json_is_refused(line: str, text: str) -> None:
    """
    A broken line names its row.
    """
    with pytest.raises(TableInvalidError, match=text) as caught:
        read_step_log([*json_lines(step(0)), line], "steps.jsonl")

    assert caught.value.details["row"] == 2


def test_continued_log_may_mention_calls_that_began_before() -> None:
    """
    Cut logs are read when the reader is told so.
    """
    log = json_lines(step(0, phase="decode", calls=[decode("a")]))

    (one,) = read_step_log(log, "steps.jsonl", is_continued=True)

    assert one.work[0].call == "a"


def test_spans_are_read() -> None:
    """
    Spans may overlap; tokens are optional.
    """
    first, second = read_span_log(
        ["call,start,end,prefill_tokens,decode_tokens\n", "a,0,2,5,1\n", "b,1,3,5,\n"], "spans.csv"
    )

    assert (first.call, first.end_us, first.prefill_tokens) == ("a", 2_000_000, 5)
    assert (second.start_us, second.decode_tokens) == (1_000_000, 0)


@pytest.mark.parametrize(
    ("rows", "place"),
    [
        (["a,2,2,1,1"], "row 2, column end: is not after the start"),
        (["a,2,3,1,1", "b,1,3,1,1"], "row 3, column start: is out of order"),
        (["a,2,3,1,1", "a,2,3,1,1"], "row 3, column call: a is there twice, first in row 2"),
        (["a,2,3,0,0"], "row 2, column decode_tokens: a has zero tokens"),
        (["a,2,3,x,0"], "row 2, column prefill_tokens: is no whole number"),
    ],
)
def test_wrong_span_is_refused_with_row_and_column(rows: list[str], place: str) -> None:
    """
    The same strictness for spans.
    """
    header = "call,start,end,prefill_tokens,decode_tokens"
    with pytest.raises(TableInvalidError) as caught:
        read_span_log([f"{line}\n" for line in (header, *rows)], "spans.csv")

    assert caught.value.message.startswith(f"spans.csv: {place}")
