"""
The examples of docs/sdk.md are Python, and what they import exists.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

from tokenworks.sdk import errors

DOCUMENT = (Path(__file__).parents[2] / "docs" / "sdk.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", DOCUMENT, flags=re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_example_imports_what_exists(block: str) -> None:
    """
    Each block parses, and each name that it imports is there.
    """
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module}.{alias.name}"


def test_every_error_is_explained() -> None:
    """
    Each error stands in the table with its code.
    """
    for name, error in inspect.getmembers(errors, inspect.isclass):
        if issubclass(error, errors.SdkError) and error is not errors.SdkError:
            assert f"| `{name}` | `{error.code}` |" in DOCUMENT


def test_every_method_of_the_client_is_explained() -> None:
    """
    Each method of ``HubClient`` stands in the table.
    """
    from tokenworks.sdk import HubClient

    for name, _ in inspect.getmembers(HubClient, inspect.isfunction):
        if not name.startswith("_") and name != "close":
            assert f"`{name}(" in DOCUMENT, name
