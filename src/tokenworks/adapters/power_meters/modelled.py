"""
A MODEL, no meter: what a process would take if its share of CPU time were its share of the TDP.

For machines on which nothing can be measured. Its device is named ``model:...`` wherever it goes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import psutil

from tokenworks.adapters.power_meters.moments import now_us
from tokenworks.factory.energy.model import MODEL_PREFIX, Quantity, Reading
from tokenworks.factory.errors import PowerSourceError
from tokenworks.foundation.clock import Clock


class ModelledPower:
    """
    A counter of CPU time times a core's share of the thermal design power.

    Args:
        clock: When a reading is taken.
        read_cpu_s: Seconds of CPU time that the process has had so far.
        name: Of the process, for the device.
        tdp_w: Of the whole CPU.
        cores: Of the whole CPU, as the operating system counts them.
    """

    def __init__(
        self, clock: Clock, read_cpu_s: Callable[[], float], *, name: str, tdp_w: int, cores: int
    ) -> None:
        assert tdp_w > 0, "a CPU takes power"
        assert cores > 0, "a CPU has cores"
        self._clock = clock
        self._read_cpu_s = read_cpu_s
        self._device = f"{MODEL_PREFIX}{name}"
        self._tdp_w = tdp_w
        self._cores = cores

    def read(self) -> Sequence[Reading]:
        """
        Return the counter.
        """
        cpu_us = round(self._read_cpu_s() * 1_000_000)
        return [
            Reading(
                device=self._device,
                at_us=now_us(self._clock),
                quantity=Quantity.COUNTER,
                value=cpu_us * self._tdp_w // self._cores,
            )
        ]

    @property
    def counter_ranges_uj(self) -> Mapping[str, int]:
        """
        Return nothing: it does not end.
        """
        return {}


def cpu_time_of(pid: int) -> Callable[[], float]:
    """
    Return a function that tells the seconds of CPU time a process has had so far.

    Raises:
        PowerSourceError: Here or later, when there is no such process or it may not be looked at.
    """

    def read() -> float:
        try:
            times = process.cpu_times()
        except psutil.Error as error:
            raise PowerSourceError(f"Process {pid} is gone or may not be read.") from error
        return times.user + times.system

    try:
        process = psutil.Process(pid)
    except (psutil.Error, ValueError) as error:
        raise PowerSourceError(f"There is no process {pid}.") from error
    return read
