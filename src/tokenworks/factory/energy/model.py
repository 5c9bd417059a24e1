"""
Readings of power meters, and what is wrong with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from tokenworks.foundation.limits import FACTORY_DEVICE_POWER_W_MAX

MODEL_PREFIX: Final = "model:"
"""Begins the name of a device whose energy is computed, not measured."""


class Quantity(StrEnum):
    """
    What a meter tells.
    """

    POWER = "power"  # microwatts at a moment
    COUNTER = "counter"  # microjoules since some beginning


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """
    What one device's meter said at one moment.
    """

    device: str
    at_us: int  # since 1970
    quantity: Quantity
    value: int | None  # microwatts or microjoules; ``None``: the meter gave no number
    row: int | None = None  # of the file it came from
    column: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerSeries:
    """
    Readings in the order in which they came, and how far counters count.
    """

    readings: Sequence[Reading]
    counter_ranges_uj: Mapping[str, int] = field(default_factory=dict[str, int])
    # by device: the counter is at most this, then starts again at 0


class FaultKind(StrEnum):
    """
    Why an interval is not validly metered, or (duplicate, wrapped) what was put right.
    """

    GAP = "gap"
    NOT_A_NUMBER = "not_a_number"
    NEGATIVE = "negative"
    IMPLAUSIBLE = "implausible"
    DUPLICATE = "duplicate"
    CONTRADICTION = "contradiction"
    TIME_BACKWARDS = "time_backwards"
    COUNTER_WRAPPED = "counter_wrapped"
    COUNTER_RESET = "counter_reset"
    COUNTER_BACKWARDS = "counter_backwards"
    MIXED_QUANTITIES = "mixed_quantities"
    MISSING_DEVICE = "missing_device"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """
    Something wrong with a device's readings.
    """

    kind: FaultKind
    device: str
    start_us: int
    end_us: int  # equal to the start where no interval is lost
    row: int | None
    column: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """
    What an operator expects of the meters.
    """

    gap_max_us: int = 2_000_000
    power_max_uw: int = FACTORY_DEVICE_POWER_W_MAX * 1_000_000  # of one device
    expected_devices: frozenset[str] = frozenset()
