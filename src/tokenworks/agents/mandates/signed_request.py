"""
Read a plain request that a wallet signed instead of sending a key (after RFC 9449).

The signature covers method, host and path, body, hub and a minute at most. The scheme is not
compared: whoever ends TLS before the hub changes it. The query is covered only where the wallet
put it into ``htu``. ``jti`` is what makes a write happen once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tokenworks.agents.mandates.address import check_address
from tokenworks.agents.mandates.errors import WalletRequestError
from tokenworks.agents.mandates.signing import address_of, seconds_of
from tokenworks.foundation.errors import TokenworksError
from tokenworks.receipts.errors import JwsMalformedError
from tokenworks.receipts.jws import (
    decode_json,
    from_base64url,
    header_part,
    read_compact,
    sign_compact,
    to_base64url,
)

REQUEST_TYPE: Final = "tokenworks-request+jwt"
REQUEST_LIFETIME_S_MAX: Final = 60
REQUEST_SKEW_S_MAX: Final = 30
REQUEST_JWS_BYTES_MAX: Final = 4_096


class _Claims(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    iss: str
    aud: str
    jti: UUID
    iat: int
    exp: int
    htm: str
    htu: str
    body_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRequest:
    """
    A request whose signature is good; the wallet may still be unknown or revoked.
    """

    address: str
    request_id: UUID
    body_sha256: str

    def check_body(self, body: bytes) -> None:
        """
        Refuse another body than was signed.

        Raises:
            WalletRequestError: It is another one.
        """
        if body_digest(body) != self.body_sha256:
            raise WalletRequestError("The wallet signed another body.", param="body_sha256")


def read_signed_request(
    text: str, *, network: str, method: str, url: str, now: datetime
) -> SignedRequest:
    """
    Return a signed request, verified but for its body.

    Args:
        text: The header's compact JWS.
        network: The hub's own.
        method: Of the request that came.
        url: Its whole URL, as the hub sees it.
        now: When.

    Raises:
        WalletRequestError: Anything about it is not as it must be.
    """
    if len(text) > REQUEST_JWS_BYTES_MAX:
        raise WalletRequestError(f"A signed request has at most {REQUEST_JWS_BYTES_MAX} bytes.")
    try:
        jws = read_compact(text, REQUEST_TYPE)
        claims = decode_json(jws.payload, _Claims)
        check_address(claims.iss)
        key = Ed25519PublicKey.from_public_bytes(from_base64url(claims.iss))
    except (JwsMalformedError, TokenworksError) as error:
        raise WalletRequestError(f"The signed request cannot be read: {error}") from error
    if jws.header.kid != claims.iss or not jws.is_signed_by(key):
        raise WalletRequestError("The signature of the request is not good.")
    if claims.aud != network:
        message = f"The request was signed for {claims.aud[:64]!r}; this is {network!r}."
        raise WalletRequestError(message, param="aud")
    _check_times(claims, now=now)
    if claims.htm.upper() != method.upper():
        raise WalletRequestError("The wallet signed another method.", param="htm")
    if not _is_same_place(claims.htu, url):
        raise WalletRequestError("The wallet signed another URL.", param="htu")
    return SignedRequest(address=claims.iss, request_id=claims.jti, body_sha256=claims.body_sha256)


def sign_request(
    key: Ed25519PrivateKey,
    *,
    network: str,
    method: str,
    url: str,
    body: bytes,
    request_id: UUID,
    now: datetime,
) -> str:
    """
    Return the header's text for a request, good for a minute.
    """
    address = address_of(key)
    claims = _Claims(
        iss=address,
        aud=network,
        jti=request_id,
        iat=seconds_of(now),
        exp=seconds_of(now) + REQUEST_LIFETIME_S_MAX,
        htm=method.upper(),
        htu=url,
        body_sha256=body_digest(body),
    )
    header = header_part(kid=address, jws_type=REQUEST_TYPE)
    return sign_compact(key, header, msgspec.json.encode(claims))


def body_digest(body: bytes) -> str:
    """
    Return the hash of a body as the claims have it.
    """
    return to_base64url(hashlib.sha256(body).digest())


def _check_times(claims: _Claims, *, now: datetime) -> None:
    seconds = seconds_of(now)
    if not 0 < claims.exp - claims.iat <= REQUEST_LIFETIME_S_MAX:
        message = f"A signed request is good for 1 to {REQUEST_LIFETIME_S_MAX} seconds."
        raise WalletRequestError(message, param="exp")
    if claims.iat > seconds + REQUEST_SKEW_S_MAX:
        raise WalletRequestError("The request was signed in the future.", param="iat")
    if claims.exp <= seconds:
        raise WalletRequestError("The signed request has expired.", param="exp")


def _is_same_place(signed: str, url: str) -> bool:
    try:
        ours, theirs = urlsplit(url), urlsplit(signed)
    except ValueError:
        return False
    if (ours.netloc.lower(), ours.path) != (theirs.netloc.lower(), theirs.path):
        return False
    return not theirs.query or theirs.query == ours.query
