"""
What can go wrong with wallets and mandates.

The codes of predicates name what the purchase broke, so that an agent can tell its owner
what it would need.
"""

from __future__ import annotations

from tokenworks.foundation.errors import (
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    UnauthenticatedError,
)


class InvalidTermsError(InvalidError):
    """
    The terms of a mandate break a rule; ``param`` names the field.
    """

    code = "invalid_terms"


class InvalidWalletError(InvalidError):
    """
    The address is not an Ed25519 public key that can sign for an agent.
    """

    code = "invalid_wallet"


class KeyCurveError(InvalidError):
    """
    The key is of another curve than Ed25519.
    """

    code = "key_curve_unsupported"


class NotAnAgentError(InvalidError):
    """
    Wallets and mandates belong to parties of the level agent.
    """

    code = "party_is_no_agent"


class WalletUnknownError(UnauthenticatedError):
    """
    The wallet is not registered with this hub.
    """

    code = "wallet_unknown"


class WalletRevokedError(UnauthenticatedError):
    """
    The wallet was revoked; its signatures are worth nothing any more.
    """

    code = "wallet_revoked"


class WalletTakenError(ConflictError):
    """
    The wallet speaks for another agent, or was revoked: a key is registered once.
    """

    code = "wallet_taken"


class MandateNotFoundError(NotFoundError):
    """
    There is no such mandate, or it is not the reader's.
    """

    code = "mandate_not_found"


class MandateConflictError(ConflictError):
    """
    The id names another mandate, or the mandate's state does not allow this.
    """

    code = "mandate_conflict"


class MandateMalformedError(InvalidError):
    """
    The signed mandate cannot be read, or its signature is not good.
    """

    code = "mandate_malformed"


class MandateSignatureError(InvalidError):
    """
    The signature of a mandate is not by the key that may sign it.
    """

    code = "mandate_signature"


class MandateParentError(InvalidError):
    """
    The mandate names another parent than the one above it in the chain.
    """

    code = "mandate_parent"


class MandateUnknownError(ForbiddenError):
    """
    The wallet's agent has no such mandate.
    """

    code = "mandate_unknown"


class MandateRequiredError(ForbiddenError):
    """
    The agent has no mandate, or more than one and the signature names none.
    """

    code = "mandate_required"


class MandateRevokedError(ForbiddenError):
    """
    The mandate, or one above it, was revoked.
    """

    code = "mandate_revoked"


class MandateExpiredError(ForbiddenError):
    """
    The mandate, or one above it, has expired.
    """

    code = "mandate_expired"


class MandateNotYetValidError(ForbiddenError):
    """
    The mandate, or one above it, is not valid yet.
    """

    code = "mandate_not_yet_valid"


class MandateFrozenError(ForbiddenError):
    """
    The mandate, its agent, or someone above them is frozen.
    """

    code = "mandate_frozen"


class MandateNotAttenuatedError(ForbiddenError):
    """
    A delegation allows what its parent does not; ``param`` names the field.
    """

    code = "mandate_not_attenuated"


class MandateTooDeepError(ForbiddenError):
    """
    The chain would be longer than it may be.
    """

    code = "mandate_too_deep"


class PayeeNotAllowedError(ForbiddenError):
    """
    The mandate does not allow to pay this party.
    """

    code = "payee_not_allowed"


class AmountNotAllowedError(ForbiddenError):
    """
    The payment is smaller or larger than the mandate allows for one.
    """

    code = "amount_not_allowed"


class InstrumentNotAllowedError(ForbiddenError):
    """
    The mandate does not allow to pay over this network.
    """

    code = "instrument_not_allowed"


class ProviderNotAllowedError(ForbiddenError):
    """
    The mandate does not allow this payment service.
    """

    code = "provider_not_allowed"


class ReferenceRequiredError(ForbiddenError):
    """
    The mandate pays for one transaction only, and the payment names another or none.
    """

    code = "reference_required"


class ToolNotAllowedError(ForbiddenError):
    """
    The mandate does not allow payments through this tool.
    """

    code = "tool_not_allowed"


class MandateModelError(ForbiddenError):
    """
    The mandate does not allow this model.
    """

    code = "model_not_allowed"


class CurrencyNotAllowedError(ForbiddenError):
    """
    The mandate is in another currency.
    """

    code = "currency_not_allowed"


class Ap2RefusedError(InvalidError):
    """
    The AP2 mandate is not understood whole, or says what cannot be kept here.
    """

    code = "ap2_refused"


class MandateNotForCallsError(InvalidError):
    """
    An API key cannot keep a predicate of the mandate; ``param`` names it.
    """

    code = "mandate_not_for_calls"


class WalletRequestError(UnauthenticatedError):
    """
    The signed request is malformed, too old, for another hub, or its signature is not good.
    """

    code = "wallet_request_refused"


class OwnerRequiredError(ForbiddenError):
    """
    An agent reads what is its own; only an owner above it, or an admin, changes it.
    """

    code = "owner_required"
