"""
What the factory needs from outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

from tokenworks.factory.energy.model import Reading
from tokenworks.factory.live.model import EngineCall


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


class EngineCalls(Protocol):
    """
    Calls at suppliers, as the gateway recorded them; implemented there.
    """

    async def of_supplier(self, supplier_id: UUID, start_us: int, end_us: int) -> list[EngineCall]:
        """
        Return the ended attempts at a supplier that ran within a time, by their starts.
        """
        ...

    async def booked_since(self, supplier_id: UUID, since: datetime) -> list[EngineCall]:
        """
        Return the attempts at a supplier of calls that came into the books since a moment.
        """
        ...

    async def by_id(self, supplier_id: UUID, call_ids: Sequence[UUID]) -> list[EngineCall]:
        """
        Return the ended attempts of some calls at a supplier.
        """
        ...

    async def oldest_open_us(self) -> int | None:
        """
        Return when the oldest call that is still open began; ``None``: none is.
        """
        ...

    async def receipt_root(self, call_id: UUID) -> bytes | None:
        """
        Return the root of a call's receipt; ``None`` where nothing was sold.
        """
        ...
