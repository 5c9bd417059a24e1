"""
Requests to the hub and what is read from its answers, without any I/O.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from http import HTTPStatus
from typing import Final
from urllib.parse import quote, urlencode
from uuid import UUID

import httpx

from tokenworks.sdk.errors import (
    HubError,
    MalformedOfferError,
    NothingPayableError,
    PaymentUncertainError,
)
from tokenworks.sdk.model import (
    DECIMALS,
    SCHEMES,
    X402_VERSION,
    Binding,
    ChatAnswer,
    JsonObject,
    Quote,
    Settlement,
    from_payment_required,
    from_requirements,
    from_settlement,
    object_of,
    refusal_in,
    to_atomic,
    to_units,
)
from tokenworks.sdk.paying import (
    IN_REVIEW,
    REQUIRED_HEADER,
    SETTLEMENT_EXTENSION,
    PaymentDesk,
)
from tokenworks.sdk.signing import body_sha256, payload_of, payment_id_of
from tokenworks.sdk.spending import Reservation
from tokenworks.sdk.wallet import Wallet

WALLET_HEADER: Final = "x-tokenworks-wallet"
CHAT_PATH: Final = "/x402/v1/chat/completions"
MODELS_PATH: Final = "/x402/v1/models"
SUPPORTED_PATH: Final = "/x402/supported"
SETTLE_PATH: Final = "/x402/settle"
DIRECT_TIMEOUT_S: Final = 300
ESCROW_TIMEOUT_S: Final = 600
UNDECIDED: Final = frozenset({IN_REVIEW, "settlement_pending", "unexpected_settle_error"})
"""Reasons of a settle after which the payment may still be made: they keep their reservation."""
JSON_HEADERS: Final = {"content-type": "application/json"}

Message = Mapping[str, object]


def read_json(answer: httpx.Response) -> JsonObject:
    """
    Return the JSON object of an answer.

    Raises:
        HubError: It is a refusal, or no JSON object.
    """
    said = object_of(answer.content)
    if said is not None and answer.is_success:
        return said
    said = refusal_in(said or {})
    raise HubError(
        str(said.get("detail") or said.get("message") or f"The hub answered {answer.status_code}."),
        status=answer.status_code,
        reason=str(said.get("code") or "unknown"),
        details=said.get("details"),
    )


def items_of(document: JsonObject, member: str = "items") -> list[JsonObject]:
    """
    Return the entries of a list.
    """
    return list(document.get(member) or [])


def network_of(supported: JsonObject) -> str:
    """
    Return the one network of a hub's ``/x402/supported``.

    Raises:
        MalformedOfferError: It names none of a hub.
    """
    networks = {str(kind.get("network")) for kind in items_of(supported, "kinds")}
    hubs = sorted(name for name in networks if name.startswith("hub:"))
    if len(hubs) != 1:
        raise MalformedOfferError("This is no hub: it names no network of its own.")
    return hubs[0]


def signed_request(
    wallet: Wallet,
    network: str,
    method: str,
    url: str,
    *,
    body: JsonObject | None,
    query: Mapping[str, str | int] | None,
) -> httpx.Request:
    """
    Return a request to the hub API with the wallet's signature instead of an API key.
    """
    content = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
    if query:
        url = f"{url}?{urlencode(query)}"
    headers = {"accept": "application/json"}
    if body is not None:
        headers |= JSON_HEADERS
        headers["idempotency-key"] = str(wallet.mint_nonce())
    headers[WALLET_HEADER] = wallet.sign_request(method, url, content, network=network)
    return httpx.Request(method, url, content=content, headers=headers)


def path_part(text: object) -> str:
    """
    Return text as one segment of a path.
    """
    return quote(str(text), safe="")


def receipt_path(payment: JsonObject) -> str:
    """
    Return where the receipt of a payment stands.
    """
    name = path_part(payment["payment_id"])
    return f"receipts/{name}" if payment["scheme"] == "call" else f"payments/{name}/receipt"


# ------------------------------------------------------------------ buying


def chat_body(model: str, messages: Sequence[Message], options: Mapping[str, object]) -> bytes:
    """
    Return the body of a chat request.

    Raises:
        ValueError: It asks for a stream, which this call could not read.
    """
    if options.get("stream"):
        raise ValueError("call_model returns whole answers; stream through the client's http.")
    return json.dumps({"model": model, "messages": list(messages), **options}).encode()


def quote_of(answer: httpx.Response, *, network: str) -> Quote:
    """
    Read what a request would cost from the 402 it got.

    Raises:
        NothingPayableError: It is no 402, or offers nothing on this network.
        HubError: It was refused.
    """
    if answer.is_success:
        raise NothingPayableError("This costs nothing.")
    header = answer.headers.get(REQUIRED_HEADER)
    if header is None:
        read_json(answer)
        raise AssertionError("a refusal raises")
    for one in from_payment_required(header).accepts:
        if one.network == network and one.scheme in SCHEMES:
            return Quote(amount=to_units(one.amount), currency=one.asset, requirements=one)
    message = f"The seller takes nothing on {network}."
    raise NothingPayableError(message)


def chat_answer(answer: httpx.Response) -> ChatAnswer:
    """
    Read a bought chat completion.

    Raises:
        HubError: It was refused before it was paid.
    """
    document = read_json(answer)
    settlement = answer.extensions.get(SETTLEMENT_EXTENSION)
    if not isinstance(settlement, Settlement):
        raise MalformedOfferError("The answer does not say what it cost.")
    try:
        text = str(document["choices"][0]["message"].get("content") or "")
    except (LookupError, TypeError, AttributeError) as error:
        message = "What was bought is no chat completion."
        raise MalformedOfferError(message) from error
    return ChatAnswer(text=text, settlement=settlement, document=document)


def direct_requirements(
    url: str,
    network: str,
    payee: str,
    amount: Decimal | str,
    *,
    currency: str,
    reference: str | None,
) -> JsonObject:
    """
    Return the requirements of a payment without a seller's 402.

    They are bound to the settle door and to the reference, as a sale is to its request.

    Raises:
        ValueError: The amount is none.
    """
    return {
        "scheme": "exact",
        "network": network,
        "amount": str(to_atomic(amount)),
        "asset": currency,
        "payTo": payee,
        "maxTimeoutSeconds": DIRECT_TIMEOUT_S,
        "extra": {
            "name": currency,
            "decimals": DECIMALS,
            "binding": {
                "method": "POST",
                "url": url + SETTLE_PATH,
                "bodySha256": body_sha256((reference or "").encode()),
            },
        },
    }


def direct_payment(
    desk: PaymentDesk,
    url: str,
    payee: str,
    amount: Decimal | str,
    *,
    reference: str | None,
    nonce: UUID | None = None,
) -> tuple[JsonObject, Reservation]:
    """
    Return the body that settles a payment without a seller's 402, and what it takes of the cap.

    Raises:
        SpendCapError: The cap is too small.
    """
    requirements = direct_requirements(
        url, desk.network, payee, amount, currency=desk.cap.asset, reference=reference
    )
    accepted = from_requirements(requirements)
    assert accepted.binding is not None, "it was bound"
    reservation = desk.cap.reserve(accepted.amount)
    authorisation = desk.wallet.authorise(
        accepted,
        accepted.binding,
        nonce=nonce,
        mandate=desk.mandate,
        reference=reference,
    )
    payload = {
        "x402Version": X402_VERSION,
        "accepted": requirements,
        "payload": {"authorization": authorisation},
    }
    body: JsonObject = {
        "x402Version": X402_VERSION,
        "paymentPayload": payload,
        "paymentRequirements": requirements,
    }
    return body, reservation


def escrow_opening(
    desk: PaymentDesk, payee: str, terms: JsonObject
) -> tuple[JsonObject, Reservation]:
    """
    Return the body that opens an escrow, and what its milestones take of the cap.

    The signature binds the terms by the SHA-256 of their RFC 8785 form.

    Raises:
        SpendCapError: The cap is too small.
        ValueError: A milestone has no amount, or a number in the terms is no integer.
    """
    amount = sum(to_atomic(milestone["amount"]) for milestone in terms["milestones"])
    binding = Binding(
        method="ESCROW",
        url=f"escrow:{hashlib.sha256(canonical_json(terms)).hexdigest()}",
        body_sha256=body_sha256(b""),
    )
    requirements = from_requirements(
        {
            "scheme": "upto",
            "network": desk.network,
            "amount": str(amount),
            "asset": desk.cap.asset,
            "payTo": payee,
            "maxTimeoutSeconds": ESCROW_TIMEOUT_S,
        }
    )
    reservation = desk.cap.reserve(amount)
    authorisation = desk.wallet.authorise(requirements, binding, mandate=desk.mandate)
    return {"authorisation": authorisation, "terms": terms}, reservation


def canonical_json(value: JsonObject) -> bytes:
    """
    Return JSON in RFC 8785's form; names are ASCII, numbers are integers.
    """

    def refuse(number: str) -> float:
        message = f"{number} is no integer; write it as text."
        raise ValueError(message)

    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    json.loads(text, parse_float=refuse)
    return text.encode()


def direct_settlement(
    desk: PaymentDesk, reservation: Reservation, answer: httpx.Response
) -> Settlement:
    """
    Read what became of a direct payment.

    Raises:
        HubError: Refused, or in review (``reason`` says which); a review keeps its part of the
            cap.
    """
    document = read_json(answer)
    settlement = from_settlement(document)
    if settlement.is_success:
        charged = reservation.amount if settlement.amount is None else settlement.amount
        desk.cap.conclude(reservation, charged=charged)
        return settlement
    reason = settlement.error_reason or "unknown"
    if reason not in UNDECIDED:
        desk.cap.conclude(reservation, charged=0)
    message = str(document.get("errorMessage") or f"The payment was refused: {reason}.")
    raise HubError(message, status=answer.status_code, reason=reason, details=document)


def conclude_refused(desk: PaymentDesk, reservation: Reservation, error: HubError) -> None:
    """
    Give a refused escrow's part of the cap back, unless it may be held all the same.
    """
    may_be_held = error.reason == IN_REVIEW or error.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    if not may_be_held:
        desk.cap.conclude(reservation, charged=0)


def unanswered(request: httpx.Request, error: Exception) -> PaymentUncertainError:
    """
    Return what is raised when a payment that was signed here gets no answer; its reservation
    stays.
    """
    body = json.loads(request.content)
    jws = body.get("authorisation") or body["paymentPayload"]["payload"]["authorization"]
    claims = payload_of(jws)
    payment_id = payment_id_of(claims["iss"], UUID(claims["jti"]))
    message = (
        f"Payment {payment_id} may be made: no answer came ({type(error).__name__}). "
        "Send the same request again to learn what became of it."
    )
    return PaymentUncertainError(message, payment_id=str(payment_id), request=request)
