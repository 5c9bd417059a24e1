"""
Addenda: what became known of a call after its receipt, signed, numbered, never edited.

A receipt says of energy only that it is pending. An addendum names the receipt by its root and
says the joules; a correction is the next number and names the one it supersedes. Checks of one:

1. the document has exactly the members ``addendum``, ``jws`` and perhaps ``certificate``;
2. ``jws`` is an addendum's and its payload has exactly the members of the format;
3. its key is certified by a trusted root, for this lane, at this time, by this issuer;
4. the signature; 5. what is shown is what was signed; 6. it supersedes the number before it.

Then, between what is at hand: it names the root of its call's receipt, and no number of a call has
two contents. That the receipt is not here, or that a later number is, is a remark.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final, cast
from uuid import UUID

import msgspec

from tokenworks.receipts.disclosures import is_same_json
from tokenworks.receipts.errors import JwsMalformedError
from tokenworks.receipts.findings import Problem, ProblemCode, Verification
from tokenworks.receipts.jws import (
    ADDENDUM_TYPE,
    CompactJws,
    decode_json,
    from_base64url,
    read_compact,
    to_base64url,
)
from tokenworks.receipts.model import LINK_BYTES
from tokenworks.receipts.signer_check import check_key
from tokenworks.receipts.signing import LaneSigner
from tokenworks.receipts.trust import TrustedKeys

ADDENDUM_VIEW: Final = "addendum"
_MEMBERS: Final = frozenset({"addendum", "jws", "certificate"})


class EnergyStatement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """
    Joules of one call; amounts are decimal text, because they may pass 2^53.
    """

    energy_uj: str
    prefill_uj: str  # parts of it; what neither has is not told apart
    decode_uj: str
    method: str  # how it was divided among calls
    source: str  # measured, or model: computed from CPU time
    boundary: str  # what the meter sees
    is_whole: bool  # every moment of the call was validly metered
    # Where the engine's step log told them: attention over what was before, part of the idle floor.
    context_uj: str | msgspec.UnsetType = msgspec.UNSET
    residency_uj: str | msgspec.UnsetType = msgspec.UNSET


class EmissionStatement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """
    What that energy emitted, by the operator's grid factor; rounded down.
    """

    co2e_ug: str
    g_per_kwh: str
    source: str  # who gives the factor, in the operator's words
    method: str  # location_based or market_based (GHG Protocol, Scope 2)


class AddendumPayload(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    rename={"issued_at_s": "iat", "issuer": "iss"},
):
    """
    What the lane's key signs; the order of the members is part of the format.
    """

    issuer: str
    issued_at_s: int
    call_id: UUID
    lane: int  # of the process that signs, not of the receipt
    receipt: str  # the receipt's root, base64url
    number: int  # from 1
    supersedes: int | None  # the number before; ``None``: it is the first
    energy: EnergyStatement
    emissions: EmissionStatement | None


def sign_addendum(payload: AddendumPayload, signer: LaneSigner) -> str:
    """
    Return the addendum's compact JWS.
    """
    assert payload.lane == signer.lane, "a lane's key signs only for its lane"
    assert payload.issuer == signer.issuer, "a key signs for its own hub"
    return signer.sign_statement(msgspec.json.encode(payload), jws_type=ADDENDUM_TYPE)


def present_addendum(jws: str, *, certificate: str) -> dict[str, object]:
    """
    Return the document a reader gets of an addendum that was signed.
    """
    payload = read_compact(jws, ADDENDUM_TYPE).payload
    return {"addendum": msgspec.json.decode(payload), "jws": jws, "certificate": certificate}


def is_addendum(document: object) -> bool:
    """
    Tell whether a document is meant to be an addendum.
    """
    return isinstance(document, dict) and "addendum" in document


def verify_addendum(document: object, keys: TrustedKeys, *, source: str = "") -> Verification:
    """
    Return what is right and wrong about one addendum; never raises for bad input.
    """
    assert is_addendum(document), "asked before"
    outer = cast("dict[str, object]", document)
    text, certificate = outer.get("jws"), outer.get("certificate")
    if (
        not outer.keys() <= _MEMBERS
        or not isinstance(text, str)
        or not isinstance(certificate, str | None)
    ):
        message = "An addendum has the members addendum, jws and perhaps certificate, no others."
        return _refused(source, ProblemCode.DOCUMENT_MALFORMED, message)
    try:
        jws = read_compact(text, ADDENDUM_TYPE)
    except JwsMalformedError as error:
        return _refused(source, ProblemCode.JWS_MALFORMED, str(error))
    try:
        payload = decode_json(jws.payload, AddendumPayload)
        root = from_base64url(payload.receipt)
    except JwsMalformedError as error:
        message = f"The signed payload is not an addendum's: {error}"
        return _refused(source, ProblemCode.PAYLOAD_MALFORMED, message)
    shown = outer["addendum"]
    return Verification(
        source=source,
        problems=tuple(_find_problems(jws, payload, shown, certificate, keys)),
        view=ADDENDUM_VIEW,
        call_id=str(payload.call_id),
        lane=payload.lane,
        issued_at_s=payload.issued_at_s,
        issuer=payload.issuer,
        kid=jws.header.kid,
        root=root,
        number=payload.number,
        fields=cast("dict[str, object]", msgspec.to_builtins(payload)),
    )


def _find_problems(
    jws: CompactJws,
    payload: AddendumPayload,
    shown: object,
    certificate: str | None,
    keys: TrustedKeys,
) -> Iterable[Problem]:
    yield from check_key(jws, payload, certificate, keys)
    if len(from_base64url(payload.receipt)) != LINK_BYTES:
        message = "It does not name a receipt's root."
        yield Problem(code=ProblemCode.PAYLOAD_MALFORMED, message=message)
    # Both come as parsed JSON, so a member that is shown and was not signed is seen too.
    if not is_same_json(shown, msgspec.json.decode(jws.payload)):
        message = "What is shown is not what was signed."
        yield Problem(code=ProblemCode.FIELD_DIFFERS, message=message)
    before = None if payload.number == 1 else payload.number - 1
    if payload.number < 1 or payload.supersedes != before:
        message = f"Number {payload.number} does not supersede the number before it."
        yield Problem(code=ProblemCode.ADDENDUM_MISNUMBERED, message=message)


def check_addenda(verifications: Sequence[Verification]) -> list[Verification]:
    """
    Add what is wrong between addenda and receipts that are right by themselves.
    """
    roots: dict[tuple[str | None, str | None], bytes | None] = {}
    latest: dict[tuple[str | None, str | None], int] = {}
    contents: dict[tuple[str | None, str | None, int], object] = {}
    for one in verifications:
        key = (one.issuer, one.call_id)
        if not one.ok:
            continue
        if one.number is None:
            roots[key] = one.root
        else:
            latest[key] = max(latest.get(key, 0), one.number)
            contents.setdefault((*key, one.number), one.fields)
    found: list[Verification] = []
    for one in verifications:
        if one.number is None or not one.ok:
            found.append(one)
            continue
        key = (one.issuer, one.call_id)
        problems: list[Problem] = []
        notes: list[Problem] = []
        if key not in roots:
            message = "The receipt it belongs to is not here."
            notes.append(Problem(code=ProblemCode.RECEIPT_NOT_HERE, message=message))
        elif roots[key] != one.root:
            shown = "none" if one.root is None else to_base64url(one.root)
            message = f"It names the receipt {shown}, which is not the one of its call."
            problems.append(Problem(code=ProblemCode.ADDENDUM_OF_OTHER_RECEIPT, message=message))
        if not is_same_json(contents[*key, one.number], one.fields):
            message = f"Number {one.number} of this call has two contents."
            problems.append(Problem(code=ProblemCode.ADDENDUM_FORKED, message=message))
        if latest[key] > one.number:
            message = f"Number {latest[key]} supersedes it."
            notes.append(Problem(code=ProblemCode.ADDENDUM_SUPERSEDED, message=message))
        found.append(replace(one, problems=(*one.problems, *problems), notes=(*one.notes, *notes)))
    return found


def _refused(source: str, code: ProblemCode, message: str) -> Verification:
    return Verification(
        source=source, view=ADDENDUM_VIEW, problems=(Problem(code=code, message=message),)
    )
