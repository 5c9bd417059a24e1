"""
Verify receipts offline, with nothing but the document and public keys.

Checks, in this order; a failed check of 1-2 ends the list, the others are all reported:

1. the document has exactly the members ``receipt``, ``jws`` and perhaps ``certificate``;
2. ``jws`` is a receipt's JWS and its payload has exactly the members of the format;
3. its key is certified by a trusted root, for this lane, at this time, by this issuer, and
4. made the signature (``signer_check``);
5. digests are sorted, single, and hash to the root;
6. each disclosure is a committed ``[salt, name, value]``, and no digest opens twice, and
7. the fields shown are exactly the fields disclosed (``disclosures``).

Then the links between the receipts of one lane (``lane_chain``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from tokenworks.receipts.disclosures import check_fields
from tokenworks.receipts.errors import JwsMalformedError
from tokenworks.receipts.findings import Problem, ProblemCode, UnusableError, Verification
from tokenworks.receipts.jws import (
    RECEIPT_TYPE,
    CompactJws,
    decode_json,
    from_base64url,
    read_compact,
    to_base64url,
)
from tokenworks.receipts.lane_chain import check_links
from tokenworks.receipts.model import (
    DIGEST_ALGORITHM,
    FIELDS_MAX,
    LINK_BYTES,
    ReceiptPayload,
    root_of,
)
from tokenworks.receipts.signer_check import check_key
from tokenworks.receipts.trust import TrustedKeys

_ENVELOPE: Final = ("view", "call_id", "disclosures")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    view: str
    call_id: str
    fields: Mapping[str, object]
    disclosures: Sequence[str]
    jws: str
    certificate: str | None


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
    except UnusableError as error:
        return Verification(source=source, problems=(error.problem,))
    problems = [
        *check_key(jws, payload, receipt.certificate, keys),
        *_check_root(payload),
        *_check_call(receipt, payload),
        *check_fields(receipt.fields, receipt.disclosures, payload.digests),
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
        raise UnusableError(ProblemCode.JWS_MALFORMED, str(error)) from error
    try:
        payload = decode_json(jws.payload, ReceiptPayload)
        hashes = (payload.previous, payload.root)
        if any(len(from_base64url(text)) != LINK_BYTES for text in hashes):
            message = "prev and root are SHA-256 hashes of 32 bytes."
            raise UnusableError(ProblemCode.PAYLOAD_MALFORMED, message)
    except JwsMalformedError as error:
        message = f"The signed payload is not a receipt's: {error}"
        raise UnusableError(ProblemCode.PAYLOAD_MALFORMED, message) from error
    return jws, payload


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


def _check_call(receipt: _Document, payload: ReceiptPayload) -> Iterable[Problem]:
    if receipt.call_id != str(payload.call_id):
        message = "The call id shown is not the one that was signed."
        yield Problem(code=ProblemCode.CALL_ID_DIFFERS, message=message)


def _members(value: object, name: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _malformed(f"{name} is not a JSON object.")
    return cast("dict[str, object]", value)


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise _malformed(f"{name} is not text.")
    return value


def _malformed(message: str) -> UnusableError:
    return UnusableError(ProblemCode.DOCUMENT_MALFORMED, message)
