"""
Usage as the Anthropic Messages API reports it.

``input_tokens`` *excludes* what was read from a cache or written to one; ``output_tokens``
includes thinking. Source: the ``Usage``, ``CacheCreation``, ``OutputTokensDetails`` and
``ServerToolUsage`` models of the ``anthropic`` Python library 2.12.0. The counts of a stream's
``message_delta`` are cumulative: the last report is the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tokenworks.metering.errors import UsageError
from tokenworks.metering.fields import (
    USAGE_COUNT_MAX,
    check_part,
    read_count,
    read_details,
    read_object,
    unknown_counts,
)
from tokenworks.metering.model import Axis, Usage, used

_CACHE_CREATION: Final = frozenset({"ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"})
_OUTPUT_DETAILS: Final = frozenset({"thinking_tokens"})
_TOP: Final = frozenset(
    {
        "input_tokens",
        "output_tokens",
        "cache_creation_input_tokens",
        "cache_read_input_tokens",
    }
)


def from_anthropic(usage: object, *, count_max: int = USAGE_COUNT_MAX) -> Usage:
    """
    Return canonical usage from a decoded ``usage`` object.

    Raises:
        UsageError: A field is missing, no integer, negative, or larger than its whole.
    """
    body = read_object(usage, path="usage")
    counts: dict[Axis, int] = {
        Axis.INPUT: _required(body, "input_tokens", count_max=count_max),
        Axis.CACHE_READ: _optional(body, "cache_read_input_tokens", count_max=count_max),
        Axis.TOOL_CALL: _tool_calls(body, count_max=count_max),
    }
    counts.update(_cache_writes(body, count_max=count_max))
    unknown = _unknown(body)
    counts.update(_outputs(body, unknown, count_max=count_max))
    return Usage(counts=used(counts), unknown_axes=unknown)


def _required(body: Mapping[str, object], name: str, *, count_max: int) -> int:
    count = read_count(body, name, path="usage", count_max=count_max)
    if count is None:
        message = f"The supplier's usage has no {name}."
        raise UsageError(message, param=f"usage.{name}")
    return count


def _optional(body: Mapping[str, object], name: str, *, count_max: int) -> int:
    return read_count(body, name, path="usage", count_max=count_max) or 0


def _cache_writes(body: Mapping[str, object], *, count_max: int) -> dict[Axis, int]:
    path = "usage.cache_creation"
    details = read_details(body, "cache_creation", path="usage")
    five_minutes = read_count(details, "ephemeral_5m_input_tokens", path=path, count_max=count_max)
    hour = read_count(details, "ephemeral_1h_input_tokens", path=path, count_max=count_max) or 0
    total = read_count(body, "cache_creation_input_tokens", path="usage", count_max=count_max)
    if total is not None:
        # The sum without its parts is the older shape, from before the one-hour cache.
        parts = (five_minutes or 0) + hour
        param = "usage.cache_creation"
        check_part(parts, total, param=param, whole_name="cache_creation_input_tokens")
        five_minutes = total - hour
    return {Axis.CACHE_WRITE_5M: five_minutes or 0, Axis.CACHE_WRITE_1H: hour}


def _outputs(
    body: Mapping[str, object], unknown: dict[str, int], *, count_max: int
) -> dict[Axis, int]:
    path = "usage.output_tokens_details"
    output = _required(body, "output_tokens", count_max=count_max)
    details = read_details(body, "output_tokens_details", path="usage")
    thinking = read_count(details, "thinking_tokens", path=path, count_max=count_max) or 0
    check_part(thinking, output, param=f"{path}.thinking_tokens", whole_name="output_tokens")
    left = output - thinking
    apart = dict(unknown_counts(details, known=_OUTPUT_DETAILS, path=path))
    unknown.update(apart)
    return {Axis.REASONING: thinking, Axis.OUTPUT: left - min(left, sum(apart.values()))}


def _tool_calls(body: Mapping[str, object], *, count_max: int) -> int:
    # Every kind of tool the supplier runs is one axis: a new kind is no unknown axis.
    path = "usage.server_tool_use"
    details = read_details(body, "server_tool_use", path="usage")
    counts = [read_count(details, name, path=path, count_max=count_max) for name in details]
    return sum(count or 0 for count in counts)


def _unknown(body: Mapping[str, object]) -> dict[str, int]:
    # Beside the totals stand numbers that are no consumption, so only a name that says tokens
    # counts as an axis there.
    cache = read_details(body, "cache_creation", path="usage")
    return {
        **dict(unknown_counts(cache, known=_CACHE_CREATION, path="usage.cache_creation")),
        **{
            name: count
            for name, count in unknown_counts(body, known=_TOP, path="usage")
            if name.endswith("_tokens")
        },
    }
