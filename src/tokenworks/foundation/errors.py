"""
One tree of errors; doors map ``kind`` to HTTP statuses and exit codes.

::

    TokenworksError(kind, code)
    ├── InvalidError            invalid              400
    ├── UnauthenticatedError    unauthenticated      401
    ├── InsufficientFundsError  insufficient_funds   402
    ├── PaymentRequiredError    payment_required     402 (an x402 price is asked)
    ├── ForbiddenError          forbidden            403
    ├── NotFoundError           not_found            404
    ├── ConflictError           conflict             409
    ├── TooLargeError           too_large            413
    ├── LimitExceededError      limit_exceeded       429
    ├── SupplierFaultError      supplier_fault       502
    └── UnavailableError        unavailable          503

A concept derives its own errors from one of these in its ``errors.py`` and gives
each a ``code``; the code is stable, the message is for people.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class ErrorKind(StrEnum):
    """
    What a caller can do about an error, independent of any protocol.
    """

    INVALID = "invalid"
    UNAUTHENTICATED = "unauthenticated"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    PAYMENT_REQUIRED = "payment_required"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    TOO_LARGE = "too_large"
    LIMIT_EXCEEDED = "limit_exceeded"
    SUPPLIER_FAULT = "supplier_fault"
    UNAVAILABLE = "unavailable"


class TokenworksError(Exception):
    """
    Something a caller can cause or must know went wrong.

    Args:
        message: For people; names what exists or what to do next.
        code: Stable machine word; the class's own ``code`` when omitted.
        param: The input field at fault, where there is one.
        details: Extra JSON-able facts for the answer; never secrets.
        retry_after_s: When trying again makes sense, in seconds.
    """

    kind: ClassVar[ErrorKind]
    code: str

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        details: dict[str, object] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        self.param = param
        self.details: dict[str, object] = details or {}
        self.retry_after_s = retry_after_s


class InvalidError(TokenworksError):
    """
    The request cannot be understood or breaks a stated rule.
    """

    kind = ErrorKind.INVALID
    code = "invalid_request"


class UnauthenticatedError(TokenworksError):
    """
    No valid credential came with the request.
    """

    kind = ErrorKind.UNAUTHENTICATED
    code = "invalid_api_key"


class InsufficientFundsError(TokenworksError):
    """
    The money, or a limit that never opens again by itself, is too small.
    """

    kind = ErrorKind.INSUFFICIENT_FUNDS
    code = "insufficient_funds"


class PaymentRequiredError(TokenworksError):
    """
    The resource is sold by x402 and no payment came with the request.
    """

    kind = ErrorKind.PAYMENT_REQUIRED
    code = "payment_required"


class ForbiddenError(TokenworksError):
    """
    The credential is valid but does not allow this.
    """

    kind = ErrorKind.FORBIDDEN
    code = "forbidden"


class NotFoundError(TokenworksError):
    """
    The thing that was named does not exist, or is not visible to the caller.
    """

    kind = ErrorKind.NOT_FOUND
    code = "not_found"


class ConflictError(TokenworksError):
    """
    The request contradicts what is already recorded.
    """

    kind = ErrorKind.CONFLICT
    code = "conflict"


class TooLargeError(TokenworksError):
    """
    The request is bigger than the stated limit.
    """

    kind = ErrorKind.TOO_LARGE
    code = "too_large"


class LimitExceededError(TokenworksError):
    """
    A limit that opens again later (a window or a rate) is used up.
    """

    kind = ErrorKind.LIMIT_EXCEEDED
    code = "limit_exceeded"


class SupplierFaultError(TokenworksError):
    """
    A supplier did not answer as its protocol promises.
    """

    kind = ErrorKind.SUPPLIER_FAULT
    code = "supplier_fault"


class UnavailableError(TokenworksError):
    """
    The hub cannot make the books durable right now; nothing was done.
    """

    kind = ErrorKind.UNAVAILABLE
    code = "unavailable"
