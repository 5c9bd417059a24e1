"""
Wallets' files: a private Ed25519 key as JWK (RFC 8037), for its owner's eyes only.

The private key stays in the file: what goes to a hub is the public key and signatures.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, Final, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tokenworks.agents.mandates.errors import InvalidWalletError, KeyCurveError
from tokenworks.agents.mandates.signing import address_of
from tokenworks.foundation.errors import TokenworksError
from tokenworks.receipts.jws import from_base64url, to_base64url

WALLET_BYTES_MAX: Final = 64 * 1024


def new_wallet(path: Path) -> Ed25519PrivateKey:
    """
    Make a key and write it to a new file (mode 0600); an existing one is never replaced.

    Raises:
        InvalidWalletError: The file exists, or cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    document = {
        "kty": "OKP",
        "crv": "Ed25519",
        "x": address_of(key),
        "d": to_base64url(key.private_bytes_raw()),
    }
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(json.dumps(document) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as error:
        message = f"{path} exists; a wallet is never overwritten."
        raise InvalidWalletError(message) from error
    except OSError as error:
        raise InvalidWalletError(f"{path} cannot be written: {error.strerror}.") from error
    return key


def read_wallet(path: Path) -> Ed25519PrivateKey:
    """
    Read a wallet's private key.

    Raises:
        InvalidWalletError: No such file, others may read it, or it holds no private key.
        KeyCurveError: It holds a key of another curve.
    """
    document = _read(path, is_private=True)
    try:
        key = Ed25519PrivateKey.from_private_bytes(from_base64url(str(document.get("d", ""))))
    except (ValueError, TokenworksError) as error:
        raise InvalidWalletError(f"{path} holds no private Ed25519 key.") from error
    if document.get("x") != address_of(key):
        raise InvalidWalletError(f"{path}: its public key does not belong to its private key.")
    return key


def read_address(path: Path) -> str:
    """
    Read a wallet's address from its file, or from that of its public JWK.

    Raises:
        InvalidWalletError, KeyCurveError: As ``read_wallet``; no private key is needed.
    """
    document = _read(path, is_private=False)
    if "d" in document:
        return address_of(read_wallet(path))
    return str(document.get("x", ""))


def _read(path: Path, *, is_private: bool) -> dict[str, Any]:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_bytes()[:WALLET_BYTES_MAX]
    except OSError as error:
        raise InvalidWalletError(f"{path} cannot be read: {error.strerror}.") from error
    if is_private and mode & 0o077:
        message = f"{path} can be read by others (mode {mode:04o}); make it 0600."
        raise InvalidWalletError(message)
    try:
        document: object = json.loads(text)
    except ValueError as error:
        raise InvalidWalletError(f"{path} is no JWK.") from error
    if not isinstance(document, dict):
        raise InvalidWalletError(f"{path} is no JWK.")
    fields = cast("dict[str, Any]", document)
    if fields.get("kty") != "OKP" or fields.get("crv") != "Ed25519":
        curve = f"{fields.get('kty')}/{fields.get('crv')}"[:40]
        message = f"{path} holds a key of {curve}; wallets are Ed25519 keys (OKP/Ed25519)."
        raise KeyCurveError(message, param="public_key")
    return fields
