"""
Every error kind has one status and two shapes.
"""

from __future__ import annotations

import json

import pytest

from tokenworks.foundation.errors import (
    ConflictError,
    ErrorKind,
    ForbiddenError,
    InsufficientFundsError,
    InvalidError,
    LimitExceededError,
    NotFoundError,
    PaymentRequiredError,
    SupplierFaultError,
    TokenworksError,
    TooLargeError,
    UnauthenticatedError,
    UnavailableError,
)
from tokenworks.web.errors import STATUSES, headers_of, status_of, to_openai_error, to_problem

_EXPECTED: list[tuple[type[TokenworksError], int, str]] = [
    (InvalidError, 400, "invalid_request_error"),
    (UnauthenticatedError, 401, "authentication_error"),
    (InsufficientFundsError, 402, "insufficient_quota"),
    (PaymentRequiredError, 402, "insufficient_quota"),
    (ForbiddenError, 403, "permission_error"),
    (NotFoundError, 404, "invalid_request_error"),
    (ConflictError, 409, "conflict_error"),
    (TooLargeError, 413, "invalid_request_error"),
    (LimitExceededError, 429, "rate_limit_error"),
    (SupplierFaultError, 502, "upstream_error"),
    (UnavailableError, 503, "service_unavailable_error"),
]


@pytest.mark.parametrize(("error_class", "status", "openai_type"), _EXPECTED)
def test_each_kind_has_its_status_in_both_shapes(
    error_class: type[TokenworksError], status: int, openai_type: str
) -> None:
    """
    The status table of the design holds; both bodies say the same thing.
    """
    error = error_class("Something is wrong.", param="model", details={"left": "1.5"})

    problem = to_problem(error)
    shape = to_openai_error(error)

    assert status_of(error) == status
    assert problem["status"] == status
    assert problem["type"] == f"urn:tokenworks:error:{error.code}"
    assert problem["kind"] == error.kind.value
    assert shape == {
        "error": {
            "message": "Something is wrong.",
            "type": openai_type,
            "param": "model",
            "code": error.code,
            "details": {"left": "1.5"},
        }
    }
    json.dumps(problem)


def test_no_kind_is_without_a_status() -> None:
    """
    A new kind must be given a status before it can be raised through a door.
    """
    assert set(STATUSES) == set(ErrorKind)
    assert {row[0].kind for row in _EXPECTED} == set(ErrorKind)


def test_reused_idempotency_key_is_422() -> None:
    """
    Same key with another body is unprocessable, not a plain conflict.
    """
    error = ConflictError("Other body.", code="idempotency_conflict")

    assert status_of(error) == 422
    assert to_problem(error)["status"] == 422


@pytest.mark.parametrize("error_class", [InsufficientFundsError, LimitExceededError])
def test_refusals_tell_clients_not_to_repeat(error_class: type[TokenworksError]) -> None:
    """
    Refusals for money and limits stop the official client's automatic retries.
    """
    assert headers_of(error_class("No."))["x-should-retry"] == "false"


def test_retry_after_is_rounded_up_to_whole_seconds() -> None:
    """
    Retry-After is an integer and never too early.
    """
    assert headers_of(LimitExceededError("No.", retry_after_s=1.2))["retry-after"] == "2"
    assert headers_of(UnavailableError("No."))["retry-after"] == "1"
    assert "retry-after" not in headers_of(InvalidError("No."))


def test_details_are_left_out_of_the_openai_shape_when_there_are_none() -> None:
    """
    Without details the shape is exactly OpenAI's.
    """
    assert set(to_openai_error(InvalidError("No."))["error"]) == {  # type: ignore[call-overload] - plain JSON
        "message",
        "type",
        "param",
        "code",
    }
