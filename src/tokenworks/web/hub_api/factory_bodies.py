"""
What comes in about the token factory.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Final

from fastapi import Query
from pydantic import Field

from tokenworks.factory.attribution.model import Step
from tokenworks.factory.attribution.step_log import read_step
from tokenworks.factory.energy.model import Quantity, Reading
from tokenworks.factory.errors import TableInvalidError
from tokenworks.factory.live.model import (
    GAP_US_DEFAULT,
    INTERVAL_US_DEFAULT,
    MICRO,
    POWER_MAX_UW_DEFAULT,
    GridMethod,
    MeterTerms,
    SourceKind,
    SourceSettings,
)
from tokenworks.factory.live.service import LEASE_S, to_us
from tokenworks.factory.live.step_spool import Remark
from tokenworks.factory.table_reading import to_decimal
from tokenworks.foundation.limits import (
    FACTORY_NAME_CHARACTERS_MAX,
    FACTORY_READINGS_SENT_MAX,
    FACTORY_STEPS_SENT_MAX,
)
from tokenworks.foundation.money import USD, quanta_from_text
from tokenworks.web.hub_api.bodies import Body, DecimalIn, MomentIn, NameOrId, ShortText

MINUTES_MAX: Final = 6 * 60
HOURS_MAX: Final = 31 * 24
LEASE_S_MAX: Final = 4 * 3_600

Minutes = Annotated[int, Query(ge=1, le=MINUTES_MAX)]
Hours = Annotated[int, Query(ge=1, le=HOURS_MAX)]
DeviceName = Annotated[str, Field(min_length=1, max_length=FACTORY_NAME_CHARACTERS_MAX)]
MetricsUrl = Annotated[str, Field(min_length=8, max_length=2_000, pattern=r"^https?://")]


class GridFactorIn(Body):
    """
    What a kilowatt-hour of the grid emits, and who says so.
    """

    co2e_g_per_kwh: DecimalIn
    source: Annotated[str, Field(min_length=1, max_length=500)]
    method: GridMethod


class MeterIn(Body):
    """
    A new meter of a supplier.
    """

    supplier: NameOrId
    name: DeviceName
    source: SourceKind
    boundary: ShortText = ""
    url: MetricsUrl | None = None
    port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    pid: Annotated[int, Field(ge=1)] | None = None
    tdp_w: Annotated[int, Field(ge=1, le=100_000)] | None = None
    engine_url: MetricsUrl | None = None
    host: DeviceName | None = None  # the machine whose worker reads it
    allow_private: bool = False
    interval_s: Annotated[float, Field(ge=1, le=3_600)] = INTERVAL_US_DEFAULT / MICRO
    gap_max_s: Annotated[float, Field(ge=0.001, le=3_600)] = GAP_US_DEFAULT / MICRO
    power_max_w: Annotated[int, Field(ge=1, le=100_000)] = POWER_MAX_UW_DEFAULT // MICRO
    devices: Annotated[tuple[DeviceName, ...], Field(max_length=1_000)] = ()
    price_per_kwh: DecimalIn | None = None
    grid: GridFactorIn | None = None

    def to_terms(self) -> MeterTerms:
        """
        Return what an operator says about a meter.

        Raises:
            InvalidError: A price or factor finer than can be kept.
        """
        price, grid = self.price_per_kwh, self.grid
        return MeterTerms(
            name=self.name,
            source=self.source,
            settings=SourceSettings(
                url=self.url,
                port=self.port,
                pid=self.pid,
                tdp_w=self.tdp_w,
                engine_url=self.engine_url,
                host=self.host,
            ),
            # Whole milliseconds: an interval's id is made of them.
            interval_us=round(self.interval_s * 1_000) * 1_000,
            gap_max_us=round(self.gap_max_s * MICRO),
            power_max_uw=self.power_max_w * MICRO,
            devices=self.devices,
            boundary=self.boundary,
            price_nano_per_kwh=None if price is None else quanta_from_text(price, scale=USD.scale),
            co2e_mg_per_kwh=None
            if grid is None
            else quanta_from_text(grid.co2e_g_per_kwh, scale=3),
            co2e_source=None if grid is None else grid.source,
            co2e_method=None if grid is None else grid.method,
        )


class ReadingIn(Body):
    """
    What one device said: watts, or the joules of a counter; null or no number is kept as wrong.
    """

    time: MomentIn
    device: DeviceName
    watts: str | None = None
    joules: str | None = None
    counter_range_joules: DecimalIn | None = None  # after so many the counter starts again

    def to_reading(self) -> Reading:
        """
        Return the reading, in millionths and rounded down.
        """
        is_power = self.joules is None
        value = to_decimal(self.watts if is_power else self.joules)
        micro = None if value is None else int((value * MICRO).to_integral_value("ROUND_FLOOR"))
        return Reading(
            device=self.device,
            at_us=to_us(self.time),
            quantity=Quantity.POWER if is_power else Quantity.COUNTER,
            value=micro,
            column="watts" if is_power else "joules",
        )


class ReadingsIn(Body):
    """
    Readings in the order in which they were taken.
    """

    readings: Annotated[list[ReadingIn], Field(max_length=FACTORY_READINGS_SENT_MAX)]
    reader: DeviceName | None = None  # who sends them, one at a time; null: the key
    lease_s: Annotated[float, Field(gt=0, le=LEASE_S_MAX)] = LEASE_S


class StepsIn(Body):
    """
    Steps of an engine, each as a JSON line of the step log has it (docs/factory.md).
    """

    steps: Annotated[list[dict[str, Any]], Field(max_length=FACTORY_STEPS_SENT_MAX)]

    def to_steps(self) -> tuple[list[Step], list[Remark]]:
        """
        Return the steps that can be read, and what is wrong with the others; rows count from 1.
        """
        steps: list[Step] = []
        refused: list[Remark] = []
        for row, cells in enumerate(self.steps, start=1):
            try:
                # Times are exact as text; a float is taken as it is written.
                exact = {
                    name: Decimal(repr(value)) if isinstance(value, float) else value
                    for name, value in cells.items()
                }
                steps.append(read_step(exact, "steps", row))
            except TableInvalidError as error:
                text = error.message.partition(": ")[2].partition(": ")[2]
                column = error.param or "(line)"
                refused.append(Remark(row=row, column=column, text=text))
        return steps, refused


class ReleaseIn(Body):
    """
    Who stops to read a meter; null: whoever it is, and the next one may be on another machine.
    """

    reader: DeviceName | None = None
