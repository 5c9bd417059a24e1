"""
What can go wrong with parties and keys.

::

    InvalidError            InvalidPartyError, InvalidKeyError
    UnauthenticatedError    InvalidApiKeyError, KeyExpiredError, KeyRevokedError
    ForbiddenError          ModelNotAllowedError, RoleNotAllowedError, PartyFrozenError,
                            PartyClosedError
    NotFoundError           PartyNotFoundError, KeyNotFoundError
    ConflictError           PartyExistsError, PartyStateError, KeyNotActiveError
    LimitExceededError      RequestRateExceededError, TooManyFailuresError
    UnavailableError        IdentityUnavailableError

No message ever holds a presented secret, not even a part of it.
"""

from __future__ import annotations

from tokenworks.foundation.errors import (
    ConflictError,
    ForbiddenError,
    InvalidError,
    LimitExceededError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)


class InvalidPartyError(InvalidError):
    """
    The party's name, kind, level, parent or tier breaks a rule.
    """

    code = "invalid_party"


class InvalidKeyError(InvalidError):
    """
    The role, label, models, rate or expiry of a new key breaks a rule.
    """

    code = "invalid_key"


class InvalidApiKeyError(UnauthenticatedError):
    """
    The API key is not known to this hub.
    """

    code = "invalid_api_key"


class KeyExpiredError(UnauthenticatedError):
    """
    The API key was valid until its expiry, which has passed.
    """

    code = "key_expired"


class KeyRevokedError(UnauthenticatedError):
    """
    The API key, or this secret of it, was revoked.
    """

    code = "key_revoked"


class ModelNotAllowedError(ForbiddenError):
    """
    The API key is limited to other models.
    """

    code = "model_not_allowed"


class RoleNotAllowedError(ForbiddenError):
    """
    The API key has another role than this needs.
    """

    code = "role_not_allowed"


class PartyFrozenError(ForbiddenError):
    """
    The party of the key, or one of its ancestors, is frozen.
    """

    code = "party_frozen"


class PartyClosedError(ForbiddenError):
    """
    The party of the key, or one of its ancestors, is closed.
    """

    code = "party_closed"


class PartyNotFoundError(NotFoundError):
    """
    There is no party of that name or id.
    """

    code = "party_not_found"


class KeyNotFoundError(NotFoundError):
    """
    There is no API key of that id.
    """

    code = "key_not_found"


class PartyExistsError(ConflictError):
    """
    Another party has that name.
    """

    code = "party_exists"


class PartyStateError(ConflictError):
    """
    The party's state does not allow this.
    """

    code = "party_state_conflict"


class KeyNotActiveError(ConflictError):
    """
    The key is revoked or expired and cannot be changed any more.
    """

    code = "key_not_active"


class RequestRateExceededError(LimitExceededError):
    """
    The key made more requests in a minute than it is allowed.
    """

    code = "request_rate_exceeded"


class TooManyFailuresError(LimitExceededError):
    """
    Too many unknown keys came from one address.
    """

    code = "too_many_failed_keys"


class IdentityUnavailableError(UnavailableError):
    """
    The key cannot be checked because the database does not answer.
    """

    code = "identity_unavailable"
