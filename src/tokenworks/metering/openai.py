"""
Usage as the OpenAI chat completions API and its many cousins report it.

``prompt_tokens`` *includes* what was read from a cache, written to one, or is sound;
``completion_tokens`` includes reasoning and sound. Fresh input and plain output are what is
left. Sources: the ``CompletionUsage`` model of the ``openai`` Python library 3.54.0; vLLM's
``UsageInfo`` (``vllm/entrypoints/openai/engine/protocol.py``); DeepSeek's API reference
("Create chat completion"); llama.cpp's ``usage_json_oaicompat`` (``server-task.cpp``).

Known departures, each covered by a test:

- DeepSeek repeats the cache's share as ``prompt_cache_hit_tokens`` beside the prompt.
- Some suppliers put ``cached_tokens`` or ``reasoning_tokens`` beside the totals, not in details.
- Some count reasoning *beside* ``completion_tokens``; then ``total_tokens`` proves it.
- Sound and cached tokens may overlap (cached sound). The cache's price covers the overlap.
- Image and text tokens of a prompt carry the input price; predicted tokens that were rejected
  are billed as output by definition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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

_INPUT_DETAILS: Final = frozenset(
    {
        "cached_tokens",
        "cache_write_tokens",
        "audio_tokens",
        "text_tokens",
        "image_tokens",
        "created_cache_tokens",
    }
)
_OUTPUT_DETAILS: Final = frozenset(
    {
        "reasoning_tokens",
        "audio_tokens",
        "text_tokens",
        "accepted_prediction_tokens",
        "rejected_prediction_tokens",
    }
)
_TOP: Final = frozenset(
    {
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "prompt_tokens_details",
        "completion_tokens_details",
        "prompt_cache_hit_tokens",
        "prompt_cache_miss_tokens",
        "cached_tokens",
        "reasoning_tokens",
    }
)
_PLAIN: Final = frozenset({"prompt_tokens", "completion_tokens", "total_tokens"})


def from_openai(usage: object, *, count_max: int = USAGE_COUNT_MAX) -> Usage:
    """
    Return canonical usage from a decoded ``usage`` object.

    Args:
        usage: What stood under ``usage``, decoded from JSON.
        count_max: What no count may exceed: the model's context times the choices, where
            the context is known.

    Raises:
        UsageError: A field is missing, no integer, negative, or larger than its whole.
    """
    body = read_object(usage, path="usage")
    prompt = _required(body, "prompt_tokens", count_max=count_max)
    completion = _completion(body, prompt=prompt, count_max=count_max)
    total = read_count(body, "total_tokens", path="usage", count_max=2 * count_max)
    if body.keys() <= _PLAIN:
        counts = {Axis.INPUT: prompt, Axis.OUTPUT: completion}
        notes = () if total in {None, prompt + completion} else ("total_differs",)
        return Usage(counts=used(counts), notes=notes)
    share = _Share(counts={}, unknown={}, notes=[])
    _share_input(body, share, prompt=prompt, count_max=count_max)
    expected = _share_output(body, share, prompt, completion, total, count_max=count_max)
    _note_unknown_totals(body, share)
    if total not in {None, expected}:
        share.notes.append("total_differs")
    return Usage(counts=used(share.counts), unknown_axes=share.unknown, notes=tuple(share.notes))


@dataclass(slots=True)
class _Share:
    """
    The axes while they are being filled.
    """

    counts: dict[Axis, int]
    unknown: dict[str, int]
    notes: list[str]

    def take(self, axis: Axis, wanted: int, *, left: int) -> int:
        """
        Give ``axis`` at most what is left of the whole; return what is left after it.

        A part that no longer fits overlaps one taken before it: cached sound is both.
        """
        if wanted > left:
            self.notes.append(f"{axis}_overlaps")
        self.counts[axis] = min(wanted, left)
        return left - self.counts[axis]

    def set_apart(self, details: Mapping[str, object], known: frozenset[str], path: str) -> int:
        """
        Record the unknown counts among ``details`` and return their sum.
        """
        unknown = dict(unknown_counts(details, known=known, path=path))
        self.unknown.update(unknown)
        return sum(unknown.values())


def _required(body: Mapping[str, object], name: str, *, count_max: int) -> int:
    count = read_count(body, name, path="usage", count_max=count_max)
    if count is None:
        message = f"The supplier's usage has no {name}."
        raise UsageError(message, param=f"usage.{name}")
    return count


def _completion(body: Mapping[str, object], *, prompt: int, count_max: int) -> int:
    # An embedding has no answer and says so by a total that is the prompt; anywhere else a
    # missing count is a missing report, not a zero.
    if body.get("completion_tokens") is None and body.get("total_tokens") == prompt:
        return 0
    return _required(body, "completion_tokens", count_max=count_max)


def _share_input(body: Mapping[str, object], share: _Share, *, prompt: int, count_max: int) -> None:
    path = "usage.prompt_tokens_details"
    details = read_details(body, "prompt_tokens_details", path="usage")
    cached = _cached(body, details, prompt=prompt, count_max=count_max)
    written = read_count(details, "cache_write_tokens", path=path, count_max=count_max) or 0
    check_part(
        cached + written, prompt, param=f"{path}.cache_write_tokens", whole_name="prompt_tokens"
    )
    audio = read_count(details, "audio_tokens", path=path, count_max=count_max) or 0
    check_part(audio, prompt, param=f"{path}.audio_tokens", whole_name="prompt_tokens")
    left = share.take(Axis.CACHE_READ, cached, left=prompt)
    left = share.take(Axis.CACHE_WRITE_5M, written, left=left)
    left = share.take(Axis.AUDIO_INPUT, audio, left=left)
    # An unknown part is charged nothing, so it must not be charged as fresh input either.
    share.counts[Axis.INPUT] = left - min(left, share.set_apart(details, _INPUT_DETAILS, path))


def _cached(
    body: Mapping[str, object], details: Mapping[str, object], *, prompt: int, count_max: int
) -> int:
    places = (
        (details, "cached_tokens", "usage.prompt_tokens_details"),
        (body, "prompt_cache_hit_tokens", "usage"),
        (body, "cached_tokens", "usage"),
    )
    for holder, name, path in places:
        cached = read_count(holder, name, path=path, count_max=count_max)
        if cached is not None:
            check_part(cached, prompt, param=f"{path}.{name}", whole_name="prompt_tokens")
            return cached
    missed = read_count(body, "prompt_cache_miss_tokens", path="usage", count_max=count_max)
    if missed is None:
        return 0
    param = "usage.prompt_cache_miss_tokens"
    check_part(missed, prompt, param=param, whole_name="prompt_tokens")
    return prompt - missed


def _share_output(
    body: Mapping[str, object],
    share: _Share,
    prompt: int,
    completion: int,
    total: int | None,
    *,
    count_max: int,
) -> int:
    """
    Fill the output axes and return the total that these parts make.
    """
    path = "usage.completion_tokens_details"
    details = read_details(body, "completion_tokens_details", path="usage")
    reasoning = read_count(details, "reasoning_tokens", path=path, count_max=count_max)
    if reasoning is None:
        reasoning = read_count(body, "reasoning_tokens", path="usage", count_max=count_max) or 0
    audio = read_count(details, "audio_tokens", path=path, count_max=count_max) or 0
    whole = completion
    if reasoning and total == prompt + completion + reasoning:
        whole = completion + reasoning
        share.notes.append("reasoning_beside_completion")
    param = f"{path}.reasoning_tokens"
    check_part(reasoning, whole, param=param, whole_name="completion_tokens")
    check_part(audio, completion, param=f"{path}.audio_tokens", whole_name="completion_tokens")
    left = share.take(Axis.REASONING, reasoning, left=whole)
    left = share.take(Axis.AUDIO_OUTPUT, audio, left=left)
    share.counts[Axis.OUTPUT] = left - min(left, share.set_apart(details, _OUTPUT_DETAILS, path))
    return prompt + whole


def _note_unknown_totals(body: Mapping[str, object], share: _Share) -> None:
    # Beside the totals stand many numbers that are no consumption (times, prices, sources), so
    # only a name that says tokens counts as an axis there.
    for name, count in unknown_counts(body, known=_TOP, path="usage"):
        if name.endswith("_tokens"):
            share.unknown[name] = count
