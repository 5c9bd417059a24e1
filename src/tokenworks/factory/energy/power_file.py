"""
Read readings of power meters from CSV, and write them; pure.

Columns: ``time``, ``device``, and either ``watts`` or ``joules`` (a counter), then perhaps
``counter_range_joules``. A reading that is no number stays, for validation to flag.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Final

from tokenworks.factory.energy.model import PowerSeries, Quantity, Reading
from tokenworks.factory.table_reading import read_rows

_QUANTITIES: Final = {"watts": Quantity.POWER, "joules": Quantity.COUNTER}
_RANGE: Final = "counter_range_joules"


def read_power_file(lines: Iterable[str], file: str) -> PowerSeries:
    """
    Return the readings of a power file.

    Raises:
        TableInvalidError: With row and column, when a row has no time, device or quantity.
    """
    readings: list[Reading] = []
    ranges_uj: dict[str, int] = {}
    rows = read_rows(lines, file, required=("time", "device"), optional=(*_QUANTITIES, _RANGE))
    for row in rows:
        column = _find_column(tuple(name for name in _QUANTITIES if name in row.cells))
        if column is None:
            raise row.fault("watts", "write either watts or joules")
        device = row.text("device")
        readings.append(
            Reading(
                device=device,
                at_us=row.time_us("time"),
                quantity=_QUANTITIES[column],
                value=row.micro(column),
                row=row.number,
                column=column,
            )
        )
        if row.cells.get(_RANGE) not in {None, ""}:
            range_uj = row.micro(_RANGE)
            if range_uj is None or range_uj <= 0:
                raise row.fault(_RANGE, "is no number above 0")
            if ranges_uj.setdefault(device, range_uj) != range_uj:
                raise row.fault(_RANGE, f"was another one for {device} above")
    return PowerSeries(readings=readings, counter_ranges_uj=ranges_uj)


def to_header(quantity: Quantity) -> list[str]:
    """
    Return the header of a file of readings of one quantity.
    """
    columns = {one: name for name, one in _QUANTITIES.items()}
    return ["time", "device", columns[quantity], _RANGE]


def to_cells(reading: Reading, range_uj: int | None) -> list[str]:
    """
    Return a reading's row; read again it is the same reading.
    """
    value, most = (
        "" if number is None else str(Decimal(number) / 1_000_000)
        for number in (reading.value, range_uj)
    )
    return [str(Decimal(reading.at_us) / 1_000_000), reading.device, value, most]


def _find_column(names: tuple[str, ...]) -> str | None:
    return names[0] if len(names) == 1 else None
