"""
The public keys a reader trusts, read from JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tokenworks.receipts.certificates import Certificate, read_certificate
from tokenworks.receipts.errors import JwsMalformedError, KeyFileInvalidError
from tokenworks.receipts.jws import Jwk, from_jwk, thumbprint


class _PublishedKey(msgspec.Struct, frozen=True):
    """
    A member of the hub's key set, or a bare JWK; foreign members are ignored.
    """

    crv: str
    kty: str
    x: str = ""
    kind: Literal["root", "lane"] = "root"
    certificate: str | None = None


class _KeyFile(msgspec.Struct, frozen=True):
    """
    A key set, or a file that holds the root's key under ``receipt_public_key``.
    """

    keys: list[_PublishedKey] = msgspec.field(default_factory=list[_PublishedKey])
    receipt_public_key: _PublishedKey | None = None


class TrustedKeys:
    """
    Root keys, and the lane keys whose certificates they signed.

    Args:
        roots: Trusted as they are.
        certificates: Compact certificates by the kid they are published under; each is
            checked against ``roots`` when it is first needed.
    """

    def __init__(self, roots: list[Jwk], certificates: Mapping[str, str] | None = None) -> None:
        self._roots: dict[str, Ed25519PublicKey] = {thumbprint(jwk): from_jwk(jwk) for jwk in roots}
        self._certificates = dict(certificates or {})
        self._checked: dict[str, Certificate] = {}

    @property
    def root_kids(self) -> frozenset[str]:
        """
        Return the identifiers of the trusted roots.
        """
        return frozenset(self._roots)

    def certificate_of(self, kid: str, *, offered: str | None = None) -> Certificate | None:
        """
        Return the certificate of a lane's key, or ``None`` when there is none.

        A published certificate wins over the one ``offered`` with a receipt, because only
        the published one tells of a later retirement.

        Raises:
            CertificateInvalidError: No trusted root stands behind it.
        """
        if kid in self._checked:
            return self._checked[kid]
        text = self._certificates.get(kid, offered)
        if text is None:
            return None
        certificate = read_certificate(text, self._roots)
        if kid in self._certificates:
            self._checked[kid] = certificate
        return certificate

    @classmethod
    def from_json(cls, content: bytes | str, *, root: Jwk | None = None) -> TrustedKeys:
        """
        Read a root's JWK, a hub's key set, or a file with ``receipt_public_key``.

        Args:
            content: JSON text.
            root: When given, the only root to trust; those in ``content`` are not.

        Raises:
            KeyFileInvalidError: Not such JSON, or no Ed25519 root key in it.
        """
        keys = [key for key in _published_keys(content) if key.crv == "Ed25519"]
        roots = [root] if root is not None else _roots_among(keys)
        if not roots:
            raise KeyFileInvalidError("There is no Ed25519 root key in the key file.")
        certificates = {
            thumbprint(_to_jwk(key)): key.certificate
            for key in keys
            if key.kind == "lane" and key.certificate is not None
        }
        try:
            return cls(roots, certificates)
        except JwsMalformedError as error:
            raise KeyFileInvalidError(f"A root key is refused: {error}") from error


def _published_keys(content: bytes | str) -> list[_PublishedKey]:
    try:
        file = msgspec.json.decode(content, type=_KeyFile)
        if file.keys:
            return file.keys
        if file.receipt_public_key is not None:
            return [file.receipt_public_key]
        return [msgspec.json.decode(content, type=_PublishedKey)]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise KeyFileInvalidError(f"This is not a file of public keys: {error}.") from error


def _roots_among(keys: list[_PublishedKey]) -> list[Jwk]:
    return [_to_jwk(key) for key in keys if key.kind == "root"]


def _to_jwk(key: _PublishedKey) -> Jwk:
    return Jwk(crv="Ed25519", kty="OKP", x=key.x)
