"""
Make and recognise the secrets of API keys.

A secret is ``tw_`` and 43 URL-safe base64 characters (32 random bytes). With 256 random
bits a plain SHA-256 is enough: there is no dictionary to try, and salting would cost the
index look-up.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from typing import Final

SECRET_BYTES: Final = 32
PREFIX_LENGTH: Final = 10

_SHAPE: Final = re.compile(r"tw_[A-Za-z0-9_-]{43}", re.ASCII)


def mint_secret(random_bytes: Callable[[int], bytes]) -> str:
    """
    Return a new secret; the only copy of it.
    """
    body = base64.urlsafe_b64encode(random_bytes(SECRET_BYTES)).rstrip(b"=").decode("ascii")
    secret = f"tw_{body}"
    assert is_secret_shaped(secret), "a minted secret has the shape that is checked"
    return secret


def is_secret_shaped(text: str) -> bool:
    """
    Return whether ``text`` could be a secret, before any hashing or look-up.
    """
    return _SHAPE.fullmatch(text) is not None


def digest_secret(secret: str) -> str:
    """
    Return the hexadecimal SHA-256 under which a secret is stored.
    """
    return hashlib.sha256(secret.encode("ascii")).hexdigest()


def prefix_of(secret: str) -> str:
    """
    Return the first characters, by which people recognise a key.
    """
    return secret[:PREFIX_LENGTH]
