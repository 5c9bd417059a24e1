"""
What the factory needs from outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from tokenworks.factory.energy.model import Reading


class PowerSource(Protocol):
    """
    Power meters that can be read now; implemented in ``adapters/power_meters``.
    """

    def read(self) -> Sequence[Reading]:
        """
        Return one reading of each device; nothing when there will be no more.

        Raises:
            PowerSourceError: When the meters are gone or may not be read.
        """
        ...

    @property
    def counter_ranges_uj(self) -> Mapping[str, int]:
        """
        Return how far counters count before they start again, by device, where that is known.
        """
        ...
