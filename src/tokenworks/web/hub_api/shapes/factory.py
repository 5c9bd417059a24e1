"""
The token factory as it leaves through the hub API.

Energy is whole microjoules as decimal text (``*_uj``), which adds up exactly, and plain joules,
watts or ratios as numbers for people to look at. Money is decimal text in whole units.
"""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from tokenworks.web.hub_api.shapes.parts import Decimal, Moment, Shape


class GridFactorShape(Shape):
    """
    What a kilowatt-hour of the grid emits, as the operator says.
    """

    co2e_g_per_kwh: Decimal
    source: str
    method: Literal["location_based", "market_based"]


class MeterShape(Shape):
    """
    A supplier's power meter; ``is_measured`` is false where its energy is a model.
    """

    meter_id: UUID
    name: str
    supplier: str
    supplier_id: UUID
    source: Literal["model", "rapl", "nvml", "dcgm", "push"]
    is_measured: bool
    boundary: str
    interval_s: float
    gap_max_s: float
    power_max_w: float
    devices: list[str]
    url: str | None
    port: int | None
    pid: int | None
    tdp_w: int | None
    engine_url: str | None
    host: str | None  # the machine that reads it, where one was named or is the first
    read_by: str | None  # the process or site whose readings alone are taken
    read_until: Moment | None  # then another one may read it
    price_per_kwh: Decimal | None
    currency: str
    grid: GridFactorShape | None
    created_at: Moment
    retired_at: Moment | None
    last_reading_at: Moment | None = None
    posted_until: Moment | None = None


class FaultShape(Shape):
    """
    A stretch of time that was not validly metered, or a reading that was put right.
    """

    meter: str
    device: str
    kind: str
    start: Moment
    end: Moment
    text: str


class PowerPointShape(Shape):
    """
    One interval of the chosen meters together; ``is_posted`` says whether it is in the books.

    Until then tokens and calls are not known, and null.
    """

    start: Moment
    end: Moment
    watts: float
    energy_uj: Decimal
    unattributed_uj: Decimal | None
    coverage: float  # part of the time that was validly metered, 0 to 1
    calls: int | None
    input_tokens: int | None
    output_tokens: int | None
    output_tokens_per_s: float | None
    joules_per_output_token: float | None  # null also where nothing was written
    methods: list[str]
    is_measured: bool
    is_complete: bool  # false of the newest, whose readings do not reach its end yet
    is_posted: bool


class LiveShape(Shape):
    """
    Power and tokens of the last minutes, oldest first.
    """

    as_of: Moment
    minutes: int
    meters: list[MeterShape]
    points: list[PowerPointShape]
    faults: list[FaultShape]  # the newest, newest first


class ModelEnergyShape(Shape):
    """
    What a model's calls took, over calls whose energy is known.
    """

    model: str
    calls: int
    calls_not_whole: int  # with a moment that was not validly metered
    input_tokens: int
    output_tokens: int
    energy_uj: Decimal
    prefill_uj: Decimal  # parts of the energy; what neither has is not told apart
    decode_uj: Decimal
    joules_per_token: float | None  # read and written ones
    joules_per_output_token: float | None
    kwh_per_million_tokens: float | None
    electricity_cost: Decimal | None  # null: some meter has no price
    electricity_cost_per_million: Decimal | None
    charge: Decimal
    charge_per_million: Decimal | None
    currency: str
    co2e_g: Decimal | None  # null: some meter has no grid factor
    methods: list[str]
    is_measured: bool


class WithoutEnergyShape(Shape):
    """
    How many calls at a metered supplier have no energy, and why.

    ``not_metered``: no moment of them was; ``readings_gone``: they came into the books when the
    meter's readings of that time were not kept any more.
    """

    supplier: str
    reason: Literal["not_metered", "readings_gone"]
    calls: int


class ModelEnergyList(Shape):
    """
    Models, the most energy first.
    """

    as_of: Moment
    hours: int
    items: list[ModelEnergyShape]
    without_energy: list[WithoutEnergyShape]  # calls that no item counts


class ChainBoxShape(Shape):
    """
    One box of a stage: a meter, a supplier, a model, a phase, an application's owner.
    """

    box: str  # an id within the picture
    label: str
    energy_uj: Decimal
    money: Decimal | None
    tokens: int | None


class ChainStageShape(Shape):
    """
    One stage of electricity -> compute -> model -> tokens -> applications.

    ``money`` is what is paid at that stage: for electricity its price, for compute what suppliers
    are owed, for tokens and applications what buyers were charged; null where nobody is paid.
    """

    stage: Literal["electricity", "compute", "model", "tokens", "applications"]
    energy_uj: Decimal
    money: Decimal | None
    money_label: str
    tokens: int | None
    boxes: list[ChainBoxShape]


class ChainLinkShape(Shape):
    """
    Energy from one box to another one stage on.
    """

    source: str
    target: str
    energy_uj: Decimal


class ValueChainShape(Shape):
    """
    Energy and money from the meter to the applications, over calls whose energy is known.

    What is metered and no call used stands in the box ``unattributed`` of the stage compute.
    """

    as_of: Moment
    hours: int
    currency: str
    energy_uj: Decimal
    co2e_g: Decimal | None
    calls: int
    is_measured: bool
    methods: list[str]
    stages: list[ChainStageShape]
    links: list[ChainLinkShape]


class ReadingsAccepted(Shape):
    """
    How many readings were kept; wrong ones are kept too, and flagged when they are looked at.
    """

    readings: int


class StepRemark(Shape):
    """
    What is said of a row that was sent; rows count from 1.
    """

    row: int
    column: str
    text: str


class StepsAccepted(Shape):
    """
    What became of steps that were sent: kept, there already, refused by row and column.
    """

    steps: int
    repeated: int
    remarks: list[StepRemark]  # of rows that were kept all the same
    refused: list[StepRemark]


class AddendumShape(Shape):
    """
    What was signed about a call's energy; the document is what ``receipt verify`` checks.
    """

    addendum: dict[str, object]
    jws: str
    certificate: str
