"""
Who sees what of a receipt.
"""

from __future__ import annotations

import json

import pytest

from tests.unit.receipt_samples import (
    CALL_ID,
    FIELDS,
    RIGHTS_HOLDER,
    SALT_KEY,
    SUPPLIER,
    sample_draft,
    to_document,
)
from tokenworks.receipts.draft import draft
from tokenworks.receipts.errors import ReceiptViewEmptyError
from tokenworks.receipts.jws import from_base64url
from tokenworks.receipts.views import leg_owner_view, present, readers_of, supplier_view

ENVELOPE = {"view", "call_id", "disclosures"}


@pytest.mark.parametrize(
    ("view", "visible"),
    [
        ("buyer", {"model", "tier", "usage", "charge", "currency", "energy"}),
        (supplier_view(SUPPLIER), {"attempt.1", "leg.1"}),
        (leg_owner_view(SUPPLIER), {"leg.1"}),
        (leg_owner_view(RIGHTS_HOLDER), {"leg.2"}),
        (supplier_view(RIGHTS_HOLDER), {"leg.2"}),
        ("auditor", set(FIELDS)),
    ],
)
def test_view_shows_exactly_its_fields(view: str, visible: set[str]) -> None:
    """
    Buyer: what it is billed; supplier: its attempt and payable; leg owner: its leg.
    """
    receipt = to_document(sample_draft(), view)["receipt"]
    assert set(receipt) - ENVELOPE == visible
    disclosed = [json.loads(from_base64url(text))[1] for text in receipt["disclosures"]]
    assert sorted(disclosed) == sorted(visible)
    assert (receipt["view"], receipt["call_id"]) == (view, str(CALL_ID))


@pytest.mark.parametrize("view", ["leg_owner:nobody", "supplier:nobody", "", "Auditor"])
def test_view_without_fields_is_refused(view: str) -> None:
    """
    A reader with no part in the call gets no receipt of it.
    """
    with pytest.raises(ReceiptViewEmptyError) as refusal:
        present(sample_draft(), view, "jws")
    assert refusal.value.code == "receipt_view_empty"


def test_field_nobody_was_named_for_is_the_auditors() -> None:
    """
    A field is hidden unless a reader is named: forgetting hides, never reveals.
    """
    content = draft(
        CALL_ID, {"margin": "1", "charge": "2"}, {"charge": frozenset({"buyer"})}, SALT_KEY
    )
    receipt = present(content, "buyer", "jws")["receipt"]
    assert isinstance(receipt, dict)
    assert "margin" not in receipt
    assert readers_of({"something_new": 1}) == {"something_new": frozenset()}


def test_certificate_travels_only_on_request() -> None:
    """
    The comment line of a stream stays short; a download needs only the root's key.
    """
    content = sample_draft()
    assert "certificate" not in present(content, "buyer", "jws")
    assert present(content, "buyer", "jws", certificate="c")["certificate"] == "c"
