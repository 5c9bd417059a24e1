"""
Judge a purchase by the predicates of a chain of mandates; sums are the ledger's.

Order, for each mandate from the root down: state, currency, dates, payee, instrument, provider,
amount, reference, tool, model. The first that refuses names itself and its mandate.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from tokenworks.agents.mandates.errors import (
    AmountNotAllowedError,
    CurrencyNotAllowedError,
    InstrumentNotAllowedError,
    MandateExpiredError,
    MandateFrozenError,
    MandateModelError,
    MandateNotYetValidError,
    MandateRevokedError,
    PayeeNotAllowedError,
    ProviderNotAllowedError,
    ReferenceRequiredError,
    ToolNotAllowedError,
)
from tokenworks.agents.mandates.model import Mandate, MandateState, Purchase, Terms
from tokenworks.foundation.errors import TokenworksError
from tokenworks.foundation.money import ASSETS, quanta_to_text


def judge_chain(chain: Sequence[Mandate], purchase: Purchase | None, *, now: datetime) -> None:
    """
    Refuse what one mandate of a chain does not allow.

    Args:
        chain: From the root down.
        purchase: ``None``: only whether the mandates are in force.
        now: When.

    Raises:
        TokenworksError: A ``ForbiddenError`` with the code of the predicate and, in its
            details, the mandate that refused.
    """
    for mandate in chain:
        refused = refusal_of_state(mandate, now=now)
        if refused is None and purchase is not None:
            refused = refusal_of_terms(mandate.terms, purchase)
        if refused is not None:
            refused.details = {"mandate_id": str(mandate.mandate_id), **refused.details}
            raise refused


def refusal_of_state(mandate: Mandate, *, now: datetime) -> TokenworksError | None:
    """
    Return why a mandate is not in force, or ``None``.
    """
    if mandate.state is MandateState.REVOKED:
        return MandateRevokedError("The mandate was revoked.")
    if mandate.state is MandateState.FROZEN:
        return MandateFrozenError("The mandate is frozen; its owner can thaw it.")
    if mandate.expires_at is not None and mandate.expires_at <= now:
        return MandateExpiredError("The mandate has expired.")
    terms = mandate.terms
    if terms.not_before is not None and now < terms.not_before:
        return MandateNotYetValidError("The mandate is not valid yet.")
    if terms.not_after is not None and terms.not_after <= now:
        return MandateExpiredError("The mandate has expired.")
    return None


def refusal_of_terms(terms: Terms, purchase: Purchase) -> TokenworksError | None:
    """
    Return why terms do not allow a purchase, or ``None``; dates are judged elsewhere.

    What a mandate narrows has to be named: a mandate for some tools or models pays for
    nothing else.
    """
    if purchase.currency != terms.currency:
        message = f"The mandate is in {terms.currency}, not in {purchase.currency}."
        return CurrencyNotAllowedError(message)
    if terms.payees is not None and purchase.payee_id not in terms.payees:
        return PayeeNotAllowedError("The mandate does not allow to pay this party.")
    if terms.instruments is not None and purchase.instrument not in terms.instruments:
        return InstrumentNotAllowedError("The mandate does not allow to pay over this network.")
    if terms.providers is not None and purchase.provider not in terms.providers:
        return ProviderNotAllowedError("The mandate does not allow this payment service.")
    refused = _refusal_of_amount(terms, purchase)
    if refused is not None:
        return refused
    if terms.reference is not None and purchase.reference != terms.reference:
        message = "The mandate pays for one transaction only; name it as the reference."
        return ReferenceRequiredError(message)
    if terms.tools is not None and purchase.tool not in terms.tools:
        return ToolNotAllowedError("The mandate does not allow payments through this tool.")
    if terms.models is not None and not allows_model(terms.models, purchase.model):
        return MandateModelError("The mandate does not allow this model.")
    return None


def allows_model(models: frozenset[str], model: str | None) -> bool:
    """
    Tell whether a list of ``model`` and ``model@tier`` covers one of them.
    """
    return model is not None and (model in models or model.partition("@")[0] in models)


def _refusal_of_amount(terms: Terms, purchase: Purchase) -> TokenworksError | None:
    scale = ASSETS[terms.currency].scale
    if terms.amount_max is not None and purchase.quanta > terms.amount_max:
        most = quanta_to_text(terms.amount_max, scale=scale)
        message = f"The mandate allows at most {most} {terms.currency} in one payment."
        return AmountNotAllowedError(message, details={"amount_max": most})
    if terms.amount_min is not None and purchase.quanta < terms.amount_min:
        least = quanta_to_text(terms.amount_min, scale=scale)
        message = f"The mandate allows no payment below {least} {terms.currency}."
        return AmountNotAllowedError(message, details={"amount_min": least})
    return None
