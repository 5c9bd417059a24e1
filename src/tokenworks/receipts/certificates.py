"""
Certificates: the root key's word that a key signs for one lane, and when.

A certificate is a compact JWS signed by the root. The root's own is signed by itself and
names no lane, so a root key can never sign a receipt that verifies. The times carry a
leeway, because ledger time and the clock of the process that makes keys may differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from tokenworks.receipts.errors import CertificateInvalidError, JwsMalformedError
from tokenworks.receipts.jws import (
    CERTIFICATE_TYPE,
    Jwk,
    decode_json,
    from_jwk,
    header_part,
    issuer_of,
    read_compact,
    sign_compact,
    thumbprint,
    to_jwk,
)

LEEWAY_S: Final = 300


class Certificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    What the root says about a key.
    """

    iss: str
    kid: str
    jwk: Jwk
    lane: int | None  # None: the root's own
    not_before: int  # whole seconds since 1970, inclusive
    not_after: int | None  # inclusive; None: still in use

    def is_valid_at(self, moment_s: int) -> bool:
        """
        Tell whether the key could sign at ``moment_s``.
        """
        return self.not_before <= moment_s and (
            self.not_after is None or moment_s <= self.not_after
        )


def issue_certificate(
    root: Ed25519PrivateKey,
    subject: Ed25519PublicKey,
    *,
    lane: int | None,
    valid_from: datetime,
    retired_at: datetime | None,
) -> str:
    """
    Return the root's signed statement about ``subject``, as a compact JWS.
    """
    root_kid = thumbprint(to_jwk(root.public_key()))
    jwk = to_jwk(subject)
    certificate = Certificate(
        iss=issuer_of(root_kid),
        kid=thumbprint(jwk),
        jwk=jwk,
        lane=lane,
        not_before=int(valid_from.timestamp()) - LEEWAY_S,
        not_after=None if retired_at is None else int(retired_at.timestamp()) + LEEWAY_S,
    )
    header = header_part(kid=root_kid, jws_type=CERTIFICATE_TYPE)
    return sign_compact(root, header, msgspec.json.encode(certificate))


def read_certificate(text: str, roots: Mapping[str, Ed25519PublicKey]) -> Certificate:
    """
    Return what a certificate says once a trusted root's signature on it is checked.

    Raises:
        CertificateInvalidError: Malformed, not signed by one of ``roots`` (by kid), or
            its key, kid or issuer contradict each other.
    """
    try:
        jws = read_compact(text, CERTIFICATE_TYPE)
        root = roots.get(jws.header.kid)
        if root is None or not jws.is_signed_by(root):
            raise CertificateInvalidError("The key's certificate is not by a trusted root.")
        certificate = decode_json(jws.payload, Certificate)
        from_jwk(certificate.jwk)
    except JwsMalformedError as error:
        raise CertificateInvalidError(f"The key's certificate is refused: {error}") from error
    if certificate.kid != thumbprint(certificate.jwk):
        raise CertificateInvalidError("The certificate's kid is not its key's thumbprint.")
    if certificate.iss != issuer_of(jws.header.kid):
        raise CertificateInvalidError("The certificate names another issuer than its signer.")
    return certificate
