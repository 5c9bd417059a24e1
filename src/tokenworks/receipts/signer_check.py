"""
Check who signed: the key is certified by a trusted root, for this lane, then, by this issuer.

Owns: what is asked of the key and the signature of every signed payload.
Does not own: which roots and certificates the reader has (``trust``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from tokenworks.receipts.certificates import Certificate
from tokenworks.receipts.errors import CertificateInvalidError
from tokenworks.receipts.findings import Problem, ProblemCode
from tokenworks.receipts.jws import CompactJws, from_jwk
from tokenworks.receipts.trust import TrustedKeys


class Signed(Protocol):
    """
    What every signed payload says of its signer.
    """

    @property
    def issuer(self) -> str: ...  # noqa: D102 - as in the payloads
    @property
    def issued_at_s(self) -> int: ...  # noqa: D102 - as in the payloads
    @property
    def lane(self) -> int: ...  # noqa: D102 - as in the payloads


def check_key(
    jws: CompactJws, payload: Signed, offered: str | None, keys: TrustedKeys
) -> Iterable[Problem]:
    """
    Yield what is wrong with a payload's key and signature.
    """
    kid = jws.header.kid
    try:
        certificate = keys.certificate_of(kid, offered=offered)
    except CertificateInvalidError as error:
        yield Problem(code=ProblemCode.CERTIFICATE_INVALID, message=str(error))
        return
    if certificate is None or certificate.kid != kid:
        message = f"No certificate for the signing key {kid} is at hand."
        yield Problem(code=ProblemCode.KEY_UNKNOWN, message=message)
        return
    yield from _check_certificate(certificate, payload)
    if not jws.is_signed_by(from_jwk(certificate.jwk)):
        message = "The signature is not by the key it names, or the payload was altered."
        yield Problem(code=ProblemCode.SIGNATURE_WRONG, message=message)


def _check_certificate(certificate: Certificate, payload: Signed) -> Iterable[Problem]:
    if certificate.lane != payload.lane:
        message = f"The key was not certified for lane {payload.lane}."
        yield Problem(code=ProblemCode.CERTIFICATE_FOR_OTHER_LANE, message=message)
    if not certificate.is_valid_at(payload.issued_at_s):
        message = "The key was not in use at that time."
        yield Problem(code=ProblemCode.KEY_NOT_VALID_THEN, message=message)
    if certificate.iss != payload.issuer:
        message = "It names another issuer than its key's certificate."
        yield Problem(code=ProblemCode.ISSUER_DIFFERS, message=message)
