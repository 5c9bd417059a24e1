"""
What the factory refuses.
"""

from __future__ import annotations

from tokenworks.foundation.errors import InvalidError, UnavailableError


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
