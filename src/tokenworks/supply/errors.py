"""
What can go wrong with suppliers and offers.

::

    InvalidError        InvalidSupplierError, InvalidOfferError, UrlNotAllowedError
    NotFoundError       SupplierNotFoundError, OfferNotFoundError, LegPartyNotFoundError
    ConflictError       SupplierExistsError, OfferExistsError, SupplierChangedError
    UnavailableError    MasterKeyError, SecretUnreadableError, SupplyUnavailableError

No message ever holds a supplier's key or the master key.
"""

from __future__ import annotations

from tokenworks.foundation.errors import (
    ConflictError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)


class InvalidSupplierError(InvalidError):
    """
    The supplier's name, key or timeouts break a rule.
    """

    code = "invalid_supplier"


class InvalidOfferError(InvalidError):
    """
    The offer's model, tier, cost card or split breaks a rule.
    """

    code = "invalid_offer"


class UrlNotAllowedError(InvalidError):
    """
    The supplier's URL is malformed or leads where the hub may not go.
    """

    code = "url_not_allowed"


class SupplierNotFoundError(NotFoundError):
    """
    There is no supplier of that name or id.
    """

    code = "supplier_not_found"


class OfferNotFoundError(NotFoundError):
    """
    There is no offer of that id.
    """

    code = "offer_not_found"


class LegPartyNotFoundError(NotFoundError):
    """
    A party that should be paid does not exist or is of the wrong kind.
    """

    code = "party_not_found"


class SupplierExistsError(ConflictError):
    """
    Another supplier has that name.
    """

    code = "supplier_exists"


class OfferExistsError(ConflictError):
    """
    The supplier already offers that model at that tier.
    """

    code = "offer_exists"


class MasterKeyError(UnavailableError):
    """
    The key that protects suppliers' keys is missing, malformed or readable by others.
    """

    code = "master_key_unusable"


class SecretUnreadableError(UnavailableError):
    """
    A stored secret cannot be opened with this master key, or was tampered with.
    """

    code = "secret_unreadable"


class SupplyUnavailableError(UnavailableError):
    """
    Suppliers and offers cannot be read or changed right now.
    """

    code = "supply_unavailable"


class SupplierChangedError(ConflictError):
    """
    Somebody else changed the supplier between reading and writing it.
    """

    code = "supplier_changed"
