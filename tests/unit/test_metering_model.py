"""
Canonical usage and the check of reports against choices.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tokenworks.metering.model import NOTHING_USED, Axis, Usage
from tokenworks.metering.openai import from_openai
from tokenworks.metering.reconciliation import merge_reports, reconcile_choices


def words(text: str) -> int:
    """
    Count a token for each word.
    """
    return len(text.split())


def report(prompt: int, completion: int, cached: int = 0) -> Usage:
    """
    Return what a supplier reported.
    """
    return from_openai(
        {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
    )


def test_totals_are_sums_of_their_axes() -> None:
    """
    Pieces are not tokens; every token axis is in exactly one total.
    """
    usage = Usage(counts=dict.fromkeys(Axis, 1))
    assert (usage.total_input, usage.total_output, usage.total_tokens) == (5, 3, 8)
    assert NOTHING_USED.total_tokens == 0


def test_usage_cannot_be_changed() -> None:
    """
    What was metered is a fact; nobody edits it later.
    """
    usage = Usage(counts={Axis.INPUT: 1})
    with pytest.raises(TypeError):
        usage.counts[Axis.INPUT] = 2  # type: ignore[index]  # pyright: ignore[reportIndexIssue]
    assert usage.with_count(Axis.REQUEST, 1).counts == {Axis.INPUT: 1, Axis.REQUEST: 1}
    assert usage.with_count(Axis.INPUT, 0).counts == {}
    assert usage.counts == {Axis.INPUT: 1}


def test_usage_without_a_positive_count_is_a_bug() -> None:
    """
    Adapters drop zeros and refuse negatives, so a count here is always positive.
    """
    for count in (0, -1):
        with pytest.raises(AssertionError):
            Usage(counts={Axis.INPUT: count})


def test_json_lists_axes_in_their_order() -> None:
    """
    The record of a usage is the same whatever order the supplier reported in.
    """
    usage = Usage(counts={Axis.OUTPUT: 2, Axis.INPUT: 1}, is_estimate=True, notes=("x",))
    assert json.dumps(usage.to_json()) == (
        '{"counts": {"input": 1, "output": 2}, "unknown_axes": {},'
        ' "is_estimate": true, "notes": ["x"]}'
    )


def test_one_report_of_one_choice_stands() -> None:
    """
    The usual case changes nothing and is no estimate.
    """
    usage = report(37, 8)
    assert reconcile_choices([usage], choices_seen=1, texts=["x"], count_tokens=words) is usage


def test_running_totals_of_one_choice_end_in_the_whole() -> None:
    """
    With continuous usage every chunk has the total so far: the last one counts, exactly.
    """
    reports = [report(37, count) for count in (1, 2, 3)]
    usage = reconcile_choices(reports, choices_seen=1, texts=["a b c"], count_tokens=words)
    assert usage.total_output == 3
    assert not usage.is_estimate


def test_contradicting_reports_of_one_choice_are_an_estimate() -> None:
    """
    Totals that fall cannot all be true; the highest counts and is marked.
    """
    reports = [report(37, 9), report(37, 3)]
    usage = reconcile_choices(reports, choices_seen=1, texts=["a"], count_tokens=words)
    assert usage.total_output == 9
    assert usage.is_estimate


def test_a_report_that_covers_all_choices_stands() -> None:
    """
    A supplier that adds up its choices is believed.
    """
    usage = report(37, 11)
    texts = ["a b c d e f", "a b c d e"]
    assert reconcile_choices([usage], choices_seen=2, texts=texts, count_tokens=words) is usage


def test_a_report_of_one_choice_of_several_is_counted() -> None:
    """
    A plain answer of llama.cpp reports one choice only: the texts are counted.
    """
    texts = ["a b c d e f", "a b c d e"]
    usage = reconcile_choices(
        [report(37, 6, cached=36)], choices_seen=2, texts=texts, count_tokens=words
    )
    assert dict(usage.counts) == {Axis.INPUT: 1, Axis.CACHE_READ: 36, Axis.OUTPUT: 11}
    assert usage.is_estimate
    assert usage.notes == ("counted_over_choices",)


def test_reports_of_each_choice_are_summed() -> None:
    """
    A stream of llama.cpp reports each choice: outputs add up, the prompt is paid once.
    """
    texts = ["a b c d e f", "a b c d e"]
    reports = [report(37, 6, cached=36), report(37, 5, cached=36)]
    usage = reconcile_choices(reports, choices_seen=2, texts=texts, count_tokens=words)
    assert dict(usage.counts) == {Axis.INPUT: 1, Axis.CACHE_READ: 36, Axis.OUTPUT: 11}
    assert usage.is_estimate
    assert usage.notes == ("summed_over_choices",)


def test_running_totals_of_several_choices_are_not_summed() -> None:
    """
    Totals that grow with every chunk must not be added to each other.
    """
    texts = ["a b c", "a b c"]
    reports = [report(37, count) for count in range(1, 7)]
    usage = reconcile_choices(reports, choices_seen=2, texts=texts, count_tokens=words)
    assert usage.total_output == 6
    assert usage.notes == ("last_over_choices",)


def test_choices_without_text_leave_the_report_alone() -> None:
    """
    Where nothing can be counted, the supplier is believed.
    """
    usage = report(37, 6)
    assert reconcile_choices([usage], choices_seen=2, texts=[], count_tokens=words) is usage


def test_merging_keeps_unknown_axes() -> None:
    """
    An unknown axis of any report still fails closed after merging.
    """
    reports = [
        Usage(counts={Axis.INPUT: 2}, unknown_axes={"smell": 1}),
        Usage(counts={Axis.INPUT: 1, Axis.CACHE_READ: 1}, unknown_axes={"smell": 2, "taste": 1}),
    ]
    merged = merge_reports(reports)
    assert dict(merged.counts) == {Axis.INPUT: 1, Axis.CACHE_READ: 1}
    assert dict(merged.unknown_axes) == {"smell": 2, "taste": 1}


def test_recorded_reports_of_two_choices_are_reconciled() -> None:
    """
    What a real llama.cpp server said about two choices is corrected and marked.
    """
    path = Path(__file__).parent / "golden_usage" / "llama_cpp_recorded.json"
    if not path.exists():
        pytest.skip("not recorded: make record-usage")
    cases = {case["name"]: case for case in json.loads(path.read_text())["cases"]}
    for name, note in (
        ("two choices", "counted_over_choices"),
        ("two choices, streamed", "summed_over_choices"),
    ):
        case = cases[name]
        reports = [from_openai(usage) for usage in case["reports"]]
        usage = reconcile_choices(reports, choices_seen=2, texts=case["texts"])
        assert usage.total_output > reports[0].total_output
        assert usage.total_input == reports[0].total_input
        assert usage.is_estimate
        assert usage.notes == (note,)
