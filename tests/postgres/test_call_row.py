"""
The text form of a call's row and the database's type are the same thing.
"""

from __future__ import annotations

import pytest

from tokenworks.gateway.call_row import COLUMNS
from tokenworks.postgres.composite import composite_text
from tokenworks.postgres.pool import Pool


async def test_columns_are_the_types_fields_in_its_order(pool: Pool) -> None:
    """
    A field that is added on one side only would shift all behind it.
    """
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'gateway.call_row'::regclass"
            " ORDER BY attnum"
        )
        fields = tuple(row[0] for row in await cursor.fetchall())

    assert fields == COLUMNS


@pytest.mark.parametrize(
    "text",
    ["plain", "", 'say "yes"', "back\\slash", "comma, (bracket)", "line\nbreak", "NULL", "中文 ✓"],
)
async def test_any_text_survives_the_composite_form(pool: Pool, text: str) -> None:
    """
    Quotes, backslashes and separators are data; an empty text is not NULL.
    """
    values = tuple(text if column == "model" else None for column in COLUMNS)

    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT (%s::gateway.call_row).model, (%s::gateway.call_row).tier",
            (composite_text(values), composite_text(values)),
        )
        row = await cursor.fetchone()

    assert row == (text, None)
