"""
Pay through the sdk, and keep what is not decided yet.

A payment that waits for a person, or whose answer went missing, keeps its signature in a file:
the same signature sent again, by this process or the next, can never pay twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from http import HTTPStatus
from typing import Any, Final

import httpx

from tokenworks.sdk import (
    AnswerLostError,
    AsyncHubClient,
    ChatAnswer,
    HubError,
    PaymentInReviewError,
    PaymentRefusedError,
    PaymentUncertainError,
    Quote,
    Settlement,
)
from tokenworks.sdk.asking import (
    CHAT_PATH,
    JSON_HEADERS,
    SETTLE_PATH,
    UNDECIDED,
    chat_answer,
    chat_body,
    direct_payment,
    direct_settlement,
)
from tokenworks.sdk.model import JsonObject, to_units
from tokenworks.sdk.paying import IN_REVIEW
from tokenworks.sdk.signing import payment_id_of
from tokenworks.sdk.spending import Reservation
from tokenworks.web.mcp.undecided import UndecidedPayments
from tokenworks.web.mcp.words import Outcome, options

Message = Mapping[str, Any]


class UndecidedError(Exception):
    """
    A payment is neither made nor refused yet; ``finish`` asks again.
    """

    def __init__(self, message: str, *, payment_id: str, is_in_review: bool) -> None:
        super().__init__(message)
        self.payment_id = payment_id
        self.is_in_review = is_in_review


class NothingUndecidedError(Exception):
    """
    There is no such payment, here or at the hub.
    """


class Till:
    """
    Buy and pay for one agent.

    Args:
        hub: The agent's client.
        undecided: Keeps what is not decided yet.
    """

    def __init__(self, hub: AsyncHubClient, undecided: UndecidedPayments) -> None:
        self.hub: Final = hub
        self._undecided = undecided
        self._reservations: dict[str, Reservation] = {}

    @property
    def undecided(self) -> list[str]:
        """
        Return the ids of payments that are not decided, oldest first.
        """
        return self._undecided.ids()

    async def quote_model(
        self, model: str, messages: Sequence[Message], max_tokens: int | None
    ) -> Outcome:
        """
        Return what a chat completion would cost at most.
        """
        quote = await self.hub.quote_model(model, messages, **options(max_tokens))
        return _to_quote(quote)

    async def quote_url(self, method: str, url: str, body: str) -> Outcome:
        """
        Return what any seller asks for a request.
        """
        return _to_quote(await self.hub.quote(method, url, body=body.encode()))

    async def call_model(
        self, model: str, messages: Sequence[Message], max_tokens: int | None
    ) -> Outcome:
        """
        Buy a chat completion.

        Raises:
            UndecidedError: In review, or no answer came.
        """
        body = chat_body(model, messages, options(max_tokens))
        url = self.hub.url + CHAT_PATH
        request = self.hub.http.build_request("POST", url, content=body, headers=JSON_HEADERS)
        return await self._buy(request)

    async def pay(self, payee: str, amount: Decimal | str, reference: str | None) -> Outcome:
        """
        Pay a party.

        Raises:
            UndecidedError: In review, or no answer came.
        """
        hub = self.hub
        nonce = hub.wallet.mint_nonce()
        payment_id = str(payment_id_of(hub.wallet.address, nonce))
        body, reservation = direct_payment(
            hub.desk, hub.url, payee, amount, reference=reference, nonce=nonce
        )
        self._reservations[payment_id] = reservation
        request = hub.http.build_request("POST", hub.url + SETTLE_PATH, json=body)
        return await self._settle(request, payment_id)

    async def finish(self, payment_id: str) -> Outcome:
        """
        Send an undecided payment again, with its first signature; of others say what they are.

        Raises:
            NothingUndecidedError: Nobody knows it.
            UndecidedError: It still is not decided.
        """
        try:
            request = self._undecided.request(payment_id)
        except ValueError as error:
            message = f"{payment_id[:64]!r} is no id of a payment."
            raise NothingUndecidedError(message) from error
        if request is None:
            return await self._look_up(payment_id)
        if request.url.path == SETTLE_PATH:
            return await self._settle(request, payment_id)
        if self.hub.desk.resumed(request) is None:
            self.hub.desk.adopt(request)
        return await self._buy(request, payment_id)

    async def _settle(self, request: httpx.Request, payment_id: str) -> Outcome:
        # What an earlier process signed was counted by its cap.
        reservation = self._reservations.get(payment_id) or Reservation(amount=0)
        try:
            answer = await self.hub.http.send(request)
            settlement = direct_settlement(self.hub.desk, reservation, answer)
        except httpx.TransportError as error:
            self._undecided.keep(payment_id, request)
            message = f"No answer came ({type(error).__name__}); the payment may be made."
            raise UndecidedError(message, payment_id=payment_id, is_in_review=False) from error
        except HubError as error:
            if error.reason not in UNDECIDED:
                self._decided(payment_id)
                raise
            self._undecided.keep(payment_id, request)
            is_in_review = error.reason == IN_REVIEW
            message = (
                f"Payment {payment_id} waits for a person's approval."
                if is_in_review
                else f"The hub does not know yet what became of payment {payment_id}."
            )
            raise UndecidedError(
                message, payment_id=payment_id, is_in_review=is_in_review
            ) from error
        self._decided(payment_id)
        return _to_payment(settlement)

    async def _buy(self, request: httpx.Request, payment_id: str | None = None) -> Outcome:
        try:
            answer = await self.hub.http.send(request)
            outcome = _to_answer(chat_answer(answer))
        except PaymentInReviewError as error:
            self._undecided.keep(error.review_id, error.request)
            raise UndecidedError(
                str(error), payment_id=error.review_id, is_in_review=True
            ) from error
        except PaymentUncertainError as error:
            self._undecided.keep(error.payment_id, error.request)
            raise UndecidedError(
                str(error), payment_id=error.payment_id, is_in_review=False
            ) from error
        except (PaymentRefusedError, AnswerLostError):
            self._decided(payment_id)
            raise
        self._decided(payment_id)
        return outcome

    async def _look_up(self, payment_id: str) -> Outcome:
        """
        Return what the hub's books say of a payment that is not kept here.
        """
        try:
            payment = await self.hub.payment(payment_id)
        except HubError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            message = f"No payment {payment_id} is undecided here, and the hub knows none."
            raise NothingUndecidedError(message) from error
        return {
            "payment_id": payment_id,
            "state": payment.get("state"),
            "amount": payment.get("amount"),
        }

    def _decided(self, payment_id: str | None) -> None:
        if payment_id is not None:
            self._undecided.forget(payment_id)
            self._reservations.pop(payment_id, None)


def _to_quote(quote: Quote) -> Outcome:
    return {
        "amount_max": format(quote.amount, "f"),
        "currency": quote.currency,
        "payee": quote.requirements.pay_to,
        "scheme": quote.requirements.scheme,
    }


def _to_payment(settlement: Settlement) -> Outcome:
    return {
        "payment_id": settlement.transaction,
        "amount": None if settlement.amount is None else format(to_units(settlement.amount), "f"),
    }


def _to_answer(answer: ChatAnswer) -> Outcome:
    usage: JsonObject = answer.document.get("usage") or {}
    return {
        "text": answer.text,
        "charge": format(answer.charge, "f"),
        "payment_id": answer.settlement.transaction,
        "model": answer.document.get("model"),
        "usage": dict(usage),
    }
