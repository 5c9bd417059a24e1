"""
Addresses of wallets: Ed25519 public keys in base64url.
"""

from __future__ import annotations

from typing import Final

from tokenworks.agents.mandates.errors import InvalidWalletError
from tokenworks.receipts.errors import JwsMalformedError
from tokenworks.receipts.jws import PUBLIC_KEY_BYTES, from_base64url

ADDRESS_LENGTH: Final = 43

# Points of small order, with the sign bit cleared (RFC 8032 §5.1.3; the list of libsodium's
# ``ge25519_has_small_order``): under such a "key" one signature fits many messages.
_SMALL_ORDER: Final = frozenset(
    bytes.fromhex(point)
    for point in (
        "00" * 32,
        "01" + "00" * 31,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
    )
)


def check_address(address: str) -> None:
    """
    Refuse what is no key that can sign.

    Raises:
        InvalidWalletError: Not 32 bytes in the one spelling of base64url, or a key under which
            anyone could sign.
    """
    try:
        content = from_base64url(address)
    except JwsMalformedError as error:
        message = "A wallet's address is its Ed25519 public key in base64url (43 characters)."
        raise InvalidWalletError(message, param="public_key") from error
    if len(content) != PUBLIC_KEY_BYTES:
        message = f"An Ed25519 public key has {PUBLIC_KEY_BYTES} bytes, not {len(content)}."
        raise InvalidWalletError(message, param="public_key")
    if content[:-1] + bytes([content[-1] & 0x7F]) in _SMALL_ORDER:
        message = "This is no key of a person or program: anyone could sign for it."
        raise InvalidWalletError(message, param="public_key")
