"""
What a condition may say: checked by its text alone, before anybody evaluates it; pure.

The engine offers no syntax tree, so the text is cut into tokens here. The rules keep a condition
small (bytes, nesting, one level of comprehensions), deterministic (a closed list of functions,
one variable) and exact: without conversions no binary float can become the whole numbers of a
share. Numbers with a point may be compared, never paid by.

Order of the checks: size, tokens, brackets, names, functions, comprehensions, verifiers.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from tokenworks.agents.escrow.errors import ConditionInvalidError
from tokenworks.agents.escrow.model import CONDITION_BYTES_MAX

NESTING_MAX: Final = 32
COMPREHENSIONS_MAX: Final = 8
"""In one condition, side by side; never one within another."""

COMPREHENSIONS: Final = frozenset({"all", "exists", "exists_one", "map", "filter"})
FUNCTIONS: Final = frozenset(
    {"has", "size", "contains", "startsWith", "endsWith", "matches", "type", "timestamp"}
    | {"duration", "getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek"}
    | {"getDayOfYear", "getHours", "getMinutes", "getSeconds", "getMilliseconds"}
)
_NAMES: Final = frozenset(
    {"result", "true", "false", "null", "in"}
    | {"int", "uint", "double", "bool", "string", "bytes", "list", "map", "null_type"}
)
_OPENING: Final = {"(": ")", "[": "]", "{": "}"}

_TOKEN: Final = re.compile(
    r"""
    (?P<space>[ \t\r\n\f]+|//[^\n]*)
  | (?P<text>[rRbB]{0,2}(?:\"\"\"(?:[^\\]|\\.)*?\"\"\"|'''(?:[^\\]|\\.)*?'''
                          |"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'))
  | (?P<number>0[xX][0-9a-fA-F]+[uU]?|(?:[0-9]+\.[0-9]+|\.[0-9]+|[0-9]+)(?:[eE][+-]?[0-9]+)?[uU]?)
  | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
  | (?P<mark>&&|\|\||<=|>=|==|!=|[-+*/%!<>?:.,()\[\]{}])
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Token:
    """
    One word, number, text or mark of a condition.
    """

    kind: str
    text: str


def condition_sha256(condition: str) -> str:
    """
    Return the hash that names a condition, hexadecimal.
    """
    return hashlib.sha256(condition.encode()).hexdigest()


def check_condition(condition: str, verifiers: Collection[str]) -> frozenset[str]:
    """
    Return the verifiers that a condition asks for.

    Args:
        condition: CEL over ``result``.
        verifiers: Names the terms know.

    Raises:
        ConditionInvalidError: It breaks a rule; the message says which.
    """
    if len(condition.encode()) > CONDITION_BYTES_MAX:
        raise _invalid(f"A condition has at most {CONDITION_BYTES_MAX} bytes.")
    if not condition.strip():
        raise _invalid("A condition says something; one that is always met is 'true'.")
    tokens = tokens_of(condition)
    _check_brackets(tokens)
    _check_names(tokens)
    _check_functions(tokens)
    _check_comprehensions(tokens)
    named = verifiers_named(tokens)
    unknown = named - set(verifiers)
    if unknown:
        raise _invalid(f"The terms have no verifier {min(unknown)!r}.")
    return named


def tokens_of(condition: str) -> list[Token]:
    """
    Cut a condition into tokens, without spaces and comments.

    Raises:
        ConditionInvalidError: Some character belongs to no token.
    """
    tokens: list[Token] = []
    place = 0
    while place < len(condition):
        found = _TOKEN.match(condition, place)
        if found is None:
            message = f"A condition cannot have {condition[place]!r} (character {place + 1})."
            raise _invalid(message)
        place = found.end()
        assert found.lastgroup is not None, "each way of matching has a name"
        if found.lastgroup != "space":
            tokens.append(Token(found.lastgroup, found.group()))
    return tokens


def verifiers_named(tokens: Sequence[Token]) -> frozenset[str]:
    """
    Return whose attestations a condition reads: ``result.attested.<name>``.

    Raises:
        ConditionInvalidError: It reads ``attested`` without naming a verifier, so nobody could
            say whom it waits for.
    """
    names: set[str] = set()
    texts = [token.text for token in tokens]
    for place, token in enumerate(tokens):
        is_field = token.text == "attested" and _follows_dot(tokens, place)
        if texts[place : place + 2] == ["result", "["]:
            # An index could spell 'attested' in a way that nobody sees here.
            raise _invalid("Fields of the result are written result.<field>, not result[..].")
        if not is_field:
            continue
        if texts[place + 1 : place + 2] != ["."] or place + 2 >= len(tokens):
            raise _invalid("After result.attested comes the name of a verifier.")
        names.add(texts[place + 2])
    return frozenset(names)


def presence_asked(condition: str) -> bool:
    """
    Return whether a condition asks if an attestation is there: ``has(result.attested..)``.

    Only such a condition can be false, without an error, *because* a verifier is silent.
    """
    texts = [token.text for token in tokens_of(condition)]
    wanted = ["has", "(", "result", ".", "attested"]
    return any(texts[place : place + 5] == wanted for place in range(len(texts)))


def _check_brackets(tokens: Sequence[Token]) -> None:
    expected: list[str] = []
    for token in tokens:
        if token.kind != "mark":
            continue
        if token.text in _OPENING:
            expected.append(_OPENING[token.text])
            if len(expected) > NESTING_MAX:
                raise _invalid(f"Brackets are nested at most {NESTING_MAX} deep.")
        elif token.text in {")", "]", "}"} and (not expected or expected.pop() != token.text):
            raise _invalid(f"A bracket {token.text!r} closes nothing.")
    if expected:
        raise _invalid(f"A bracket is not closed; {expected[-1]!r} is missing.")


def _check_names(tokens: Sequence[Token]) -> None:
    """
    Only ``result``, the words of the language and the names that a comprehension makes.
    """
    made = {
        tokens[place + 2].text
        for place, token in enumerate(tokens[:-2])
        if _is_comprehension(tokens, place) and tokens[place + 2].kind == "name"
        if token.text in COMPREHENSIONS
    }
    if "result" in made:
        raise _invalid("A comprehension may not call its variable 'result'.")
    for place, token in enumerate(tokens):
        if token.kind != "name" or _follows_dot(tokens, place) or _is_called(tokens, place):
            continue
        if token.text not in _NAMES and token.text not in made:
            raise _invalid(f"There is no {token.text!r}; the variable of a condition is 'result'.")


def _check_functions(tokens: Sequence[Token]) -> None:
    for place, token in enumerate(tokens):
        if token.kind != "name" or not _is_called(tokens, place):
            continue
        if token.text in COMPREHENSIONS and _follows_dot(tokens, place):
            continue
        if token.text not in FUNCTIONS:
            allowed = ", ".join(sorted(FUNCTIONS | COMPREHENSIONS))
            raise _invalid(f"A condition has no function {token.text!r}; it has {allowed}.")


def _check_comprehensions(tokens: Sequence[Token]) -> None:
    inside: list[bool] = []  # for each open bracket: does it belong to a comprehension?
    count = 0
    for place, token in enumerate(tokens):
        if token.kind != "mark":
            continue
        if token.text in _OPENING:
            begins = token.text == "(" and place > 0 and _is_comprehension(tokens, place - 1)
            if begins and any(inside):
                message = "A comprehension (all, exists, map, ..) may not stand within another."
                raise _invalid(message)
            count += begins
            inside.append(begins)
        elif token.text in {")", "]", "}"}:
            inside.pop()
    if count > COMPREHENSIONS_MAX:
        raise _invalid(f"A condition has at most {COMPREHENSIONS_MAX} comprehensions.")


def _is_comprehension(tokens: Sequence[Token], place: int) -> bool:
    is_named = tokens[place].kind == "name" and tokens[place].text in COMPREHENSIONS
    return is_named and _follows_dot(tokens, place) and _is_called(tokens, place)


def _follows_dot(tokens: Sequence[Token], place: int) -> bool:
    return place > 0 and tokens[place - 1].text == "." and tokens[place - 1].kind == "mark"


def _is_called(tokens: Sequence[Token], place: int) -> bool:
    following = tokens[place + 1 : place + 2]
    return bool(following) and following[0].kind == "mark" and following[0].text == "("


def _invalid(message: str) -> ConditionInvalidError:
    return ConditionInvalidError(message, param="condition")
