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


class CallsInvalidError(InvalidError):
    """
    The calls that are named are no list of different calls, too many, or of several currencies.
    """

    code = "calls_invalid"


class CallUnknownError(InvalidError):
    """
    There is no such call that has ended.
    """

    code = "call_unknown"


class CallForeignError(ForbiddenError):
    """
    The call was made by somebody who is neither the payee nor below it.
    """

    code = "call_foreign"


class CallFailedError(InvalidError):
    """
    The call delivered nothing, so there is nothing metered in it.
    """

    code = "call_failed"


class CallTooOldError(InvalidError):
    """
    The call ended before the escrow was opened.
    """

    code = "call_too_old"


class CallUsedError(ConflictError):
    """
    The call already serves another milestone or another escrow.
    """

    code = "call_used"


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
