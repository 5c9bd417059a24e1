"""
Read the counters of vLLM's ``/metrics`` that say what its energy was used for.

Names as in vLLM's documentation, "Production Metrics" (docs.vllm.ai, usage/metrics, V1 engine).
Written against that text: **no vLLM was run here**. Its phase times are counted when a request
ends, so an interval should be long against a request. Several models or replicas are added up.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from tokenworks.factory.errors import PowerSourceError

MICRO: Final = 1_000_000
COUNTERS: Final = {
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:prefix_cache_hits_total": "cached_tokens",
    "vllm:generation_tokens_total": "generation_tokens",
    "vllm:request_prefill_time_seconds_sum": "prefill_seconds",
    "vllm:request_decode_time_seconds_sum": "decode_seconds",
}
"""What is read, and what it is called here; the cache's hits may be missing."""

_OPTIONAL: Final = frozenset({"cached_tokens"})


class VllmText:
    """
    Counters of an engine, in millionths.

    Args:
        fetch: Returns the text of ``/metrics``.
    """

    def __init__(self, fetch: Callable[[], str]) -> None:
        self._fetch = fetch

    def read(self) -> dict[str, int]:
        """
        Return each counter by its name here.

        Raises:
            PowerSourceError: The engine does not answer, or not with these counters.
        """
        found: dict[str, int] = {}
        try:
            families = list(text_string_to_metric_families(self._fetch()))
        except ValueError as error:
            message = f"What the engine answers is no Prometheus text: {error}"
            raise PowerSourceError(message) from error
        for sample in (one for family in families for one in family.samples):
            name = COUNTERS.get(sample.name)
            if name is None:
                continue
            if not math.isfinite(sample.value) or sample.value < 0:
                raise PowerSourceError(f"{sample.name} is no count: {sample.value}")
            found[name] = found.get(name, 0) + round(sample.value * MICRO)
        missing = sorted(set(COUNTERS.values()) - found.keys() - _OPTIONAL)
        if missing:
            message = f"The engine's metrics have no {', '.join(missing)}; is it vLLM's V1?"
            raise PowerSourceError(message)
        return found
