"""
Why a payment is refused.
"""

from __future__ import annotations

from tokenworks.foundation.errors import (
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    UnauthenticatedError,
)


class AuthorisationMalformedError(InvalidError):
    """
    What was sent is not an authorisation, or a claim is not as it must be.
    """

    code = "authorisation_malformed"


class AuthorisationSignatureError(UnauthenticatedError):
    """
    The signature is not the payer's.
    """

    code = "authorisation_signature"


class AuthorisationExpiredError(InvalidError):
    """
    The authorisation's time is over, or it was made to live too long.
    """

    code = "authorisation_expired"


class AuthorisationNotYetValidError(InvalidError):
    """
    The authorisation was signed in the future.
    """

    code = "authorisation_not_yet_valid"


class NonceOutsideWindowError(InvalidError):
    """
    The nonce's time is older than the books go back, or in the future.
    """

    code = "id_outside_window"


class NetworkMismatchError(InvalidError):
    """
    The payment is meant for another hub or chain.
    """

    code = "network_mismatch"


class BindingMismatchError(InvalidError):
    """
    The signature is for another request, or the seller does not say for which one.
    """

    code = "request_binding_mismatch"


class RequirementsMismatchError(InvalidError):
    """
    What was signed is not what the seller asks for.
    """

    code = "requirements_mismatch"


class PayeeUnknownError(InvalidError):
    """
    There is no such payee, or it cannot be paid.
    """

    code = "payee_unknown"


class PayeeIsPayerError(InvalidError):
    """
    The payee belongs to the payer's own organisation.
    """

    code = "payee_is_payer"


class PayeeNotActiveError(ForbiddenError):
    """
    The payee is frozen or closed.
    """

    code = "payee_not_active"


class AmountInvalidError(InvalidError):
    """
    The amount is not a whole number of quanta above zero.
    """

    code = "invalid_amount"


class AssetUnknownError(InvalidError):
    """
    The hub keeps no money in this asset.
    """

    code = "asset_unknown"


class UnauthorizedServerError(ForbiddenError):
    """
    Less than was authorised is for the payee alone to take.
    """

    code = "unauthorized_server"


class AttestationInvalidError(InvalidError):
    """
    The attestation is not this hub's, or says something else than the books.
    """

    code = "attestation_invalid"


class PaymentInReviewError(ForbiddenError):
    """
    The money is held and a person decides; send the same authorisation again later.
    """

    code = "payment_in_review"


class PaymentDeniedError(ForbiddenError):
    """
    The owner's rules or a person said no.
    """

    code = "payment_denied"


class PaymentConflictError(ConflictError):
    """
    The payment is in the books with other content.
    """

    code = "payment_conflict"


class PaymentClaimedError(ConflictError):
    """
    Somebody works for this payment already.
    """

    code = "payment_already_claimed"


class PaymentSettledError(ConflictError):
    """
    The payment was settled; it buys nothing more.
    """

    code = "payment_already_settled"


class PaymentHoldExpiredError(ConflictError):
    """
    The hold ended before it was settled; it is never placed again.
    """

    code = "hold_expired"


class PaymentNotFoundError(NotFoundError):
    """
    There is no such payment.
    """

    code = "payment_not_found"
