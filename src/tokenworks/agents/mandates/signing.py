"""
Write and read signed mandates: compact JWS of type ``tokenworks-mandate+jwt``.

A root, and whatever else the hub issues, is signed by a lane's key and carries the root key's
certificate of it; a delegation is signed by the key that its parent confirms (``cnf``), and by
no other, so that a chain is verified with the root's key alone. A child names its parent by id
and by the hash of the parent's whole JWS.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tokenworks.agents.mandates.errors import (
    MandateMalformedError,
    MandateParentError,
    MandateSignatureError,
)
from tokenworks.agents.mandates.model import Mandate, Terms
from tokenworks.agents.mandates.terms import TermsShape, terms_from_shape, terms_to_shape
from tokenworks.foundation.errors import TooLargeError
from tokenworks.receipts.errors import JwsMalformedError
from tokenworks.receipts.jws import (
    CompactJws,
    Jwk,
    decode_json,
    from_jwk,
    header_part,
    read_compact,
    sign_compact,
    to_base64url,
)
from tokenworks.receipts.signing import LaneSigner

MANDATE_TYPE: Final = "tokenworks-mandate+jwt"
MANDATE_JWS_BYTES_MAX: Final = 256 * 1024

_SECONDS_MAX: Final = 253_402_300_799
"""The last second of the year 9999; what ``datetime`` can hold."""


class ParentLink(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    Which mandate this one narrows.
    """

    id: UUID
    sha256: str  # base64url, of the parent's compact JWS


class Confirmation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    The key that may delegate further (RFC 7800).
    """

    jwk: Jwk


class MandateClaims(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """
    What a mandate's signature covers.
    """

    iss: str
    sub: UUID
    jti: UUID
    iat: int
    terms: TermsShape
    exp: int | None = None  # seconds since 1970, the first that is refused; None: never
    parent: ParentLink | None = None
    cnf: Confirmation | None = None  # None: only the hub delegates
    certificate: str | None = None  # of the hub's key; None: signed by a wallet


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedMandate:
    """
    A mandate taken apart; its signature is not verified yet.
    """

    text: str
    jws: CompactJws
    claims: MandateClaims
    terms: Terms

    @property
    def expires_at(self) -> datetime | None:
        """
        Return the moment from which it is refused, or ``None``.
        """
        return None if self.claims.exp is None else moment_of(self.claims.exp)

    @property
    def issued_at(self) -> datetime:
        """
        Return when it was made, by its issuer's clock.
        """
        return moment_of(self.claims.iat)


def sign_by_hub(
    signer: LaneSigner,
    *,
    mandate_id: UUID,
    agent_id: UUID,
    terms: Terms,
    issued_at: datetime,
    expires_at: datetime | None,
    agent_address: str | None,
    parent_id: UUID | None,
    parent_jws: str | None,
) -> str:
    """
    Return a mandate's compact JWS by the hub, with the certificate of the key.

    Args:
        signer: The lane's key.
        mandate_id: Its id.
        agent_id: Who may spend.
        terms: What it allows.
        issued_at: Now.
        expires_at: Whole seconds; ``None``: never.
        agent_address: The agent's wallet, which may then delegate; ``None``: nobody may.
        parent_id: The mandate above; ``None`` for a root.
        parent_jws: Its JWS.
    """
    claims = MandateClaims(
        iss=signer.issuer,
        sub=agent_id,
        jti=mandate_id,
        iat=seconds_of(issued_at),
        terms=terms_to_shape(terms),
        exp=None if expires_at is None else seconds_of(expires_at),
        parent=_link(parent_id, parent_jws),
        cnf=_confirmation(agent_address),
        certificate=signer.certificate,
    )
    return signer.sign_statement(msgspec.json.encode(claims), jws_type=MANDATE_TYPE)


def sign_by_wallet(
    key: Ed25519PrivateKey,
    *,
    mandate_id: UUID,
    agent_id: UUID,
    terms: Terms,
    issued_at: datetime,
    expires_at: datetime | None,
    agent_address: str | None,
    parent_id: UUID,
    parent_jws: str,
) -> str:
    """
    Return a delegation's compact JWS, signed by the wallet that the parent confirms.

    Args:
        key: The wallet's private key.
        mandate_id: Minted by the delegator, a UUIDv7.
        agent_id: Who may spend.
        terms: What it allows, within the parent's.
        issued_at: Now.
        expires_at: Whole seconds; ``None``: with the parent.
        agent_address: The other agent's wallet; ``None``: it may not delegate.
        parent_id: The mandate that is narrowed.
        parent_jws: Its JWS.
    """
    address = address_of(key)
    claims = MandateClaims(
        iss=address,
        sub=agent_id,
        jti=mandate_id,
        iat=seconds_of(issued_at),
        terms=terms_to_shape(terms),
        exp=None if expires_at is None else seconds_of(expires_at),
        parent=_link(parent_id, parent_jws),
        cnf=_confirmation(agent_address),
    )
    header = header_part(kid=address, jws_type=MANDATE_TYPE)
    return sign_compact(key, header, msgspec.json.encode(claims))


def read_mandate(text: str) -> SignedMandate:
    """
    Take a signed mandate apart.

    Raises:
        TooLargeError: Longer than ``MANDATE_JWS_BYTES_MAX``.
        MandateMalformedError: No such JWS, or claims that break its shape.
        InvalidTermsError: Its terms break a rule.
    """
    if len(text) > MANDATE_JWS_BYTES_MAX:
        message = f"A signed mandate has at most {MANDATE_JWS_BYTES_MAX} bytes."
        raise TooLargeError(message)
    try:
        jws = read_compact(text, MANDATE_TYPE)
        claims = decode_json(jws.payload, MandateClaims)
    except JwsMalformedError as error:
        raise MandateMalformedError(f"The signed mandate is refused: {error}") from error
    for name, seconds in (("iat", claims.iat), ("exp", claims.exp)):
        if seconds is not None and not 0 <= seconds <= _SECONDS_MAX:
            raise MandateMalformedError(f"The claim {name} is no moment in seconds.", param=name)
    return SignedMandate(text=text, jws=jws, claims=claims, terms=terms_from_shape(claims.terms))


def check_delegated(signed: SignedMandate, parent: Mandate) -> None:
    """
    Refuse a delegation that is not signed by the key that its parent confirms.

    Raises:
        MandateParentError: It names another parent, or another content of it.
        MandateSignatureError: Another key signed, or nobody may delegate the parent.
    """
    link = signed.claims.parent
    if link is None or link.id != parent.mandate_id or link.sha256 != digest_of(parent.jws):
        message = "The delegation names another parent, or another content of it."
        raise MandateParentError(message, param="parent")
    confirmed = read_mandate(parent.jws).claims.cnf
    if confirmed is None:
        message = (
            "The parent confirms no key, so nobody but the hub delegates it: its agent had no"
            " wallet when it was issued."
        )
        raise MandateSignatureError(message, param="iss")
    check_signed_by(signed, confirmed.jwk)


def check_signed_by(signed: SignedMandate, jwk: Jwk) -> None:
    """
    Refuse a mandate that another key than this wallet's signed.

    Raises:
        MandateSignatureError: Another key, or the signature is not good.
    """
    names_key = signed.claims.iss == jwk.x and signed.jws.header.kid == jwk.x
    if not names_key or signed.claims.certificate is not None:
        message = "The delegation is signed by another key than its parent confirms."
        raise MandateSignatureError(message, param="iss")
    try:
        is_good = signed.jws.is_signed_by(from_jwk(jwk))
    except JwsMalformedError:
        is_good = False
    if not is_good:
        raise MandateSignatureError("The signature of the delegation is not good.")


def digest_of(jws: str) -> str:
    """
    Return the hash by which a child names its parent.
    """
    return to_base64url(hashlib.sha256(jws.encode()).digest())


def address_of(key: Ed25519PrivateKey) -> str:
    """
    Return the address of a wallet.
    """
    return to_base64url(key.public_key().public_bytes_raw())


def seconds_of(moment: datetime) -> int:
    """
    Return whole seconds since 1970, rounded down.
    """
    return int(moment.timestamp() // 1)


def moment_of(seconds: int) -> datetime:
    """
    Return the moment of a claim.
    """
    return datetime.fromtimestamp(seconds, tz=UTC)


def _link(parent_id: UUID | None, parent_jws: str | None) -> ParentLink | None:
    if parent_id is None or parent_jws is None:
        return None
    return ParentLink(id=parent_id, sha256=digest_of(parent_jws))


def _confirmation(address: str | None) -> Confirmation | None:
    return None if address is None else Confirmation(Jwk(crv="Ed25519", kty="OKP", x=address))
