"""
How identifiers are written.
"""

from __future__ import annotations

from uuid import UUID

import pytest

from tokenworks.foundation.identifiers import identifier_text


@pytest.mark.parametrize("number", [0, 1, 0x019C0000000070008000000000000001, 2**128 - 1])
def test_text_of_an_identifier_is_what_str_returns(number: int) -> None:
    """
    The remembered text is the canonical one, the first time and every time after.
    """
    identifier = UUID(int=number)
    assert identifier_text(identifier) == str(identifier)
    assert identifier_text(UUID(int=number)) == str(identifier)
