"""
The direction between the folders, checked where the tests run too.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[2]
CONSOLE = "tokenworks.web.console"
CONSOLE_MAY_IMPORT = (CONSOLE, "tokenworks.foundation")


def test_imports_go_down_the_list_only() -> None:
    """
    import-linter keeps the layers of pyproject.toml, exhaustively.
    """
    answer = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_console_is_a_client_of_the_hub_api() -> None:
    """
    The console imports nothing of the hub but words and value types: it asks the hub API.
    """
    graph = grimp.build_graph("tokenworks", cache_dir=None)
    assert CONSOLE in graph.modules

    imported = {
        name
        for module in graph.find_descendants(CONSOLE) | {CONSOLE}
        for name in graph.find_modules_directly_imported_by(module)
    }

    assert {name for name in imported if not name.startswith(CONSOLE_MAY_IMPORT)} == set()


def test_foundation_imports_nothing_of_the_rest() -> None:
    """
    The bottom line stands alone.
    """
    graph = grimp.build_graph("tokenworks", cache_dir=None)
    foundation = graph.find_descendants("tokenworks.foundation") | {"tokenworks.foundation"}

    imported = {
        name for module in foundation for name in graph.find_modules_directly_imported_by(module)
    }

    assert imported <= foundation
