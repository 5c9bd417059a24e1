"""
What the hub says about the plant at work: meters, intervals, models, the value chain.

Energy is whole microjoules as text; it is added up as it is and shortened where it is shown.
"""

from __future__ import annotations

import msgspec


class Meter(msgspec.Struct, frozen=True, kw_only=True):
    """
    A supplier's power meter.
    """

    name: str
    supplier: str
    source: str
    is_measured: bool
    boundary: str = ""
    price_per_kwh: str | None = None
    last_reading_at: str | None = None


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """
    A stretch of time that was not validly metered, or a reading that was put right.
    """

    meter: str
    device: str
    kind: str
    start: str
    end: str
    text: str


class PowerPoint(msgspec.Struct, frozen=True, kw_only=True):
    """
    One interval of all meters together; tokens are ``None`` until calls have their shares.
    """

    start: str
    end: str
    watts: float
    energy_uj: str
    unattributed_uj: str | None
    coverage: float
    output_tokens: int | None
    output_tokens_per_s: float | None
    joules_per_output_token: float | None
    methods: tuple[str, ...]
    is_measured: bool
    is_complete: bool = True  # its readings reach its end


class Live(msgspec.Struct, frozen=True, kw_only=True):
    """
    The last minutes, oldest first.
    """

    as_of: str
    minutes: int
    meters: tuple[Meter, ...] = ()
    points: tuple[PowerPoint, ...] = ()
    faults: tuple[Fault, ...] = ()


class ModelEnergy(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a model's calls took.
    """

    model: str
    calls: int
    calls_not_whole: int
    input_tokens: int
    output_tokens: int
    energy_uj: str
    joules_per_token: float | None
    joules_per_output_token: float | None
    kwh_per_million_tokens: float | None
    electricity_cost_per_million: str | None
    charge_per_million: str | None
    currency: str
    co2e_g: str | None
    methods: tuple[str, ...]
    is_measured: bool


class ModelEnergies(msgspec.Struct, frozen=True, kw_only=True):
    """
    Models, the most energy first.
    """

    hours: int
    items: tuple[ModelEnergy, ...] = ()


class Box(msgspec.Struct, frozen=True, kw_only=True):
    """
    One box of a stage.
    """

    box: str
    label: str
    energy_uj: str
    money: str | None
    tokens: int | None

    @property
    def is_unattributed(self) -> bool:
        """
        Return whether it stands for what no call used.
        """
        return self.box == "compute:unattributed"


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """
    One stage of the value chain.
    """

    stage: str
    energy_uj: str
    money: str | None
    money_label: str
    tokens: int | None
    boxes: tuple[Box, ...] = ()


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """
    Energy from one box to another one stage on.
    """

    source: str
    target: str
    energy_uj: str


class ValueChain(msgspec.Struct, frozen=True, kw_only=True):
    """
    Energy and money from the meter to the applications.
    """

    hours: int
    currency: str
    energy_uj: str
    co2e_g: str | None
    calls: int
    is_measured: bool
    methods: tuple[str, ...]
    stages: tuple[Stage, ...] = ()
    links: tuple[Link, ...] = ()
