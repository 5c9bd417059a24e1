"""
What reconciliation refuses.
"""

from __future__ import annotations

from tokenworks.foundation.errors import ConflictError, InvalidError, NotFoundError


class StatementInvalidError(InvalidError):
    """
    The file is no statement, or some of its rows are not; nothing of it was stored.
    """

    code = "statement_invalid"


class PeriodInvalidError(InvalidError):
    """
    The statement's period is missing, ends before it begins, or is not over.
    """

    code = "statement_period_invalid"


class StatementNotFoundError(NotFoundError):
    """
    There is no such statement.
    """

    code = "statement_not_found"


class NothingProposedError(ConflictError):
    """
    The statement's amounts are what is owed already; there is no entry to accept.
    """

    code = "nothing_proposed"


class StatementClashError(ConflictError):
    """
    Another statement billed one of the attempts meanwhile; import the file again.
    """

    code = "statement_clash"
