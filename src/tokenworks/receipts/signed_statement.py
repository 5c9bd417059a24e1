"""
Verify other signed statements of the hub (the close of a date, a checkpoint) offline.
"""

from __future__ import annotations

from tokenworks.foundation.errors import TokenworksError
from tokenworks.receipts.errors import StatementNotGoodError
from tokenworks.receipts.jws import STATEMENT_TYPE, from_jwk, read_compact
from tokenworks.receipts.trust import TrustedKeys


def read_signed_statement(
    text: str, keys: TrustedKeys, *, certificate: str | None, made_at_s: int
) -> bytes:
    """
    Return what a statement's compact JWS says once its signature is checked.

    Args:
        text: The compact JWS.
        keys: The roots the reader trusts.
        certificate: Came with the statement; a published one wins over it.
        made_at_s: When it was signed, in seconds since 1970.

    Raises:
        StatementNotGoodError: Not signed by a key that a trusted root certified for then.
    """
    try:
        jws = read_compact(text, STATEMENT_TYPE)
        found = keys.certificate_of(jws.header.kid, offered=certificate)
    except TokenworksError as error:
        raise StatementNotGoodError(f"The signature is refused: {error.message}") from error
    if found is None or found.kid != jws.header.kid:
        message = f"No certificate for the signing key {jws.header.kid} is at hand."
        raise StatementNotGoodError(message)
    if not jws.is_signed_by(from_jwk(found.jwk)):
        raise StatementNotGoodError("The signature is not good.")
    if not found.is_valid_at(made_at_s):
        raise StatementNotGoodError("The signing key was not in use then.")
    return jws.payload
