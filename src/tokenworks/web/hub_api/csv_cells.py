"""
Write values as cells of a CSV file that people open in a spreadsheet.
"""

from __future__ import annotations

from typing import Final

FORMULA_MARKS: Final = ("=", "+", "-", "@", "\t", "\r")


def to_cell(value: object) -> str:
    """
    Return a value as a cell's text; ``None`` is empty.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    # A spreadsheet would run such a text as a formula; numbers never begin that way here.
    return f"'{text}" if text.startswith(FORMULA_MARKS) else text
