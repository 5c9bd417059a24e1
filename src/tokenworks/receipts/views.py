"""
Show a reader its own part of a receipt.

A view is a name: ``buyer``, ``auditor``, or ``supplier:<party>`` and
``leg_owner:<party>`` for one party's part. The document holds the reader's fields in
plain and their disclosures; of every other field it holds nothing but a salted digest
inside the signed payload. The view's name itself is not signed: it says what the
document was made for, and the fields it shows are what they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from uuid import UUID

from tokenworks.receipts.errors import ReceiptViewEmptyError
from tokenworks.receipts.model import Draft, JsonValue, Readers

BUYER: Final = "buyer"
AUDITOR: Final = "auditor"

BUYER_FIELDS: Final = frozenset(
    {
        "model",
        "tier",
        "tier_floor",
        "usage",
        "rate_card",
        "charge",
        "currency",
        "tax",
        "outcome",
        "energy",
        "overrun",
        "payment",
    }
)
ATTEMPT_PREFIX: Final = "attempt."
LEG_PREFIX: Final = "leg."

_AUDITOR_ONLY: Final[frozenset[str]] = frozenset()
_BUYER: Final = frozenset({BUYER})


def supplier_view(party_id: UUID) -> str:
    """
    Return the view of the supplier with this party.
    """
    return f"supplier:{party_id}"


def leg_owner_view(party_id: UUID) -> str:
    """
    Return the view of a party that was paid by a leg.
    """
    return f"leg_owner:{party_id}"


def readers_of(fields: Mapping[str, JsonValue]) -> Readers:
    """
    Return who sees each field of a call's receipt, by the fields' names.

    ``attempt.N`` is for the supplier its ``supplier`` names, ``leg.N`` for the party its
    ``payee`` names (as supplier or as leg owner); the buyer sees ``BUYER_FIELDS``; the
    rest is for the auditor. A pure function of the fields, so readers are not stored.
    """
    return {
        name: _BUYER if name in BUYER_FIELDS else _readers_of_field(name, value)
        for name, value in fields.items()
    }


def _readers_of_field(name: str, value: JsonValue) -> frozenset[str]:
    if name.startswith(ATTEMPT_PREFIX) and isinstance(value, Mapping):
        return frozenset({f"supplier:{value['supplier']}"})
    if name.startswith(LEG_PREFIX) and isinstance(value, Mapping):
        payee = value["payee"]
        return frozenset({f"supplier:{payee}", f"leg_owner:{payee}"})
    return _AUDITOR_ONLY


def present(
    draft: Draft, view: str, jws: str, *, certificate: str | None = None
) -> dict[str, object]:
    """
    Return the document a reader gets, ready for JSON.

    Args:
        draft: All fields; only the view's own leave this function.
        view: Whose part to show.
        jws: The signature over all commitments.
        certificate: Added where the reader should need only the root's public key.

    Raises:
        ReceiptViewEmptyError: No field is for this view.
    """
    names = _visible_names(draft, view)
    if not names:
        raise ReceiptViewEmptyError(f"This receipt has nothing for the view {view!r}.")
    receipt: dict[str, object] = {"view": view, "call_id": str(draft.call_id)}
    receipt.update({name: draft.fields[name] for name in names})
    receipt["disclosures"] = [draft.disclosures[name] for name in names]
    document: dict[str, object] = {"receipt": receipt, "jws": jws}
    if certificate is not None:
        document["certificate"] = certificate
    return document


def _visible_names(draft: Draft, view: str) -> list[str]:
    if view == AUDITOR:
        return list(draft.fields)
    readers = draft.readers
    return [name for name in draft.fields if view in readers.get(name, _AUDITOR_ONLY)]
