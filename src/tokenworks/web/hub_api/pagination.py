"""
Cursors: opaque text that says where a list goes on.

A cursor is the sort position of the last row handed out, so rows added meanwhile neither
repeat nor hide others.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import TypeVar
from uuid import UUID

from tokenworks.foundation.limits import PAGE_ROWS_MAX
from tokenworks.web.hub_api.errors import InvalidCursorError

_Row = TypeVar("_Row")


def to_cursor(position: str) -> str:
    """
    Return a position as URL-safe text.
    """
    return base64.urlsafe_b64encode(position.encode()).decode().rstrip("=")


def from_cursor(cursor: str) -> str:
    """
    Return the position in a cursor.

    Raises:
        InvalidCursorError: The text was not made by ``to_cursor``.
    """
    padded = cursor + "=" * (-len(cursor) % 4)
    try:
        return base64.b64decode(padded, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        message = "The cursor is not one that this list handed out."
        raise InvalidCursorError(message, param="cursor") from error


def cut_page(
    rows: Sequence[_Row], *, position: Callable[[_Row], str], cursor: str | None, limit: int
) -> tuple[list[_Row], str | None]:
    """
    Return one page of a list that is small enough to be held whole, and the next cursor.

    Rows are ordered by ``position``, which must be unique. O(n log n).
    """
    assert 1 <= limit <= PAGE_ROWS_MAX, "the query model bounds the limit"
    ordered = sorted(rows, key=position)
    if cursor is not None:
        after = from_cursor(cursor)
        ordered = [row for row in ordered if position(row) > after]
    page = ordered[:limit]
    has_more = len(ordered) > limit
    return page, to_cursor(position(page[-1])) if has_more else None


def from_cursor_id(cursor: str) -> UUID:
    """
    Return the id in a cursor.

    Raises:
        InvalidCursorError: The cursor does not hold one.
    """
    try:
        return UUID(from_cursor(cursor))
    except ValueError as error:
        message = "The cursor is not one that this list handed out."
        raise InvalidCursorError(message, param="cursor") from error
