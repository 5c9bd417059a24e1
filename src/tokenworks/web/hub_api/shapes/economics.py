"""
Measured operating points and what follows from them, as they leave the hub API.

Speeds, watts and joules are JSON numbers; money and what is derived from it is decimal text.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tokenworks.web.hub_api.bodies import Body
from tokenworks.web.hub_api.shapes.parts import Decimal, Shape

ReachName = Literal["measured", "interpolated", "clamped", "unreachable"]
SignedDecimalIn = Annotated[str, Field(pattern=r"^-?\d{1,9}(\.\d{1,9})?$", examples=["80"])]
UnsignedDecimalIn = Annotated[str, Field(pattern=r"^\d{1,9}(\.\d{1,9})?$", examples=["0.5"])]
PointName = Annotated[str, Field(min_length=1, max_length=200)]


class FrontQuery(Body):
    """
    Which front.
    """

    gpu: PointName
    model: PointName
    precision: PointName | None = None
    workload: PointName | None = None


class EconomicsQuery(FrontQuery):
    """
    Which front, and what the operator supposes.
    """

    utilisation: UnsignedDecimalIn = "1"
    pue: UnsignedDecimalIn = "1.2"
    power_usd_per_mwh: SignedDecimalIn = "80"
    capital_usd_per_gpu_hour: UnsignedDecimalIn | None = None  # None: the registry's


class FrontNameShape(Shape):
    """
    What can be asked for.
    """

    gpu: str
    model: str
    precision: str
    workload: str
    points: int
    is_priced: bool  # power and hourly rate of the GPU are known


class PointShape(Shape):
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
    dominated_by_row: int | None  # None: it is on the front


class CurvePoint(Shape):
    """
    One point of the interpolated front.
    """

    tokens_per_s_per_user: float
    tokens_per_s_per_gpu: float


class ServedShape(Shape):
    """
    One GPU at the floor of a tier.
    """

    tier: str
    speed_floor_tokens_per_s: int | None
    first_token_p95_ms: int | None
    reach: ReachName
    unreachable_because: Literal["speed", "first_token"] | None
    tokens_per_s_per_user: float | None
    tokens_per_s_per_gpu: float
    power_w_per_gpu: float
    is_first_token_measured: bool
    leaves_out_late_points: bool  # a point on the front begins too late for it


class FrontierShape(Shape):
    """
    A front, what it leaves behind, and what it serves at each tier's floor.
    """

    gpu: str
    model: str
    precision: str
    workload: str
    points: list[PointShape]  # those on the front first, by ascending speed
    curve: list[CurvePoint]
    tiers: list[ServedShape]
    sources: dict[str, str]


class HardwareShape(Shape):
    """
    A GPU with its share of everything around it.
    """

    gpu: str
    label: str
    it_kw: float
    usd_per_hour: Decimal  # all-in, power included


class AssumptionsShape(Shape):
    """
    What the figures suppose.
    """

    utilisation: Decimal
    pue: Decimal
    power_usd_per_mwh: Decimal
    capital_usd_per_gpu_hour: Decimal
    is_capital_given: bool  # else it is the registry's rate without the power in it


class TierEconomicsShape(Shape):
    """
    What a tier costs and earns; without figures when it cannot be served.
    """

    tier: str
    reach: ReachName
    price_usd_per_million: Decimal
    cost_usd_per_million: Decimal | None = None
    power_usd_per_million: Decimal | None = None
    tokens_per_joule: float | None = None
    drawn_kw: float | None = None
    usd_per_s_per_megawatt: Decimal | None = None
    break_even_utilisation: Decimal | None = None
    break_even_power_usd_per_mwh: Decimal | None = None


class EconomicsShape(Shape):
    """
    Unit economics of one GPU, tier by tier.
    """

    gpu: str
    model: str
    precision: str
    workload: str
    hardware: HardwareShape
    assumptions: AssumptionsShape
    tiers: list[TierEconomicsShape]


class SystemPointShape(Shape):
    """
    What a system serves from a megawatt at one speed.
    """

    tokens_per_s_per_user: float
    tokens_per_s_per_megawatt: float


class SystemTierShape(Shape):
    """
    What a megawatt of a system earns at the floor of a tier.
    """

    tier: str
    speed_floor_tokens_per_s: int | None
    reach: ReachName
    tokens_per_s_per_megawatt: float
    usd_per_s_per_megawatt: Decimal


class SystemShape(Shape):
    """
    One system of the revenue table, everything sold.
    """

    system: str
    points: list[SystemPointShape]
    tiers: list[SystemTierShape]
    even_four_usd_billion: Decimal
    even_five_usd_billion: Decimal
    best_single_usd_billion: Decimal
