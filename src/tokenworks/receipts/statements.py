"""
Check what a lane's key signed that is no receipt, e.g. the ledger's checkpoints.
"""

from __future__ import annotations

from tokenworks.receipts.errors import CertificateInvalidError, JwsMalformedError
from tokenworks.receipts.jws import STATEMENT_TYPE, from_jwk, read_compact
from tokenworks.receipts.trust import TrustedKeys


def is_statement_good(payload: bytes, signature: str, keys: TrustedKeys) -> bool:
    """
    Tell whether a lane's key that a trusted root certified signed exactly these bytes.
    """
    try:
        jws = read_compact(signature, STATEMENT_TYPE)
        certificate = keys.certificate_of(jws.header.kid)
    except (JwsMalformedError, CertificateInvalidError):
        return False
    if certificate is None or certificate.lane is None:
        return False
    return jws.payload == payload and jws.is_signed_by(from_jwk(certificate.jwk))
