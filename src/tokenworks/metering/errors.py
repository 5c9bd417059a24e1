"""
Errors of metering.
"""

from __future__ import annotations

from tokenworks.foundation.errors import SupplierFaultError


class UsageError(SupplierFaultError):
    """
    A supplier's usage report cannot be true; ``param`` names the field.
    """

    code = "usage_invalid"
