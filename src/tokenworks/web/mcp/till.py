"""
Pay through the sdk, and keep what is not decided yet.

A payment that waits for a person, or whose answer went missing, keeps its signature here: the
same signature sent again can never pay twice.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

import httpx

from tokenworks.sdk import (
    AsyncHubClient,
    ChatAnswer,
    HubError,
    PaymentInReviewError,
    PaymentUncertainError,
    Quote,
    Settlement,
)
from tokenworks.sdk.asking import (
    CHAT_PATH,
    JSON_HEADERS,
    SETTLE_PATH,
    chat_answer,
    chat_body,
    direct_payment,
    direct_settlement,
)
from tokenworks.sdk.model import JsonObject, to_units
from tokenworks.sdk.signing import payment_id_of

UNDECIDED_MAX: Final = 1_000
"""Payments kept at once; with more the oldest is forgotten, and stays at the hub."""

Outcome = dict[str, Any]
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
    There is no such payment here.
    """


class Till:
    """
    Buy and pay for one agent.

    Args:
        hub: The agent's client.
    """

    def __init__(self, hub: AsyncHubClient) -> None:
        self.hub: Final = hub
        self._undecided: OrderedDict[str, Callable[[], Awaitable[Outcome]]] = OrderedDict()

    @property
    def undecided(self) -> tuple[str, ...]:
        """
        Return the ids of payments that are not decided, oldest first.
        """
        return tuple(self._undecided)

    async def quote_model(
        self, model: str, messages: Sequence[Message], max_tokens: int | None
    ) -> Outcome:
        """
        Return what a chat completion would cost at most.
        """
        quote = await self.hub.quote_model(model, messages, **_options(max_tokens))
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
        body = chat_body(model, messages, _options(max_tokens))
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

        async def settle() -> Outcome:
            try:
                answer = await hub.http.post(hub.url + SETTLE_PATH, json=body)
                settlement = direct_settlement(hub.desk, reservation, answer)
            except httpx.TransportError as error:
                message = f"No answer came ({type(error).__name__}); the payment may be made."
                self._keep(payment_id, settle)
                raise UndecidedError(message, payment_id=payment_id, is_in_review=False) from error
            except HubError as error:
                if error.reason != "payment_in_review":
                    raise
                self._keep(payment_id, settle)
                message = f"Payment {payment_id} waits for a person's approval."
                raise UndecidedError(message, payment_id=payment_id, is_in_review=True) from error
            return _to_payment(settlement)

        return await settle()

    async def finish(self, payment_id: str) -> Outcome:
        """
        Send an undecided payment again, with its first signature.

        Raises:
            NothingUndecidedError: It is not here.
            UndecidedError: It still is not decided.
        """
        again = self._undecided.pop(payment_id, None)
        if again is None:
            message = f"No payment {payment_id} is undecided here."
            raise NothingUndecidedError(message)
        return await again()

    async def _buy(self, request: httpx.Request) -> Outcome:
        try:
            answer = await self.hub.http.send(request)
            return _to_answer(chat_answer(answer))
        except PaymentInReviewError as error:
            again = error.request
            self._keep(error.review_id, lambda: self._buy(again))
            raise UndecidedError(
                str(error), payment_id=error.review_id, is_in_review=True
            ) from error
        except PaymentUncertainError as error:
            again = error.request
            self._keep(error.payment_id, lambda: self._buy(again))
            raise UndecidedError(
                str(error), payment_id=error.payment_id, is_in_review=False
            ) from error

    def _keep(self, payment_id: str, again: Callable[[], Awaitable[Outcome]]) -> None:
        self._undecided[payment_id] = again
        if len(self._undecided) > UNDECIDED_MAX:
            self._undecided.popitem(last=False)


def _options(max_tokens: int | None) -> dict[str, object]:
    return {} if max_tokens is None else {"max_tokens": max_tokens}


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
