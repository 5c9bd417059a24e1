"""
What holds for every receipt, whatever its fields.
"""

from __future__ import annotations

import json
from datetime import timedelta
from hashlib import sha256
from itertools import pairwise
from random import Random
from typing import Any
from uuid import UUID

import msgspec
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tests.unit.receipt_samples import (
    FIELDS,
    NOW,
    SALT_KEY,
    altered,
    position,
    sample_draft,
    sample_lane,
    signer_of,
    to_document,
    trusted_keys,
)
from tokenworks.receipts.draft import draft
from tokenworks.receipts.jws import from_base64url, to_base64url
from tokenworks.receipts.model import RESERVED_NAMES, Draft, link_after
from tokenworks.receipts.verify import verify_chain, verify_receipt

KEYS = trusted_keys()

names = st.from_regex(r"[a-z][a-z0-9_.]{0,20}", fullmatch=True).filter(
    lambda name: name not in RESERVED_NAMES
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
contents = st.dictionaries(names, values, min_size=1, max_size=16)
VIEWS = ("buyer", "supplier:1", "leg_owner:2")


@st.composite
def drafts(draw: st.DrawFn) -> Draft:
    """
    Return any receipt with any readers.
    """
    fields = draw(contents)
    readers = {name: draw(st.frozensets(st.sampled_from(VIEWS))) for name in fields}
    return draft(draw(st.uuids()), fields, readers, SALT_KEY)


@given(drafts())
def test_true_receipt_always_verifies(content: Draft) -> None:
    """
    Every view of every receipt verifies offline, after a round trip through JSON.
    """
    for view in ("auditor", *VIEWS):
        if view != "auditor" and not any(view in seen for seen in content.readers.values()):
            continue
        found = verify_receipt(to_document(content, view), KEYS)
        assert found.problems == ()
        assert found.root == content.root


@given(drafts(), st.sampled_from(VIEWS))
def test_view_reveals_only_its_own_fields(content: Draft, view: str) -> None:
    """
    Of a field that is not the reader's, the document holds neither name, value nor salt.
    """
    own = {name for name, seen in content.readers.items() if view in seen}
    assume(own)
    document = to_document(content, view)
    receipt = document["receipt"]
    assert set(receipt) - {"view", "call_id", "disclosures"} == own
    text = json.dumps(document) + from_base64url(document["jws"].split(".")[1]).decode()
    for name, disclosure in content.disclosures.items():
        salt = json.loads(from_base64url(disclosure))[0]
        assert (disclosure in text) == (name in own)
        assert salt not in text
    assert own == {json.loads(from_base64url(text))[1] for text in receipt["disclosures"]}


@given(st.uuids(), contents, st.randoms())
def test_same_content_gives_the_same_root(
    call_id: UUID, fields: dict[str, Any], random: Random
) -> None:
    """
    The order of fields, a round trip through JSON, or a later day change nothing.
    """
    first = draft(call_id, fields, {}, SALT_KEY)
    items = list(json.loads(msgspec.json.encode(fields)).items())
    random.shuffle(items)
    again = draft(call_id, dict(items), {}, SALT_KEY)
    assert again.root == first.root
    signer = signer_of()
    assert signer.sign(again, position(), NOW) == signer.sign(first, position(), NOW)


@given(st.uuids(), contents, contents)
def test_other_content_gives_another_root(
    call_id: UUID, fields: dict[str, Any], others: dict[str, Any]
) -> None:
    """
    A root stands for one content.
    """
    assume(
        msgspec.json.encode(fields, order="sorted") != msgspec.json.encode(others, order="sorted")
    )
    one, other = (draft(call_id, content, {}, SALT_KEY) for content in (fields, others))
    assert one.root != other.root


@given(drafts(), st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32))
def test_guess_without_the_salt_confirms_nothing(
    content: Draft, wrong_salt: bytes, wrong_key: bytes
) -> None:
    """
    Knowing a field's very value does not let a reader recognise its digest.
    """
    for name, value in content.fields.items():
        for salt in (to_base64url(wrong_salt), "", None):
            parts = [salt, name, value] if salt is not None else [name, value]
            guess = to_base64url(msgspec.json.encode(parts, order="sorted"))
            assert to_base64url(sha256(guess.encode()).digest()) not in content.digests
    guessed = draft(content.call_id, content.fields, {}, wrong_key)
    assert not set(guessed.digests) & set(content.digests) or wrong_key == SALT_KEY


DOCUMENT = to_document(sample_draft(), "buyer")
TEXT = json.dumps(DOCUMENT)


@settings(max_examples=400)
@given(
    st.integers(0, len(TEXT) - 1),
    st.sampled_from('0123456789ABCDEFabcdefxyzXYZ-_."{}[]:, \\') | st.characters(codec="utf-8"),
)
@example(len(TEXT) - 3, "B")
def test_no_single_character_can_be_changed(index: int, character: str) -> None:
    """
    A changed character makes the receipt invalid, or changes nothing that is said.

    The one exception is the view's name, which says for whom the document was made.
    """
    text = TEXT[:index] + character + TEXT[index + 1 :]
    try:
        document = json.loads(text)
    except ValueError:
        return
    if document == DOCUMENT and text.count("true") == TEXT.count("true"):
        return
    found = verify_receipt(document, KEYS)
    if found.ok:
        document["receipt"]["view"] = DOCUMENT["receipt"]["view"]
        assert document == DOCUMENT


@given(drafts(), st.data())
def test_no_value_or_salt_can_be_replaced(content: Draft, data: st.DataObject) -> None:
    """
    Neither the shown value, nor the disclosure with it, nor its salt can be another.
    """
    document = to_document(content)
    name = data.draw(st.sampled_from(sorted(content.fields)))
    salt, _, value = json.loads(from_base64url(content.disclosures[name]))
    other = data.draw(values)
    assume(json.dumps(other, sort_keys=True) != json.dumps(value, sort_keys=True))
    shown = altered(document)
    shown["receipt"][name] = other
    assert not verify_receipt(shown, KEYS).ok
    at = document["receipt"]["disclosures"].index(content.disclosures[name])
    for parts in ([salt, name, other], [salt[::-1] + "x", name, value]):
        forged = altered(shown)
        forged["receipt"][name] = parts[2]
        forged["receipt"]["disclosures"][at] = to_base64url(msgspec.json.encode(parts))
        assert not verify_receipt(forged, KEYS).ok


@given(drafts(), drafts())
def test_parts_of_two_receipts_do_not_mix(one: Draft, other: Draft) -> None:
    """
    A signature fits its own fields only, even for one call at one position.
    """
    assume(one.root != other.root)
    left, right = to_document(one), to_document(other)
    assert not verify_receipt({**left, "jws": right["jws"]}, KEYS).ok


@given(
    st.dictionaries(
        st.sampled_from(["iss", "iat", "call_id", "lane", "seq", "prev", "root", "_sd_alg", "_sd"]),
        st.integers(0, 9)
        | st.text(max_size=5)
        | st.uuids().map(str)
        | st.lists(st.text(max_size=3)),
        min_size=1,
    )
)
def test_no_signed_member_can_be_changed(changes: dict[str, Any]) -> None:
    """
    Position, time, root and digests stand under the signature.
    """
    header, payload, signature = DOCUMENT["jws"].split(".")
    signed = json.loads(from_base64url(payload))
    assume({**signed, **changes} != signed)
    forged = to_base64url(json.dumps({**signed, **changes}).encode())
    document = {**DOCUMENT, "jws": f"{header}.{forged}.{signature}"}
    assert not verify_receipt(document, KEYS).ok


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@given(
    st.fixed_dictionaries(
        {"receipt": junk | st.just(DOCUMENT["receipt"]), "jws": junk | st.just(DOCUMENT["jws"])},
        optional={"certificate": junk | st.just(DOCUMENT["certificate"])},
    )
    | junk
)
def test_verifying_never_raises(document: object) -> None:
    """
    Whatever a file holds, the answer is a finding.
    """
    found = verify_receipt(document, KEYS)
    assert found.ok == (document == DOCUMENT)


@given(st.binary(max_size=200), st.sampled_from([0, 1, 2]))
def test_verifying_junk_in_a_jws_never_raises(content: bytes, part: int) -> None:
    """
    Bytes that are neither JSON nor text are refused like any other forgery.
    """
    parts = DOCUMENT["jws"].split(".")
    assume(to_base64url(content) != parts[part])
    parts[part] = to_base64url(content)
    assert not verify_receipt({**DOCUMENT, "jws": ".".join(parts)}, KEYS).ok


LANE_OF_FIVE = sample_lane(5)


@given(st.permutations(range(5)), st.integers(0, 3))
def test_rewritten_history_is_found(order: list[int], at: int) -> None:
    """
    Replacing any receipt but the newest, with the lane's own key, breaks the chain.
    """
    documents = list(LANE_OF_FIVE)
    true = verify_receipt(documents[at], KEYS)
    assert true.previous is not None
    rewritten = sample_draft({**FIELDS, "charge": "7"}, call_id=UUID(int=at))
    documents[at] = to_document(
        rewritten, place=position(at, true.previous), at=NOW + timedelta(seconds=at)
    )
    assert verify_receipt(documents[at], KEYS).ok
    found = verify_chain([documents[index] for index in order], KEYS)
    broken = {receipt.sequence for receipt in found if not receipt.ok}
    assert broken == {at + 1}


@given(st.integers(1, 3))
def test_removed_receipt_cannot_be_hidden_by_renumbering(at: int) -> None:
    """
    Closing the gap of a removed receipt breaks the link behind it.
    """
    documents = LANE_OF_FIVE[:at]
    for index in range(at + 1, 5):
        true = verify_receipt(LANE_OF_FIVE[index], KEYS)
        assert true.previous is not None
        content = sample_draft({**FIELDS, "charge": f"0.{index + 1}"}, call_id=UUID(int=index))
        assert content.root == true.root
        place = position(index - 1, true.previous)
        documents.append(to_document(content, place=place, at=NOW + timedelta(seconds=index)))
    found = verify_chain(documents, KEYS)
    assert [receipt.sequence for receipt in found if not receipt.ok] == [at]


@given(st.lists(st.sampled_from(LANE_OF_FIVE)))
def test_any_selection_of_a_true_lane_is_ok(documents: list[dict[str, Any]]) -> None:
    """
    Gaps, repeats and any order leave true receipts true.
    """
    assert all(receipt.ok for receipt in verify_chain(documents, KEYS))


def test_linking_after_is_what_the_lane_did() -> None:
    """
    The samples' chain is the documented one: link_n = SHA-256(link_{n-1} || root_n).
    """
    found = verify_chain(LANE_OF_FIVE, KEYS)
    for earlier, later in pairwise(found):
        assert earlier.previous is not None
        assert earlier.root is not None
        assert later.previous == link_after(earlier.previous, earlier.root)
