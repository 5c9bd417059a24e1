"""
Canonical usage: disjoint axes, so that pricing only multiplies and adds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Axis(StrEnum):
    """
    A kind of consumption that has its own price.
    """

    INPUT = "input"
    """Fresh input tokens: neither read from a cache nor written to one, nor audio."""
    CACHE_READ = "cache_read"
    """Input tokens served from the supplier's prompt cache."""
    CACHE_WRITE_5M = "cache_write_5m"
    """Input tokens written to a cache that is kept for five minutes (or has no stated life)."""
    CACHE_WRITE_1H = "cache_write_1h"
    """Input tokens written to a cache that is kept for an hour."""
    OUTPUT = "output"
    """Output tokens that are neither reasoning nor audio."""
    REASONING = "reasoning"
    """Output tokens of the model's reasoning, shown or not."""
    AUDIO_INPUT = "audio_input"
    """Input tokens that stand for sound."""
    AUDIO_OUTPUT = "audio_output"
    """Output tokens that stand for sound."""
    IMAGE = "image"
    """Images made, in pieces; tokens of an image that was read are input."""
    TOOL_CALL = "tool_call"
    """Tool requests that the supplier ran itself, such as web searches, in pieces."""
    REQUEST = "request"
    """Calls, in pieces."""


# Walking an enum on each call, and asking its members for their value, costs ten times this.
_AXES: Final = tuple((axis.value, axis) for axis in Axis)

INPUT_AXES: Final = (
    Axis.INPUT,
    Axis.CACHE_READ,
    Axis.CACHE_WRITE_5M,
    Axis.CACHE_WRITE_1H,
    Axis.AUDIO_INPUT,
)
"""The axes into which the tokens of a prompt fall."""

OUTPUT_AXES: Final = (Axis.OUTPUT, Axis.REASONING, Axis.AUDIO_OUTPUT)
"""The axes into which the tokens of an answer fall."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """
    What one call consumed.
    """

    counts: Mapping[Axis, int]
    """Units of each axis that was used; always positive."""
    unknown_axes: Mapping[str, int] = field(default_factory=dict[str, int])
    """Positive counts under names this version does not know; part of no axis."""
    is_estimate: bool = False
    """Whether the hub counted it because the supplier's report was absent or implausible."""
    notes: tuple[str, ...] = ()
    """What was inferred, in stable words for the record, e.g. ``summed_over_choices``."""

    def __post_init__(self) -> None:
        assert all(count > 0 for count in self.counts.values()), "unused axes are absent"
        object.__setattr__(self, "counts", MappingProxyType(self.counts))
        object.__setattr__(self, "unknown_axes", MappingProxyType(self.unknown_axes))

    @property
    def total_input(self) -> int:
        """
        Return the tokens of the prompt, cached or not.
        """
        return self._total(INPUT_AXES)

    @property
    def total_output(self) -> int:
        """
        Return the tokens of the answer, shown or not.
        """
        return self._total(OUTPUT_AXES)

    @property
    def total_tokens(self) -> int:
        """
        Return all tokens; pieces (images, tool calls, requests) are not among them.
        """
        return self.total_input + self.total_output

    def with_count(self, axis: Axis, count: int) -> Usage:
        """
        Return the same usage with ``axis`` set to ``count``, e.g. one request.
        """
        assert count >= 0, "consumption is never negative"
        return replace(self, counts=used({**self.counts, axis: count}))

    def with_note(self, note: str, *, is_estimate: bool) -> Usage:
        """
        Return the same usage with one more note; an estimate stays one.
        """
        return replace(self, notes=(*self.notes, note), is_estimate=self.is_estimate or is_estimate)

    def to_json(self) -> dict[str, object]:
        """
        Return JSON-able facts with the axes in the order of their definition.
        """
        return {
            "counts": {name: self.counts[axis] for name, axis in _AXES if axis in self.counts},
            "unknown_axes": dict(sorted(self.unknown_axes.items())),
            "is_estimate": self.is_estimate,
            "notes": list(self.notes),
        }

    def _total(self, axes: Iterable[Axis]) -> int:
        counts = self.counts
        return sum([counts.get(axis, 0) for axis in axes])


def used(counts: Mapping[Axis, int]) -> dict[Axis, int]:
    """
    Return ``counts`` without the axes that were not used.
    """
    return {axis: count for axis, count in counts.items() if count}


NOTHING_USED: Final = Usage(counts={})
"""The usage of a call for which a supplier did nothing."""
