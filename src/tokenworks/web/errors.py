"""
Turn the error tree into HTTP: statuses, OpenAI's error shape, RFC 9457 problem details.

The core knows no HTTP; this is the only place that pairs an error kind with a status.
Neither shape ever carries a traceback, a credential or another party's names: only the
error's own message, code, param and details.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from tokenworks.foundation.errors import ErrorKind, TokenworksError

PROBLEM_MEDIA_TYPE: Final = "application/problem+json"
PROBLEM_TYPE_PREFIX: Final = "urn:tokenworks:error:"
IDEMPOTENCY_CONFLICT_CODE: Final = "idempotency_conflict"

STATUSES: Final[Mapping[ErrorKind, int]] = MappingProxyType(
    {
        ErrorKind.INVALID: 400,
        ErrorKind.UNAUTHENTICATED: 401,
        ErrorKind.INSUFFICIENT_FUNDS: 402,
        ErrorKind.PAYMENT_REQUIRED: 402,
        ErrorKind.FORBIDDEN: 403,
        ErrorKind.NOT_FOUND: 404,
        ErrorKind.CONFLICT: 409,
        ErrorKind.TOO_LARGE: 413,
        ErrorKind.LIMIT_EXCEEDED: 429,
        ErrorKind.SUPPLIER_FAULT: 502,
        ErrorKind.UNAVAILABLE: 503,
    }
)

_TITLES: Final[Mapping[ErrorKind, str]] = MappingProxyType(
    {
        ErrorKind.INVALID: "Invalid request",
        ErrorKind.UNAUTHENTICATED: "Not authenticated",
        ErrorKind.INSUFFICIENT_FUNDS: "Insufficient funds",
        ErrorKind.PAYMENT_REQUIRED: "Payment required",
        ErrorKind.FORBIDDEN: "Not allowed",
        ErrorKind.NOT_FOUND: "Not found",
        ErrorKind.CONFLICT: "Conflict",
        ErrorKind.TOO_LARGE: "Too large",
        ErrorKind.LIMIT_EXCEEDED: "Limit used up",
        ErrorKind.SUPPLIER_FAULT: "Supplier fault",
        ErrorKind.UNAVAILABLE: "Unavailable",
    }
)

# The words of OpenAI's own API, so that its client libraries raise their usual classes.
_OPENAI_TYPES: Final[Mapping[ErrorKind, str]] = MappingProxyType(
    {
        ErrorKind.INVALID: "invalid_request_error",
        ErrorKind.UNAUTHENTICATED: "authentication_error",
        ErrorKind.INSUFFICIENT_FUNDS: "insufficient_quota",
        ErrorKind.PAYMENT_REQUIRED: "insufficient_quota",
        ErrorKind.FORBIDDEN: "permission_error",
        ErrorKind.NOT_FOUND: "invalid_request_error",
        ErrorKind.CONFLICT: "conflict_error",
        ErrorKind.TOO_LARGE: "invalid_request_error",
        ErrorKind.LIMIT_EXCEEDED: "rate_limit_error",
        ErrorKind.SUPPLIER_FAULT: "upstream_error",
        ErrorKind.UNAVAILABLE: "service_unavailable_error",
    }
)

_FINAL_REFUSALS: Final = frozenset(
    {ErrorKind.INSUFFICIENT_FUNDS, ErrorKind.PAYMENT_REQUIRED, ErrorKind.LIMIT_EXCEEDED}
)


def status_of(error: TokenworksError) -> int:
    """
    Return the HTTP status of an error.

    A reused idempotency key is 422, as the Idempotency-Key draft of the IETF asks, although
    its kind is a conflict.
    """
    if error.code == IDEMPOTENCY_CONFLICT_CODE:
        return 422
    return STATUSES[error.kind]


def headers_of(error: TokenworksError) -> dict[str, str]:
    """
    Return the headers that tell a client whether and when to try again.

    Refusals for money and limits carry ``x-should-retry: false``: the official OpenAI client
    would otherwise repeat a 429 several times.
    """
    headers: dict[str, str] = {}
    if error.kind is ErrorKind.UNAUTHENTICATED:
        headers["www-authenticate"] = "Bearer"
    if error.kind in _FINAL_REFUSALS:
        headers["x-should-retry"] = "false"
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(0, math.ceil(error.retry_after_s)))
    elif error.kind is ErrorKind.UNAVAILABLE:
        headers["retry-after"] = "1"
    return headers


def to_openai_error(error: TokenworksError) -> dict[str, object]:
    """
    Return the body of OpenAI's error shape; ``details`` is added only when there are some.
    """
    body: dict[str, object] = {
        "message": error.message,
        "type": _OPENAI_TYPES[error.kind],
        "param": error.param,
        "code": error.code,
    }
    if error.details:
        body["details"] = error.details
    return {"error": body}


def to_problem(error: TokenworksError) -> dict[str, object]:
    """
    Return the body of an RFC 9457 problem, media type ``PROBLEM_MEDIA_TYPE``.
    """
    return {
        "type": PROBLEM_TYPE_PREFIX + error.code,
        "title": _TITLES[error.kind],
        "status": status_of(error),
        "detail": error.message,
        "code": error.code,
        "kind": str(error.kind),
        "param": error.param,
        "details": error.details,
    }
