"""
How the fields of a receipt are committed.
"""

from __future__ import annotations

import hashlib
import json
from uuid import UUID

import pytest

from tests.unit.receipt_samples import CALL_ID, FIELDS, SALT_KEY, sample_draft
from tokenworks.receipts.draft import draft
from tokenworks.receipts.jws import from_base64url, to_base64url
from tokenworks.receipts.model import RESERVED_NAMES, link_after, root_of

GOLDEN_ROOT = "ba93bb26ebcf7f457d30ba085294e1300c96fb52bbbff58a884919ad228f6d3a"


def test_digest_is_taken_over_the_encoded_disclosure() -> None:
    """
    RFC 9901 §4.2.3, with its own example: the hash of the base64url text, not of the JSON.
    """
    disclosure = "WyJfMjZiYzRMVC1hYzZxMktJNmNCVzVlcyIsICJmYW1pbHlfbmFtZSIsICJNw7ZiaXVzIl0"
    digest = to_base64url(hashlib.sha256(disclosure.encode()).digest())
    assert digest == "X9yH0Ajrdm1Oij4tWso9UzzKJvPoDxwmuEcO3XAdRC0"
    content = sample_draft()
    ours = {
        to_base64url(hashlib.sha256(text.encode()).digest())
        for text in content.disclosures.values()
    }
    assert ours == set(content.digests)


def test_disclosure_is_salt_name_value() -> None:
    """
    A disclosure is base64url, without padding, of the JSON array [salt, name, value].
    """
    for name, text in sample_draft().disclosures.items():
        salt, disclosed_name, value = json.loads(from_base64url(text))
        assert len(from_base64url(salt)) == 16
        assert (disclosed_name, value) == (name, FIELDS[name])


def test_disclosure_holds_members_in_sorted_order() -> None:
    """
    The order in which a mapping was filled does not change its commitment.
    """
    usage = {"output": 1, "input": 2}
    turned = {"input": 2, "output": 1}
    one = draft(CALL_ID, {"usage": usage}, {}, SALT_KEY)
    other = draft(CALL_ID, {"usage": turned}, {}, SALT_KEY)
    assert one.root == other.root


def test_root_is_the_hash_of_sorted_digests() -> None:
    """
    Anyone can recompute the root from the signed digests.
    """
    content = sample_draft()
    assert list(content.digests) == sorted(content.digests)
    joined = "".join(sorted(content.digests)).encode()
    assert content.root == hashlib.sha256(joined).digest() == root_of(content.digests)


def test_root_never_changes_between_versions() -> None:
    """
    Receipts are drafted again years later: this value is part of the format.
    """
    content = draft(UUID(int=7), {"charge": "0.5", "tier": "free"}, {}, SALT_KEY)
    assert content.root.hex() == GOLDEN_ROOT


def test_salts_differ_by_call_by_field_and_by_key() -> None:
    """
    Equal values of two fields or two calls never share a digest.
    """
    fields = {"one": "x", "two": "x"}
    digests = [
        *draft(UUID(int=1), fields, {}, SALT_KEY).digests,
        *draft(UUID(int=2), fields, {}, SALT_KEY).digests,
        *draft(UUID(int=1), fields, {}, b"k" * 32).digests,
    ]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize("name", sorted(RESERVED_NAMES))
def test_reserved_names_are_refused(name: str) -> None:
    """
    No field can pose as something the hub signs in the clear.
    """
    with pytest.raises(AssertionError):
        draft(CALL_ID, {name: "x"}, {}, SALT_KEY)


def test_link_binds_the_root_to_all_before_it() -> None:
    """
    link_n = SHA-256(link_{n-1} || root_n).
    """
    link = link_after(b"p" * 32, b"r" * 32)
    assert link == hashlib.sha256(b"p" * 32 + b"r" * 32).digest()
