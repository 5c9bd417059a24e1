"""
Rules of names, keys, timeouts and terms; pure.

The database repeats most of them as constraints (migration 0004); here they have a sentence
for people and come before anything is written.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Final
from uuid import UUID

from tokenworks.supply.costing import check_cost_card, check_split
from tokenworks.supply.errors import InvalidOfferError, InvalidSupplierError
from tokenworks.supply.model import OfferTerms, Timeouts

API_KEY_LENGTH_MAX: Final = 4_096
TIMEOUT_MS_MAX: Final = 3_600_000
CONTEXT_TOKENS_MAX: Final = 2**31 - 1
PRIORITY_MAX: Final = 1_000_000
BLOCKED_REASON_LENGTH_MAX: Final = 500

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+-]{0,199}")
_TIER: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
_UPSTREAM_MODEL: Final = re.compile(r"[!-~]{1,200}")
_API_KEY: Final = re.compile(rf"[!-~]{{1,{API_KEY_LENGTH_MAX}}}")


def check_supplier_name(name: str) -> None:
    """
    Refuse a name that is not a short lower-case word, or that looks like an id.

    Raises:
        InvalidSupplierError: With the rule.
    """
    if not _NAME.fullmatch(name) or parse_id(name) is not None:
        message = (
            "A supplier's name is 1 to 63 of a-z, 0-9, dot, underscore and hyphen, begins with"
            " a letter or digit, and is no id."
        )
        raise InvalidSupplierError(message, param="name")


def check_api_key(api_key: str | None) -> None:
    """
    Refuse a key that cannot stand in a header; the message does not repeat it.

    Raises:
        InvalidSupplierError: Empty, too long, or with blanks or unprintable characters.
    """
    if api_key is not None and not _API_KEY.fullmatch(api_key):
        message = (
            f"A supplier's key is 1 to {API_KEY_LENGTH_MAX} printable ASCII characters without"
            " spaces."
        )
        raise InvalidSupplierError(message, param="api_key")


def check_timeouts(timeouts: Timeouts) -> None:
    """
    Refuse a timeout of zero or above an hour.

    Raises:
        InvalidSupplierError: With the timeout at fault.
    """
    for field in dataclasses.fields(timeouts):
        if not 1 <= getattr(timeouts, field.name) <= TIMEOUT_MS_MAX:
            message = f"{field.name} is 1 to {TIMEOUT_MS_MAX} milliseconds."
            raise InvalidSupplierError(message, param=field.name)


def check_model_and_tier(model: str, tier: str) -> None:
    """
    Refuse a public name with an ``@``, which parts model and tier, and a malformed tier.

    Raises:
        InvalidOfferError: With the rule.
    """
    if not _MODEL.fullmatch(model):
        message = (
            "A model's public name is 1 to 200 of letters, digits and . _ : / + -, begins with"
            " a letter or digit, and has no @, which parts model and tier."
        )
        raise InvalidOfferError(message, param="model")
    if not _TIER.fullmatch(tier):
        message = "A tier is a lower-case word such as 'standard'."
        raise InvalidOfferError(message, param="tier")


def complete_terms(terms: OfferTerms) -> OfferTerms:
    """
    Return the terms with a cost for every axis.

    The order of the checks: upstream model, context, priority, cost card, split.

    Raises:
        InvalidOfferError: With the rule.
    """
    if not _UPSTREAM_MODEL.fullmatch(terms.upstream_model):
        message = "The supplier's name of the model is 1 to 200 printable ASCII characters."
        raise InvalidOfferError(message, param="upstream_model")
    context = terms.context_tokens_max
    if context is not None and not 1 <= context <= CONTEXT_TOKENS_MAX:
        message = f"The context is 1 to {CONTEXT_TOKENS_MAX} tokens."
        raise InvalidOfferError(message, param="context_tokens_max")
    if not 0 <= terms.priority <= PRIORITY_MAX:
        message = f"The priority is 0 (tried first) to {PRIORITY_MAX}."
        raise InvalidOfferError(message, param="priority")
    cost_card = check_cost_card(terms.cost_card)
    check_split(terms.split)
    return dataclasses.replace(terms, cost_card=cost_card)


def clean_reason(reason: str) -> str:
    """
    Return a reason as one printable line of bounded length, never empty.
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in reason).split())
    return line[:BLOCKED_REASON_LENGTH_MAX] or "no reason given"


def parse_id(text: str) -> UUID | None:
    """
    Return ``text`` as an id, or ``None`` when it is not one.
    """
    try:
        return UUID(text)
    except ValueError:
        return None
