"""
What passes between a wallet, a seller and the hub.

x402's amounts are atomic: integers of 10**-9 of a unit (``DECIMALS``). The hub API speaks in
decimals of whole units.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, TypeGuard, cast

from tokenworks.sdk.errors import MalformedOfferError

X402_VERSION: Final = 2
DECIMALS: Final = 9
AMOUNT_CHARACTERS_MAX: Final = 40
SCHEMES: Final = ("upto", "exact")
"""What a wallet can sign, the one that may cost less first."""

JsonObject = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """
    The one request that a signature pays for.
    """

    method: str  # upper case
    url: str
    body_sha256: str  # base64url


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """
    One way to pay, as the seller offers it.
    """

    scheme: str
    network: str
    amount: int  # atomic; for ``upto`` the most
    asset: str
    pay_to: str
    max_timeout_s: int
    binding: Binding | None  # ``None``: not a seller that this hub clears for
    document: JsonObject  # exactly as it came, to be echoed
    decimals: object = DECIMALS  # of the amount, as the seller says

    @property
    def price(self) -> Decimal:
        """
        Return the amount in whole units.
        """
        return to_units(self.amount)


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentRequired:
    """
    A seller's 402.
    """

    accepts: tuple[Requirements, ...]
    resource: JsonObject | None
    error: str | None
    extensions: JsonObject | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """
    What the seller says became of the payment: the header ``PAYMENT-RESPONSE``.
    """

    is_success: bool
    transaction: str
    network: str
    amount: int | None  # atomic, what was charged; ``None``: not said
    payer: str | None
    error_reason: str | None
    document: JsonObject = field(repr=False)

    @property
    def price(self) -> Decimal | None:
        """
        Return what was charged in whole units.
        """
        return None if self.amount is None else to_units(self.amount)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """
    What a request would cost at most, and how it may be paid.
    """

    amount: Decimal  # whole units
    currency: str
    requirements: Requirements


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatAnswer:
    """
    A bought chat completion.
    """

    text: str
    settlement: Settlement
    document: JsonObject = field(repr=False)  # the whole completion

    @property
    def charge(self) -> Decimal:
        """
        Return what it cost, in whole units.
        """
        return self.settlement.price or Decimal(0)


def to_units(atomic: int) -> Decimal:
    """
    Return an atomic amount in whole units.
    """
    return Decimal(atomic).scaleb(-DECIMALS)


def to_atomic(units: Decimal | str | int) -> int:
    """
    Return whole units as an atomic amount.

    Raises:
        ValueError: Finer than an atomic unit, negative or no number.
    """
    if isinstance(units, float):
        raise ValueError("Money is never a float: write it as text.")  # noqa: TRY004 - said above
    try:
        scaled = Decimal(units).scaleb(DECIMALS)
        atomic = int(scaled)
    except (ArithmeticError, ValueError) as error:
        message = f"{units!r} is no amount of money."
        raise ValueError(message) from error
    if atomic != scaled or atomic < 0:
        message = f"An amount has at most {DECIMALS} decimals and no sign, not {units}."
        raise ValueError(message)
    return atomic


# ------------------------------------------------------------------ headers


def from_payment_required(header: str) -> PaymentRequired:
    """
    Read the header ``PAYMENT-REQUIRED``.

    Raises:
        MalformedOfferError: It is no offer of version 2.
    """
    document = read_header(header, "PAYMENT-REQUIRED")
    accepts = document.get("accepts")
    if document.get("x402Version") != X402_VERSION or not isinstance(accepts, list):
        raise MalformedOfferError("The seller's PAYMENT-REQUIRED is not of x402 version 2.")
    return PaymentRequired(
        accepts=tuple(from_requirements(one) for one in cast("list[JsonObject]", accepts)),
        resource=document.get("resource"),
        error=document.get("error"),
        extensions=document.get("extensions"),
    )


def from_requirements(document: JsonObject) -> Requirements:
    """
    Read one entry of ``accepts``.

    Raises:
        MalformedOfferError: A member is missing or of another type.
    """
    try:
        extra = cast("JsonObject", document.get("extra") or {})
        bound = cast("JsonObject | None", extra.get("binding"))
        amount, timeout_s = document["amount"], document["maxTimeoutSeconds"]
        if not _is_atomic(amount):
            raise MalformedOfferError("The seller's amount is not a text of digits.")
        if not isinstance(timeout_s, int):
            raise MalformedOfferError("The seller's maxTimeoutSeconds is not an integer.")
        return Requirements(
            scheme=str(document["scheme"]),
            network=str(document["network"]),
            amount=int(amount),
            asset=str(document["asset"]),
            pay_to=str(document["payTo"]),
            max_timeout_s=timeout_s,
            decimals=extra.get("decimals", DECIMALS),
            binding=None
            if bound is None
            else Binding(
                method=str(bound["method"]),
                url=str(bound["url"]),
                body_sha256=str(bound["bodySha256"]),
            ),
            document=document,
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        message = f"The seller's requirements lack or spoil {error}."
        raise MalformedOfferError(message) from error


def _is_atomic(amount: object) -> TypeGuard[str]:
    """
    Return whether this is an amount as x402 writes it: ASCII digits, and not endlessly many.
    """
    return (
        isinstance(amount, str)
        and amount.isascii()
        and amount.isdigit()
        and len(amount) <= AMOUNT_CHARACTERS_MAX
    )


def from_payment_response(header: str) -> Settlement:
    """
    Read the header ``PAYMENT-RESPONSE``.

    Raises:
        MalformedOfferError: It cannot be read.
    """
    return from_settlement(read_header(header, "PAYMENT-RESPONSE"))


def from_settlement(document: JsonObject) -> Settlement:
    """
    Read x402's settlement response.
    """
    amount = document.get("amount")
    return Settlement(
        is_success=document.get("success") is True,
        transaction=str(document.get("transaction") or ""),
        network=str(document.get("network") or ""),
        amount=int(amount) if _is_atomic(amount) else None,
        payer=document.get("payer"),
        error_reason=document.get("errorReason"),
        document=document,
    )


def to_payment_signature(
    required: PaymentRequired, chosen: Requirements, authorisation: str
) -> str:
    """
    Return the header ``PAYMENT-SIGNATURE`` for a signed authorisation.
    """
    payload: dict[str, object] = {
        "x402Version": X402_VERSION,
        "accepted": chosen.document,
        "payload": {"authorization": authorisation},
    }
    if required.resource is not None:
        payload["resource"] = required.resource
    if required.extensions is not None:
        payload["extensions"] = required.extensions
    return base64.b64encode(json.dumps(payload, separators=(",", ":")).encode()).decode()


def read_header(header: str, name: str) -> dict[str, Any]:
    """
    Return the JSON object in a header of x402.

    Raises:
        MalformedOfferError: It is none.
    """
    try:
        document: object = json.loads(base64.b64decode(header, validate=True))
    except (ValueError, RecursionError) as error:
        message = f"The seller's {name} is not base64 of JSON."
        raise MalformedOfferError(message) from error
    if not isinstance(document, dict):
        message = f"The seller's {name} is not a JSON object."
        raise MalformedOfferError(message)
    return cast("dict[str, Any]", document)


# ------------------------------------------------------------------ bodies


def object_of(content: bytes) -> JsonObject | None:
    """
    Return a JSON object, or ``None`` when it is none.
    """
    try:
        document: object = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return cast("JsonObject", document) if isinstance(document, dict) else None


def refusal_in(document: JsonObject) -> JsonObject:
    """
    Return the members of a refusal: a problem document's, or those of OpenAI's error shape.
    """
    error: object = document.get("error")
    return cast("JsonObject", error) if isinstance(error, dict) else document
