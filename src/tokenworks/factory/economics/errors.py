"""
What an operator can ask wrongly.
"""

from __future__ import annotations

from tokenworks.foundation.errors import InvalidError, NotFoundError


class AssumptionInvalidError(InvalidError):
    """
    An assumption is outside of what a plant can be.
    """

    code = "assumption_invalid"


class FrontUnknownError(NotFoundError):
    """
    No operating point fits what was asked for; the message names those there are.
    """

    code = "front_unknown"
