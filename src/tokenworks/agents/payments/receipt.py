"""
What a payment's receipt says, and who sees it; pure.

===================  ==================================================  ==============
field                says                                                seen by
===================  ==================================================  ==============
``payer``            the wallet's address                                payer, payee
``payee``            the payee's party id                                payer, payee
``amount``           what was captured, in whole units                   payer, payee
``currency``         its code                                            payer, payee
``scheme``           ``exact``, ``upto``, ``escrow`` or ``call``         payer, payee
``resource``         method and URL; ``escrow:..``                       payer, payee
``request``          SHA-256 of method, URL and body hash                payer, payee
``capture``          which part of the payment, and whether the last     payer, payee
``authorisation``    the JWS that the wallet signed                      payer, payee
``escrow``           condition, hashes and verdict of an escrow's part   payer, payee
``authorised``       the most that could have been captured              payer
``spender``          agent and organisation                              payer
``mandates``         the chain, root first                               payer
``brake``            the decision, its reasons and its score             payer
``leg.N``            what one party got                                  that party
===================  ==================================================  ==============

The auditor sees all. A payee learns neither mandate nor reasons, and nothing of other parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from tokenworks.agents.payments.held import HeldPayment, decision_to_json
from tokenworks.foundation.identifiers import identifier_text
from tokenworks.foundation.money import ASSETS, quanta_to_text
from tokenworks.receipts.model import JsonValue, Readers
from tokenworks.receipts.views import BUYER, LEG_PREFIX, leg_owner_view, supplier_view

PAYEE_FIELDS: Final = frozenset(
    {
        "payer",
        "payee",
        "amount",
        "currency",
        "scheme",
        "resource",
        "request",
        "capture",
        "authorisation",
        "escrow",
    }
)


def receipt_fields(
    held: HeldPayment,
    *,
    quanta: int,
    ordinal: int,
    closes: bool,
    details: Mapping[str, JsonValue] | None = None,
) -> dict[str, JsonValue]:
    """
    Return every field of one capture's receipt.

    Args:
        held: The payment.
        quanta: What is captured.
        ordinal: Which part it is.
        closes: Whether it is the last one.
        details: Why an escrow pays it.
    """
    scale = ASSETS[held.currency].scale
    amount = quanta_to_text(quanta, scale=scale)
    payee = identifier_text(held.payee_id)
    fields: dict[str, JsonValue] = {
        "payer": held.payer,
        "payee": payee,
        "amount": amount,
        "currency": held.currency,
        "scheme": held.kind,
        "resource": held.resource,
        "request": held.request_digest.hex(),
        "capture": {"ordinal": ordinal, "is_last": closes},
        "authorised": quanta_to_text(held.authorised_quanta, scale=scale),
        "spender": {
            "agent": identifier_text(held.agent_id),
            "organisation": identifier_text(held.organisation_id),
        },
        "mandates": [identifier_text(mandate_id) for mandate_id in held.chain],
        "brake": cast("JsonValue", decision_to_json(held.decision)),
        "leg.1": {"kind": "payment", "payee": payee, "amount": amount},
    }
    if details is not None:
        fields["escrow"] = details
    if held.jws is not None:
        fields["authorisation"] = held.jws
    return fields


def readers_of(fields: Mapping[str, Any]) -> Readers:
    """
    Return who sees each field; a function of the fields, so readers are not stored.
    """
    payee = fields["payee"]
    payees = frozenset({leg_owner_view(payee), supplier_view(payee)})
    both = payees | {BUYER}
    payer = frozenset({BUYER})
    return {
        name: both if name in PAYEE_FIELDS else payees if name.startswith(LEG_PREFIX) else payer
        for name in fields
    }
