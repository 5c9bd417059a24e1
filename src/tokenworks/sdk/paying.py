"""
What to do about a 402, without any I/O: shared by the synchronous and the asynchronous door.

``PaymentDesk.sign`` chooses, checks, reserves and signs, in this order; ``conclude`` reads what
came back. One request is signed for once: a repeat after a timeout carries the same signature,
which the hub knows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from uuid import UUID

import httpx

from tokenworks.sdk.errors import (
    AnswerLostError,
    BindingMismatchError,
    MalformedOfferError,
    NothingPayableError,
    PaymentInReviewError,
    PaymentRefusedError,
    PaymentUncertainError,
)
from tokenworks.sdk.model import (
    DECIMALS,
    SCHEMES,
    Binding,
    PaymentRequired,
    Requirements,
    Settlement,
    from_payment_required,
    from_payment_response,
    from_requirements,
    object_of,
    read_header,
    refusal_in,
    to_atomic,
    to_payment_signature,
)
from tokenworks.sdk.signing import body_sha256, payload_of, payment_id_of
from tokenworks.sdk.spending import Reservation, SpendCap
from tokenworks.sdk.wallet import Wallet

REQUIRED_HEADER: Final = "PAYMENT-REQUIRED"
SIGNATURE_HEADER: Final = "PAYMENT-SIGNATURE"
RESPONSE_HEADER: Final = "PAYMENT-RESPONSE"
SETTLEMENT_EXTENSION: Final = "tokenworks_settlement"
IN_REVIEW: Final = "payment_in_review"
ALREADY_SETTLED: Final = frozenset({"call_already_settled", "payment_already_settled"})
UNDER_WAY: Final = frozenset({"call_in_flight", "payment_already_claimed"})
RECEIPT_COMMENT: Final = b": tokenworks-receipt "
RECEIPT_LINE_BYTES_MAX: Final = 65_536
UNDECIDED_MAX: Final = 10_000
"""Signed requests that a desk remembers because nobody has said what became of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """
    A request with its signature, ready to be sent, and sent again.
    """

    request: httpx.Request
    requirements: Requirements
    payment_id: UUID
    reservation: Reservation


class PaymentDesk:
    """
    Decide what is signed.

    Args:
        wallet: Signs.
        network: The hub's network; nothing is signed for another one.
        cap: The local cap.
        mandate: Which mandate pays; the wallet's only one when omitted.
        reference: For mandates that ask for it.
    """

    def __init__(
        self,
        wallet: Wallet,
        *,
        network: str,
        cap: SpendCap,
        mandate: str | None = None,
        reference: str | None = None,
    ) -> None:
        self.wallet = wallet
        self.network = network
        self.cap = cap
        self.mandate = mandate
        self._reference = reference
        self._undecided: dict[str, Signed] = {}

    # ------------------------------------------------------------------ before

    def sign(self, request: httpx.Request, answer: httpx.Response) -> Signed:
        """
        Return the request with a signature that pays for it and for nothing else.

        Raises:
            MalformedOfferError: The offer cannot be read.
            NothingPayableError: No offer is of this network, currency and our schemes.
            BindingMismatchError: The offer is for another request than this one.
            SpendCapError: The cap is too small.
        """
        required = from_payment_required(answer.headers[REQUIRED_HEADER])
        binding = binding_of(request)
        chosen = self._choose(required, binding)
        nonce = self.wallet.mint_nonce()
        reservation = self.cap.reserve(chosen.amount)
        authorisation = self.wallet.authorise(
            chosen, binding, nonce=nonce, mandate=self.mandate, reference=self._reference
        )
        paid = httpx.Request(
            request.method,
            request.url,
            headers=request.headers,
            content=request.content,
            extensions=request.extensions,
        )
        paid.headers[SIGNATURE_HEADER] = to_payment_signature(required, chosen, authorisation)
        signed = Signed(
            request=paid,
            requirements=chosen,
            payment_id=payment_id_of(self.wallet.address, nonce),
            reservation=reservation,
        )
        self._undecided[paid.headers[SIGNATURE_HEADER]] = signed
        while len(self._undecided) > UNDECIDED_MAX:
            # Its part of the cap stays taken; only sending it again is not recognised any more.
            self._undecided.pop(next(iter(self._undecided)), None)
        return signed

    def _choose(self, required: PaymentRequired, binding: Binding) -> Requirements:
        payable = [
            one
            for scheme in SCHEMES
            for one in required.accepts
            if one.scheme == scheme
            and one.network == self.network
            and one.asset == self.cap.asset
            and one.decimals == DECIMALS
        ]
        if not payable:
            offered = sorted(
                {f"{one.scheme} {one.asset} on {one.network}" for one in required.accepts}
            )
            message = (
                f"The seller takes {', '.join(offered) or 'nothing'}; this wallet pays "
                f"{self.cap.asset} on {self.network}."
            )
            raise NothingPayableError(message)
        bound = [one for one in payable if one.binding == binding]
        if not bound:
            message = (
                f"The seller asks to sign for {payable[0].binding}, but {binding} was sent; "
                "nothing was signed."
            )
            raise BindingMismatchError(message)
        return min(bound, key=lambda one: one.amount)

    # ------------------------------------------------------------------ after

    def resumed(self, request: httpx.Request) -> Signed | None:
        """
        Return what this desk signed for a request that is sent again, while it is undecided.
        """
        header = request.headers.get(SIGNATURE_HEADER)
        return None if header is None else self._undecided.get(header)

    def adopt(self, request: httpx.Request) -> Signed:
        """
        Take up a request that this wallet signed in an earlier process, to learn its end.

        The cap of that process has counted it; this one's does not.

        Raises:
            MalformedOfferError: It carries no payment of this wallet.
        """
        header = request.headers.get(SIGNATURE_HEADER, "")
        payment = read_header(header, SIGNATURE_HEADER)
        try:
            requirements = from_requirements(payment["accepted"])
            claims = payload_of(payment["payload"]["authorization"])
            payer, nonce = str(claims["iss"]), UUID(str(claims["jti"]))
        except (KeyError, TypeError, ValueError) as error:
            raise MalformedOfferError(f"The {SIGNATURE_HEADER} cannot be read.") from error
        if payer != self.wallet.address:
            raise MalformedOfferError(f"Another wallet signed this: {payer}.")
        signed = Signed(
            request=request,
            requirements=requirements,
            payment_id=payment_id_of(payer, nonce),
            reservation=Reservation(amount=requirements.amount),
        )
        self._undecided[header] = signed
        return signed

    def uncertain(self, signed: Signed, why: str) -> PaymentUncertainError:
        """
        Return what is raised when nobody says what became of a payment; it counts as spent.
        """
        message = (
            f"Payment {signed.payment_id} may be made: {why}. "
            "Send the same request again to learn what became of it."
        )
        return PaymentUncertainError(
            message, payment_id=str(signed.payment_id), request=signed.request
        )

    def conclude(self, signed: Signed, answer: httpx.Response) -> bool:
        """
        Read what became of a payment; return whether the answer's body has yet to say it.

        Raises:
            PaymentInReviewError: A person decides; the reservation stays.
            PaymentRefusedError: It was refused, and costs nothing.
            PaymentUncertainError: An earlier try is still under way.
            AnswerLostError: An earlier try was paid.
        """
        settlement = _settlement_of(answer)
        if settlement is not None:
            answer.extensions[SETTLEMENT_EXTENSION] = settlement
        if settlement is not None and settlement.is_success:
            charged = signed.requirements.amount if settlement.amount is None else settlement.amount
            self._decide(signed, charged=charged)
            if answer.is_error:
                raise self._lost(signed, answer)
            return False
        if not answer.is_error:
            return True
        reason = _reason_of(answer, settlement)
        if reason in ALREADY_SETTLED:
            self._decide(signed, charged=signed.requirements.amount)
            raise self._lost(signed, answer)
        if reason in UNDER_WAY:
            raise self.uncertain(signed, "an earlier try is still under way")
        if reason == IN_REVIEW:
            message = f"Payment {signed.payment_id} waits for a person's approval."
            raise PaymentInReviewError(
                message, review_id=str(signed.payment_id), request=signed.request
            )
        if settlement is not None or answer.status_code == HTTPStatus.PAYMENT_REQUIRED:
            self._decide(signed, charged=0)
            message = f"The payment was refused: {reason or 'no reason given'}."
            raise PaymentRefusedError(message, reason=reason or "unknown", response=answer)
        # An error without a word about the payment: who has the signature may still use it, so
        # the reservation stays.
        return False

    def streamed(self, signed: Signed, settlement: Settlement) -> None:
        """
        Take the charge that a stream's receipt named.
        """
        assert settlement.amount is not None, "a receipt names its charge"
        self._decide(signed, charged=settlement.amount)

    def _decide(self, signed: Signed, *, charged: int) -> None:
        self.cap.conclude(signed.reservation, charged=charged)
        self._undecided.pop(signed.request.headers[SIGNATURE_HEADER], None)

    def _lost(self, signed: Signed, answer: httpx.Response) -> AnswerLostError:
        message = f"Payment {signed.payment_id} was settled by an earlier try; its answer is lost."
        return AnswerLostError(message, payment_id=str(signed.payment_id), response=answer)


def binding_of(request: httpx.Request) -> Binding:
    """
    Return what identifies a request that was sent.
    """
    return Binding(
        method=request.method.upper(),
        url=str(request.url.copy_with(fragment=None)),
        body_sha256=body_sha256(request.content),
    )


def _settlement_of(answer: httpx.Response) -> Settlement | None:
    header = answer.headers.get(RESPONSE_HEADER)
    if header is None:
        return None
    try:
        return from_payment_response(header)
    except MalformedOfferError:
        # As good as not said: the reservation stays.
        return None


def _reason_of(answer: httpx.Response, settlement: Settlement | None) -> str | None:
    """
    Return the code of a refusal, wherever this seller puts it.
    """
    if not answer.is_error:
        return None
    if settlement is not None and settlement.error_reason:
        return settlement.error_reason
    header = answer.headers.get(REQUIRED_HEADER)
    if header is not None:
        try:
            return from_payment_required(header).error
        except MalformedOfferError:
            return None
    said = refusal_in(object_of(answer.content) or {})
    code = said.get("code") or said.get("error")
    return None if code is None else str(code)


class StreamWatch:
    """
    Find the receipt line of a stream as it passes.

    A stream that ends without one keeps its reservation.

    Args:
        desk: Told the charge.
        signed: What was paid for.
        answer: Gets the settlement.
    """

    def __init__(self, desk: PaymentDesk, signed: Signed, answer: httpx.Response) -> None:
        self._desk = desk
        self._signed = signed
        self._answer = answer
        self._line = b""

    def feed(self, piece: bytes) -> None:
        """
        Look at the next bytes.
        """
        *lines, rest = (self._line + piece).split(b"\n")
        for line in lines:
            if line.startswith(RECEIPT_COMMENT):
                self._read(line.removeprefix(RECEIPT_COMMENT))
        # Only the beginning of a long line matters, unless it is the receipt itself.
        is_receipt = rest.startswith(RECEIPT_COMMENT)
        self._line = rest[: RECEIPT_LINE_BYTES_MAX if is_receipt else len(RECEIPT_COMMENT)]

    def _read(self, text: bytes) -> None:
        try:
            document = json.loads(text)
            amount = to_atomic(document["receipt"]["charge"])
        except (ValueError, KeyError, TypeError):
            return
        settlement = Settlement(
            is_success=True,
            transaction=str(self._signed.payment_id),
            network=self._signed.requirements.network,
            amount=amount,
            payer=self._desk.wallet.address,
            error_reason=None,
            document=document,
        )
        self._answer.extensions[SETTLEMENT_EXTENSION] = settlement
        self._desk.streamed(self._signed, settlement)
