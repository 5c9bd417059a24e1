"""
Results are read strictly and have one form; statements of verifiers are believed for one result.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tokenworks.agents.escrow.attestation import (
    attested_claims,
    is_public_key,
    judge_attestation,
    sign_attestation,
)
from tokenworks.agents.escrow.errors import (
    ResultInvalidError,
    ResultTooLargeError,
    TermsInvalidError,
)
from tokenworks.agents.escrow.model import RESULT_BYTES_MAX, Share
from tokenworks.agents.escrow.result import (
    VALUES_MAX,
    canonical,
    check_result,
    check_schema,
    document_of,
    read_strictly,
    sha256_hex,
    validate,
)
from tokenworks.receipts.jws import to_base64url

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
ESCROW = UUID(int=7)
RESULT = sha256_hex(b"{}")

REFUSED = (
    (b'{"a":1,"a":2}', "there twice"),
    (b'{"a":{"b":1,"\\u0062":2}}', "there twice"),
    (b'{"a":NaN}', "NaN is no number"),
    (b'{"a":-Infinity}', "-Infinity is no number"),
    (b'{"a":1e999}', "too large a number"),
    (b'{"a":9007199254740992}', "2^53 - 1"),
    (b'{"a":' + b"9" * 100_000 + b"}", "2^53 - 1"),
    (b'{"a":' + b"[" * 33 + b"]" * 33 + b"}", "nested at most 32"),
    (b"[" * 100_000, "nested at most 32"),
    (b'{"a":"' + b'\\"' * 100_000, "no JSON"),
    (b'{"a":1', "no JSON"),
    (b'{"a":\xff}', "no JSON"),
    (b"[" + b"0," * VALUES_MAX + b"0]", f"at most {VALUES_MAX} values"),
)


@pytest.mark.parametrize(("content", "says"), REFUSED)
def test_json_that_could_mean_two_things_is_refused(content: bytes, says: str) -> None:
    """
    Names twice, numbers that are none, depth and mass: refused with the reason.
    """
    with pytest.raises(ResultInvalidError) as refused:
        read_strictly(content)
    assert says in refused.value.message


def test_result_is_an_object_of_bounded_size_without_the_hubs_member() -> None:
    """
    A list, too many bytes, or a member that only the hub fills in: refused.
    """
    with pytest.raises(ResultInvalidError):
        check_result([1])
    with pytest.raises(ResultInvalidError) as refused:
        check_result({"attested": {"tests": {"passed": 1}}})
    assert "filled in from signatures" in refused.value.message
    with pytest.raises(ResultTooLargeError):
        check_result({"a": "x" * RESULT_BYTES_MAX})
    with pytest.raises(ResultInvalidError):
        check_result(json.loads('{"a":"\\ud800"}'))


def test_canonical_form_is_that_of_rfc_8785() -> None:
    """
    The RFC's own example of numbers and of member order.
    """
    numbers = [333333333.33333329, 1e30, 4.50, 2e-3, 1e-27, -0.0, 1e21, 1e-7, 123456.0, 1e20]
    expected = "[333333333.3333333,1e+30,4.5,0.002,1e-27,0,1e+21,1e-7,123456,100000000000000000000]"
    assert canonical(numbers).decode() == expected
    members = {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\u0080": 6, "\xf6": 7}
    order = ["\r", "1", "\u0080", "\xf6", "\u20ac", "\U0001f600", "\ufb33"]
    assert list(json.loads(canonical(members))) == order
    assert canonical({"a": '\x0f\n"\\\u20ac'}).decode() == '{"a":"\\u000f\\n\\"\\\\\u20ac"}'
    assert document_of({"b": 1}, {"t": {"x": 1}}) == b'{"attested":{"t":{"x":1}},"b":1}'
    assert document_of({"z": 1}, {}, {"calls": 1}) == b'{"attested":{},"metered":{"calls":1},"z":1}'


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "object", "pattern": "(a+)+$"}, "may not use 'pattern'"),
        ({"properties": {"a": {"$ref": "http://x/"}}}, "may not use '$ref'"),
        ({"properties": {"a": {"items": {"anyOf": []}}}}, "may not use 'anyOf'"),
        ({"type": "array"}, "describes an object"),
        ({"type": "nothing"}, "is none"),
        ({"title": "x" * 20_000}, "bytes"),
        ({"required": ["words", "metered"]}, "names 'metered', which the hub fills in"),
        ({"properties": {"attested": {"type": "object"}}}, "names 'attested'"),
    ],
)
def test_schema_that_could_take_long_or_reach_elsewhere_is_refused(
    schema: dict[str, Any], says: str
) -> None:
    """
    A closed list of words: no patterns, no references, no combinations.
    """
    with pytest.raises(TermsInvalidError) as refused:
        check_schema(schema)
    assert says in refused.value.message


def test_result_is_held_against_its_schema() -> None:
    """
    The refusal names the place.
    """
    schema = {
        "type": "object",
        "properties": {"status": {"type": "integer", "minimum": 100}},
        "required": ["status"],
        "additionalProperties": False,
    }
    check_schema(schema)
    validate({"status": 200}, schema)
    for result in ({}, {"status": "200"}, {"status": 1}, {"status": 200, "more": 1}):
        with pytest.raises(ResultInvalidError) as refused:
            validate(result, schema)
        assert refused.value.code == "result_schema"


def test_share_is_exact_and_rounds_down() -> None:
    """
    A share of an amount never exceeds it, and texts are exact.
    """
    assert Share.of(1, 3) == Share(part=1, whole=3)
    assert Share.from_text("0.75") == Share(part=75, whole=100)
    assert Share.from_text("1") == Share(part=1, whole=1)
    for text in ("1.1", "-0.5", "0.5e0", ".5", "", "2", "0." + "1" * 19):
        assert Share.from_text(text) is None
    for part, whole in ((2, 1), (-1, 2), (0, 0), (1, 10**19)):
        assert Share.of(part, whole) is None
    third = Share(part=1, whole=3)
    assert third.of_quanta(100) == 33
    assert third.ppm == 333_333


# ---------------------------------------------------------------------- attestations


def _sign(key: Ed25519PrivateKey, **change: Any) -> str:  # noqa: ANN401 - as given
    wanted: dict[str, Any] = {
        "escrow_id": ESCROW,
        "milestone": "one",
        "result_sha256": RESULT,
        "claims": {"passed": 3},
        "now": NOON,
    }
    return sign_attestation(key, **(wanted | change))


def _address(key: Ed25519PrivateKey) -> str:
    return to_base64url(key.public_key().public_bytes_raw())


def _forge(jws: str) -> str:
    head, _, signature = jws.split(".")
    payload = json.loads(_padded(jws.split(".")[1]))
    payload["claims"] = {"passed": 1_000}
    return f"{head}.{to_base64url(json.dumps(payload).encode())}.{signature}"


def _padded(part: str) -> bytes:
    from base64 import urlsafe_b64decode

    return urlsafe_b64decode(part + "=" * (-len(part) % 4))


TESTER = Ed25519PrivateKey.generate()
STRANGER = Ed25519PrivateKey.generate()

ATTACKS: tuple[tuple[str | None, Callable[[], str]], ...] = (
    (None, lambda: _sign(TESTER)),
    (None, lambda: _sign(TESTER, now=NOON + timedelta(seconds=60))),
    ("forged", lambda: _forge(_sign(TESTER))),
    ("unknown_verifier", lambda: _sign(STRANGER)),
    ("wrong_escrow", lambda: _sign(TESTER, escrow_id=UUID(int=8))),
    ("wrong_milestone", lambda: _sign(TESTER, milestone="two")),
    ("altered_result", lambda: _sign(TESTER, result_sha256=sha256_hex(b"[]"))),
    ("from_the_future", lambda: _sign(TESTER, now=NOON + timedelta(seconds=120))),
    ("malformed", lambda: "a.b.c"),
    ("malformed", lambda: "x" * 100_000),
    ("malformed", lambda: _sign(TESTER) + "="),
    ("malformed", lambda: "\u00e9.b.c"),
)


@pytest.mark.parametrize(("refusal", "make"), ATTACKS)
def test_statement_counts_for_its_escrow_milestone_and_result_alone(
    refusal: str | None, make: Callable[[], str]
) -> None:
    """
    Every attack is refused by name, kept, and seen by no condition.
    """
    attestation = judge_attestation(
        make(),
        escrow_id=ESCROW,
        milestone="one",
        result_sha256=RESULT,
        verifiers={"tests": _address(TESTER)},
        now=NOON,
    )
    assert attestation.refusal == refusal
    seen = attested_claims([attestation])
    assert seen == ({"tests": {"passed": 3}} if refusal is None else {})


def test_youngest_statement_of_a_verifier_counts() -> None:
    """
    A payee that hands in the older, better one changes nothing.
    """

    def judge(claims: dict[str, int], seconds: int) -> Any:  # noqa: ANN401 - an attestation
        return judge_attestation(
            _sign(TESTER, claims=claims, now=NOON + timedelta(seconds=seconds)),
            escrow_id=ESCROW,
            milestone="one",
            result_sha256=RESULT,
            verifiers={"tests": _address(TESTER)},
            now=NOON,
        )

    old, young = judge({"passed": 9}, 0), judge({"passed": 0}, 5)
    assert attested_claims([young, old]) == {"tests": {"passed": 0}}
    assert attested_claims([old, young]) == {"tests": {"passed": 0}}


def test_public_key_has_one_spelling() -> None:
    """
    Forty-three characters of base64url that are a key.
    """
    assert is_public_key(_address(TESTER))
    assert not is_public_key(_address(TESTER)[:-1])
    assert not is_public_key("=" * 43)
