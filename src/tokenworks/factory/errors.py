"""
What the factory refuses.
"""

from __future__ import annotations

from tokenworks.foundation.errors import (
    ConflictError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)


class TableInvalidError(InvalidError):
    """
    A power file, step log or span log is not what its format says; names row and column.
    """

    code = "factory_file_invalid"


class PowerSourceError(UnavailableError):
    """
    A power meter is not there, may not be read, or answers something else.
    """

    code = "power_source_unavailable"


class MeterNotFoundError(NotFoundError):
    """
    There is no power meter with this id.
    """

    code = "meter_not_found"


class MeterExistsError(ConflictError):
    """
    The supplier has a power meter already; retire it first.
    """

    code = "meter_exists"


class MeterSourceTakenError(ConflictError):
    """
    Another supplier's meter reads the same source: its energy would be counted twice.
    """

    code = "meter_source_taken"


class MeterReadByOtherError(ConflictError):
    """
    Another process or site reads this meter; a second one's readings are not taken.
    """

    code = "meter_read_by_other"


class MeterInvalidError(InvalidError):
    """
    What is said about a power meter contradicts itself or is not enough to read it.
    """

    code = "meter_invalid"


class ReadingsInvalidError(InvalidError):
    """
    Readings that were sent do not have their form, or are not for this meter.
    """

    code = "readings_invalid"


class StepsInvalidError(InvalidError):
    """
    No step that was sent could be kept; names row and column of each.
    """

    code = "steps_invalid"


class EnergyNotPostedError(UnavailableError):
    """
    The ledger refused an interval's energy; it stays claimed and is tried again.
    """

    code = "energy_not_posted"
