"""
Every way a receipt can be wrong, and what is said about it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256
from uuid import UUID

import pytest

from tests.unit.receipt_samples import (
    CALL_ID,
    FIELDS,
    LANE,
    LANE_KEY,
    NOW,
    ROOT_KEY,
    STRANGER_KEY,
    Document,
    altered,
    position,
    sample_draft,
    sample_lane,
    signer_of,
    to_document,
    trusted_keys,
)
from tokenworks.receipts.errors import KeyFileInvalidError
from tokenworks.receipts.jws import (
    RECEIPT_TYPE,
    from_base64url,
    header_part,
    sign_compact,
    thumbprint,
    to_base64url,
    to_jwk,
)
from tokenworks.receipts.lane_chain import check_links
from tokenworks.receipts.model import link_after
from tokenworks.receipts.trust import TrustedKeys
from tokenworks.receipts.verify import verify_chain, verify_receipt


def codes(document: object, keys: TrustedKeys | None = None) -> set[str]:
    """
    Return the codes of all problems.
    """
    found = verify_receipt(document, keys or trusted_keys())
    assert found.ok == (not found.problems)
    return {problem.code.value for problem in found.problems}


@pytest.mark.parametrize("view", ["buyer", "auditor"])
def test_true_receipt_is_ok(view: str) -> None:
    """
    A document straight from the hub verifies with the root's public key alone.
    """
    found = verify_receipt(to_document(sample_draft(), view), trusted_keys(), source="x.json")
    assert found.ok
    assert found.problems == ()
    assert (found.source, found.view, found.call_id) == ("x.json", view, str(CALL_ID))
    assert (found.lane, found.sequence, found.issued_at_s) == (LANE, 0, int(NOW.timestamp()))
    assert found.fields["charge"] == FIELDS["charge"]
    assert json.loads(json.dumps(found.to_json()))["ok"] is True


def set_field(name: str, value: object) -> Callable[[Document], None]:
    """
    Return a change of one member of the receipt.
    """

    def change(document: Document) -> None:
        document["receipt"][name] = value

    return change


def drop_field(document: Document) -> None:
    """
    Hide a field but leave its disclosure.
    """
    del document["receipt"]["charge"]


def drop_disclosure(document: Document) -> None:
    """
    Show a field without proof.
    """
    del document["receipt"]["disclosures"][0]


def repeat_disclosure(document: Document) -> None:
    """
    Prove the same field twice.
    """
    document["receipt"]["disclosures"].append(document["receipt"]["disclosures"][0])


def forge_disclosure(*parts: object) -> Callable[[Document], None]:
    """
    Return an addition of a disclosure that nobody committed to.
    """

    def change(document: Document) -> None:
        text = to_base64url(json.dumps(parts).encode())
        document["receipt"]["disclosures"].append(text)

    return change


def other_jws(document: Document) -> None:
    """
    Put the signature of another call under this one.
    """
    document["jws"] = to_document(sample_draft(call_id=UUID(int=5)))["jws"]


def alter_payload(**members: object) -> Callable[[Document], None]:
    """
    Return a change of signed members without a new signature.
    """

    def change(document: Document) -> None:
        header, payload, signature = document["jws"].split(".")
        content = {**json.loads(from_base64url(payload)), **members}
        document["jws"] = f"{header}.{to_base64url(json.dumps(content).encode())}.{signature}"

    return change


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (set_field("charge", "0.000857"), "field_differs"),
        (set_field("charge", 0.000858), "field_differs"),
        (set_field("usage", {"input": 120, "cache_read": 20}), "field_differs"),
        (set_field("usage", {"input": 120.0, "cache_read": 20, "output": 256}), "field_differs"),
        (set_field("model", ["\ud800", float("nan")]), "field_differs"),
        (set_field("refund", "1"), "field_not_disclosed"),
        (set_field("seq", 9), "field_not_disclosed"),
        (set_field("call_id", str(UUID(int=5))), "call_id_differs"),
        (set_field("call_id", CALL_ID.hex), "call_id_differs"),
        (drop_field, "field_not_shown"),
        (drop_disclosure, "field_not_disclosed"),
        (repeat_disclosure, "disclosure_repeated"),
        (forge_disclosure("salt", "refund", "1"), "disclosure_not_committed"),
        (forge_disclosure(), "disclosure_not_committed"),
        (other_jws, "call_id_differs"),
        (alter_payload(seq=8), "signature_wrong"),
        (alter_payload(call_id=str(UUID(int=5))), "signature_wrong"),
        (alter_payload(lane=LANE + 1), "certificate_for_other_lane"),
        (alter_payload(iat=0), "key_not_valid_then"),
        (alter_payload(iss="another"), "issuer_differs"),
        (alter_payload(root=to_base64url(bytes(32))), "root_wrong"),
        (alter_payload(_sd=[]), "root_wrong"),
        (alter_payload(_sd_alg="md5"), "root_wrong"),
        (alter_payload(_sd="x"), "payload_malformed"),
        (alter_payload(root="AA"), "payload_malformed"),
        (alter_payload(prev="!"), "payload_malformed"),
        (alter_payload(seq=True), "payload_malformed"),
        (alter_payload(exp=1), "payload_malformed"),
    ],
)
def test_altered_receipt_is_reported(change: Callable[[Document], None], code: str) -> None:
    """
    Each alteration has a code of its own.
    """
    document = altered(to_document(sample_draft()))
    change(document)
    assert code in codes(document)


@pytest.mark.parametrize(
    "document",
    [
        None,
        1,
        "text",
        [],
        {},
        {"receipt": {}, "jws": ""},
        {"receipt": [], "jws": ""},
        {"receipt": {"view": "buyer", "call_id": "x", "disclosures": {}}, "jws": ""},
        {"receipt": {"view": "buyer", "call_id": "x", "disclosures": [1]}, "jws": ""},
        {"receipt": {"view": 1, "call_id": "x", "disclosures": []}, "jws": ""},
        {"receipt": {"view": "buyer", "call_id": "x", "disclosures": []}, "jws": 1},
        {**to_document(sample_draft()), "certificate": None},
        {**to_document(sample_draft()), "note": "paid twice"},
    ],
)
def test_document_of_another_shape_is_malformed(document: object) -> None:
    """
    Members nobody signed are refused: a reader could take them for true.
    """
    assert codes(document) == {"document_malformed"}


def test_text_that_is_no_jws_is_malformed() -> None:
    """
    The JWS is named as the part at fault.
    """
    document = {**to_document(sample_draft()), "jws": "a.b.c"}
    assert codes(document) == {"jws_malformed"}


def signed_disclosure(*parts: object) -> Document:
    """
    Return a document whose one committed disclosure is ``parts``, signed by the lane.
    """
    content = sample_draft({"charge": "1"})
    document = to_document(content)
    text = to_base64url(json.dumps(parts).encode())
    header, payload, _ = document["jws"].split(".")
    signed = json.loads(from_base64url(payload))
    signed["_sd"] = [to_base64url(sha256(text.encode()).digest())]
    signed["root"] = to_base64url(sha256(signed["_sd"][0].encode()).digest())
    document["jws"] = sign_compact(LANE_KEY, f"{header}.".encode(), json.dumps(signed).encode())
    document["receipt"] = {"view": "buyer", "call_id": str(CALL_ID), "disclosures": [text]}
    return document


@pytest.mark.parametrize(
    "parts",
    [
        (),
        ("salt", "value"),
        ("salt", 1, "value"),
        (1, "charge", "value"),
        ("salt", "charge", "value", "more"),
        ("salt", "_sd", []),
        ("salt", "call_id", "x"),
    ],
)
def test_signed_disclosure_of_another_shape_is_malformed(parts: tuple[object, ...]) -> None:
    """
    A signature does not make nonsense a field.
    """
    assert codes(signed_disclosure(*parts)) == {"disclosure_malformed"}


def test_receipt_by_a_stranger_is_refused() -> None:
    """
    A perfect receipt under another root is worth nothing to whoever trusts this one.
    """
    signer = signer_of(STRANGER_KEY, root=STRANGER_KEY)
    assert codes(to_document(sample_draft(), signer=signer)) == {"certificate_invalid"}


def test_receipt_signed_by_the_root_itself_is_refused() -> None:
    """
    The root certifies keys and signs nothing else: its own certificate has no lane.
    """
    signer = signer_of(ROOT_KEY, certified_lane=None)
    assert codes(to_document(sample_draft(), signer=signer)) == {"certificate_for_other_lane"}


def test_key_of_one_lane_cannot_sign_for_another() -> None:
    """
    A stolen lane key harms one lane.
    """
    signer = signer_of(certified_lane=LANE + 1)
    assert codes(to_document(sample_draft(), signer=signer)) == {"certificate_for_other_lane"}


def test_receipt_dated_after_its_keys_retirement_is_refused() -> None:
    """
    A retired key still proves old receipts, and no new ones.
    """
    retired = signer_of(retired_at=NOW)
    assert codes(to_document(sample_draft(), signer=retired)) == set()
    late = to_document(sample_draft(), signer=retired, at=NOW + timedelta(hours=1))
    assert codes(late) == {"key_not_valid_then"}


def test_signature_by_another_key_under_a_true_kid_is_refused() -> None:
    """
    Naming a certified key is not having it.
    """
    document = to_document(sample_draft())
    header, payload, _ = document["jws"].split(".")
    forged = sign_compact(STRANGER_KEY, f"{header}.".encode(), from_base64url(payload))
    assert codes({**document, "jws": forged}) == {"signature_wrong"}


def test_certificate_of_another_key_is_not_enough() -> None:
    """
    The certificate must be the signing key's own.
    """
    document = to_document(sample_draft())
    stranger = header_part(kid=thumbprint(to_jwk(STRANGER_KEY.public_key())), jws_type=RECEIPT_TYPE)
    payload = from_base64url(document["jws"].split(".")[1])
    document["jws"] = sign_compact(STRANGER_KEY, stranger, payload)
    assert codes(document) == {"key_unknown"}


def test_published_certificate_stands_in_for_the_document_own() -> None:
    """
    Without a certificate in the document the hub's key set is needed, and suffices.
    """
    document = to_document(sample_draft())
    certificate = document.pop("certificate")
    assert codes(document) == {"key_unknown"}
    keys = TrustedKeys([to_jwk(ROOT_KEY.public_key())], {signer_of().kid: certificate})
    assert codes(document, keys) == set()


def test_published_retirement_beats_the_certificate_in_the_document() -> None:
    """
    A certificate from before the retirement does not revive a key.
    """
    retired = signer_of(retired_at=NOW - timedelta(hours=1))
    keys = TrustedKeys([to_jwk(ROOT_KEY.public_key())], {retired.kid: retired.certificate})
    assert codes(to_document(sample_draft()), keys) == {"key_not_valid_then"}


def key_set() -> dict[str, list[dict[str, object]]]:
    """
    Return a key set like the hub's.
    """
    root = to_jwk(ROOT_KEY.public_key())
    lane = to_jwk(LANE_KEY.public_key())
    return {
        "keys": [
            {"kty": "OKP", "crv": "Ed25519", "x": root.x, "kind": "root"},
            {
                "kty": "OKP",
                "crv": "Ed25519",
                "x": lane.x,
                "kind": "lane",
                "certificate": signer_of().certificate,
            },
            {"kty": "RSA", "crv": "", "n": "…"},
        ]
    }


def test_keys_are_read_from_every_published_form() -> None:
    """
    A bare JWK, a hub's key set, and demo.json all name the root.
    """
    document = to_document(sample_draft())
    root = key_set()["keys"][0]
    for content in (root, key_set(), {"base_url": "x", "receipt_public_key": root}):
        keys = TrustedKeys.from_json(json.dumps(content))
        assert codes(document, keys) == set()
    del document["certificate"]
    assert codes(document, TrustedKeys.from_json(json.dumps(key_set()))) == set()


def test_pinned_root_is_the_only_one_trusted() -> None:
    """
    A key set fetched from anywhere cannot bring its own root along.
    """
    stranger = to_jwk(STRANGER_KEY.public_key())
    keys = TrustedKeys.from_json(json.dumps(key_set()), root=stranger)
    assert keys.root_kids == {thumbprint(stranger)}
    assert codes(to_document(sample_draft()), keys) == {"certificate_invalid"}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"keys": []}',
        '{"keys": [{"kty": "RSA", "crv": ""}]}',
        '{"kty": "OKP", "crv": "Ed25519", "x": "AA"}',
        '{"kty": "OKP", "crv": "Ed25519", "x": "AA", "kind": "lane"}',
        b"\xff",
    ],
)
def test_file_without_a_root_key_is_refused(content: str | bytes) -> None:
    """
    Verifying with no key at all must not look like verifying.
    """
    with pytest.raises(KeyFileInvalidError):
        TrustedKeys.from_json(content)


def test_lane_in_order_is_ok() -> None:
    """
    Consecutive receipts link up, in whatever order they are handed in.
    """
    documents = sample_lane(4)
    for order in (documents, documents[::-1]):
        found = verify_chain(order, trusted_keys())
        assert all(receipt.ok and not receipt.notes for receipt in found)
        assert [receipt.sequence for receipt in found] == [
            verify_receipt(document, trusted_keys()).sequence for document in order
        ]


def test_missing_receipt_is_a_note() -> None:
    """
    A reader owns some receipts of a lane; a gap says nothing against the others.
    """
    documents = sample_lane(4)
    found = verify_chain([documents[0], documents[3]], trusted_keys())
    assert all(receipt.ok for receipt in found)
    assert [note.code.value for note in found[1].notes] == ["not_consecutive"]
    assert "1 to 2" in found[1].notes[0].message


def test_rewritten_receipt_breaks_the_link() -> None:
    """
    Even the holder of the lane's key cannot replace one receipt unseen.
    """
    documents = sample_lane(3)
    first = verify_receipt(documents[0], trusted_keys())
    assert first.previous is not None
    assert first.root is not None
    place = position(1, link_after(first.previous, first.root))
    at = NOW + timedelta(seconds=1)
    documents[1] = to_document(sample_draft(call_id=UUID(int=1)), place=place, at=at)
    found = verify_chain(documents, trusted_keys())
    assert [[p.code.value for p in receipt.problems] for receipt in found] == [
        [],
        [],
        ["chain_broken"],
    ]


def test_two_receipts_at_one_position_are_a_fork() -> None:
    """
    A lane that tells two readers two stories is caught when they compare.
    """
    one = to_document(sample_draft())
    other = to_document(sample_draft({**FIELDS, "charge": "9"}))
    found = verify_chain([one, other], trusted_keys())
    assert [p.code.value for p in found[1].problems] == ["chain_forked"]


def test_two_views_of_one_receipt_are_no_fork() -> None:
    """
    Buyer and auditor hold different documents of the same receipt.
    """
    views = [to_document(sample_draft(), view) for view in ("buyer", "auditor")]
    assert all(receipt.ok for receipt in verify_chain(views, trusted_keys()))


def test_time_running_back_is_reported() -> None:
    """
    Ledger time never falls within a lane.
    """
    content = sample_draft()
    first = to_document(content)
    place = position(1, link_after(bytes(32), content.root))
    second = to_document(content, place=place, at=NOW - timedelta(seconds=2))
    found = verify_chain([first, second], trusted_keys())
    assert [p.code.value for p in found[1].problems] == ["time_runs_back"]


def test_forged_receipt_puts_no_true_one_in_doubt() -> None:
    """
    Links are compared only between receipts that are valid by themselves.
    """
    documents = sample_lane(2)
    forged = altered(documents[0])
    forged["receipt"]["charge"] = "0"
    found = verify_chain([forged, documents[1]], trusted_keys())
    assert [receipt.ok for receipt in found] == [False, True]


def test_lanes_are_chained_apart() -> None:
    """
    The same number in two lanes is no fork.
    """
    other = signer_of(STRANGER_KEY, lane=LANE + 1, certified_lane=LANE + 1)
    documents = [
        to_document(sample_draft()),
        to_document(sample_draft(call_id=UUID(int=9)), place=position(lane=LANE + 1), signer=other),
    ]
    assert all(receipt.ok for receipt in verify_chain(documents, trusted_keys()))
    assert check_links([]) == []
