"""
Read what llama.cpp says of the time it took for a call: the member ``timings`` of its answers.

``prompt_ms`` and ``predicted_ms`` are the time it worked on the prompt and on the answer,
``prompt_n`` the prompt's tokens that were computed (``cache_n`` more came from the cache),
``predicted_n`` those written. Recorded from llama.cpp's server as the demo runs it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

DURATION_US_MAX: Final = 24 * 3_600 * 1_000_000
COUNT_MAX: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTimings:
    """
    How long an engine worked for one call, and on how many tokens.
    """

    prompt_us: int
    predicted_us: int
    prompt_tokens: int  # computed: none for a prefix found in the cache
    predicted_tokens: int


def from_llama_cpp(timings: object) -> EngineTimings | None:
    """
    Return the phases of a call; ``None`` when there are none, or they cannot be.

    Whatever is wrong with them, the call and its bill are not touched.
    """
    if not isinstance(timings, dict):
        return None
    members = cast("Mapping[str, object]", timings)
    prompt_us = _microseconds(members.get("prompt_ms"))
    predicted_us = _microseconds(members.get("predicted_ms"))
    prompt_tokens = _count(members.get("prompt_n"))
    predicted_tokens = _count(members.get("predicted_n"))
    if prompt_us is None or predicted_us is None:
        return None
    if prompt_tokens is None or predicted_tokens is None or prompt_us + predicted_us == 0:
        return None
    return EngineTimings(
        prompt_us=prompt_us,
        predicted_us=predicted_us,
        prompt_tokens=prompt_tokens,
        predicted_tokens=predicted_tokens,
    )


def _microseconds(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value * 1_000) if 0 <= value * 1_000 <= DURATION_US_MAX else None


def _count(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= COUNT_MAX else None
