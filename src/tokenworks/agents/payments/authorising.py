"""
Read what a wallet signed, and compare it with what a seller asks; pure.

The order of the checks, which is the order of the refusals:

1. size and form of the compact JWS, its header (``alg``, ``kid``, ``typ``);
2. the claims' form: every one known, of its type, within its bounds;
3. the key (``kid`` is the address in ``iss``) and the signature;
4. the network;
5. against the requirements: network, scheme, asset, amount, payee, binding;
6. the times. They are judged apart (``check_times``), because what is in the books already is
   settled after its authorisation has expired too.

The requirements are those the *seller* sent: what a payer echoes is not looked at.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, Literal
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tokenworks.agents.payments.errors import (
    AmountInvalidError,
    AssetUnknownError,
    AuthorisationExpiredError,
    AuthorisationMalformedError,
    AuthorisationNotYetValidError,
    AuthorisationSignatureError,
    BindingMismatchError,
    NetworkMismatchError,
    RequirementsMismatchError,
)
from tokenworks.agents.payments.identifying import digest_of, is_uuid7, payment_id_of
from tokenworks.agents.payments.model import (
    AUTHORISATION_CHARACTERS_MAX,
    AUTHORISATION_TYPE,
    CLOCK_SKEW_S_MAX,
    LIFETIME_S_MAX,
    REFERENCE_CHARACTERS_MAX,
    URL_CHARACTERS_MAX,
    Authorisation,
    Binding,
    Requirements,
    Scheme,
)
from tokenworks.foundation.money import CNY, QUANTA_MAX, USD
from tokenworks.receipts.errors import JwsMalformedError
from tokenworks.receipts.jws import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, from_base64url

MONEY_ASSETS: Final = frozenset({USD.code, CNY.code})
KEYS_REMEMBERED_MAX: Final = 16_384
HEADER_CHARACTERS_MAX: Final = 256
"""Of the JWS: three short members. What is remembered for a stranger is as small as that."""

_AMOUNT: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_URL: Final = re.compile(r"[!-~]+")
_METHOD: Final = re.compile(r"[A-Z]{1,16}")
_BASE64URL_HASH: Final = re.compile(r"[A-Za-z0-9_-]{43}")


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    alg: Literal["EdDSA"]
    kid: str
    typ: Literal["tokenworks-payment+jwt"]


class _Claims(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """
    Every claim by name; one that is not known might narrow what was meant, so it is refused.
    """

    iss: str
    aud: str
    jti: UUID
    iat: int
    exp: int
    scheme: Scheme
    amount: str
    asset: str
    pay_to: UUID
    method: str
    url: str
    body_sha256: str
    mandate: UUID | None = None
    reference: str | None = None


assert AUTHORISATION_TYPE == "tokenworks-payment+jwt", "as in the header's type"

_decode_header = msgspec.json.Decoder(_Header).decode
_decode_claims = msgspec.json.Decoder(_Claims).decode


def read_authorisation(jws: str, *, network: str) -> Authorisation:
    """
    Return what a wallet signed, once the signature is known to be its own.

    Times are not judged here.

    Raises:
        AuthorisationMalformedError: Not the JWS of a payment, or a claim is out of bounds.
        AuthorisationSignatureError: Not signed by the address it names.
        AmountInvalidError: The amount is not a whole number of quanta from 1 to 2^62.
        AssetUnknownError: No money of this hub.
        NetworkMismatchError: Signed for another hub.
    """
    if len(jws) > AUTHORISATION_CHARACTERS_MAX:
        message = f"An authorisation has at most {AUTHORISATION_CHARACTERS_MAX} characters."
        raise AuthorisationMalformedError(message)
    parts = jws.split(".")
    if len(parts) != 3:
        raise AuthorisationMalformedError("An authorisation is a compact JWS of three parts.")
    if len(parts[0]) > HEADER_CHARACTERS_MAX:
        message = f"The header has at most {HEADER_CHARACTERS_MAX} characters."
        raise AuthorisationMalformedError(message)
    address, key = _signer_of(parts[0])
    try:
        claims = _decode_claims(from_base64url(parts[1]))
        signature = from_base64url(parts[2])
    except JwsMalformedError as error:
        raise AuthorisationMalformedError(error.message) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"A claim is not as it must be: {error}."
        raise AuthorisationMalformedError(message) from error
    if claims.iss != address:
        raise AuthorisationSignatureError("The signing key is not the payer's.")
    # What nobody signed is not worth a judgement.
    _check_signature(key, signature, f"{parts[0]}.{parts[1]}".encode())
    amount = _check_claims(claims)
    if claims.aud != network:
        raise NetworkMismatchError(f"Signed for {claims.aud[:64]!r}; this is {network}.")
    return _authorisation(claims, amount, jws)


def check_times(authorisation: Authorisation, *, now: datetime) -> None:
    """
    Refuse an authorisation that is not good now.

    Raises:
        AuthorisationNotYetValidError: Signed more than ``CLOCK_SKEW_S_MAX`` ahead.
        AuthorisationExpiredError: Over, or made to live longer than ``LIFETIME_S_MAX``.
    """
    if authorisation.issued_at > now + timedelta(seconds=CLOCK_SKEW_S_MAX):
        message = f"iat is more than {CLOCK_SKEW_S_MAX} s ahead of this hub's clock."
        raise AuthorisationNotYetValidError(message, param="iat")
    lifetime = authorisation.expires_at - authorisation.issued_at
    if not timedelta(0) < lifetime <= timedelta(seconds=LIFETIME_S_MAX):
        message = f"exp is 1 to {LIFETIME_S_MAX} s after iat."
        raise AuthorisationExpiredError(message, param="exp")
    if authorisation.expires_at <= now:
        message = "The authorisation has expired; sign a new one with the same nonce."
        raise AuthorisationExpiredError(message, param="exp")


def check_requirements(
    authorisation: Authorisation, requirements: Requirements, *, is_settling: bool
) -> None:
    """
    Refuse an authorisation that is not for what the seller asks.

    When an ``upto`` payment is settled, its requirements name the actual amount; when a payment is
    given back they name 0.

    Raises:
        NetworkMismatchError, RequirementsMismatchError, BindingMismatchError: In this order,
            by the first claim that differs.
    """
    if requirements.network != authorisation.network:
        message = f"The seller asks for a payment on {requirements.network[:64]!r}."
        raise NetworkMismatchError(message)
    if requirements.scheme is not authorisation.scheme:
        raise _mismatch("scheme", authorisation.scheme, requirements.scheme)
    if requirements.asset != authorisation.asset:
        raise _mismatch("asset", authorisation.asset, requirements.asset)
    asked = requirements.amount
    may_differ = is_settling and (
        asked == 0 or (authorisation.scheme is Scheme.UPTO and asked < authorisation.amount)
    )
    if asked != authorisation.amount and not may_differ:
        raise _mismatch("amount", str(authorisation.amount), str(asked))
    if requirements.pay_to != authorisation.pay_to:
        raise _mismatch("pay_to", str(authorisation.pay_to), str(requirements.pay_to))
    signed, request = authorisation.binding, requirements.binding
    for name, ours, theirs in (
        ("method", signed.method, request.method),
        ("url", signed.url, request.url),
        ("body_sha256", signed.body_sha256, request.body_sha256),
    ):
        if ours != theirs:
            message = f"The payment was signed for another request: {name} differs."
            raise BindingMismatchError(message, param=name)


def read_amount(text: str, *, param: str = "amount", may_be_zero: bool = False) -> int:
    """
    Return atomic units as x402 writes them: decimal digits, no sign, no leading zero.

    Raises:
        AmountInvalidError: Anything else, zero, or more than the ledger moves at once.
    """
    if not _AMOUNT.fullmatch(text):
        message = "An amount is decimal digits of atomic units, without sign or leading zero."
        raise AmountInvalidError(message, param=param)
    quanta = int(text)
    if quanta > QUANTA_MAX:
        message = "The amount is larger than the ledger can move at once."
        raise AmountInvalidError(message, code="amount_too_large", param=param)
    if quanta == 0 and not may_be_zero:
        message = "A payment is at least one atomic unit."
        raise AmountInvalidError(message, param=param)
    return quanta


def check_url(url: str, *, param: str = "url") -> None:
    """
    Refuse what is no address: visible ASCII characters, as they stand in a request.

    Whatever else could stand here would mislead the person who is asked about the payment, or
    rewrite a terminal, or not fit into the books.

    Raises:
        AuthorisationMalformedError: Empty, too long, or another character.
    """
    if len(url) > URL_CHARACTERS_MAX or not _URL.fullmatch(url):
        message = (
            f"{param} has 1 to {URL_CHARACTERS_MAX} visible ASCII characters; encode others as"
            " the request itself does (%20, punycode)."
        )
        raise AuthorisationMalformedError(message, param=param)


def _mismatch(name: str, signed: str, asked: str) -> RequirementsMismatchError:
    message = f"{name} was signed as {signed[:64]!r}; the seller asks for {asked[:64]!r}."
    return RequirementsMismatchError(message, param=name)


@lru_cache(maxsize=KEYS_REMEMBERED_MAX)
def _signer_of(header: str) -> tuple[str, Ed25519PublicKey]:
    # A wallet's header is the same text every time, so header and key are read once.
    try:
        content = _decode_header(from_base64url(header))
        raw = from_base64url(content.kid)
        if len(raw) != PUBLIC_KEY_BYTES:
            raise AuthorisationMalformedError("kid is an Ed25519 public key of 32 bytes.")
        return content.kid, Ed25519PublicKey.from_public_bytes(raw)
    except JwsMalformedError as error:
        raise AuthorisationMalformedError(error.message) from error
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        message = f"The header is not a payment's: {error}."
        raise AuthorisationMalformedError(message) from error


def _check_signature(key: Ed25519PublicKey, signature: bytes, signed: bytes) -> None:
    if len(signature) != SIGNATURE_BYTES:
        raise AuthorisationMalformedError("An Ed25519 signature has 64 bytes.")
    try:
        key.verify(signature, signed)
    except InvalidSignature as error:
        message = "The signature is not by the key it names, or a claim was altered."
        raise AuthorisationSignatureError(message) from error


def _check_claims(claims: _Claims) -> int:
    if not is_uuid7(claims.jti):
        raise AuthorisationMalformedError("jti is a UUIDv7.", param="jti")
    if not _METHOD.fullmatch(claims.method):
        raise AuthorisationMalformedError("method is upper case letters.", param="method")
    check_url(claims.url)
    if not _BASE64URL_HASH.fullmatch(claims.body_sha256):
        message = "body_sha256 is the base64url SHA-256 of the body: 43 characters."
        raise AuthorisationMalformedError(message, param="body_sha256")
    if claims.reference is not None and not (
        1 <= len(claims.reference) <= REFERENCE_CHARACTERS_MAX and claims.reference.isprintable()
    ):
        message = f"reference has 1 to {REFERENCE_CHARACTERS_MAX} printable characters."
        raise AuthorisationMalformedError(message, param="reference")
    if not (0 <= claims.iat <= _LAST_SECOND and 0 <= claims.exp <= _LAST_SECOND):
        raise AuthorisationMalformedError("iat and exp are seconds since 1970.", param="exp")
    amount = read_amount(claims.amount)
    if claims.asset not in MONEY_ASSETS:
        message = f"This hub keeps no money in {claims.asset[:32]!r}."
        raise AssetUnknownError(message, param="asset")
    return amount


_LAST_SECOND: Final = 253_402_300_799
"""The last second of the year 9999: later ones are no time to Python."""


def _authorisation(claims: _Claims, amount: int, jws: str) -> Authorisation:
    return Authorisation(
        payment_id=payment_id_of(claims.iss, claims.jti),
        payer=claims.iss,
        network=claims.aud,
        nonce=claims.jti,
        issued_at=datetime.fromtimestamp(claims.iat, tz=UTC),
        expires_at=datetime.fromtimestamp(claims.exp, tz=UTC),
        scheme=claims.scheme,
        amount=amount,
        asset=claims.asset,
        pay_to=claims.pay_to,
        binding=Binding(method=claims.method, url=claims.url, body_sha256=claims.body_sha256),
        mandate_id=claims.mandate,
        reference=claims.reference,
        jws=jws,
        digest=digest_of(
            (
                claims.iss,
                claims.aud,
                str(claims.jti),
                claims.scheme,
                claims.amount,
                claims.asset,
                str(claims.pay_to),
                claims.method,
                claims.url,
                claims.body_sha256,
                None if claims.mandate is None else str(claims.mandate),
                claims.reference,
            )
        ),
    )
