"""
A payment that is held, and how it is noted in the books; pure.

The hold's ``meta`` says all that is needed to capture or release it after a crash, in any
process: no other row is written before the money moves. It never holds personal data; the URL
that was paid for is not in it, only the request's digest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import msgspec

from tokenworks.agents.brake.model import Action, Decision, Reason
from tokenworks.agents.payments.model import Scheme
from tokenworks.foundation.identifiers import identifier_text
from tokenworks.ledger.model import Part

META_KIND: Final = "payment"
ESCROW: Final = "escrow"
CALL: Final = "call"

_SIGNED_FOR_A_REQUEST: Final = frozenset({*(scheme.value for scheme in Scheme), CALL})

_encode = msgspec.json.Encoder(order="sorted").encode


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldPayment:
    """
    What is known of a payment from its hold on.
    """

    payment_id: UUID
    digest: bytes
    kind: str  # a ``Scheme``, ``escrow`` or ``call``
    payer: str
    agent_id: UUID
    organisation_id: UUID
    party_chain: tuple[UUID, ...]  # from the organisation down to the agent
    mandate_id: UUID
    chain: tuple[UUID, ...]  # mandates from the root down to ``mandate_id``
    payee_id: UUID
    currency: str
    authorised_quanta: int
    resource: str  # empty after a crash, for a request: its digest stays
    request_digest: bytes
    decision: Decision
    parts: tuple[Part, ...] = ()  # what the hold took, by account
    tokens: int = 0  # the most that a call it pays for may use; a limit of the path may count them
    is_unclaimed: bool = False  # placing it claimed nothing: people were asked, or it is attested
    is_attested: bool = False  # held ahead for a seller that is to show the hub's attestation
    claim: UUID | None = None  # names the one request that placed the hold
    jws: str | None = None  # ``None`` after a crash, and where nothing was signed for a request


def to_meta(held: HeldPayment) -> str:
    """
    Return the hold's canonical note.
    """
    note: dict[str, object] = {
        "kind": META_KIND,
        "scheme": held.kind,
        "digest": held.digest.hex(),
        "request": held.request_digest.hex(),
        "payer": held.payer,
        "parties": [identifier_text(party_id) for party_id in held.party_chain],
        "mandate": identifier_text(held.mandate_id),
        "chain": [identifier_text(mandate_id) for mandate_id in held.chain],
        "payee": identifier_text(held.payee_id),
        "currency": held.currency,
        "amount": str(held.authorised_quanta),
        "decision": decision_to_json(held.decision),
    }
    if held.is_attested:
        note["attested"] = True
    if held.claim is not None:
        note["claim"] = identifier_text(held.claim)
    if held.kind not in _SIGNED_FOR_A_REQUEST:
        note["resource"] = held.resource
    return _encode(note).decode()


def from_meta(payment_id: UUID, meta: str | bytes | Mapping[str, Any]) -> HeldPayment | None:
    """
    Read a hold's note; ``None`` for a hold that is no payment.
    """
    note: Mapping[str, Any] = meta if isinstance(meta, Mapping) else msgspec.json.decode(meta)
    if note.get("kind") != META_KIND:
        return None
    decision = decision_from_json(note["decision"])
    is_attested = bool(note.get("attested"))
    parties = tuple(UUID(text) for text in note["parties"])
    return HeldPayment(
        payment_id=payment_id,
        digest=bytes.fromhex(note["digest"]),
        kind=note["scheme"],
        payer=note["payer"],
        agent_id=parties[-1],
        organisation_id=parties[0],
        party_chain=parties,
        mandate_id=UUID(note["mandate"]),
        chain=tuple(UUID(text) for text in note["chain"]),
        payee_id=UUID(note["payee"]),
        currency=note["currency"],
        authorised_quanta=int(note["amount"]),
        resource=note.get("resource", ""),
        request_digest=bytes.fromhex(note["request"]),
        decision=decision,
        is_unclaimed=is_waiting(decision) or is_attested,
        is_attested=is_attested,
    )


def is_waiting(decision: Decision) -> bool:
    """
    Tell whether a payment waits for people (or is refused) by what the brake said.
    """
    return decision.action is not Action.ALLOW and decision.review_id is None


def decision_to_json(decision: Decision) -> dict[str, Any]:
    """
    Return what the brake said as plain JSON values.
    """
    return {
        "action": decision.action.value,
        "reasons": [
            {
                "rule": reason.rule,
                "action": reason.action.value,
                "text": reason.text,
                "figures": dict(reason.figures),
            }
            for reason in decision.reasons
        ],
        "score_ppm": decision.score_ppm,
        "rules_version": decision.rules_version,
        "review": None if decision.review_id is None else str(decision.review_id),
    }


def decision_from_json(content: Mapping[str, Any]) -> Decision:
    """
    Read what ``decision_to_json`` wrote.
    """
    review = content["review"]
    return Decision(
        action=Action(content["action"]),
        reasons=tuple(
            Reason(
                rule=reason["rule"],
                action=Action(reason["action"]),
                text=reason["text"],
                figures=reason["figures"],
            )
            for reason in content["reasons"]
        ),
        score_ppm=content["score_ppm"],
        rules_version=content["rules_version"],
        review_id=None if review is None else UUID(review),
    )
