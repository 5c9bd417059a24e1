"""
Write a row as PostgreSQL reads a composite value.

The ledger's riders turn these texts into rows by the type's own input functions, which is about
a fifth of what taking a JSON document apart costs the database. Format: "Composite Type Input
and Output Syntax" in the PostgreSQL manual.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

Value = str | int | float | bool | UUID | None


def composite_text(values: Iterable[Value]) -> str:
    """
    Return values in the order of a type's fields as the text of one composite value.
    """
    return "(" + ",".join([_field(value) for value in values]) + ")"


def _field(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '""') + '"'
    if isinstance(value, bool):
        return "t" if value else "f"
    return str(value)
