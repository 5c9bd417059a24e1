"""
Break a hub on purpose: in its SQL functions, or in its Python, never in `src` itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import psycopg


class AnchorMissingError(Exception):
    """
    A function does not contain what was to be replaced: the mutant has to be anchored again.
    """


def patch_function(dsn: str, name: str, patches: Sequence[tuple[str, str]]) -> None:
    """
    Replace expressions in the body of a function of the schema ``ledger``.

    Args:
        dsn: A fresh database, as its owner.
        name: The function's name, without the schema.
        patches: (anchor, replacement) pairs; each anchor stands exactly once in the function.

    Raises:
        AnchorMissingError: An anchor is not there, or not only once.
    """
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(
            "SELECT pg_get_functiondef(oid) FROM pg_proc "
            "WHERE proname = %s AND pronamespace = 'ledger'::regnamespace",
            (name,),
        ).fetchone()
        if row is None:
            message = f"There is no function ledger.{name}."
            raise AnchorMissingError(message)
        definition = str(row[0])
        for anchor, replacement in patches:
            count = definition.count(anchor)
            if count != 1:
                message = f"ledger.{name} has {anchor!r} {count} times, not once."
                raise AnchorMissingError(message)
            definition = definition.replace(anchor, replacement)
        connection.execute(definition.encode())
