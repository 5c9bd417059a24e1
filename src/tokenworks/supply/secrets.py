"""
Keep suppliers' keys encrypted at rest under one master key.

AES-256-GCM (NIST SP 800-38D) with a random 96-bit nonce for each encryption; the owner's id
is authenticated with the text, so a row cannot be moved to another supplier. Random nonces
are safe far beyond the few thousand encryptions a hub ever makes (the bound of SP 800-38D
§8.3 is 2^32).

The master key is ``TOKENWORKS_MASTER_KEY`` (32 bytes in base64 or hexadecimal), else the
file ``DIR/keys/master.key``, which is made on first use and must be readable by its owner
only. Whoever loses it loses the suppliers' keys and must enter them again.
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tokenworks.supply.errors import MasterKeyError, SecretUnreadableError

MASTER_KEY_BYTES: Final = 32
MASTER_KEY_VARIABLE: Final = "TOKENWORKS_MASTER_KEY"
MASTER_KEY_FILE: Final = Path("keys") / "master.key"

_FILE_BYTES_MAX: Final = 1_024
_FORMAT: Final = b"\x01"  # AES-256-GCM: this byte, 12 bytes of nonce, the text and its tag
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16


class SecretBox:
    """
    Encrypt and open short texts, each bound to the id of its owner.

    Args:
        master_key: 32 bytes.
        random_bytes: Makes the nonces; two equal nonces would break the encryption, so it
            is replaced only in tests.
    """

    def __init__(
        self, master_key: bytes, *, random_bytes: Callable[[int], bytes] = os.urandom
    ) -> None:
        if len(master_key) != MASTER_KEY_BYTES:
            message = f"The master key has {MASTER_KEY_BYTES} bytes."
            raise MasterKeyError(message)
        self._cipher = AESGCM(master_key)
        self._random_bytes = random_bytes

    def __repr__(self) -> str:
        return "SecretBox()"

    def encrypt(self, text: str, *, owner_id: UUID) -> bytes:
        """
        Return ``text`` encrypted for its owner; different each time.
        """
        nonce = self._random_bytes(_NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, text.encode(), _FORMAT + owner_id.bytes)
        return _FORMAT + nonce + sealed

    def decrypt(self, sealed: bytes, *, owner_id: UUID) -> str:
        """
        Return the text that was encrypted for this owner.

        Raises:
            SecretUnreadableError: Another master key, another owner, or changed bytes.
        """
        message = "A stored key cannot be opened with this master key; enter the key again."
        if len(sealed) < 1 + _NONCE_BYTES + _TAG_BYTES or sealed[:1] != _FORMAT:
            raise SecretUnreadableError(message)
        nonce, body = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            return self._cipher.decrypt(nonce, body, _FORMAT + owner_id.bytes).decode()
        except InvalidTag as error:
            raise SecretUnreadableError(message) from error


def load_master_key(
    data_directory: Path | None, *, environment: Mapping[str, str] | None = None
) -> bytes:
    """
    Return the master key, making the file when it does not exist.

    Safe when two processes start at once: both return the same key.

    Args:
        data_directory: Where ``keys/master.key`` is; ``None``: only the environment counts.
        environment: ``os.environ`` when ``None``; its value wins over the file.

    Raises:
        MasterKeyError: Missing, malformed, not a plain file, or readable by others.
    """
    value = (os.environ if environment is None else environment).get(MASTER_KEY_VARIABLE)
    if value:
        return _parse(value, source=MASTER_KEY_VARIABLE)
    if data_directory is None:
        message = f"Set {MASTER_KEY_VARIABLE}, or give a data directory to keep the key in."
        raise MasterKeyError(message)
    path = data_directory / MASTER_KEY_FILE
    try:
        if not path.exists():
            _create(path)
        return _parse(_read(path), source=str(path))
    except OSError as error:
        message = f"The master key file {path} cannot be used: {error.strerror}."
        raise MasterKeyError(message) from error


def _create(path: Path) -> None:
    """
    Write a new key under a name of its own, then give it the real name.

    A link appears whole or not at all, and only the first of several succeeds; so nobody
    ever reads half a key or replaces one.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(base64.b64encode(secrets.token_bytes(MASTER_KEY_BYTES)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return  # Another process was first; its key counts.
        _sync_directory(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def _read(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            message = f"The master key {path} is not a plain file."
            raise MasterKeyError(message)
        if status.st_mode & 0o077:
            message = f"The master key {path} can be read by others; run: chmod 600 {path}"
            raise MasterKeyError(message)
        if status.st_uid != os.geteuid():
            message = f"The master key {path} belongs to another user of this machine."
            raise MasterKeyError(message)
        return file.read(_FILE_BYTES_MAX).decode("ascii", errors="replace")


def _parse(text: str, *, source: str) -> bytes:
    for decode in (bytes.fromhex, _from_base64):
        try:
            key = decode(text.strip())
        except ValueError:
            continue
        if len(key) == MASTER_KEY_BYTES:
            return key
    message = f"The master key of {source} is not 32 bytes in base64 or hexadecimal."
    raise MasterKeyError(message)


def _from_base64(text: str) -> bytes:
    plain = text.translate(str.maketrans("-_", "+/")).rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError from error


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
