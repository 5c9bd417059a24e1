"""
What the selling door offers and reads, as x402 writes it; pure.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from tokenworks.agents.payments.errors import AuthorisationMalformedError
from tokenworks.agents.payments.model import Requirements
from tokenworks.foundation.money import ASSETS
from tokenworks.gateway.open_call import Quoted
from tokenworks.pricing.model import RateCard, nano_per_million_to_text
from tokenworks.web.asgi import Scope, header_of

X402_VERSION: Final = 2
PAYMENT_HEADER_BYTES_MAX: Final = 32_768

_encode = msgspec.json.Encoder().encode


class _Payload(msgspec.Struct):
    authorization: str


class _Payment(msgspec.Struct):
    """
    The part of x402's payment payload that is signed; what the payer echoes is not read.
    """

    payload: _Payload
    version: int = msgspec.field(name="x402Version")


def payment_required(quoted: Quoted, asked: Requirements, error: str) -> dict[str, Any]:
    """
    Return the document of a 402.
    """
    return {
        "x402Version": X402_VERSION,
        "error": error,
        "resource": {
            "url": asked.binding.url,
            "description": f"A chat completion of {model_of(quoted)}, charged for what it uses.",
            "mimeType": "text/event-stream" if quoted.request.is_stream else "application/json",
        },
        "accepts": [to_wire(asked)],
    }


def model_of(quoted: Quoted) -> str:
    """
    Return ``model@tier``.
    """
    return f"{quoted.request.model_name}@{quoted.tier.tier_id}"


def read_payment(header: bytes) -> str:
    """
    Return the authorisation in a ``PAYMENT-SIGNATURE`` header.

    Raises:
        AuthorisationMalformedError: It is no payment of x402 version 2.
    """
    if len(header) > PAYMENT_HEADER_BYTES_MAX:
        raise AuthorisationMalformedError("PAYMENT-SIGNATURE is too long.")
    try:
        payment = msgspec.json.decode(b64decode(header, validate=True), type=_Payment)
    except (ValueError, msgspec.MsgspecError) as error:
        message = "PAYMENT-SIGNATURE is base64 of a JSON payment with payload.authorization."
        raise AuthorisationMalformedError(message) from error
    if payment.version != X402_VERSION:
        raise AuthorisationMalformedError("This door speaks x402 version 2.")
    return payment.payload.authorization


def amount_of(quoted: Quoted) -> int:
    """
    Return what is asked for; a payment is at least one atomic unit, also for what is free.
    """
    return max(1, quoted.quote.quanta)


def to_wire(asked: Requirements) -> dict[str, Any]:
    """
    Return requirements as x402 writes them.
    """
    return {
        "scheme": asked.scheme.value,
        "network": asked.network,
        "amount": str(asked.amount),
        "asset": asked.asset,
        "payTo": str(asked.pay_to),
        "maxTimeoutSeconds": asked.timeout_s,
        "extra": {
            "name": asked.asset,
            "decimals": ASSETS[asked.asset].scale,
            "binding": {
                "method": asked.binding.method,
                "url": asked.binding.url,
                "bodySha256": asked.binding.body_sha256,
            },
        },
    }


def url_of(scope: Scope, *, public_url: str | None) -> str:
    """
    Return the address of a request as its client wrote it.
    """
    if public_url is None:
        host = (header_of(scope, b"host") or b"").decode("latin-1")
        public_url = f"{scope['scheme']}://{host}"
    path = scope.get("raw_path") or scope["path"].encode()
    target = path.partition(b"?")[0].decode("latin-1")
    query = scope.get("query_string")
    return public_url.rstrip("/") + target + (f"?{query.decode('latin-1')}" if query else "")


def for_sale(card: RateCard) -> dict[str, Any]:
    """
    Return a model at a tier with its prices.
    """
    return {
        "id": f"{card.model}@{card.tier}",
        "object": "model",
        "created": 0,
        "owned_by": "tokenworks",
        "currency": card.currency,
        "price_per_million": {
            axis.value: nano_per_million_to_text(price.nano_per_million)
            for axis, price in card.prices.items()
        },
    }


def to_header(document: Mapping[str, Any]) -> bytes:
    """
    Return a document as a header of x402: base64 of its JSON.
    """
    return b64encode(_encode(document))
