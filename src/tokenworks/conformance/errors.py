"""
Why an audit cannot be run.
"""

from __future__ import annotations

from typing import ClassVar

from tokenworks.foundation.errors import InvalidError


class AuditImpossibleError(InvalidError):
    """
    The audit cannot begin: the address is no x402 facilitator, or an honest payment fails there.
    """

    code: ClassVar[str] = "audit_impossible"
