"""
``POST /x402/v1/chat/completions`` and ``GET /x402/v1/models``: any model, without an API key.

A request without a payment is answered 402 with what that very request can cost at most
(``upto``). With one, in this order: the offer is made again from the body and compared with what
was signed; the payment is claimed (signature, mandate, brake, hold); the call runs on that hold
and is charged for what it used. Whatever fails after the claim gives the whole hold back.

A plain answer says in ``PAYMENT-RESPONSE`` what was charged. On a stream that header would have
to be sent before the charge is known, so the same text stands in a comment line before
``[DONE]``, beside the receipt's.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final
from uuid import UUID

import msgspec

from tokenworks.agents.payments.authorising import read_authorisation
from tokenworks.agents.payments.errors import (
    PaymentClaimedError,
    PaymentInReviewError,
    PaymentSettledError,
    RequirementsMismatchError,
)
from tokenworks.agents.payments.held import HeldPayment
from tokenworks.agents.payments.model import Binding, Requirements, Scheme
from tokenworks.agents.payments.placing import Sold
from tokenworks.agents.payments.service import Payments
from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import (
    ErrorKind,
    InvalidError,
    NotFoundError,
    TokenworksError,
)
from tokenworks.foundation.limits import X402_REQUESTS_PER_MINUTE_MAX
from tokenworks.gateway.calls import CallStore
from tokenworks.gateway.errors import CallAlreadySettledError, CallInFlightError
from tokenworks.gateway.model import Settled
from tokenworks.gateway.open_call import OpenCall, Quoted
from tokenworks.gateway.service import Gateway
from tokenworks.gateway.streaming import Streamer
from tokenworks.identity.model import DEFAULT_TIER, PLATFORM_ID, Principal, Role
from tokenworks.receipts.jws import to_base64url
from tokenworks.web.asgi import (
    RawHeaders,
    Receive,
    Scope,
    SendMessage,
    header_of,
    read_body,
    send_error,
    send_json,
    settled_headers,
)
from tokenworks.web.errors import to_openai_error
from tokenworks.web.guarding import AddressRate, guarded
from tokenworks.web.metrics import HubMetrics
from tokenworks.web.relaying import Relays
from tokenworks.web.x402_api.offering import (
    amount_of,
    for_sale,
    model_of,
    payment_required,
    read_payment,
    to_header,
    url_of,
)

CHAT_PATH: Final = "/x402/v1/chat/completions"
MODELS_PATH: Final = "/x402/v1/models"
TIMEOUT_S: Final = 300
"""How long a payment may wait for its call; the call itself keeps its hold alive."""

STREAM_COMMENT: Final = b": payment-response "
"""Stands before the header's text at the end of a stream; no client takes a comment for data."""

_OFFERED_AGAIN: Final = frozenset({ErrorKind.INVALID, ErrorKind.UNAUTHENTICATED})
"""Kinds of refusals of a signature after which a better one may be sent."""

_encode = msgspec.json.Encoder().encode


class SellingDoor:
    """
    Sell calls to wallets; an ASGI application.

    Args:
        gateway: Quotes and answers.
        streamer: Relays streams.
        payments: Claims what was signed.
        calls: Says what an earlier call with the same payment cost.
        metrics: Counts what passes.
        clock: For the rate of an address.
        public_url: Scheme and host as clients call the hub; what the request says when omitted.
    """

    def __init__(
        self,
        *,
        gateway: Gateway,
        streamer: Streamer,
        payments: Payments,
        calls: CallStore,
        metrics: HubMetrics,
        clock: Clock,
        public_url: str | None = None,
    ) -> None:
        self._gateway = gateway
        self._streamer = streamer
        self._payments = payments
        self._calls = calls
        self._metrics = metrics
        self._rate = AddressRate(clock, per_minute=X402_REQUESTS_PER_MINUTE_MAX)
        self._public_url = public_url
        self._relays = Relays(streamer, metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: SendMessage) -> None:
        """
        Answer one request.
        """
        serving = self._serve(scope, receive, send)
        await guarded(
            serving,
            path=scope["path"],
            metrics=self._metrics,
            tell=lambda error: send_error(send, error),
        )

    async def _serve(self, scope: Scope, receive: Receive, send: SendMessage) -> None:
        path, method = scope["path"], scope["method"]
        self._rate.take(scope)
        if path == CHAT_PATH and method == "POST":
            await self._chat(scope, receive, send)
        elif path == MODELS_PATH and method == "GET":
            await self._models(send)
        elif path in {CHAT_PATH, MODELS_PATH}:
            message = f"{method} is not meant for {path}."
            raise InvalidError(message, code="method_not_allowed")
        else:
            message = f"There is no {method} {path} here; try {CHAT_PATH}."
            raise NotFoundError(message, code="unknown_url")

    async def close(self) -> None:
        """
        Wait for the streams that are still being relayed.
        """
        await self._relays.close()

    # ------------------------------------------------------------------ models

    async def _models(self, send: SendMessage) -> None:
        data = [for_sale(card) for card in await self._gateway.for_sale()]
        await send_json(send, 200, _encode({"object": "list", "data": data}), ())

    # ------------------------------------------------------------------ chat

    async def _chat(self, scope: Scope, receive: Receive, send: SendMessage) -> None:
        body = await read_body(scope, receive)
        binding = Binding(
            method="POST",
            url=url_of(scope, public_url=self._public_url),
            body_sha256=to_base64url(sha256(body).digest()),
        )
        quoted = await self._gateway.quote(body)
        header = header_of(scope, b"payment-signature")
        if header is None:
            await self._offer(send, quoted, binding, "Payment required")
            return
        try:
            held = await self._claim(header, quoted, binding)
        except TokenworksError as error:
            self._metrics.refused(error.code)
            await self._refuse(send, error, quoted, binding)
            return
        await self._answer(quoted, held, receive, send)

    async def _claim(self, header: bytes, quoted: Quoted, binding: Binding) -> HeldPayment:
        jws = read_payment(header)
        authorisation = read_authorisation(jws, network=self._payments.network)
        if authorisation.amount < amount_of(quoted):
            message = f"This request may cost {amount_of(quoted)}; less was signed."
            raise RequirementsMismatchError(message, param="amount")
        # More than is needed may be signed: prices may have fallen since the offer.
        asked = self._requirements(quoted, binding, amount=authorisation.amount)
        model = model_of(quoted)
        sold = Sold(model=model, description=f"a call of {model}", tokens=quoted.quote.tokens)
        try:
            return await self._payments.claim_held(jws, asked, sold=sold)
        except PaymentSettledError as error:
            message = "This payment has bought its answer; see its receipt."
            details: dict[str, object] = {
                "call_id": str(authorisation.payment_id),
                "receipt": f"/hub/v1/receipts/{authorisation.payment_id}",
            }
            raise CallAlreadySettledError(message, details=details) from error
        except PaymentClaimedError as error:
            message = "A call with this payment is still running."
            running: dict[str, object] = {"call_id": str(authorisation.payment_id)}
            raise CallInFlightError(message, details=running, retry_after_s=1) from error

    async def _answer(
        self, quoted: Quoted, held: HeldPayment, receive: Receive, send: SendMessage
    ) -> None:
        call = self._gateway.open_held(quoted, principal_of(held), held)
        call_header = (b"x-tokenworks-call-id", str(call.call_id).encode())

        async def learn(settled: Settled) -> None:
            await self._payments.note_sale(held, captured_quanta=settled.charge_quanta)

        try:
            if call.request.is_stream:
                stream = await self._streamer.begin(call)
                await self._relays.relay(
                    stream,
                    receive,
                    send,
                    [call_header],
                    on_settled=learn,
                    closing=lambda settled: self._closing_line(call, settled, held.payer),
                )
                return
            result = await self._gateway.complete(call)
        except TokenworksError as error:
            self._metrics.refused(error.code)
            failure = self._failure(error, held.payer)
            await send_error(send, error, [call_header, failure])
            return
        settled = result.settled
        await learn(settled)
        self._metrics.settled(settled, stream=False)
        headers = [call_header, *settled_headers(settled)]
        headers.append(self._success(call, settled.charge_quanta, held.payer))
        if result.granted_output is not None:
            headers.append((b"x-tokenworks-max-tokens", str(result.granted_output).encode()))
        await send_json(send, 200, result.body, headers)

    # ------------------------------------------------------------------ x402's words

    async def _offer(
        self,
        send: SendMessage,
        quoted: Quoted,
        binding: Binding,
        error: str,
        *,
        refused: TokenworksError | None = None,
    ) -> None:
        asked = self._requirements(quoted, binding, amount=amount_of(quoted))
        required = payment_required(quoted, asked, error)
        headers: RawHeaders = [(b"payment-required", to_header(required))]
        body: dict[str, Any] = dict(required)
        if refused is not None:
            headers.append(self._failure(refused, None))
            body = to_openai_error(refused)
        headers.append((b"cache-control", b"no-store"))
        await send_json(send, 402, _encode(body), headers)

    async def _refuse(
        self, send: SendMessage, error: TokenworksError, quoted: Quoted, binding: Binding
    ) -> None:
        if isinstance(error, CallAlreadySettledError):
            await self._replay(send, error)
        elif error.kind in _OFFERED_AGAIN:
            await self._offer(send, quoted, binding, error.code, refused=error)
        else:
            # x402 has one status for what is not paid yet.
            status = 402 if isinstance(error, PaymentInReviewError) else None
            await send_error(send, error, [self._failure(error, None)], status=status)

    async def _replay(self, send: SendMessage, error: CallAlreadySettledError) -> None:
        """
        Say again what the first call with a payment cost.
        """
        call_id = str(error.details["call_id"])
        call = await self._calls.get_call(UUID(call_id))
        headers: RawHeaders = [(b"x-tokenworks-call-id", call_id.encode())]
        if call is not None:
            headers.append(
                self._response(success=True, transaction=call_id, amount=call.charge_quanta)
            )
        await send_error(send, error, headers)

    def _requirements(self, quoted: Quoted, binding: Binding, *, amount: int) -> Requirements:
        return Requirements(
            scheme=Scheme.UPTO,
            network=self._payments.network,
            amount=amount,
            asset=quoted.card.currency,
            pay_to=PLATFORM_ID,
            binding=binding,
            timeout_s=TIMEOUT_S,
        )

    def _closing_line(self, call: OpenCall, settled: Settled, payer: str) -> bytes:
        """
        Return what a stream says instead of the header: a comment of server-sent events.
        """
        _, value = self._success(call, settled.charge_quanta, payer)
        return STREAM_COMMENT + value + b"\n\n"

    def _success(self, call: OpenCall, charge: int, payer: str) -> tuple[bytes, bytes]:
        return self._response(
            success=True, transaction=str(call.call_id), amount=charge, payer=payer
        )

    def _failure(self, error: TokenworksError, payer: str | None) -> tuple[bytes, bytes]:
        return self._response(success=False, reason=error.code, message=error.message, payer=payer)

    def _response(
        self,
        *,
        success: bool,
        transaction: str = "",
        amount: int | None = None,
        payer: str | None = None,
        reason: str | None = None,
        message: str | None = None,
    ) -> tuple[bytes, bytes]:
        members = {
            "success": success,
            "errorReason": reason,
            "errorMessage": message,
            "transaction": transaction,
            "network": self._payments.network,
            "amount": None if amount is None else str(amount),
            "payer": payer,
        }
        said = {name: value for name, value in members.items() if value is not None}
        return (b"payment-response", to_header(said))


def principal_of(held: HeldPayment) -> Principal:
    """
    Return whom a paid call is made by: the agent, with its mandate where a key would stand.
    """
    return Principal(
        key_id=held.mandate_id,
        role=Role.BUYER,
        party_id=held.agent_id,
        organisation_id=held.organisation_id,
        organisation_name="",
        chain=held.party_chain,
        models=None,
        requests_per_minute=None,
        expires_at=None,
        default_tier=DEFAULT_TIER,
        spend_path_id=held.mandate_id,
        spend_path_version=0,
    )
