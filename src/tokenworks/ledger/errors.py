"""
What the ledger refuses, and what it could not find out.

Refusals of single operations are result codes (``Refusal``), not exceptions, so that one
refused operation disturbs no other of its batch; a service turns a code into one of
these errors at its border.
"""

from __future__ import annotations

from tokenworks.foundation.errors import (
    ConflictError,
    InsufficientFundsError,
    InvalidError,
    LimitExceededError,
    NotFoundError,
    UnavailableError,
)


class LedgerUnavailableError(UnavailableError):
    """
    The books cannot be made durable right now; nothing was acknowledged.
    """

    code = "ledger_unavailable"


class FundsShortError(InsufficientFundsError):
    """
    The money available does not cover what has to be held.
    """

    code = "insufficient_funds"


class ScopeFrozenError(FundsShortError):
    """
    The spender, or someone above it, is frozen.
    """

    code = "scope_frozen"


class LimitShortError(InsufficientFundsError):
    """
    A limit without a window does not cover what has to be held.
    """

    code = "limit_exhausted"


class WindowShortError(LimitExceededError):
    """
    A windowed limit does not cover what has to be held; it opens again.
    """

    code = "limit_exceeded"


class FactConflictError(ConflictError):
    """
    The same fact was recorded before with other content.
    """

    code = "fact_conflict"


class HoldError(ConflictError):
    """
    The hold is unknown or no longer open.
    """

    code = "hold_closed"


class RefusedError(InvalidError):
    """
    The ledger refused an operation that was formed wrongly; ``code`` says why.
    """

    code = "operation_refused"


class LimitMissingError(NotFoundError):
    """
    There is no such open limit.
    """

    code = "limit_not_found"


class AccountMissingError(NotFoundError):
    """
    The party has no such account.
    """

    code = "account_not_found"


class ArchiveToolMissingError(UnavailableError):
    """
    Parquet files cannot be written or read: the extra ``tokenworks[archive]`` is missing.
    """

    code = "archive_tool_missing"


class ArchiveUnreadableError(UnavailableError):
    """
    An archived file is missing or cannot be read to its end.
    """

    code = "archive_unreadable"


class ArchiveNeededError(InvalidError):
    """
    The history that was asked for is archived: say where its files are.
    """

    code = "archive_needed"


class ArchiveRefusedError(ConflictError):
    """
    A month may not be archived and dropped now; nothing was changed.
    """

    code = "archive_refused"


class ArchiveDiffersError(ConflictError):
    """
    What was written is not what the database holds, or its chain is broken; nothing was dropped.
    """

    code = "archive_differs"


class FactMissingError(NotFoundError):
    """
    Nothing is booked under the id.
    """

    code = "fact_not_found"


class NotReversibleError(ConflictError):
    """
    Only what an operator booked by hand is reversed; a call is refunded.
    """

    code = "not_reversible"


class AlreadyReversedError(ConflictError):
    """
    The entry was reversed before, for another reason.
    """

    code = "already_reversed"


class PayableOnHoldError(ConflictError):
    """
    Part of what the supplier is owed is neither matched with its statement nor old enough.
    """

    code = "payable_on_hold"


class DateClosedError(ConflictError):
    """
    The accounting date takes no more entries.
    """

    code = "date_closed"


class DateNotOverError(InvalidError):
    """
    An accounting date is closed, or named, only once it has begun and ended.
    """

    code = "date_not_over"


class EarlierDateOpenError(ConflictError):
    """
    Dates are closed in order: an earlier one with bookings is still open.
    """

    code = "earlier_date_open"
