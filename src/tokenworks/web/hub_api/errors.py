"""
What can go wrong at this door alone.
"""

from __future__ import annotations

from tokenworks.foundation.errors import ConflictError, InvalidError, NotFoundError
from tokenworks.web.errors import IDEMPOTENCY_CONFLICT_CODE


class IdempotencyConflictError(ConflictError):
    """
    This Idempotency-Key was used with another request.
    """

    code = IDEMPOTENCY_CONFLICT_CODE


class IdempotencyInFlightError(ConflictError):
    """
    The first request with this Idempotency-Key is still running.
    """

    code = "idempotency_in_flight"


class InvalidCursorError(InvalidError):
    """
    The cursor is not one that this list handed out.
    """

    code = "invalid_cursor"


class AmbiguousPartyError(InvalidError):
    """
    A share needs the name of a party, because none or several could be meant.
    """

    code = "party_ambiguous"


class PathNotFoundError(NotFoundError):
    """
    The hub API has no such path.
    """

    code = "path_not_found"
