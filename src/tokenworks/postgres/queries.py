"""
Load named SQL from a package's ``queries.sql``.

A file is a list of statements, each under ``-- name: some_name`` and a sentence.
"""

from __future__ import annotations

import re
from importlib import resources
from typing import Final, LiteralString, cast

_NAME: Final = re.compile(r"^-- name: (?P<name>[a-z0-9_]+)$", re.MULTILINE)


class Queries:
    """
    The statements of one file, by name.
    """

    def __init__(self, statements: dict[str, LiteralString]) -> None:
        self._statements = statements

    def __getitem__(self, name: str) -> LiteralString:
        return self._statements[name]

    def __contains__(self, name: object) -> bool:
        return name in self._statements

    @property
    def names(self) -> frozenset[str]:
        """
        Return every statement's name.
        """
        return frozenset(self._statements)


def load(package: str, name: str = "queries.sql") -> Queries:
    """
    Read the named statements of ``package``.

    The text ships with the code, so it is safe to treat as a literal.

    Raises:
        ValueError: The same name stands twice in the file.
    """
    text = resources.files(package).joinpath(name).read_text(encoding="utf-8")
    marks = list(_NAME.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    statements: dict[str, LiteralString] = {}
    for mark, end in zip(marks, ends, strict=True):
        query = mark.group("name")
        if query in statements:
            message = f"{package}/{name} names {query!r} twice."
            raise ValueError(message)
        statements[query] = cast("LiteralString", text[mark.end() : end].strip().rstrip(";"))
    return Queries(statements)
