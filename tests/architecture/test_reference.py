"""
The reference is what `make docs` writes, today.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tools.write_reference import PAGES, REFERENCE


@pytest.mark.parametrize(("name", "write"), PAGES.items())
def test_reference_is_current(name: str, write: Callable[[], str]) -> None:
    """
    A changed setting, error or command comes with its line in the reference: run `make docs`.
    """
    assert (REFERENCE / name).read_text(encoding="utf-8") == write()
