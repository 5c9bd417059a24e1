"""
Verify and settle payments for sellers elsewhere, as an x402 facilitator does.

Owns: what a body asks for, and what is answered when a payment was judged. Does not own: the
judgement and the money (``agents.payments``), paths and HTTP (``app``), names on the wire
(``wire``), x402's words for a refusal (``reasons``).

Invariant: a settle whose outcome is not known answers ``settlement_pending`` with the payment's
id: the same settle again says what came of it, and pays nothing twice.
"""

from __future__ import annotations

from typing import Final

from tokenworks.agents.payments.authorising import read_authorisation
from tokenworks.agents.payments.errors import AuthorisationMalformedError
from tokenworks.agents.payments.model import (
    HOLD_LIFETIME_S_MAX,
    Authorisation,
    Payment,
    Receipted,
    Requirements,
    Scheme,
)
from tokenworks.agents.payments.service import Payments
from tokenworks.foundation.errors import (
    ErrorKind,
    InvalidError,
    TokenworksError,
    UnauthenticatedError,
)
from tokenworks.identity.model import Role
from tokenworks.identity.service import Identity
from tokenworks.web.asgi import Scope, header_of
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
    read_body,
    to_requirements,
)

_BEARER: Final = b"bearer "


class MalformedBodyError(InvalidError):
    """
    A body that is no request, with the members a client of x402 looks for.
    """

    def __init__(self, message: str, *, code: str, members: dict[str, object]) -> None:
        super().__init__(message, code=code)
        self.members = members


class Facilitator:
    """
    Verifies and settles.

    Args:
        payments: Holds and captures.
        identity: Knows a payee by its key.
        metrics: Counts refusals.
    """

    def __init__(self, *, payments: Payments, identity: Identity, metrics: HubMetrics) -> None:
        self._payments = payments
        self._identity = identity
        self._metrics = metrics

    def supported(self) -> dict[str, object]:
        """
        Return which ways to pay this hub takes.
        """
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

    async def verify(self, content: bytes) -> tuple[int, VerifyOut]:
        """
        Judge and hold a payment for the seller that asks; return the status and the answer.

        Raises:
            MalformedBodyError: The body is no request.
        """
        body = _body_of(content, {"isValid": False})
        try:
            payment = await self._claim(body, to_requirements(body))
        except TokenworksError as error:
            self._metrics.refused(error.code)
            refused = VerifyOut(
                is_valid=False,
                invalid_reason=_reason(body, error, unexpected=UNEXPECTED_VERIFY),
                invalid_message=message_of(error),
                payer=_payer_of(body, self._payments.network),
                extra=details_of(error),
            )
            return (503 if error.kind is ErrorKind.UNAVAILABLE else 200), refused
        extra: dict[str, object] = {
            "paymentId": str(payment.payment_id),
            "claim": self._payments.claim_of(payment.payment_id),
        }
        return 200, VerifyOut(is_valid=True, payer=payment.payer, extra=extra)

    async def _claim(self, body: FacilitatorBody, requirements: Requirements) -> Payment:
        signed = body.payment_payload.payload
        if signed.attestation is not None:
            return await self._payments.claim_attested(signed.attestation, requirements)
        return await self._payments.claim(_authorization_of(body), requirements)

    async def settle(self, scope: Scope, content: bytes) -> SettleOut:
        """
        Capture a payment; of an outcome that is not known, say so with the payment's id.

        Raises:
            MalformedBodyError: The body is no request.
        """
        body = _body_of(content, {"success": False, "transaction": "", "network": ""})
        try:
            done = await self._capture(scope, body)
        except TokenworksError as error:
            self._metrics.refused(error.code)
            return self._not_settled(body, error)
        return SettleOut(
            success=True,
            transaction=str(done.payment.payment_id),
            network=body.payment_requirements.network,
            payer=done.payment.payer,
            amount=str(done.captured_quanta),
        )

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
        reason = _reason(body, error, unexpected=UNEXPECTED_SETTLE)
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

    async def _is_payee(self, scope: Scope, requirements: Requirements) -> bool:
        """
        Tell whether a key came with the request that speaks for the payee.
        """
        presented = header_of(scope, b"authorization")
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


def _reason(body: FacilitatorBody, error: TokenworksError, *, unexpected: str) -> str:
    if body.payment_payload.payload.attestation is not None:
        error_code = credit_reason_of(error, conflict="settle_conflict")
        if error_code != error.code:
            return error_code
    return reason_of(error, unexpected=unexpected)


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


def _body_of(content: bytes, members: dict[str, object]) -> FacilitatorBody:
    try:
        return read_body(content)
    except InvalidError as error:
        name = "invalidReason" if "isValid" in members else "errorReason"
        raise MalformedBodyError(
            error.message, code=error.code, members=members | {name: error.code}
        ) from error
