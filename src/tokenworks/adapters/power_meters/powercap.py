"""
Read the energy counters of Linux powercap (RAPL), for CPU packages and their memory.

Known limits: a package's zone contains those of its cores, so only packages are counted, and
memory, which stands beside them; ``psys`` contains the packages and is left out. Reading is
root's since Linux 5.10.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tokenworks.adapters.power_meters.moments import now_us
from tokenworks.factory.energy.model import Quantity, Reading
from tokenworks.factory.errors import PowerSourceError
from tokenworks.foundation.clock import Clock

ROOT: Final = Path("/sys/class/powercap")
_PACKAGE: Final = re.compile(r"intel-rapl:\d+")
_INNER: Final = re.compile(r"intel-rapl:\d+:\d+")
_CONTAINS_PACKAGES: Final = "psys"
_MEMORY: Final = "dram"


class Powercap:
    """
    The counters below one folder.

    Args:
        clock: When a reading is taken.
        root: The folder; another one in tests.
    """

    def __init__(self, clock: Clock, root: Path = ROOT) -> None:
        self._clock = clock
        self._files: dict[str, Path] = {}
        self._ranges_uj: dict[str, int] = {}
        for zone in sorted(root.iterdir()) if root.is_dir() else ():
            is_package = _PACKAGE.fullmatch(zone.name) is not None
            if not is_package and not _INNER.fullmatch(zone.name):
                continue
            name = _read_text(zone / "name")
            is_counted = name != _CONTAINS_PACKAGES if is_package else name == _MEMORY
            if is_counted:
                device = f"{zone.name} {name}"
                self._files[device] = zone / "energy_uj"
                self._ranges_uj[device] = _read_number(zone / "max_energy_range_uj")
        if not self._files:
            message = f"{root} has no RAPL zone; in a virtual machine there usually is none."
            raise PowerSourceError(message)

    def read(self) -> Sequence[Reading]:
        """
        Return each counter.
        """
        return [
            Reading(
                device=device,
                at_us=now_us(self._clock),
                quantity=Quantity.COUNTER,
                value=_read_number(file),
                column="energy_uj",
            )
            for device, file in self._files.items()
        ]

    @property
    def counter_ranges_uj(self) -> Mapping[str, int]:
        """
        Return what the kernel says.
        """
        return self._ranges_uj


def _read_number(path: Path) -> int:
    text = _read_text(path)
    if not re.fullmatch(r"\d{1,20}", text, re.ASCII):
        message = f"{path} holds no number."
        raise PowerSourceError(message)
    return int(text)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except PermissionError as error:
        message = f"{path} may not be read: RAPL is for root alone since Linux 5.10."
        raise PowerSourceError(message) from error
    except (OSError, UnicodeDecodeError) as error:
        message = f"{path} cannot be read."
        raise PowerSourceError(message) from error
