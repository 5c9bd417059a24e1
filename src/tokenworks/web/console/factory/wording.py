"""
Write powers, energies, prices and reasons for people; pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from tokenworks.web.console.factory.model import Served
from tokenworks.web.console.wording import rate_text, to_decimal, words

BOUNDARIES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "gpu": "GPU boards alone",
        "it": "with host and network",
        "utility": "with cooling",
    }
)
REACH_MEANINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "measured": "A point has this speed.",
        "interpolated": "Between two measured points.",
        "clamped": "The slowest point is faster than the floor.",
        "unreachable": "No point serves it.",
    }
)


METHODS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "timings": "by the phases that llama.cpp told",
        "vllm_metrics": "by vLLM's counters",
        "overlap": "by equal shares of the time together",
        "step_phase": "by engine step and phase",
        "step_phase_assumed": "by engine step and phase, costs assumed",
    }
)
SOURCES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "model": "CPU time × a share of the TDP",
        "rapl": "Linux powercap (RAPL)",
        "nvml": "NVIDIA NVML",
        "dcgm": "NVIDIA DCGM exporter",
        "push": "readings sent by the plant",
    }
)


def dollars_text(text: str | None) -> str:
    """
    Return money at a glance: about four digits, at least two decimals below a thousand.
    """
    if text is None:
        return "–"
    number = to_decimal(text)
    if number == 0 or abs(number) >= 1_000:
        return "0.00" if number == 0 else rate_text(number)
    shown = f"{round(number, max(2, 3 - number.adjusted())):f}"
    whole, _, decimals = shown.partition(".")
    return f"{whole}.{decimals.rstrip('0').ljust(2, '0')}"


def scaled_text(value: float | None, unit: str) -> str:
    """
    Return a physical figure with the prefix that makes it short: 1,234,000 W is 1.234 MW.
    """
    if value is None:
        return "–"
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")):
        if abs(value) >= factor:
            return f"{rate_text(value / factor)} {prefix}{unit}"
    if value == 0:
        return f"0 {unit}"
    for factor, prefix in ((1e-3, "m"), (1e-6, "µ")):
        if abs(value) >= factor:
            return f"{rate_text(value / factor)} {prefix}{unit}"
    return f"{rate_text(value)} {unit}"


def percent_text(share: str | None) -> str:
    """
    Return a share as per cent, at a glance.
    """
    return "–" if share is None else f"{rate_text(to_decimal(share) * 100, digits=3)} %"


def boundary_text(boundary: str) -> str:
    """
    Return what a power figure includes.
    """
    return BOUNDARIES.get(boundary, words(boundary))


def method_text(method: str) -> str:
    """
    Return how energy was divided among calls.
    """
    return METHODS.get(method, words(method))


def source_text(source: str) -> str:
    """
    Return how a meter is read.
    """
    return SOURCES.get(source, words(source))


def joules_text(microjoules: str | int) -> str:
    """
    Return whole microjoules as joules at a glance.
    """
    return scaled_text(int(microjoules) / 1_000_000, "J")


def floor_text(served: Served) -> str:
    """
    Return what a tier promises.
    """
    promises: list[str] = []
    if served.speed_floor_tokens_per_s is not None:
        promises.append(f"≥ {served.speed_floor_tokens_per_s} tokens/s")
    if served.first_token_p95_ms is not None:
        promises.append(f"first token ≤ {served.first_token_p95_ms / 1_000:g} s")
    return ", ".join(promises) or "no promise"


def why_text(served: Served) -> str:
    """
    Return why a tier is served as it is, as a sentence.
    """
    match served.reach, served.unreachable_because:
        case "unreachable", "first_token":
            return "Points that are fast enough begin too late."
        case "unreachable", _:
            return "No measured point is that fast."
        case "measured", _ if served.speed_floor_tokens_per_s is None:
            return "The slowest point, which serves most."
        case reach, _:
            return REACH_MEANINGS.get(reach, words(reach))


def caveats(served: Served) -> str:
    """
    Return what else a reader must know of a tier that is served.
    """
    said: list[str] = []
    if served.leaves_out_late_points:
        said.append("Points on the front that begin too late for it are left out.")
    if served.first_token_p95_ms is not None and not served.is_first_token_measured:
        said.append("First token not measured.")
    return " ".join(said)


def tier_name(tier: str) -> str:
    """
    Return a tier's name as words.
    """
    return words(tier)
