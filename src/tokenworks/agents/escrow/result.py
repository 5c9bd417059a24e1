"""
Results: read strictly, written in one way, checked against the declared schema; pure.

A result is JSON within I-JSON (RFC 7493): no name twice, no NaN, no infinity, whole numbers that
every reader of JSON holds exactly. Its canonical form is RFC 8785's, so that anybody can compute
the hash that a verifier signs and a receipt shows. ``attested`` and ``metered`` are the hub's:
there the claims of verifiers are put whose signatures are good, and what the hub itself metered.

The schema is JSON Schema 2020-12 without what could take long or reach elsewhere: no patterns,
no references, no combinations.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn, cast

import jsonschema
import msgspec

from tokenworks.agents.escrow.errors import (
    ResultInvalidError,
    ResultTooLargeError,
    TermsInvalidError,
)
from tokenworks.agents.escrow.model import RESULT_BYTES_MAX, JsonObject

WHOLE_NUMBER_MAX: Final = 2**53 - 1
NESTING_MAX: Final = 32
VALUES_MAX: Final = 10_000
ATTESTED: Final = "attested"
"""The member that holds what verifiers attest; nobody submits it."""
METERED: Final = "metered"
"""The member that holds what the hub metered in the payee's calls; nobody submits it."""

SCHEMA_BYTES_MAX: Final = 16 * 1024
SCHEMA_NESTING_MAX: Final = 12
FAULT_CHARACTERS_MAX: Final = 200
_MARKS: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
"""Brackets, and whole texts so that brackets in them do not count; an open text ends it all."""
_SCHEMA_WORDS: Final = frozenset(
    {"$schema", "title", "description", "type", "properties", "required", "additionalProperties"}
    | {"items", "enum", "const", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
    | {"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"}
)


def check_result(value: object) -> bytes:
    """
    Return a result in its canonical form.

    Args:
        value: As ``read_strictly`` gave it.

    Raises:
        ResultTooLargeError: It has more than ``RESULT_BYTES_MAX`` bytes.
        ResultInvalidError: It is no JSON object, or names what only the hub fills in.
    """
    if not isinstance(value, dict):
        raise _invalid("A result is a JSON object.")
    if ATTESTED in value:
        raise _invalid(f"{ATTESTED!r} is filled in from signatures; a result does not have it.")
    if METERED in value:
        raise _invalid(f"{METERED!r} is filled in from the calls; a result does not have it.")
    content = canonical(cast("dict[str, object]", value))
    if len(content) > RESULT_BYTES_MAX:
        raise ResultTooLargeError(f"A result has at most {RESULT_BYTES_MAX} bytes.", param="result")
    return content


def read_strictly(content: bytes) -> object:
    """
    Parse JSON within the limits of a result.

    Raises:
        ResultInvalidError: Not JSON, a name twice, a number that is none, too deep or too many.
    """
    _check_nesting(content)
    try:
        value = json.loads(
            content.decode(),
            object_pairs_hook=_object_of,
            parse_constant=_refuse_constant,
            parse_int=_whole_number,
            parse_float=_number,
        )
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise _invalid(f"This is no JSON: {error}.") from error
    if sum(1 for _ in _values(value)) > VALUES_MAX:
        raise _invalid(f"A result has at most {VALUES_MAX} values.")
    return value


def canonical(value: object) -> bytes:
    """
    Return JSON in the form of RFC 8785: members sorted, no spaces, one spelling of each value.
    """
    parts: list[str] = []
    _write(value, parts)
    return "".join(parts).encode()


def sha256_hex(content: bytes) -> str:
    """
    Return SHA-256 in hexadecimal, as ``sha256sum`` prints it.
    """
    return hashlib.sha256(content).hexdigest()


def document_of(
    result: Mapping[str, object],
    attested: Mapping[str, JsonObject],
    metered: JsonObject | None = None,
) -> bytes:
    """
    Return what a condition is evaluated over.

    Args:
        result: As it was submitted.
        attested: What its verifiers claim.
        metered: What the hub metered; ``None``: no call was named, and there is no such member.
    """
    known = {} if metered is None else {METERED: metered}
    return canonical({**result, ATTESTED: attested, **known})


def check_schema(schema: JsonObject) -> None:
    """
    Refuse a schema that could take long, reach elsewhere or describe no object.

    Raises:
        TermsInvalidError: It breaks a rule.
    """
    if len(msgspec.json.encode(schema)) > SCHEMA_BYTES_MAX:
        raise _bad_schema(f"has more than {SCHEMA_BYTES_MAX} bytes")
    _check_words(schema, depth=1)
    try:
        jsonschema.Draft202012Validator.check_schema(dict(schema))
    except jsonschema.SchemaError as error:
        raise _bad_schema(f"is none: {error.message[:FAULT_CHARACTERS_MAX]}") from error
    if schema.get("type", "object") != "object":
        raise _bad_schema("describes an object")
    required = cast("Sequence[str]", schema.get("required", ()))
    properties = cast("JsonObject", schema.get("properties", {}))
    named = {*required, *properties}
    for name in (ATTESTED, METERED):
        if name in named:
            raise _bad_schema(
                f"names {name!r}, which the hub fills in after the result is checked: a condition"
                f" reads result.{name}, no result has it"
            )


def validate(result: Mapping[str, object], schema: JsonObject) -> None:
    """
    Refuse a result that is not as its schema says. O(values).

    Raises:
        ResultInvalidError: The message names the first place.
    """
    validator: Any = jsonschema.Draft202012Validator(dict(schema))
    for fault in validator.iter_errors(dict(result)):
        place = "result" + "".join(f"[{part!r}]" for part in fault.absolute_path)
        message = f"{place}: {fault.message[:FAULT_CHARACTERS_MAX]}"
        raise _invalid(message, code="result_schema")


# ---------------------------------------------------------------------- reading


def _check_nesting(content: bytes) -> None:
    """
    Count brackets outside texts, before a parser would run out of its stack.
    """
    depth = 0
    for mark in _MARKS.finditer(content):
        first = mark.group()[:1]
        if first in {b"[", b"{"}:
            depth += 1
            if depth > NESTING_MAX:
                raise _invalid(f"A result is nested at most {NESTING_MAX} deep.")
        elif first != b'"':
            depth -= 1


def _object_of(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _invalid(f"The member {twice[:64]!r} is there twice.")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise _invalid(f"{name} is no number.")


def _whole_number(text: str) -> int:
    if len(text) > 17 or abs(int(text)) > WHOLE_NUMBER_MAX:
        message = "Whole numbers go to 2^53 - 1; write larger ones, and amounts, as text."
        raise _invalid(message)
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _invalid(f"{text[:32]} is too large a number.")
    return value


def _values(value: object) -> Iterator[object]:
    waiting: list[object] = [value]
    while waiting:
        following = waiting.pop()
        yield following
        if isinstance(following, dict):
            waiting.extend(cast("dict[str, object]", following).values())
        elif isinstance(following, list):
            waiting.extend(cast("list[object]", following))


# ---------------------------------------------------------------------- writing


def _write(value: object, parts: list[str]) -> None:
    if isinstance(value, Mapping):
        members = cast("Mapping[str, object]", value)
        parts.append("{")
        # RFC 8785 sorts by UTF-16 code units, not by code points.
        names = sorted(members, key=lambda name: name.encode("utf-16-be", "surrogatepass"))
        for place, name in enumerate(names):
            parts.append("," * (place > 0) + _text(name) + ":")
            _write(members[name], parts)
        parts.append("}")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        parts.append("[")
        for place, item in enumerate(cast("Sequence[object]", value)):
            parts.append("," * (place > 0))
            _write(item, parts)
        parts.append("]")
    else:
        parts.append(_scalar(value))


def _scalar(value: object) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, float):
        return _float(value)
    assert value is None or isinstance(value, bool | int), "read_strictly makes nothing else"
    return json.dumps(value)


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _invalid("A text has half of a character (a lone surrogate).") from error
    return json.dumps(value, ensure_ascii=False)


def _float(value: float) -> str:
    """
    Write a number as ECMAScript does (RFC 8785, section 3.2.2.3).
    """
    if value == 0:
        return "0"
    mantissa, _, exponent_text = f"{value!r}e0".partition("e")
    exponent = int(exponent_text.partition("e")[0])
    sign = "-" if mantissa.startswith("-") else ""
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + exponent - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    count = len(digits)
    if count <= point <= 21:
        return sign + digits + "0" * (point - count)
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    shown = digits[0] + (f".{digits[1:]}" if count > 1 else "")
    return f"{sign}{shown}e{'+' if point > 0 else '-'}{abs(point - 1)}"


# ---------------------------------------------------------------------- the schema


def _check_words(schema: object, *, depth: int) -> None:
    if depth > SCHEMA_NESTING_MAX:
        raise _bad_schema(f"is nested more than {SCHEMA_NESTING_MAX} deep")
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        raise _bad_schema("is made of objects")
    members = cast("Mapping[str, object]", schema)
    for word, value in members.items():
        if word not in _SCHEMA_WORDS:
            raise _bad_schema(f"may not use {word[:64]!r}")
        if word == "properties" and isinstance(value, Mapping):
            for part in cast("Mapping[str, object]", value).values():
                _check_words(part, depth=depth + 1)
        elif word in {"items", "additionalProperties"}:
            _check_words(value, depth=depth + 1)


def _bad_schema(fault: str) -> TermsInvalidError:
    return TermsInvalidError(f"The result's schema {fault}.", param="result_schema")


def _invalid(message: str, *, code: str | None = None) -> ResultInvalidError:
    return ResultInvalidError(message, code=code, param="result")
