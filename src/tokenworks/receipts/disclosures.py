"""
Check the fields that a reader is shown against the commitments that were signed.

Each disclosure is a committed ``[salt, name, value]``, and no field is opened twice; the fields
shown are exactly the fields disclosed, value for value as JSON. A commitment without a disclosure
is no error: a reader sees its own fields only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import cast

from tokenworks.receipts.errors import JwsMalformedError
from tokenworks.receipts.findings import Problem, ProblemCode, UnusableError
from tokenworks.receipts.jws import from_base64url, to_base64url
from tokenworks.receipts.model import RESERVED_NAMES


def check_fields(
    shown: Mapping[str, object], disclosures: Sequence[str], digests: Sequence[str]
) -> Iterable[Problem]:
    """
    Yield what is wrong with the fields that a reader is shown.

    Args:
        shown: The fields by name.
        disclosures: Each base64url of JSON ``[salt, name, value]``.
        digests: The commitments that were signed.
    """
    disclosed: dict[str, object] = {}
    committed = frozenset(digests)
    for text in disclosures:
        try:
            name, value = _open_disclosure(text, committed)
        except UnusableError as error:
            yield error.problem
            continue
        if name in disclosed:
            message = f"{name} is disclosed more than once."
            yield Problem(code=ProblemCode.DISCLOSURE_REPEATED, message=message)
        disclosed[name] = value
    yield from _compare_fields(shown, disclosed)


def _open_disclosure(text: str, committed: frozenset[str]) -> tuple[str, object]:
    digest = to_base64url(sha256(text.encode("utf-8", "surrogatepass")).digest())
    if digest not in committed:
        message = "A disclosure is not among the signed digests."
        raise UnusableError(ProblemCode.DISCLOSURE_NOT_COMMITTED, message)
    code = ProblemCode.DISCLOSURE_MALFORMED
    try:
        parts: object = json.loads(from_base64url(text))
    except (ValueError, RecursionError, JwsMalformedError) as error:
        raise UnusableError(code, "A disclosure is not base64url of JSON.") from error
    items = cast("list[object]", parts) if isinstance(parts, list) else []
    if len(items) != 3 or not isinstance(items[0], str) or not isinstance(items[1], str):
        raise UnusableError(code, "A disclosure is not [salt, name, value].")
    if items[1] in RESERVED_NAMES:
        raise UnusableError(code, f"A field may not be named {items[1]}.")
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
