"""
Translations of suppliers' usage objects into canonical usage.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tokenworks.foundation.errors import ErrorKind
from tokenworks.metering.anthropic import from_anthropic
from tokenworks.metering.errors import UsageError
from tokenworks.metering.model import Axis
from tokenworks.metering.openai import from_openai

GOLDEN = Path(__file__).parent / "golden_usage"
ADAPTERS = {"openai": from_openai, "anthropic": from_anthropic}


def golden_cases(kind: str) -> list[Any]:
    """
    Return the cases of every golden file of one kind.
    """
    files = [json.loads(path.read_text()) for path in sorted(GOLDEN.glob("*.json"))]
    return [
        pytest.param(file["format"], case, id=f"{file['source']['document'][:18]}: {case['name']}")
        for file in files
        if file["source"]["kind"] == kind
        for case in file["cases"]
    ]


@pytest.mark.parametrize(("adapter", "case"), golden_cases("documentation"))
def test_documented_usage_becomes_disjoint_axes(adapter: str, case: dict[str, Any]) -> None:
    """
    Each documented shape gives exactly the expected axes.
    """
    assert ADAPTERS[adapter](case["usage"]).to_json() == case["expected"]


@pytest.mark.parametrize(("adapter", "case"), golden_cases("recorded"))
def test_recorded_usage_keeps_its_totals(adapter: str, case: dict[str, Any]) -> None:
    """
    The axes of what a real server reported add up to its own totals.
    """
    for report in case["reports"]:
        usage = ADAPTERS[adapter](report)
        assert usage.total_input == report["prompt_tokens"]
        assert usage.total_output == report["completion_tokens"]
        cached = report["prompt_tokens_details"]["cached_tokens"]
        assert usage.counts.get(Axis.CACHE_READ, 0) == cached


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.name)
def test_golden_files_cite_their_source(path: Path) -> None:
    """
    Every fixture says what document it is from, of what date, and of what kind.
    """
    source = json.loads(path.read_text())["source"]
    assert source["document"]
    assert len(source["date"]) == len("2026-01-01")
    assert source["kind"] in {"documentation", "recorded"}


def openai_usage(**changes: object) -> dict[str, object]:
    """
    Return a plain report of 100 and 10 tokens with changes.
    """
    return {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110, **changes}


@pytest.mark.parametrize(
    ("usage", "param"),
    [
        (None, "usage"),
        ([], "usage"),
        ({}, "usage.prompt_tokens"),
        ({"prompt_tokens": 3}, "usage.completion_tokens"),
        ({"prompt_tokens": 3, "total_tokens": 9}, "usage.completion_tokens"),
        (openai_usage(prompt_tokens=-1), "usage.prompt_tokens"),
        (openai_usage(prompt_tokens=True), "usage.prompt_tokens"),
        (openai_usage(prompt_tokens=1.0), "usage.prompt_tokens"),
        (openai_usage(prompt_tokens="100"), "usage.prompt_tokens"),
        (openai_usage(completion_tokens=10**9), "usage.completion_tokens"),
        (openai_usage(total_tokens="x"), "usage.total_tokens"),
        (openai_usage(prompt_tokens_details=[1]), "usage.prompt_tokens_details"),
        (
            openai_usage(prompt_tokens_details={"cached_tokens": 101}),
            "usage.prompt_tokens_details.cached_tokens",
        ),
        (
            openai_usage(prompt_tokens_details={"cached_tokens": 60, "cache_write_tokens": 60}),
            "usage.prompt_tokens_details.cache_write_tokens",
        ),
        (
            openai_usage(prompt_tokens_details={"audio_tokens": 101}),
            "usage.prompt_tokens_details.audio_tokens",
        ),
        (openai_usage(prompt_cache_hit_tokens=101), "usage.prompt_cache_hit_tokens"),
        (openai_usage(prompt_cache_miss_tokens=101), "usage.prompt_cache_miss_tokens"),
        (
            openai_usage(completion_tokens_details={"reasoning_tokens": 11}),
            "usage.completion_tokens_details.reasoning_tokens",
        ),
        (
            openai_usage(completion_tokens_details={"audio_tokens": -5}),
            "usage.completion_tokens_details.audio_tokens",
        ),
    ],
)
def test_openai_usage_that_cannot_be_true_is_refused(usage: object, param: str) -> None:
    """
    A supplier's report is not believed when it contradicts itself; the field is named.
    """
    with pytest.raises(UsageError) as caught:
        from_openai(usage)
    assert caught.value.param == param
    assert caught.value.code == "usage_invalid"
    assert caught.value.kind is ErrorKind.SUPPLIER_FAULT


@pytest.mark.parametrize(
    ("usage", "param"),
    [
        ({"output_tokens": 1}, "usage.input_tokens"),
        ({"input_tokens": 1}, "usage.output_tokens"),
        ({"input_tokens": 1, "output_tokens": False}, "usage.output_tokens"),
        (
            {
                "input_tokens": 1,
                "output_tokens": 1,
                "cache_creation_input_tokens": 5,
                "cache_creation": {"ephemeral_5m_input_tokens": 6},
            },
            "usage.cache_creation",
        ),
        (
            {
                "input_tokens": 1,
                "output_tokens": 1,
                "output_tokens_details": {"thinking_tokens": 2},
            },
            "usage.output_tokens_details.thinking_tokens",
        ),
        (
            {"input_tokens": 1, "output_tokens": 1, "server_tool_use": {"web_search": -1}},
            "usage.server_tool_use.web_search",
        ),
    ],
)
def test_anthropic_usage_that_cannot_be_true_is_refused(usage: object, param: str) -> None:
    """
    The same holds for the other protocol.
    """
    with pytest.raises(UsageError) as caught:
        from_anthropic(usage)
    assert caught.value.param == param


def test_a_count_above_the_stated_limit_is_refused() -> None:
    """
    Usage beyond the model's context cannot be true.
    """
    from_openai(openai_usage(), count_max=100)
    with pytest.raises(UsageError, match="not between 0 and 99"):
        from_openai(openai_usage(), count_max=99)


def test_an_unknown_part_is_named_and_charged_to_no_axis() -> None:
    """
    An axis first seen after the call costs nothing and is reported under its name.
    """
    usage = from_openai(
        openai_usage(
            prompt_tokens_details={"cached_tokens": 20, "hologram_tokens": 30, "ratio": 0.5},
            completion_tokens_details={"smell_tokens": 4, "quiet_tokens": 0},
            citation_tokens=7,
            queue_time=3,
        )
    )
    assert dict(usage.counts) == {Axis.INPUT: 50, Axis.CACHE_READ: 20, Axis.OUTPUT: 6}
    assert dict(usage.unknown_axes) == {
        "usage.prompt_tokens_details.hologram_tokens": 30,
        "usage.completion_tokens_details.smell_tokens": 4,
        "usage.citation_tokens": 7,
    }


def test_an_unknown_anthropic_part_is_named() -> None:
    """
    The other protocol keeps unknown axes apart in the same way.
    """
    usage = from_anthropic(
        {
            "input_tokens": 1,
            "output_tokens": 9,
            "output_tokens_details": {"dream_tokens": 4},
            "cache_creation": {"ephemeral_1d_input_tokens": 3},
            "smell_tokens": 2,
        }
    )
    assert dict(usage.counts) == {Axis.INPUT: 1, Axis.OUTPUT: 5}
    assert set(usage.unknown_axes) == {
        "usage.output_tokens_details.dream_tokens",
        "usage.cache_creation.ephemeral_1d_input_tokens",
        "usage.smell_tokens",
    }


def test_reasoning_beside_the_completion_is_found_by_the_total() -> None:
    """
    Where the total proves that reasoning is not part of the completion, both are output.
    """
    usage = from_openai(
        openai_usage(total_tokens=140, completion_tokens_details={"reasoning_tokens": 30})
    )
    assert dict(usage.counts) == {Axis.INPUT: 100, Axis.OUTPUT: 10, Axis.REASONING: 30}
    assert usage.notes == ("reasoning_beside_completion",)


def test_a_total_that_differs_is_noted_and_not_billed() -> None:
    """
    The parts are billed; a total that does not match them is only put on record.
    """
    for usage in (
        from_openai(openai_usage(total_tokens=500)),
        from_openai(openai_usage(total_tokens=500, prompt_tokens_details={"cached_tokens": 1})),
    ):
        assert usage.total_tokens == 110
        assert usage.notes == ("total_differs",)


def test_a_reported_zero_is_zero() -> None:
    """
    A supplier's explicit zero is never replaced by an estimate.
    """
    usage = from_openai({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0})
    assert not usage.counts
    assert not usage.is_estimate


@pytest.mark.parametrize("name", ["cached_tokens", "reasoning_tokens"])
def test_counts_beside_the_totals_are_read(name: str) -> None:
    """
    Suppliers that put a part beside the totals mean the same part.
    """
    usage = from_openai(openai_usage(**{name: 4}))
    axis = {"cached_tokens": Axis.CACHE_READ, "reasoning_tokens": Axis.REASONING}[name]
    assert usage.counts[axis] == 4
    assert usage.total_tokens == 110
