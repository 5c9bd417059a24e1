"""
What the hub says about fronts and unit economics.
"""

from __future__ import annotations

import msgspec


class FrontName(msgspec.Struct, frozen=True, kw_only=True):
    """
    A front there are points for.
    """

    gpu: str
    model: str
    precision: str
    workload: str
    points: int = 0
    is_priced: bool = False

    @property
    def family(self) -> str:
        """
        Return what is the same on every GPU.
        """
        return f"{self.model}|{self.precision}|{self.workload}"


class FrontNames(msgspec.Struct, frozen=True, kw_only=True):
    """
    Everything that can be asked for.
    """

    items: tuple[FrontName, ...] = ()


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """
    One measured way to run a model.
    """

    row: int
    gpu_count: int
    engine: str
    layout: str
    batch: float
    tokens_per_s_per_user: float
    tokens_per_s_per_gpu: float
    joules_per_token: float
    power_w_per_gpu: float
    ttft_ms: float | None
    boundary: str
    as_of: str | None
    source: str
    dominated_by_row: int | None


class CurvePoint(msgspec.Struct, frozen=True, kw_only=True):
    """
    One point of the interpolated front.
    """

    tokens_per_s_per_user: float
    tokens_per_s_per_gpu: float


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """
    What one GPU serves at the floor of a tier.
    """

    tier: str
    speed_floor_tokens_per_s: int | None
    first_token_p95_ms: int | None
    reach: str
    unreachable_because: str | None
    tokens_per_s_per_user: float | None
    tokens_per_s_per_gpu: float
    power_w_per_gpu: float
    is_first_token_measured: bool
    leaves_out_late_points: bool

    @property
    def joules_per_token(self) -> float | None:
        """
        Return joules per token within the boundary of the points.
        """
        rate = self.tokens_per_s_per_gpu
        return self.power_w_per_gpu / rate if rate > 0 else None


class Frontier(msgspec.Struct, frozen=True, kw_only=True):
    """
    A front, what is behind it, and what it serves at each floor.
    """

    gpu: str
    model: str
    precision: str
    workload: str
    points: tuple[Point, ...]
    curve: tuple[CurvePoint, ...]
    tiers: tuple[Served, ...]
    sources: dict[str, str]


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """
    A GPU with its share of everything around it.
    """

    gpu: str
    label: str
    it_kw: float
    usd_per_hour: str


class Assumptions(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the figures suppose.
    """

    utilisation: str
    pue: str
    power_usd_per_mwh: str
    capital_usd_per_gpu_hour: str
    is_capital_given: bool


class TierEconomics(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a tier costs and earns; without figures when it is out of reach.
    """

    tier: str
    reach: str
    price_usd_per_million: str
    cost_usd_per_million: str | None
    power_usd_per_million: str | None
    tokens_per_joule: float | None
    drawn_kw: float | None
    usd_per_s_per_megawatt: str | None
    break_even_utilisation: str | None
    break_even_power_usd_per_mwh: str | None


class Economics(msgspec.Struct, frozen=True, kw_only=True):
    """
    Unit economics of one GPU, tier by tier.
    """

    gpu: str
    hardware: Hardware
    assumptions: Assumptions
    tiers: tuple[TierEconomics, ...]


class SystemPoint(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a system serves from a megawatt at one speed.
    """

    tokens_per_s_per_user: float
    tokens_per_s_per_megawatt: float


class SystemTier(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a megawatt of a system earns at the floor of a tier.
    """

    tier: str
    speed_floor_tokens_per_s: int | None
    reach: str
    usd_per_s_per_megawatt: str


class System(msgspec.Struct, frozen=True, kw_only=True):
    """
    One system of the revenue table.
    """

    system: str
    points: tuple[SystemPoint, ...]
    tiers: tuple[SystemTier, ...]
    even_four_usd_billion: str
    even_five_usd_billion: str
    best_single_usd_billion: str


class Systems(msgspec.Struct, frozen=True, kw_only=True):
    """
    The revenue table.
    """

    items: tuple[System, ...] = ()
