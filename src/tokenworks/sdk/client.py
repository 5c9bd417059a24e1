"""
A typed client of the hub for an agent with a wallet, synchronous.

Requests to the hub API carry the wallet's signature instead of an API key and act as its agent;
what costs money goes through the paying transport. Answers of the hub API are returned as they
come (JSON objects; docs/reference has their fields), amounts in them are decimal texts.
``async_client`` is the same with ``await``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from types import TracebackType
from typing import Final, Self
from uuid import UUID

import httpx

from tokenworks.sdk.asking import (
    CHAT_PATH,
    JSON_HEADERS,
    MODELS_PATH,
    SETTLE_PATH,
    SUPPORTED_PATH,
    Message,
    chat_answer,
    chat_body,
    conclude_refused,
    direct_payment,
    direct_settlement,
    escrow_opening,
    items_of,
    network_of,
    path_part,
    quote_of,
    read_json,
    receipt_path,
    signed_request,
    unanswered,
)
from tokenworks.sdk.errors import HubError
from tokenworks.sdk.model import ChatAnswer, JsonObject, Quote, Settlement
from tokenworks.sdk.paying import PaymentDesk
from tokenworks.sdk.repeating import Backoff, send_again
from tokenworks.sdk.spending import SpendCap
from tokenworks.sdk.transport import PayingTransport
from tokenworks.sdk.wallet import Wallet

TIMEOUT_S: Final = 120.0


class HubClient:
    """
    A hub, as an agent with a wallet sees it.

    Args:
        url: The hub's address without a path.
        wallet: Signs.
        cap: What may be spent locally; without one nothing is paid.
        mandate: Which mandate pays; the wallet's only one when omitted.
        network: The hub's network; asked for once when omitted.
        transport: Sends; httpx's own when omitted. It is closed with this client.
        timeout_s: How long each step of a request may take; a paid call is sent again after it.
        backoff: How often, and after how long, what was signed is sent again.
        sleep: Waits some seconds.
    """

    def __init__(
        self,
        url: str,
        wallet: Wallet,
        *,
        cap: SpendCap | None = None,
        mandate: str | None = None,
        network: str | None = None,
        transport: httpx.BaseTransport | None = None,
        timeout_s: float = TIMEOUT_S,
        backoff: Backoff | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url: Final = url.rstrip("/")
        self.wallet: Final = wallet
        transport = transport or httpx.HTTPTransport()
        self._http = httpx.Client(transport=transport, timeout=timeout_s)
        if network is None:
            network = network_of(read_json(self._http.get(self.url + SUPPORTED_PATH)))
        self.network: Final = network
        self.desk: Final = PaymentDesk(
            wallet, network=network, cap=cap or SpendCap(per_payment=0), mandate=mandate
        )
        self._backoff = backoff or Backoff()
        self._sleep = sleep
        self._paying = httpx.Client(
            transport=PayingTransport(self.desk, transport, backoff=self._backoff, sleep=sleep),
            timeout=timeout_s,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """
        Close the connections.
        """
        self._http.close()

    @property
    def http(self) -> httpx.Client:
        """
        Return a client that pays 402s of any seller on this hub's network.
        """
        return self._paying

    # ------------------------------------------------------------------ buying

    def quote(self, method: str, url: str, *, body: bytes = b"") -> Quote:
        """
        Ask any seller what a request costs at most; nothing is paid.

        Raises:
            NothingPayableError: It is free, or not payable on this network.
        """
        headers = JSON_HEADERS if body else None
        answer = self._http.request(method, url, content=body, headers=headers)
        return quote_of(answer, network=self.network)

    def quote_model(self, model: str, messages: Sequence[Message], **options: object) -> Quote:
        """
        Ask what a chat completion costs at most; nothing is paid.
        """
        body = chat_body(model, messages, options)
        return self.quote("POST", self.url + CHAT_PATH, body=body)

    def call_model(self, model: str, messages: Sequence[Message], **options: object) -> ChatAnswer:
        """
        Buy a chat completion; charged for the tokens it used.

        Args:
            model: ``model`` or ``model@tier``.
            messages: As in OpenAI's protocol.
            options: More members of the request, e.g. ``max_tokens``.
        """
        body = chat_body(model, messages, options)
        return chat_answer(
            self._paying.post(self.url + CHAT_PATH, content=body, headers=JSON_HEADERS)
        )

    def models(self) -> list[JsonObject]:
        """
        Return the models for sale, with their prices.
        """
        return items_of(read_json(self._http.get(self.url + MODELS_PATH)), "data")

    def pay(self, payee: str, amount: Decimal | str, *, reference: str | None = None) -> Settlement:
        """
        Pay a party of the hub, by its id, without a 402.

        Raises:
            HubError: Refused, or in review (``reason`` says which).
            PaymentUncertainError: Nobody answered, nor the repeats of the same signature.
        """
        body, reservation = direct_payment(self.desk, self.url, payee, amount, reference=reference)
        request = self._http.build_request("POST", self.url + SETTLE_PATH, json=body)
        answer = self._send_surely(request)
        return direct_settlement(self.desk, reservation, answer)

    # ------------------------------------------------------------------ reading

    def balance(self) -> JsonObject:
        """
        Return the agent and its mandates with what is left of each limit.
        """
        return self.ask("GET", "agents/tree")

    def mandates(self) -> list[JsonObject]:
        """
        Return the agent's mandates.
        """
        return items_of(self.ask("GET", "mandates"))

    def mandate(self, mandate: str | UUID) -> JsonObject:
        """
        Return one mandate.
        """
        return self.ask("GET", f"mandates/{path_part(mandate)}")

    def payments(self, **query: str | int) -> list[JsonObject]:
        """
        Return the agent's payments, the newest first.
        """
        return items_of(self.ask("GET", "payments", query=query))

    def payment(self, payment: str | UUID) -> JsonObject:
        """
        Return one payment.
        """
        return self.ask("GET", f"payments/{path_part(payment)}")

    def receipt(self, payment: str | UUID) -> JsonObject:
        """
        Return the signed receipt of a payment; for one that bought a call, the call's.
        """
        return self.ask("GET", receipt_path(self.payment(payment)))

    def escrows(self, **query: str | int) -> list[JsonObject]:
        """
        Return the escrows that the agent is a side of.
        """
        return items_of(self.ask("GET", "escrows", query=query))

    def escrow(self, escrow: str | UUID) -> JsonObject:
        """
        Return one escrow.
        """
        return self.ask("GET", f"escrows/{path_part(escrow)}")

    def open_escrow(self, payee: str, terms: JsonObject) -> JsonObject:
        """
        Hold what the milestones of ``terms`` cost together until their conditions are met.

        What is not paid in the end comes back at the hub; in this process's cap it counts as
        spent.

        Raises:
            HubError: Refused, or in review (``reason`` says which; it goes on by itself).
            PaymentUncertainError: Nobody answered, nor the repeats of the same signature.
        """
        body, reservation = escrow_opening(self.desk, payee, terms)
        request = self._signed("POST", "escrows", body=body)
        answer = self._send_surely(request)
        try:
            opened = read_json(answer)
        except HubError as error:
            conclude_refused(self.desk, reservation, error)
            raise
        self.desk.cap.conclude(reservation, charged=reservation.amount)
        return opened

    def act_on_escrow(self, escrow: str | UUID, act: str, body: JsonObject) -> JsonObject:
        """
        Do ``submit``, ``dispute``, ``arbitrate`` or ``cancel`` to an escrow.
        """
        return self.ask("POST", f"escrows/{path_part(escrow)}/{path_part(act)}", body=body)

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: JsonObject | None = None,
        query: Mapping[str, str | int] | None = None,
    ) -> JsonObject:
        """
        Send a signed request to the hub API.

        Raises:
            HubError: The hub's problem document.
        """
        request = self._signed(method, path, body=body, query=query)
        return read_json(self._http.send(request))

    def _send_surely(self, request: httpx.Request) -> httpx.Response:
        try:
            return send_again(lambda: self._http.send(request), self._backoff, self._sleep)
        except httpx.TransportError as error:
            raise unanswered(request, error) from error

    def _signed(
        self,
        method: str,
        path: str,
        *,
        body: JsonObject | None = None,
        query: Mapping[str, str | int] | None = None,
    ) -> httpx.Request:
        url = f"{self.url}/hub/v1/{path}"
        return signed_request(self.wallet, self.network, method, url, body=body, query=query)
