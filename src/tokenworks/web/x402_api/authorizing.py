"""
Hold a payment ahead of the request it pays for: ``POST /x402/authorize``.

Owns: that what the body says is what the wallet signed. Does not own: the hold and the attestation
(``agents.payments``).
"""

from __future__ import annotations

from tokenworks.agents.payments.authorising import read_amount, read_authorisation
from tokenworks.agents.payments.errors import RequirementsMismatchError
from tokenworks.agents.payments.model import HOLD_LIFETIME_S_MAX, Requirements
from tokenworks.agents.payments.service import Payments
from tokenworks.foundation.errors import TokenworksError
from tokenworks.web.x402_api.reasons import credit_reason_of, details_of, message_of
from tokenworks.web.x402_api.wire import read_authorize


async def authorize(payments: Payments, content: bytes) -> dict[str, object]:
    """
    Hold what a wallet signed; return the attestation that a seller is shown, and the payment's id.

    Raises:
        TokenworksError: With the code and the message that x402's credit scheme has for it.
    """
    try:
        return await _authorize(payments, content)
    except TokenworksError as error:
        raise type(error)(
            message_of(error),
            code=credit_reason_of(error, conflict="idempotency_conflict"),
            param=error.param,
            details=details_of(error),
            retry_after_s=error.retry_after_s,
        ) from error


async def _authorize(payments: Payments, content: bytes) -> dict[str, object]:
    body = read_authorize(content)
    authorisation = read_authorisation(body.authorization, network=payments.network)
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
    attestation = await payments.attest(body.authorization, requirements, body.resource)
    return {
        "attestation": attestation,
        "paymentId": str(authorisation.payment_id),
        "network": authorisation.network,
    }


def _require_same(pairs: tuple[tuple[str, object, object], ...]) -> None:
    for name, signed, said in pairs:
        if signed != said:
            message = f"{name} is not what the wallet signed."
            raise RequirementsMismatchError(message, param=name)
