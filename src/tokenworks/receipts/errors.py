"""
What can go wrong with receipts and their keys.
"""

from __future__ import annotations

from tokenworks.foundation.errors import InvalidError, NotFoundError, UnavailableError


class JwsMalformedError(InvalidError):
    """
    The text is not a compact JWS of the expected type.
    """

    code = "jws_malformed"


class CertificateInvalidError(InvalidError):
    """
    A key's certificate is not signed by a trusted root, or contradicts itself.
    """

    code = "certificate_invalid"


class KeyFileInvalidError(InvalidError):
    """
    The file of public keys holds no Ed25519 root key.
    """

    code = "key_file_invalid"


class ReceiptViewEmptyError(NotFoundError):
    """
    The receipt has no field for this reader.
    """

    code = "receipt_view_empty"


class SigningKeyNotFoundError(NotFoundError):
    """
    No key with this identifier was ever made here.
    """

    code = "signing_key_not_found"


class SigningKeysUnreadableError(UnavailableError):
    """
    The stored keys cannot be opened; the master key may be another one.
    """

    code = "signing_keys_unreadable"


class StatementNotGoodError(InvalidError):
    """
    A statement's signature is not one of a key that a trusted root certified for its time.
    """

    code = "statement_not_good"
