"""
What engines log, and what calls are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class StepPhase(StrEnum):
    """
    What an engine did in one step.
    """

    PREFILL = "prefill"  # read prompts only
    DECODE = "decode"  # wrote answers only
    MIXED = "mixed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """
    What one step did for one call; both counts are 0 when the call was only resident.
    """

    call: str
    prefill_tokens: int  # computed in this step: none for a prefix found in a cache
    decode_tokens: int
    context_tokens: int  # in the call's cache before the step


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """
    One step of an engine: one pass of the model over a batch.
    """

    name: str
    start_us: int
    end_us: int
    phase: StepPhase
    work: Sequence[Work]
    row: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """
    The time from a call's start to its end, of engines that tell nothing finer.
    """

    call: str
    start_us: int
    end_us: int
    prefill_tokens: int
    decode_tokens: int
    row: int


class Part(StrEnum):
    """
    What energy was used for.
    """

    PREFILL = "prefill"
    DECODE = "decode"
    CONTEXT = "context"  # attention over what a call's cache holds
    RESIDENCY = "residency"  # the idle floor, while the call was in the engine
    OVERLAP = "overlap"  # a share of the whole machine, not told apart


class Method(StrEnum):
    """
    How energy was divided.
    """

    STEP_PHASE = "step_phase"
    OVERLAP_SHARE = "overlap_share"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEnergy:
    """
    What one call used.
    """

    call: str
    parts_uj: Mapping[Part, int]
    tokens: int  # computed for it, read and written
    is_whole: bool  # every moment of it was validly metered

    @property
    def total_uj(self) -> int:
        """
        Return all of it.
        """
        return sum(self.parts_uj.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """
    The meter's total, divided.
    """

    method: Method
    calls: Sequence[CallEnergy]  # in the order of their first row
    meter_uj: int
    unattributed_uj: int
    outside_uj: int  # of the unattributed: while no step or span ran
    unplaced_uj: int  # of the unattributed: counted while nobody knows when

    def __post_init__(self) -> None:
        """
        Check that nothing was made or lost.
        """
        given = sum(call.total_uj for call in self.calls)
        assert given + self.unattributed_uj == self.meter_uj, "energy is conserved"
        assert self.unattributed_uj >= self.outside_uj + self.unplaced_uj >= 0, "parts of a whole"
