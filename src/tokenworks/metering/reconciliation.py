"""
Check reported usage against the choices that were really seen.

Why: llama.cpp's server with ``n = 2`` reports only one choice's output in a plain answer and
one usage chunk per choice in a stream, while others report the whole, or a running total in
every chunk. Order of the decisions:

1. One report and at most one choice: the report stands.
2. Several reports that never fall and one choice: a running total; the last one stands.
3. Several choices: the reading nearest to what the texts show wins. Readings of several
   reports are "the last is the whole" and "their outputs add up"; of a single report, "the
   whole" and "one choice only", the latter replaced by the counted texts.

A prompt is paid once, however many choices it has. Whatever was not simply believed is an
estimate. Known limit: where the choices differ much in length, a report of the longest one
alone passes for the whole; the error is then smaller than the other choices together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from tokenworks.metering.model import INPUT_AXES, OUTPUT_AXES, Axis, Usage, used
from tokenworks.metering.rule_of_thumb import count_by_rule


def reconcile_choices(
    reports: Sequence[Usage],
    *,
    choices_seen: int,
    texts: Sequence[str],
    count_tokens: Callable[[str], int] = count_by_rule,
) -> Usage:
    """
    Return the one usage of a call.

    Args:
        reports: Every usage object of the answer, in order; at least one.
        choices_seen: Different choice indices in the answer.
        texts: What each choice said, reasoning and tool arguments included.
        count_tokens: Counts a text; slow vocabularies belong off the event loop.
    """
    assert reports, "without a report the call is estimated, not reconciled"
    last = reports[-1]
    if choices_seen <= 1:
        return last if _is_running_total(reports) else _highest(reports)
    counted = [count_tokens(text) for text in texts]
    if len(reports) > 1:
        return _nearest_reading(reports, counted=sum(counted))
    reported = last.total_output
    of_one_choice = max(counted, default=0)
    if abs(reported - sum(counted)) <= abs(reported - of_one_choice):
        return last
    return _with_output(last, sum(counted)).with_note("counted_over_choices", is_estimate=True)


def merge_reports(reports: Sequence[Usage]) -> Usage:
    """
    Return one usage whose output is the sum of the reports and whose prompt is paid once.

    Where the reports of the prompt differ, the one with the least fresh input counts: in doubt
    the buyer pays less.
    """
    prompt = min(reports, key=lambda report: report.counts.get(Axis.INPUT, 0))
    counts: dict[Axis, int] = {
        axis: prompt.counts.get(axis, 0) if axis in INPUT_AXES else _sum(reports, axis)
        for axis in Axis
    }
    unknown: dict[str, int] = {}
    for report in reports:
        _keep_greatest(unknown, report.unknown_axes)
    return Usage(counts=used(counts), unknown_axes=unknown, notes=reports[-1].notes)


def _nearest_reading(reports: Sequence[Usage], *, counted: int) -> Usage:
    last = reports[-1].with_note("last_over_choices", is_estimate=True)
    added = merge_reports(reports).with_note("summed_over_choices", is_estimate=True)
    # A tie goes to the smaller reading: in doubt the buyer pays less.
    return min(last, added, key=lambda usage: abs(usage.total_output - counted))


def _is_running_total(reports: Sequence[Usage]) -> bool:
    return all(
        earlier.counts.get(axis, 0) <= later.counts.get(axis, 0)
        for earlier, later in pairwise(reports)
        for axis in Axis
    )


def _highest(reports: Sequence[Usage]) -> Usage:
    whole = max(reports, key=lambda report: report.total_tokens)
    return whole.with_note("reports_contradict", is_estimate=True)


def _with_output(usage: Usage, tokens: int) -> Usage:
    rest = {axis: count for axis, count in usage.counts.items() if axis not in OUTPUT_AXES}
    return Usage(
        counts=used({**rest, Axis.OUTPUT: tokens}),
        unknown_axes=dict(usage.unknown_axes),
        notes=usage.notes,
    )


def _sum(reports: Sequence[Usage], axis: Axis) -> int:
    return sum(report.counts.get(axis, 0) for report in reports)


def _keep_greatest(kept: dict[str, int], counts: Mapping[str, int]) -> None:
    for name, count in counts.items():
        kept[name] = max(kept.get(name, 0), count)
