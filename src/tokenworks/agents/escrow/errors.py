"""
What can go wrong with an escrow.
"""

from __future__ import annotations

from tokenworks.foundation.errors import (
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
)


class EscrowNotFoundError(NotFoundError):
    """
    There is no such escrow, or the caller has no part in it.
    """

    code = "escrow_not_found"


class TermsInvalidError(InvalidError):
    """
    The terms contradict themselves, or what was signed.
    """

    code = "escrow_terms_invalid"


class ConditionInvalidError(InvalidError):
    """
    The condition breaks a rule that is checked before it is ever run.
    """

    code = "condition_invalid"


class ResultInvalidError(InvalidError):
    """
    The result is not plain JSON within the limits, or not as its schema says.
    """

    code = "result_invalid"


class ResultTooLargeError(TooLargeError):
    """
    The result has more bytes than an escrow takes.
    """

    code = "result_too_large"


class EscrowForbiddenError(ForbiddenError):
    """
    The caller is not the side of the escrow that may do this.
    """

    code = "escrow_forbidden"


class EscrowStateError(ConflictError):
    """
    The escrow or the milestone is past the point where this can be done.
    """

    code = "escrow_state"


class EscrowConflictError(ConflictError):
    """
    The same authorisation was used with other terms.
    """

    code = "escrow_conflict"


class EvaluatorUnavailableError(UnavailableError):
    """
    No condition can be evaluated right now; nothing was decided.
    """

    code = "evaluator_unavailable"
