"""
What arrives at the facilitator, and what leaves it; x402 v2, to the letter.

One pass over the JSON; members that are not known are left alone, as the specification asks.
"""

from __future__ import annotations

import re
from typing import Final
from uuid import UUID

import msgspec

from tokenworks.agents.payments.authorising import read_amount
from tokenworks.agents.payments.model import (
    HOLD_LIFETIME_S_MAX,
    URL_CHARACTERS_MAX,
    Binding,
    Requirements,
    Scheme,
)
from tokenworks.foundation.errors import InvalidError
from tokenworks.foundation.money import USD

X402_VERSION: Final = 2
DECIMALS: Final = USD.scale

_BODY_HASH: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_SCHEMES: Final = {scheme.value: scheme for scheme in Scheme}


class BindingIn(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """
    The request that is paid for.
    """

    method: str
    url: str
    body_sha256: str


class ExtraIn(msgspec.Struct, frozen=True, gc=False):
    """
    What of ``extra`` means something here.
    """

    binding: BindingIn | None = None
    claim: str | None = None  # as verify answered it: who has it may give back


class RequirementsIn(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """
    The seller's ``PaymentRequirements``.
    """

    scheme: str
    network: str
    asset: str
    amount: str
    pay_to: str
    max_timeout_seconds: int = HOLD_LIFETIME_S_MAX
    extra: ExtraIn | None = None


class SignedIn(msgspec.Struct, frozen=True, gc=False):
    """
    The scheme's part of a payload: one of the two.
    """

    authorization: str | None = None
    attestation: str | None = None


class PayloadIn(msgspec.Struct, frozen=True, rename={"x402_version": "x402Version"}, gc=False):
    """
    The payer's ``PaymentPayload``; what it says it accepted is not looked at.
    """

    payload: SignedIn
    x402_version: int = X402_VERSION


class FacilitatorBody(
    msgspec.Struct,
    frozen=True,
    rename={
        "x402_version": "x402Version",
        "payment_payload": "paymentPayload",
        "payment_requirements": "paymentRequirements",
    },
    gc=False,
):
    """
    The body of ``/verify`` and ``/settle``.
    """

    payment_payload: PayloadIn
    payment_requirements: RequirementsIn
    x402_version: int = X402_VERSION


class AuthorizeBody(msgspec.Struct, frozen=True, rename="camel"):
    """
    The body of ``/authorize``: the credit proposal's members, and what the wallet signed.
    """

    bundle_id: UUID  # the mandate
    amount: str
    asset: str
    resource: str
    idempotency_key: UUID  # the nonce, a UUIDv7
    authorization: str
    pay_to: UUID | None = None  # as signed when omitted


class VerifyOut(msgspec.Struct, omit_defaults=True, rename="camel", gc=False):
    """
    ``VerifyResponse``.
    """

    is_valid: bool
    invalid_reason: str | None = None
    invalid_message: str | None = None
    payer: str | None = None
    extra: dict[str, object] | None = None


class SettleOut(msgspec.Struct, omit_defaults=True, rename="camel", gc=False):
    """
    ``SettlementResponse``.
    """

    success: bool
    transaction: str
    network: str
    error_reason: str | None = None
    error_message: str | None = None
    payer: str | None = None
    amount: str | None = None
    extra: dict[str, object] | None = None


class WireError(InvalidError):
    """
    A body that is JSON of the right shape says something no payment can say.
    """

    code = "invalid_payment_requirements"


_decode_body = msgspec.json.Decoder(FacilitatorBody).decode
_decode_authorize = msgspec.json.Decoder(AuthorizeBody).decode


def read_body(content: bytes) -> FacilitatorBody:
    """
    Read the body of ``/verify`` or ``/settle``.

    Raises:
        InvalidError: Not JSON, or not of this shape.
    """
    try:
        return _decode_body(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"The body is not what a facilitator reads: {error}."
        raise InvalidError(message, code="invalid_payload") from error


def read_authorize(content: bytes) -> AuthorizeBody:
    """
    Read the body of ``/authorize``.

    Raises:
        InvalidError: Not JSON, or not of this shape.
    """
    try:
        return _decode_authorize(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"The body is not a request for a credit: {error}."
        raise InvalidError(message, code="invalid_payload") from error


def to_requirements(body: FacilitatorBody) -> Requirements:
    """
    Return what the seller asks, checked.

    Raises:
        InvalidError: Another version or scheme; an amount, a payee or a time that is none; or no
            request that the payment is bound to. The code is the wire's reason.
    """
    asked = body.payment_requirements
    if body.x402_version != X402_VERSION or body.payment_payload.x402_version != X402_VERSION:
        raise WireError("This facilitator speaks version 2.", code="invalid_x402_version")
    scheme = _SCHEMES.get(asked.scheme)
    if scheme is None:
        message = f"This facilitator settles {' and '.join(_SCHEMES)}."
        raise WireError(message, code="unsupported_scheme", param="scheme")
    try:
        pay_to = UUID(asked.pay_to)
    except ValueError as error:
        message = "payTo is the payee's party id at this hub."
        raise WireError(message, code="payee_unknown", param="payTo") from error
    if not 1 <= asked.max_timeout_seconds <= HOLD_LIFETIME_S_MAX:
        message = f"maxTimeoutSeconds is 1 to {HOLD_LIFETIME_S_MAX}."
        raise WireError(message, param="maxTimeoutSeconds")
    binding = None if asked.extra is None else asked.extra.binding
    if binding is None:
        message = (
            "extra.binding {method, url, bodySha256} is missing: an unbound signature would buy"
            " any request of this price."
        )
        raise WireError(message, code="request_binding_required", param="extra.binding")
    if not 1 <= len(binding.url) <= URL_CHARACTERS_MAX or not _BODY_HASH.fullmatch(
        binding.body_sha256
    ):
        message = "extra.binding has a URL, and a body hash of 43 base64url characters."
        raise WireError(message, param="extra.binding")
    return Requirements(
        scheme=scheme,
        network=asked.network,
        amount=read_amount(asked.amount, may_be_zero=True),
        asset=asked.asset,
        pay_to=pay_to,
        binding=Binding(
            method=binding.method.upper(), url=binding.url, body_sha256=binding.body_sha256
        ),
        timeout_s=asked.max_timeout_seconds,
    )
