"""
``GET /x402/supported``, ``POST /x402/verify``, ``/x402/settle`` and ``/x402/authorize`` as an ASGI
application.

No framework and no middleware. A payment that was judged is answered with 200 and ``isValid`` or
``success``; a body that is no request is 400, a database that is away 503. A settle whose outcome
is not known answers ``settlement_pending`` with the payment's id: the same settle again says what
came of it, and pays nothing twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import msgspec

from tokenworks.agents.payments.authorising import read_amount, read_authorisation
from tokenworks.agents.payments.errors import (
    AuthorisationMalformedError,
    RequirementsMismatchError,
)
from tokenworks.agents.payments.model import (
    HOLD_LIFETIME_S_MAX,
    Authorisation,
    Payment,
    Receipted,
    Requirements,
    Scheme,
)
from tokenworks.agents.payments.service import Payments
from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import (
    ErrorKind,
    InvalidError,
    NotFoundError,
    TokenworksError,
    TooLargeError,
    UnauthenticatedError,
)
from tokenworks.foundation.limits import (
    X402_BODY_BYTES_MAX,
    X402_READ_TIMEOUT_S,
    X402_REQUESTS_PER_MINUTE_MAX,
)
from tokenworks.identity.model import Role
from tokenworks.identity.service import Identity
from tokenworks.web.errors import PROBLEM_MEDIA_TYPE, headers_of, status_of, to_problem
from tokenworks.web.guarding import AddressRate, guarded
from tokenworks.web.metrics import HubMetrics
from tokenworks.web.x402_api.reasons import (
    SETTLEMENT_PENDING,
    UNEXPECTED_SETTLE,
    UNEXPECTED_VERIFY,
    credit_reason_of,
    details_of,
    message_of,
    reason_of,
)
from tokenworks.web.x402_api.wire import (
    DECIMALS,
    X402_VERSION,
    FacilitatorBody,
    SettleOut,
    VerifyOut,
    read_authorize,
    read_body,
    to_requirements,
)

PREFIX: Final = "/x402/"

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_JSON: Final = b"application/json"
_BEARER: Final = b"bearer "
_encode = msgspec.json.Encoder().encode


class X402Api:
    """
    The facilitator.

    Args:
        payments: Holds and captures.
        identity: Knows a payee by its key.
        clock: For the rate of an address.
        metrics: Counts refusals.
    """

    def __init__(
        self, *, payments: Payments, identity: Identity, clock: Clock, metrics: HubMetrics
    ) -> None:
        self._payments = payments
        self._identity = identity
        self._metrics = metrics
        self._rate = AddressRate(clock, per_minute=X402_REQUESTS_PER_MINUTE_MAX)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Answer one request.
        """
        serving = self._serve(scope, receive, send)
        await guarded(
            serving,
            path=scope["path"],
            metrics=self._metrics,
            tell=lambda error: _send_problem(send, error),
        )

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        self._rate.take(scope)
        if path == "/x402/supported":
            _require_method(method, "GET")
            await _answer(send, 200, _encode(self._supported()))
        elif path == "/x402/verify":
            _require_method(method, "POST")
            await self._verify(await _read(scope, receive), send)
        elif path == "/x402/settle":
            _require_method(method, "POST")
            await self._settle(scope, await _read(scope, receive), send)
        elif path == "/x402/authorize":
            _require_method(method, "POST")
            await self._authorize(await _read(scope, receive), send)
        else:
            message = f"There is no {method} {path} here; try /x402/supported."
            raise NotFoundError(message, code="unknown_url")

    def _supported(self) -> dict[str, object]:
        network = self._payments.network
        return {
            "kinds": [
                {
                    "x402Version": X402_VERSION,
                    "scheme": scheme.value,
                    "network": network,
                    "extra": {
                        "asset": self._payments.currency,
                        "name": self._payments.currency,
                        "decimals": DECIMALS,
                        "binding": "required",
                        "maxTimeoutSeconds": HOLD_LIFETIME_S_MAX,
                    },
                }
                for scheme in Scheme
            ],
            "extensions": [],
            "signers": {"hub:*": [network.removeprefix("hub:")]},
        }

    # ------------------------------------------------------------------ verify and settle

    async def _verify(self, content: bytes, send: Send) -> None:
        body = _body_or_problem(content, {"isValid": False})
        try:
            requirements = to_requirements(body)
            payment = await self._claim(body, requirements)
        except TokenworksError as error:
            self._metrics.refused(error.code)
            reason = self._reason(body, error, unexpected=UNEXPECTED_VERIFY)
            refused = VerifyOut(
                is_valid=False,
                invalid_reason=reason,
                invalid_message=message_of(error),
                payer=_payer_of(body, self._payments.network),
                extra=details_of(error),
            )
            status = 503 if error.kind is ErrorKind.UNAVAILABLE else 200
            await _answer(send, status, _encode(refused))
            return
        extra: dict[str, object] = {
            "paymentId": str(payment.payment_id),
            "claim": self._payments.claim_of(payment.payment_id),
        }
        await _answer(
            send, 200, _encode(VerifyOut(is_valid=True, payer=payment.payer, extra=extra))
        )

    async def _claim(self, body: FacilitatorBody, requirements: Requirements) -> Payment:
        signed = body.payment_payload.payload
        if signed.attestation is not None:
            return await self._payments.claim_attested(signed.attestation, requirements)
        return await self._payments.claim(_authorization_of(body), requirements)

    async def _settle(self, scope: Scope, content: bytes, send: Send) -> None:
        body = _body_or_problem(content, {"success": False, "transaction": "", "network": ""})
        network = body.payment_requirements.network
        try:
            done = await self._capture(scope, body)
        except TokenworksError as error:
            self._metrics.refused(error.code)
            await _answer(send, 200, _encode(self._not_settled(body, error)))
            return
        settled = SettleOut(
            success=True,
            transaction=str(done.payment.payment_id),
            network=network,
            payer=done.payment.payer,
            amount=str(done.captured_quanta),
        )
        await _answer(send, 200, _encode(settled))

    async def _capture(self, scope: Scope, body: FacilitatorBody) -> Receipted:
        requirements = to_requirements(body)
        signed = body.payment_payload.payload
        is_payee = await self._is_payee(scope, requirements)
        extra = body.payment_requirements.extra
        claim = None if extra is None else extra.claim
        if signed.attestation is not None:
            return await self._payments.settle_attested(
                signed.attestation, requirements, is_payee=is_payee, claim=claim
            )
        return await self._payments.settle(
            _authorization_of(body), requirements, is_payee=is_payee, claim=claim
        )

    def _not_settled(self, body: FacilitatorBody, error: TokenworksError) -> SettleOut:
        reason = self._reason(body, error, unexpected=UNEXPECTED_SETTLE)
        authorisation = _authorisation_of(body, self._payments.network)
        transaction = ""
        if error.kind is ErrorKind.UNAVAILABLE and authorisation is not None:
            # It may be in the books: to be asked again, not to be paid again.
            reason, transaction = SETTLEMENT_PENDING, str(authorisation.payment_id)
        return SettleOut(
            success=False,
            error_reason=reason,
            error_message=message_of(error),
            transaction=transaction,
            network=body.payment_requirements.network,
            payer=None if authorisation is None else authorisation.payer,
            extra=details_of(error),
        )

    def _reason(self, body: FacilitatorBody, error: TokenworksError, *, unexpected: str) -> str:
        if body.payment_payload.payload.attestation is not None:
            error_code = credit_reason_of(error, conflict="settle_conflict")
            if error_code != error.code:
                return error_code
        return reason_of(error, unexpected=unexpected)

    async def _is_payee(self, scope: Scope, requirements: Requirements) -> bool:
        """
        Tell whether a key came with the request that speaks for the payee.
        """
        presented = _header(scope, b"authorization")
        if presented is None:
            return False
        if presented[: len(_BEARER)].lower() != _BEARER:
            message = "Send the payee's API key as 'Authorization: Bearer tw_...'."
            raise UnauthenticatedError(message)
        client = scope.get("client")
        principal = await self._identity.authenticate(
            presented[len(_BEARER) :].decode("latin-1").strip(),
            address=client[0] if client else None,
        )
        if principal.role is Role.ADMIN:
            return True
        return principal.party_id in await self._payments.owners_of_payee(requirements.pay_to)

    # ------------------------------------------------------------------ authorize

    async def _authorize(self, content: bytes, send: Send) -> None:
        try:
            body = read_authorize(content)
            authorisation = read_authorisation(body.authorization, network=self._payments.network)
            _require_same(
                (
                    ("bundleId", authorisation.mandate_id, body.bundle_id),
                    ("amount", authorisation.amount, read_amount(body.amount)),
                    ("asset", authorisation.asset, body.asset),
                    ("resource", authorisation.binding.url, body.resource),
                    ("idempotencyKey", authorisation.nonce, body.idempotency_key),
                    ("payTo", authorisation.pay_to, body.pay_to or authorisation.pay_to),
                )
            )
            requirements = Requirements(
                scheme=authorisation.scheme,
                network=authorisation.network,
                amount=authorisation.amount,
                asset=authorisation.asset,
                pay_to=authorisation.pay_to,
                binding=authorisation.binding,
                timeout_s=HOLD_LIFETIME_S_MAX,
            )
            attestation = await self._payments.attest(
                body.authorization, requirements, body.resource
            )
        except TokenworksError as error:
            code = credit_reason_of(error, conflict="idempotency_conflict")
            self._metrics.refused(code)
            shown = type(error)(
                message_of(error),
                code=code,
                param=error.param,
                details=details_of(error),
                retry_after_s=error.retry_after_s,
            )
            await _send_problem(send, shown)
            return
        answer = {
            "attestation": attestation,
            "paymentId": str(authorisation.payment_id),
            "network": authorisation.network,
        }
        await _answer(send, 200, _encode(answer))


def _require_same(pairs: tuple[tuple[str, object, object], ...]) -> None:
    for name, signed, said in pairs:
        if signed != said:
            message = f"{name} is not what the wallet signed."
            raise RequirementsMismatchError(message, param=name)


def _authorization_of(body: FacilitatorBody) -> str:
    authorization = body.payment_payload.payload.authorization
    if authorization is None:
        message = "payload holds neither an authorization nor an attestation."
        raise AuthorisationMalformedError(message, param="payload")
    return authorization


def _authorisation_of(body: FacilitatorBody, network: str) -> Authorisation | None:
    """
    Return who signed, where somebody did; for answers that refuse.
    """
    authorization = body.payment_payload.payload.authorization
    if authorization is None:
        return None
    try:
        return read_authorisation(authorization, network=network)
    except TokenworksError:
        return None


def _payer_of(body: FacilitatorBody, network: str) -> str | None:
    authorisation = _authorisation_of(body, network)
    return None if authorisation is None else authorisation.payer


class _MalformedError(InvalidError):
    """
    A body that is no request, with the members a client of x402 looks for.
    """

    def __init__(self, message: str, *, code: str, members: dict[str, object]) -> None:
        super().__init__(message, code=code)
        self.members = members


def _body_or_problem(content: bytes, members: dict[str, object]) -> FacilitatorBody:
    try:
        return read_body(content)
    except InvalidError as error:
        name = "invalidReason" if "isValid" in members else "errorReason"
        raise _MalformedError(
            error.message, code=error.code, members=members | {name: error.code}
        ) from error


async def _read(scope: Scope, receive: Receive) -> bytes:
    length = _header(scope, b"content-length")
    if length is not None and length.isdigit() and int(length) > X402_BODY_BYTES_MAX:
        raise _too_large()
    try:
        async with asyncio.timeout(X402_READ_TIMEOUT_S):
            body = b""
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    reason = "The client left before its request was complete."
                    raise InvalidError(reason, code="client_left")
                part: bytes = message.get("body", b"")
                body = body + part if body else part
                if len(body) > X402_BODY_BYTES_MAX:
                    raise _too_large()
                if not message.get("more_body"):
                    return body
    except TimeoutError as error:
        reason = "The request body did not arrive in time."
        raise InvalidError(reason, code="body_timeout") from error


def _too_large() -> TooLargeError:
    return TooLargeError(f"A facilitator's request has at most {X402_BODY_BYTES_MAX:,} bytes.")


def _require_method(method: str, wanted: str) -> None:
    if method != wanted:
        message = f"Use {wanted} here, not {method}."
        raise InvalidError(message, code="method_not_allowed")


def _header(scope: Scope, name: bytes) -> bytes | None:
    for key, value in scope["headers"]:
        if key == name:
            return value
    return None


async def _answer(
    send: Send, status: int, body: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()
) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", _JSON),
                (b"content-length", str(len(body)).encode()),
                *headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def _send_problem(send: Send, error: TokenworksError) -> None:
    problem = to_problem(error)
    if isinstance(error, _MalformedError):
        problem |= error.members
    body = _encode(problem)
    await send(
        {
            "type": "http.response.start",
            "status": status_of(error),
            "headers": [
                (b"content-type", PROBLEM_MEDIA_TYPE.encode()),
                (b"content-length", str(len(body)).encode()),
                *((name.encode(), value.encode()) for name, value in headers_of(error).items()),
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})
