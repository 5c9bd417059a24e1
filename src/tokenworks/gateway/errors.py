"""
What can go wrong with a call, beyond what other concepts raise.
"""

from __future__ import annotations

from tokenworks.foundation.errors import (
    ConflictError,
    InvalidError,
    NotFoundError,
    SupplierFaultError,
    UnavailableError,
)


class ModelNotFoundError(NotFoundError):
    """
    No offer serves the model at the tier.
    """

    code = "model_not_found"


class CallNotFoundError(NotFoundError):
    """
    There is no such call, or it is not the reader's.
    """

    code = "call_not_found"


class SuppliersFailedError(SupplierFaultError):
    """
    Every supplier that was tried failed before its answer could be sold.
    """

    code = "all_suppliers_failed"


class NoSupplierError(UnavailableError):
    """
    The model is sold, but no offer of it can be used right now.
    """

    code = "no_supplier_available"


class RequestRefusedError(InvalidError):
    """
    The supplier refused the request itself.
    """

    code = "supplier_refused_request"


class CallInFlightError(ConflictError):
    """
    A call with this idempotency key has not ended yet.
    """

    code = "call_in_flight"


class CallAlreadySettledError(ConflictError):
    """
    A call with this idempotency key has ended; its receipt tells what it cost.
    """

    code = "call_already_settled"


class IdempotencyConflictError(ConflictError):
    """
    The idempotency key was used with another body.
    """

    code = "idempotency_conflict"


class RefundTooLargeError(ConflictError):
    """
    The refunds of a call are at most its charge.
    """

    code = "refund_too_large"


class RefundConflictError(ConflictError):
    """
    The reference names another refund of the call.
    """

    code = "refund_conflict"
