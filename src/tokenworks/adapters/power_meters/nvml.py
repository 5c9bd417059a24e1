"""
Read NVIDIA GPUs through NVML (``pip install 'tokenworks[nvml]'``).

Written against ``nvidia-ml-py`` and tested with a fake of its module: no GPU was there.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Final, Protocol, cast

from tokenworks.adapters.power_meters.moments import now_us
from tokenworks.factory.energy.model import Quantity, Reading
from tokenworks.factory.errors import PowerSourceError
from tokenworks.foundation.clock import Clock

_MICRO_PER_MILLI: Final = 1_000


class NvmlModule(Protocol):
    """
    What is used of ``pynvml``.
    """

    NVMLError: type[Exception]
    NVMLError_NotSupported: type[Exception]

    def nvmlInit(self) -> None:  # noqa: N802, D102 - NVML's name
        ...

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802, D102 - NVML's name
        ...

    def nvmlDeviceGetHandleByIndex(self, index: int) -> object:  # noqa: N802, D102 - NVML's name
        ...

    def nvmlDeviceGetUUID(self, handle: object) -> str:  # noqa: N802, D102 - NVML's name
        ...

    def nvmlDeviceGetPowerUsage(self, handle: object) -> int:  # noqa: N802, D102 - NVML's name
        ...

    # NVML's own name; the line is too long for its reason.
    def nvmlDeviceGetTotalEnergyConsumption(self, handle: object) -> int:  # noqa: N802, D102
        ...


class Nvml:
    """
    The GPUs of this machine: their energy counters, or the power where one has no counter.

    Args:
        clock: When a reading is taken.
        module: ``pynvml``, imported when this is made; a fake in tests.
    """

    def __init__(self, clock: Clock, module: NvmlModule | None = None) -> None:
        self._clock = clock
        self._nvml = module or _import()
        try:
            self._nvml.nvmlInit()
            handles = [
                self._nvml.nvmlDeviceGetHandleByIndex(index)
                for index in range(self._nvml.nvmlDeviceGetCount())
            ]
            self._handles = {self._nvml.nvmlDeviceGetUUID(handle): handle for handle in handles}
            self._has_counters = all(self._has_counter(handle) for handle in handles)
        except self._nvml.NVMLError as error:
            raise PowerSourceError(f"NVML: {error}") from error
        if not self._handles:
            raise PowerSourceError("NVML knows no GPU here.")

    def read(self) -> Sequence[Reading]:
        """
        Return one reading of each GPU.
        """
        ask = (
            self._nvml.nvmlDeviceGetTotalEnergyConsumption
            if self._has_counters
            else self._nvml.nvmlDeviceGetPowerUsage
        )
        try:
            return [
                Reading(
                    device=device,
                    at_us=now_us(self._clock),
                    quantity=Quantity.COUNTER if self._has_counters else Quantity.POWER,
                    value=ask(handle) * _MICRO_PER_MILLI,
                )
                for device, handle in self._handles.items()
            ]
        except self._nvml.NVMLError as error:
            raise PowerSourceError(f"NVML: {error}") from error

    @property
    def counter_ranges_uj(self) -> Mapping[str, int]:
        """
        Return nothing: 64 bits of millijoules do not end.
        """
        return {}

    def _has_counter(self, handle: object) -> bool:
        try:
            self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        except self._nvml.NVMLError_NotSupported:
            return False
        return True


def _import() -> NvmlModule:
    try:
        return cast("NvmlModule", importlib.import_module("pynvml"))
    except ImportError as error:
        message = "nvidia-ml-py is not installed: pip install 'tokenworks[nvml]'."
        raise PowerSourceError(message) from error
