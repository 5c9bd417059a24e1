"""
Our codes as x402's reasons; where the specification has none, ours leave as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from tokenworks.agents.payments.errors import RequirementsMismatchError
from tokenworks.foundation.errors import ErrorKind, TokenworksError

SETTLEMENT_PENDING: Final = "settlement_pending"
UNEXPECTED_VERIFY: Final = "unexpected_verify_error"
UNEXPECTED_SETTLE: Final = "unexpected_settle_error"

_SPECIFIED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "network_mismatch": "invalid_network",
        "authorisation_malformed": "invalid_payload",
        "invalid_request": "invalid_payload",
    }
)
_CREDIT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "insufficient_funds": "insufficient_credits",
        "limit_exhausted": "insufficient_credits",
        "limit_exceeded": "insufficient_credits",
        "mandate_revoked": "bundle_revoked",
        "mandate_expired": "bundle_revoked",
        "mandate_frozen": "bundle_revoked",
        "mandate_unknown": "bundle_revoked",
    }
)
_PAYERS_OWN: Final = frozenset(
    {ErrorKind.FORBIDDEN, ErrorKind.INSUFFICIENT_FUNDS, ErrorKind.LIMIT_EXCEEDED}
)
_SELLERS_OWN: Final = frozenset({"payment_in_review", "unauthorized_server", "payee_not_active"})


def reason_of(error: TokenworksError, *, unexpected: str) -> str:
    """
    Return the reason that a verify or settle answers with.

    Args:
        error: Why the payment is refused.
        unexpected: The reason for what is no fault of the payment.
    """
    if error.kind is ErrorKind.UNAVAILABLE:
        return unexpected
    if isinstance(error, RequirementsMismatchError) and error.param == "scheme":
        return "invalid_scheme"
    return _SPECIFIED.get(error.code, error.code)


def message_of(error: TokenworksError) -> str:
    """
    Return what a seller may read: never what the payer has, or what its owner's rules are.
    """
    if error.kind in _PAYERS_OWN and error.code not in _SELLERS_OWN:
        return f"The payer may not make this payment now: {error.code}."
    return error.message


def details_of(error: TokenworksError) -> dict[str, object] | None:
    """
    Return the facts that a seller may read: which payment waits for people, and how long.
    """
    return dict(error.details) if error.code == "payment_in_review" else None


def credit_reason_of(error: TokenworksError, *, conflict: str) -> str:
    """
    Return the reason by the words of the credit proposal.

    Args:
        error: Why it is refused.
        conflict: What a conflict is called here.
    """
    if error.code in {"payment_conflict", "payment_already_claimed", "payment_already_settled"}:
        return conflict
    return _CREDIT.get(error.code, error.code)
