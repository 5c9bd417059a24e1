"""
Verify receipts offline, with nothing but the document and public keys.

Checks, in this order; a failed check of 1-2 ends the list, the others are all reported:

1. the document has exactly the members ``receipt``, ``jws`` and perhaps ``certificate``;
2. ``jws`` is a receipt's JWS and its payload has exactly the members of the format;
3. its key is certified by a trusted root, for this lane, at this time, by this issuer;
4. the signature;
5. digests are sorted, single, and hash to the root;
6. each disclosure is a committed ``[salt, name, value]``, and no digest opens twice;
7. the fields shown are exactly the fields disclosed, value for value as JSON.

Then, between receipts of one lane: no position has two contents (``chain_forked``), each
names the link of the one before (``chain_broken``), time never runs back. A missing
position is no error, because a reader owns only some of a lane's receipts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from hashlib import sha256
from itertools import groupby
from typing import Final, Protocol, cast

from tokenworks.receipts.certificates import Certificate
from tokenworks.receipts.errors import CertificateInvalidError, JwsMalformedError
from tokenworks.receipts.jws import (
    RECEIPT_TYPE,
    CompactJws,
    decode_json,
    from_base64url,
    from_jwk,
    read_compact,
    to_base64url,
)
from tokenworks.receipts.model import (
    DIGEST_ALGORITHM,
    FIELDS_MAX,
    LINK_BYTES,
    RESERVED_NAMES,
    ReceiptPayload,
    link_after,
    root_of,
)
from tokenworks.receipts.trust import TrustedKeys

_ENVELOPE: Final = ("view", "call_id", "disclosures")


class ProblemCode(StrEnum):
    """
    Every way a receipt or an addendum can fail, and remarks that are no failure.
    """

    UNREADABLE = "unreadable"
    DOCUMENT_MALFORMED = "document_malformed"
    JWS_MALFORMED = "jws_malformed"
    PAYLOAD_MALFORMED = "payload_malformed"
    KEY_UNKNOWN = "key_unknown"
    CERTIFICATE_INVALID = "certificate_invalid"
    CERTIFICATE_FOR_OTHER_LANE = "certificate_for_other_lane"
    KEY_NOT_VALID_THEN = "key_not_valid_then"
    ISSUER_DIFFERS = "issuer_differs"
    SIGNATURE_WRONG = "signature_wrong"
    ROOT_WRONG = "root_wrong"
    DISCLOSURE_MALFORMED = "disclosure_malformed"
    DISCLOSURE_NOT_COMMITTED = "disclosure_not_committed"
    DISCLOSURE_REPEATED = "disclosure_repeated"
    CALL_ID_DIFFERS = "call_id_differs"
    FIELD_DIFFERS = "field_differs"
    FIELD_NOT_DISCLOSED = "field_not_disclosed"
    FIELD_NOT_SHOWN = "field_not_shown"
    CHAIN_BROKEN = "chain_broken"
    CHAIN_FORKED = "chain_forked"
    TIME_RUNS_BACK = "time_runs_back"
    NOT_CONSECUTIVE = "not_consecutive"
    ADDENDUM_MISNUMBERED = "addendum_misnumbered"
    ADDENDUM_FORKED = "addendum_forked"
    ADDENDUM_OF_OTHER_RECEIPT = "addendum_of_other_receipt"
    ADDENDUM_SUPERSEDED = "addendum_superseded"
    RECEIPT_NOT_HERE = "receipt_not_here"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """
    One finding: the code is stable, the message is for people.
    """

    code: ProblemCode
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """
    What is known about one receipt; trust the rest only when ``ok``.
    """

    source: str  # where it was read, e.g. ``receipts.jsonl:12``
    problems: tuple[Problem, ...] = ()
    notes: tuple[Problem, ...] = ()  # remarks that leave the receipt valid
    view: str | None = None  # None here and below: it could not be read
    call_id: str | None = None
    lane: int | None = None
    sequence: int | None = None
    issued_at_s: int | None = None
    issuer: str | None = None
    kid: str | None = None
    previous: bytes | None = None
    root: bytes | None = None
    number: int | None = None  # of an addendum; a receipt has none
    fields: Mapping[str, object] = field(default_factory=dict[str, object])

    @property
    def ok(self) -> bool:
        """
        Tell whether nothing is wrong.
        """
        return not self.problems

    def to_json(self) -> dict[str, object]:
        """
        Return the finding as plain JSON values.
        """
        return {
            "source": self.source,
            "ok": self.ok,
            "problems": [{"code": p.code.value, "message": p.message} for p in self.problems],
            "notes": [{"code": n.code.value, "message": n.message} for n in self.notes],
            "view": self.view,
            "call_id": self.call_id,
            "lane": self.lane,
            "seq": self.sequence,
            "iat": self.issued_at_s,
            "iss": self.issuer,
            "kid": self.kid,
            "root": None if self.root is None else to_base64url(self.root),
            "number": self.number,
            "fields": dict(self.fields),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    view: str
    call_id: str
    fields: Mapping[str, object]
    disclosures: Sequence[str]
    jws: str
    certificate: str | None


class _UnusableError(Exception):
    """
    The document cannot be checked any further.
    """

    def __init__(self, code: ProblemCode, message: str) -> None:
        super().__init__(message)
        self.problem = Problem(code=code, message=message)


def verify_receipt(document: object, keys: TrustedKeys, *, source: str = "") -> Verification:
    """
    Return what is right and wrong about one receipt; never raises for bad input.

    Args:
        document: The parsed JSON of ``{"receipt", "jws", "certificate"?}``.
        keys: The roots the reader trusts, and published certificates if at hand.
        source: Repeated in the result.
    """
    try:
        receipt = _read_document(document)
        jws, payload = _read_payload(receipt.jws)
    except _UnusableError as error:
        return Verification(source=source, problems=(error.problem,))
    problems = [
        *check_key(jws, payload, receipt.certificate, keys),
        *_check_root(payload),
        *_check_fields(receipt, payload),
    ]
    return Verification(
        source=source,
        problems=tuple(problems),
        view=receipt.view,
        call_id=str(payload.call_id),
        lane=payload.lane,
        sequence=payload.sequence,
        issued_at_s=payload.issued_at_s,
        issuer=payload.issuer,
        kid=jws.header.kid,
        previous=from_base64url(payload.previous),
        root=from_base64url(payload.root),
        fields=receipt.fields,
    )


def verify_chain(documents: Iterable[object], keys: TrustedKeys) -> list[Verification]:
    """
    Verify receipts one by one and then the links between those of one lane.
    """
    return check_links([verify_receipt(document, keys) for document in documents])


def check_links(verifications: Sequence[Verification]) -> list[Verification]:
    """
    Add what is wrong between receipts that are right by themselves.

    The result has the order of the input. Only valid receipts are compared, so that a
    forged one cannot put a true one in doubt. O(n log n).
    """
    problems: dict[int, list[Problem]] = {}
    notes: dict[int, list[Problem]] = {}
    valid = [index for index, one in enumerate(verifications) if one.ok and one.number is None]
    valid.sort(key=lambda index: _position(verifications[index]))
    for _, lane in groupby(valid, key=lambda index: _position(verifications[index])[:2]):
        earlier: int | None = None
        for index in lane:
            if earlier is not None:
                for found in _compare(verifications[earlier], verifications[index]):
                    is_remark = found.code is ProblemCode.NOT_CONSECUTIVE
                    (notes if is_remark else problems).setdefault(index, []).append(found)
            earlier = index
    return [
        replace(
            receipt,
            problems=(*receipt.problems, *problems.get(index, ())),
            notes=(*receipt.notes, *notes.get(index, ())),
        )
        for index, receipt in enumerate(verifications)
    ]


def _position(receipt: Verification) -> tuple[str, int, int]:
    assert receipt.issuer is not None, "a valid receipt names its issuer"
    assert receipt.lane is not None, "a valid receipt names its lane"
    assert receipt.sequence is not None, "a valid receipt names its place"
    return receipt.issuer, receipt.lane, receipt.sequence


def _compare(earlier: Verification, later: Verification) -> Iterable[Problem]:
    _, lane, place = _position(earlier)
    _, _, next_place = _position(later)
    if place == next_place:
        if _content(earlier) != _content(later):
            message = f"Position {place} of lane {lane} holds two different receipts."
            yield Problem(code=ProblemCode.CHAIN_FORKED, message=message)
        return
    if _time(later) < _time(earlier):
        message = f"Position {next_place} of lane {lane} is older than {place}."
        yield Problem(code=ProblemCode.TIME_RUNS_BACK, message=message)
    if next_place != place + 1:
        message = f"Positions {place + 1} to {next_place - 1} of lane {lane} are not here."
        yield Problem(code=ProblemCode.NOT_CONSECUTIVE, message=message)
    elif later.previous != _link(earlier):
        message = f"Position {next_place} of lane {lane} does not follow {place} as it is here."
        yield Problem(code=ProblemCode.CHAIN_BROKEN, message=message)


def _content(receipt: Verification) -> tuple[object, ...]:
    return receipt.root, receipt.previous, receipt.call_id, receipt.issued_at_s


def _time(receipt: Verification) -> int:
    assert receipt.issued_at_s is not None, "a valid receipt carries its time"
    return receipt.issued_at_s


def _link(receipt: Verification) -> bytes:
    assert receipt.previous is not None, "a valid receipt names the link before"
    assert receipt.root is not None, "a valid receipt names its root"
    return link_after(receipt.previous, receipt.root)


def _read_document(document: object) -> _Document:
    outer = _members(document, "the document")
    unknown = outer.keys() - {"receipt", "jws", "certificate"}
    if unknown:
        raise _malformed(f"The document has members nobody signed: {', '.join(sorted(unknown))}.")
    receipt = _members(outer.get("receipt"), "receipt")
    disclosures = receipt.get("disclosures")
    if not isinstance(disclosures, list):
        raise _malformed("receipt.disclosures is not a list.")
    items = cast("list[object]", disclosures)
    return _Document(
        view=_text(receipt.get("view"), "receipt.view"),
        call_id=_text(receipt.get("call_id"), "receipt.call_id"),
        fields={name: value for name, value in receipt.items() if name not in _ENVELOPE},
        disclosures=[_text(item, "a disclosure") for item in items],
        jws=_text(outer.get("jws"), "jws"),
        certificate=(
            _text(outer["certificate"], "certificate") if "certificate" in outer else None
        ),
    )


def _read_payload(text: str) -> tuple[CompactJws, ReceiptPayload]:
    try:
        jws = read_compact(text, RECEIPT_TYPE)
    except JwsMalformedError as error:
        raise _UnusableError(ProblemCode.JWS_MALFORMED, str(error)) from error
    try:
        payload = decode_json(jws.payload, ReceiptPayload)
        hashes = (payload.previous, payload.root)
        if any(len(from_base64url(text)) != LINK_BYTES for text in hashes):
            message = "prev and root are SHA-256 hashes of 32 bytes."
            raise _UnusableError(ProblemCode.PAYLOAD_MALFORMED, message)
    except JwsMalformedError as error:
        message = f"The signed payload is not a receipt's: {error}"
        raise _UnusableError(ProblemCode.PAYLOAD_MALFORMED, message) from error
    return jws, payload


class Signed(Protocol):
    """
    What every signed payload says of its signer.
    """

    @property
    def issuer(self) -> str: ...  # noqa: D102 - as in the payloads
    @property
    def issued_at_s(self) -> int: ...  # noqa: D102 - as in the payloads
    @property
    def lane(self) -> int: ...  # noqa: D102 - as in the payloads


def check_key(
    jws: CompactJws, payload: Signed, offered: str | None, keys: TrustedKeys
) -> Iterable[Problem]:
    """
    Yield what is wrong with a payload's key and signature.
    """
    kid = jws.header.kid
    try:
        certificate = keys.certificate_of(kid, offered=offered)
    except CertificateInvalidError as error:
        yield Problem(code=ProblemCode.CERTIFICATE_INVALID, message=str(error))
        return
    if certificate is None or certificate.kid != kid:
        message = f"No certificate for the signing key {kid} is at hand."
        yield Problem(code=ProblemCode.KEY_UNKNOWN, message=message)
        return
    yield from _check_certificate(certificate, payload)
    if not jws.is_signed_by(from_jwk(certificate.jwk)):
        message = "The signature is not by the key it names, or the payload was altered."
        yield Problem(code=ProblemCode.SIGNATURE_WRONG, message=message)


def _check_certificate(certificate: Certificate, payload: Signed) -> Iterable[Problem]:
    if certificate.lane != payload.lane:
        message = f"The key was not certified for lane {payload.lane}."
        yield Problem(code=ProblemCode.CERTIFICATE_FOR_OTHER_LANE, message=message)
    if not certificate.is_valid_at(payload.issued_at_s):
        message = "The key was not in use at that time."
        yield Problem(code=ProblemCode.KEY_NOT_VALID_THEN, message=message)
    if certificate.iss != payload.issuer:
        message = "It names another issuer than its key's certificate."
        yield Problem(code=ProblemCode.ISSUER_DIFFERS, message=message)


def _check_root(payload: ReceiptPayload) -> Iterable[Problem]:
    digests = payload.digests
    is_plain = (
        payload.digest_algorithm == DIGEST_ALGORITHM
        and 0 < len(digests) <= FIELDS_MAX
        and list(digests) == sorted(set(digests))
    )
    if not is_plain or to_base64url(root_of(digests)) != payload.root:
        message = "The digests are not what the root was made of."
        yield Problem(code=ProblemCode.ROOT_WRONG, message=message)


def _check_fields(receipt: _Document, payload: ReceiptPayload) -> Iterable[Problem]:
    if receipt.call_id != str(payload.call_id):
        message = "The call id shown is not the one that was signed."
        yield Problem(code=ProblemCode.CALL_ID_DIFFERS, message=message)
    disclosed: dict[str, object] = {}
    committed = frozenset(payload.digests)
    for text in receipt.disclosures:
        try:
            name, value = _open_disclosure(text, committed)
        except _UnusableError as error:
            yield error.problem
            continue
        if name in disclosed:
            message = f"{name} is disclosed more than once."
            yield Problem(code=ProblemCode.DISCLOSURE_REPEATED, message=message)
        disclosed[name] = value
    yield from _compare_fields(receipt.fields, disclosed)


def _open_disclosure(text: str, committed: frozenset[str]) -> tuple[str, object]:
    digest = to_base64url(sha256(text.encode("utf-8", "surrogatepass")).digest())
    if digest not in committed:
        message = "A disclosure is not among the signed digests."
        raise _UnusableError(ProblemCode.DISCLOSURE_NOT_COMMITTED, message)
    code = ProblemCode.DISCLOSURE_MALFORMED
    try:
        parts: object = json.loads(from_base64url(text))
    except (ValueError, RecursionError, JwsMalformedError) as error:
        raise _UnusableError(code, "A disclosure is not base64url of JSON.") from error
    items = cast("list[object]", parts) if isinstance(parts, list) else []
    if len(items) != 3 or not isinstance(items[0], str) or not isinstance(items[1], str):
        raise _UnusableError(code, "A disclosure is not [salt, name, value].")
    if items[1] in RESERVED_NAMES:
        raise _UnusableError(code, f"A field may not be named {items[1]}.")
    return items[1], items[2]


def _compare_fields(
    shown: Mapping[str, object], disclosed: Mapping[str, object]
) -> Iterable[Problem]:
    for name in shown.keys() - disclosed.keys():
        message = f"{name} is shown without a disclosure that proves it."
        yield Problem(code=ProblemCode.FIELD_NOT_DISCLOSED, message=message)
    for name in disclosed.keys() - shown.keys():
        message = f"{name} is disclosed but not shown."
        yield Problem(code=ProblemCode.FIELD_NOT_SHOWN, message=message)
    for name in shown.keys() & disclosed.keys():
        if not is_same_json(shown[name], disclosed[name]):
            message = f"{name} is not the value that was signed."
            yield Problem(code=ProblemCode.FIELD_DIFFERS, message=message)


def is_same_json(left: object, right: object) -> bool:
    """
    Tell whether two parsed values are the same JSON.
    """
    # Compared as text: in Python 1, 1.0 and True are equal, in a receipt they are not.
    try:
        return _canonical(left) == _canonical(right)
    except (ValueError, TypeError, RecursionError):
        return False


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _members(value: object, name: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _malformed(f"{name} is not a JSON object.")
    return cast("dict[str, object]", value)


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise _malformed(f"{name} is not text.")
    return value


def _malformed(message: str) -> _UnusableError:
    return _UnusableError(ProblemCode.DOCUMENT_MALFORMED, message)
