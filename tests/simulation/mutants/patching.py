"""
Break a hub on purpose: in its SQL functions, or in its Python, never in `src` itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import LiteralString

import psycopg


class AnchorMissingError(Exception):
    """
    A function does not contain what was to be replaced: the mutant has to be anchored again.
    """


def patch_function(dsn: str, name: str, patches: Sequence[tuple[str, str]]) -> None:
    """
    Replace expressions in the body of a function.

    Args:
        dsn: A fresh database, as its owner.
        name: The function's name; one without a schema is of the schema ``ledger``.
        patches: (anchor, replacement) pairs; each anchor stands exactly once in the function.

    Raises:
        AnchorMissingError: An anchor is not there, or not only once.
    """
    schema, _, plain = name.rpartition(".")
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(
            "SELECT pg_get_functiondef(oid) FROM pg_proc "
            "WHERE proname = %s AND pronamespace = %s::regnamespace",
            (plain, schema or "ledger"),
        ).fetchone()
        if row is None:
            message = f"There is no function {name}."
            raise AnchorMissingError(message)
        definition = str(row[0])
        for anchor, replacement in patches:
            count = definition.count(anchor)
            if count != 1:
                message = f"{name} has {anchor!r} {count} times, not once."
                raise AnchorMissingError(message)
            definition = definition.replace(anchor, replacement)
        connection.execute(definition.encode())


def execute(dsn: str, statement: LiteralString) -> None:
    """
    Break a table of a fresh database, as its owner.
    """
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement)
