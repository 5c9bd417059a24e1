"""
What was measured, and where the meter stood.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction


class Boundary(StrEnum):
    """
    What a power figure includes.
    """

    GPU = "gpu"  # the boards alone
    IT = "it"  # with host, network, fans and power supplies
    UTILITY = "utility"  # with cooling: what the utility bills


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontKey:
    """
    What the points of one front have in common; engines, layouts and batches compete in it.
    """

    gpu: str
    model: str
    precision: str
    workload: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """
    One measured way to run a model.
    """

    row: int  # line of the file it stands in
    gpu: str
    gpu_count: int
    model: str
    precision: str
    engine: str
    layout: str
    workload: str
    batch: float  # calls answered together, the average
    output_tokens_per_s: float  # of all GPUs together
    tokens_per_s_per_user: float
    ttft_ms: float | None  # time to first token, median; None: not measured
    itl_ms: float | None  # time between tokens, median; None: not measured
    power_w: float  # of all GPUs together, within the boundary
    boundary: Boundary
    as_of: str | None  # None: the source does not say
    source: str

    @property
    def front_key(self) -> FrontKey:
        """
        Return the front this point competes on.
        """
        return FrontKey(
            gpu=self.gpu, model=self.model, precision=self.precision, workload=self.workload
        )

    @property
    def curve_key(self) -> tuple[object, ...]:
        """
        Return what stays the same along a curve of batches.
        """
        return (
            *(self.gpu, self.gpu_count, self.model, self.precision, self.engine),
            *(self.layout, self.workload, self.boundary, self.as_of, self.source),
        )

    @property
    def tokens_per_s_per_gpu(self) -> float:
        """
        Return output tokens per second of one GPU.
        """
        return self.output_tokens_per_s / self.gpu_count

    @property
    def power_w_per_gpu(self) -> float:
        """
        Return watts of one GPU within the boundary.
        """
        return self.power_w / self.gpu_count

    @property
    def joules_per_token(self) -> float:
        """
        Return joules per output token within the boundary.
        """
        return self.power_w / self.output_tokens_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemPoint:
    """
    What a whole system serves from a megawatt at one speed.
    """

    system: str
    tokens_per_s_per_user: float
    output_tokens_per_s_per_megawatt: Fraction
    usd_per_million_output_tokens: Fraction
    boundary: Boundary


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseEnergy:
    """
    Measured energy of prefill and decode of one layout that keeps them apart.
    """

    row: int
    input_tokens: int  # of one call
    output_tokens: int
    prefill_joules_per_input_token: float
    decode_joules_per_output_token: float
    joules_per_output_token: float  # all of it

    @property
    def joules_by_phase(self) -> float:
        """
        Return joules per output token, put together from the two phases.
        """
        ratio = self.input_tokens / self.output_tokens
        return self.decode_joules_per_output_token + ratio * self.prefill_joules_per_input_token


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """
    A GPU with its share of everything around it.
    """

    gpu: str
    label: str
    tdp_kw: Fraction
    it_kw: Fraction  # to provision for one GPU, before PUE
    usd_per_hour: Fraction  # all-in rate of a hyperscaler, power included

    @property
    def overhead_kw(self) -> Fraction:
        """
        Return what host, network, fans and power supplies add to one board, in kilowatts.
        """
        return self.it_kw - self.tdp_kw


def exactly(value: float) -> Fraction:
    """
    Return a measured float as the decimal it is written as: 0.1 is one tenth.
    """
    return Fraction(repr(value))


def curves(points: Iterable[OperatingPoint]) -> tuple[tuple[OperatingPoint, ...], ...]:
    """
    Return the curves of points that differ in the batch alone, each by ascending batch.
    """
    groups: dict[tuple[object, ...], list[OperatingPoint]] = {}
    for point in points:
        groups.setdefault(point.curve_key, []).append(point)
    return tuple(tuple(sorted(group, key=lambda point: point.batch)) for group in groups.values())


def to_decimal(value: Fraction, places: int) -> Decimal:
    """
    Return an exact figure rounded half even, for people and for JSON.
    """
    return Decimal(f"{round(value * 10**places)}E-{places}")  # exact; arithmetic would round
