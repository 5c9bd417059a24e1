"""
What receipts need from others.
"""

from __future__ import annotations

from typing import Protocol
from uuid import UUID


class SecretBox(Protocol):
    """
    Encrypts short texts under the operator's master key, each bound to its owner's id.
    """

    def encrypt(self, text: str, *, owner_id: UUID) -> bytes:
        """
        Return ``text`` sealed; only the same master key and owner open it.
        """
        ...

    def decrypt(self, sealed: bytes, *, owner_id: UUID) -> str:
        """
        Return what was sealed.

        Raises:
            TokenworksError: Another master key, another owner, or changed bytes.
        """
        ...
