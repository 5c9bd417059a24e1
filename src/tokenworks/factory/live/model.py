"""
Meters of suppliers, the calls they saw, and what intervals and calls were given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

from tokenworks.factory.energy.model import Rules
from tokenworks.metering.timings import EngineTimings

MICRO: Final = 1_000_000
JOULES_PER_KWH: Final = 3_600_000
INTERVAL_US_DEFAULT: Final = 10 * MICRO
GAP_US_DEFAULT: Final = 3 * MICRO
POWER_MAX_UW_DEFAULT: Final = 100_000 * MICRO


class SourceKind(StrEnum):
    """
    How a meter is read.
    """

    MODEL = "model"  # CPU time times a share of the TDP: computed, not measured
    RAPL = "rapl"
    NVML = "nvml"
    DCGM = "dcgm"
    PUSH = "push"  # not read: ``tokenworks factory meter`` at the engine's site sends readings

    @property
    def is_in_a_machine(self) -> bool:
        """
        Tell whether another machine that reads the same would read another meter.
        """
        return self in {SourceKind.MODEL, SourceKind.RAPL, SourceKind.NVML}


class UnmeteredReason(StrEnum):
    """
    Why a call at a metered supplier has no energy.
    """

    NOT_METERED = "not_metered"  # there is no interval of any moment it ran in
    READINGS_GONE = "readings_gone"  # it was booked when the readings were not kept any more


class GridMethod(StrEnum):
    """
    What a grid factor stands for (GHG Protocol, Scope 2 Guidance).
    """

    LOCATION_BASED = "location_based"
    MARKET_BASED = "market_based"


class ShareMethod(StrEnum):
    """
    How a call's part of an interval was found.
    """

    TIMINGS = "timings"  # by overlap within the phases that llama.cpp told
    VLLM_METRICS = "vllm_metrics"  # by the engine's counters of tokens and phase times
    OVERLAP = "overlap"  # by overlap of whole spans: phases are not told apart
    STEP_PHASE = "step_phase"  # by the engine's step log, costs of phases fitted to the meter
    STEP_PHASE_ASSUMED = "step_phase_assumed"  # likewise, with another machine's costs


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    """
    Where a meter is; of each source only what it needs is set.
    """

    url: str | None = None  # dcgm: the exporter's /metrics
    port: int | None = None  # model: the process that listens there, on the worker's machine
    pid: int | None = None  # model: instead of a port
    tdp_w: int | None = None  # model: of the whole CPU
    engine_url: str | None = None  # vLLM's /metrics, beside any source
    host: str | None = None  # the machine that reads it; ``None``: the first that can


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterTerms:
    """
    Everything an operator says about a meter.
    """

    name: str
    source: SourceKind
    settings: SourceSettings = field(default_factory=SourceSettings)
    interval_us: int = INTERVAL_US_DEFAULT
    gap_max_us: int = GAP_US_DEFAULT
    power_max_uw: int = POWER_MAX_UW_DEFAULT  # of one device
    devices: tuple[str, ...] = ()  # that must be there; none: those that are
    boundary: str = ""  # what the meter sees
    price_nano_per_kwh: int | None = None  # of electricity, in the hub's currency
    co2e_mg_per_kwh: int | None = None
    co2e_source: str | None = None
    co2e_method: GridMethod | None = None

    @property
    def rules(self) -> Rules:
        """
        Return what the readings must keep to.
        """
        return Rules(
            gap_max_us=self.gap_max_us,
            power_max_uw=self.power_max_uw,
            expected_devices=frozenset(self.devices),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterReader:
    """
    Who reads a meter, and until when nobody else may.
    """

    holder: str  # a process, as it calls itself
    host: str  # its machine; of a meter that is in a machine no other one comes next
    leased_until: datetime

    def tell(self, now: datetime) -> str:
        """
        Say why another one's readings are not taken.
        """
        who = f"{self.holder} on {self.host}" if self.host else self.holder
        if self.leased_until > now:
            reads = f"{who} reads this meter, until {self.leased_until:%H:%M:%S} UTC at least."
        else:
            reads = f"This meter is in the machine {self.host}, which reads it."
        return f"{reads} Stop that one, or `factory meter release` it."


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """
    What a process asks for to be the one who reads a meter.
    """

    holder: str
    host: str
    lifetime: timedelta  # after its last readings; then another one may read
    is_in_a_machine: bool = False
    gone: str | None = None  # a holder that is gone for certain


@dataclass(frozen=True, slots=True, kw_only=True)
class SupplierMeter:
    """
    A meter in use, or retired.
    """

    meter_id: UUID
    supplier_id: UUID
    terms: MeterTerms
    actor: str
    created_at: datetime
    retired_at: datetime | None
    reader: MeterReader | None = None  # ``None``: it was never read


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCall:
    """
    One attempt of a call at a metered supplier, ended; times are the hub's.
    """

    call_id: UUID
    organisation_id: UUID
    model: str
    tier: str
    start_us: int
    first_token_us: int | None
    end_us: int
    input_tokens: int  # fresh ones; of an attempt that served nothing 0, here and below
    cached_tokens: int
    output_tokens: int
    charge_quanta: int
    payable_quanta: int
    timings: EngineTimings | None
    ended_at: datetime  # when its call was in the books
    has_receipt: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCounters:
    """
    What an engine counted over an interval, its own and others' calls.
    """

    prompt_tokens: int
    generation_tokens: int
    prefill_us: int  # summed over calls
    decode_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CallShare:
    """
    What a call was given of an interval.
    """

    call_id: UUID
    organisation_id: UUID
    energy_uj: int
    prefill_uj: int
    decode_uj: int
    method: ShareMethod
    is_whole: bool
    context_uj: int = 0  # told by step logs alone, here and below
    residency_uj: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """
    An interval's energy, divided.
    """

    metered_uj: int
    unplaced_uj: int  # of it: counted over a gap, nobody knows when
    shares: Sequence[CallShare]
    input_tokens: int  # of these calls, by the part of their time in the interval
    output_tokens: int

    def __post_init__(self) -> None:
        """
        Check that nothing was made.
        """
        assert self.unattributed_uj >= self.unplaced_uj >= 0, "calls get only what has its time"

    @property
    def unattributed_uj(self) -> int:
        """
        Return what no call was given.
        """
        return self.metered_uj - sum(share.energy_uj for share in self.shares)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """
    One revision of what was metered in an interval.
    """

    interval_id: UUID
    revision: int
    meter_id: UUID
    supplier_id: UUID
    start_us: int
    end_us: int
    metered_uj: int
    unattributed_uj: int
    unplaced_uj: int  # of the unattributed: counted over a gap that ends in it
    covered_us: int
    methods: Sequence[str]
    is_measured: bool
    calls: int
    input_tokens: int
    output_tokens: int
    faults: Sequence[Mapping[str, object]]
    computed_at: datetime
    posted_at: datetime | None


def interval_id(meter_id: UUID, start_us: int) -> UUID:
    """
    Return the name of a meter's interval: a UUIDv7 of its start, the same for ever.
    """
    digest = hashlib.sha256(meter_id.bytes + start_us.to_bytes(8)).digest()
    low = int.from_bytes(digest[:10])
    random_a, random_b = low >> 64 & 0xFFF, low & (1 << 62) - 1
    return UUID(int=start_us // 1_000 << 80 | 0x7 << 76 | random_a << 64 | 0b10 << 62 | random_b)
