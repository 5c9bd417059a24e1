"""
Verify a chain of signed mandates offline, with the hub's root key alone.

Everything that is wrong is reported, each with its own code, in the order of the chain. What a
signature cannot say is not judged here: whether a mandate was revoked or frozen, and what of
its budgets is used up; only the hub knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from tokenworks.agents.mandates.attenuation import check_attenuated, check_expiry
from tokenworks.agents.mandates.errors import (
    MandateExpiredError,
    MandateNotYetValidError,
    MandateParentError,
    MandateSignatureError,
    MandateTooDeepError,
)
from tokenworks.agents.mandates.model import MANDATE_DEPTH_MAX
from tokenworks.agents.mandates.signing import (
    SignedMandate,
    check_signed_by,
    digest_of,
    read_mandate,
)
from tokenworks.foundation.errors import TokenworksError
from tokenworks.receipts.jws import from_jwk, issuer_of
from tokenworks.receipts.trust import TrustedKeys


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainFinding:
    """
    One thing that is wrong with a chain.
    """

    position: int  # 1 for the root
    mandate_id: UUID | None  # None: it could not be read
    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainReport:
    """
    A chain as it was read, and what is wrong with it.
    """

    mandates: tuple[SignedMandate, ...]  # those that could be read, root first
    findings: tuple[ChainFinding, ...]

    @property
    def is_good(self) -> bool:
        """
        Return whether every mandate stands as its issuer signed it, within those above it.
        """
        return not self.findings


def verify_chain(texts: Sequence[str], keys: TrustedKeys, *, now: datetime) -> ChainReport:
    """
    Verify a chain of compact JWS.

    Args:
        texts: From the root down.
        keys: The root keys the reader trusts.
        now: When they are to be valid.
    """
    mandates: list[SignedMandate] = []
    findings: list[ChainFinding] = []
    if not 1 <= len(texts) <= MANDATE_DEPTH_MAX:
        error = MandateTooDeepError(f"A chain has 1 to {MANDATE_DEPTH_MAX} mandates.")
        return ChainReport(mandates=(), findings=(_finding(0, None, error),))
    for position, text in enumerate(texts, start=1):
        try:
            signed = read_mandate(text)
        except TokenworksError as error:
            findings.append(_finding(position, None, error))
            break
        findings.extend(
            _finding(position, signed.claims.jti, error)
            for error in _problems(signed, mandates, keys, now=now)
        )
        mandates.append(signed)
    return ChainReport(mandates=tuple(mandates), findings=tuple(findings))


def check_signed_by_hub(signed: SignedMandate, keys: TrustedKeys) -> None:
    """
    Refuse a mandate that no key of a trusted hub signed.

    Raises:
        MandateSignatureError: No certificate of a trusted root, another key, or not then.
    """
    try:
        found = keys.certificate_of(signed.jws.header.kid, offered=signed.claims.certificate)
    except TokenworksError as error:
        raise MandateSignatureError(f"The mandate is by no trusted hub: {error.message}") from error
    if found is None or found.kid != signed.jws.header.kid or found.lane is None:
        raise MandateSignatureError("The mandate is by no trusted hub: no root certified its key.")
    if signed.claims.iss not in {issuer_of(kid) for kid in keys.root_kids}:
        raise MandateSignatureError("The mandate names another issuer than the trusted hub.")
    if not signed.jws.is_signed_by(from_jwk(found.jwk)):
        raise MandateSignatureError("The signature of the mandate is not good.")
    if not found.is_valid_at(signed.claims.iat):
        raise MandateSignatureError("The key that signed the mandate was not in use then.")


def _problems(
    signed: SignedMandate, above: Sequence[SignedMandate], keys: TrustedKeys, *, now: datetime
) -> Iterator[TokenworksError]:
    parent = above[-1] if above else None
    for check in (
        lambda: _check_link(signed, parent),
        lambda: _check_signature(signed, parent, keys),
        lambda: _check_dates(signed, now=now),
    ):
        try:
            check()
        except TokenworksError as error:
            yield error
    for ancestor in above:
        try:
            check_attenuated(signed.terms, ancestor.terms)
            check_expiry(signed.expires_at, ancestor.expires_at)
        except TokenworksError as error:
            yield error
            return


def _check_link(signed: SignedMandate, parent: SignedMandate | None) -> None:
    link = signed.claims.parent
    if parent is None:
        if link is not None:
            raise MandateParentError("The chain begins with a delegation; its root is missing.")
        return
    if link is None:
        raise MandateParentError("A mandate below another one names no parent.")
    if link.id != parent.claims.jti or link.sha256 != digest_of(parent.text):
        message = "The mandate names another parent, or another content of it."
        raise MandateParentError(message)


def _check_signature(
    signed: SignedMandate, parent: SignedMandate | None, keys: TrustedKeys
) -> None:
    if parent is None or signed.claims.certificate is not None:
        check_signed_by_hub(signed, keys)
        return
    if parent.claims.cnf is None:
        raise MandateSignatureError("The parent confirms no key, so no wallet may delegate it.")
    check_signed_by(signed, parent.claims.cnf.jwk)


def _check_dates(signed: SignedMandate, *, now: datetime) -> None:
    terms = signed.terms
    for ends_at in (signed.expires_at, terms.not_after):
        if ends_at is not None and ends_at <= now:
            raise MandateExpiredError("The mandate has expired.")
    if terms.not_before is not None and now < terms.not_before:
        raise MandateNotYetValidError("The mandate is not valid yet.")


def _finding(position: int, mandate_id: UUID | None, error: TokenworksError) -> ChainFinding:
    return ChainFinding(
        position=position, mandate_id=mandate_id, code=error.code, message=error.message
    )
