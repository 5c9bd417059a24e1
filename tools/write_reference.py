"""
Write docs/reference/ from the code: settings, error codes, commands; `make docs` runs it.

The words stand in the code (a setting's help, an error's docstring, a command's docstring),
so that the reference cannot say anything else than the program does.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import tokenworks
from tokenworks.foundation.errors import TokenworksError
from tokenworks.settings import ENVIRONMENT_PREFIX, FILE_NAME, RULES, Settings
from tools.tidy import find_commands

REFERENCE: Final = Path(__file__).resolve().parent.parent / "docs" / "reference"
NOTICE: Final = "Written by `make docs` from the code; change the code instead.\n"
HTTP_STATUSES: Final = {
    "invalid": 400,
    "unauthenticated": 401,
    "insufficient_funds": 402,
    "payment_required": 402,
    "forbidden": 403,
    "not_found": 404,
    "conflict": 409,
    "too_large": 413,
    "limit_exceeded": 429,
    "supplier_fault": 502,
    "unavailable": 503,
}


def main() -> int:
    """
    Write each page of the reference.
    """
    REFERENCE.mkdir(parents=True, exist_ok=True)
    for name, write in PAGES.items():
        (REFERENCE / name).write_text(write(), encoding="utf-8")
        print(f"docs/reference/{name}")
    return 0


def settings_page() -> str:
    """
    Return every setting with its default and meaning.
    """
    lines = [
        "# Settings",
        "",
        NOTICE,
        f"A setting comes from a command's flag, the environment, `{FILE_NAME}` in the data",
        "directory or the working directory (lower-case name without the prefix), or its",
        "default: the first that has it wins. `tokenworks config show` prints each with its",
        "source. An unknown name is an error.",
        "",
        "| environment | default | meaning |",
        "|---|---|---|",
    ]
    defaults = Settings()
    for name, rule in RULES.items():
        default = defaults.shown(name)
        shown = "none" if default in (None, []) else f"`{default}`"
        lines.append(f"| `{ENVIRONMENT_PREFIX}{name.upper()}` | {shown} | {rule.help} |")
    return "\n".join(lines) + "\n"


def errors_page() -> str:
    """
    Return every error code with its kind, HTTP status and meaning.
    """
    lines = [
        "# Error codes",
        "",
        NOTICE,
        "A code is stable; the message beside it is for people and may change. The kind decides",
        "the HTTP status (`idempotency_conflict` alone is 422).",
        "",
        "| code | kind | status | meaning |",
        "|---|---|--:|---|",
    ]
    rows = {row[0]: row for row in [*_raised_codes(), *_class_codes()]}
    for code, kind, meaning in sorted(rows.values()):
        lines.append(f"| `{code}` | {kind} | {HTTP_STATUSES.get(kind, '')} | {meaning} |")
    return "\n".join(lines) + "\n"


def _class_codes() -> Iterator[tuple[str, str, str]]:
    for error in _error_classes():
        if code := getattr(error, "code", None):
            yield str(code), str(error.kind), _first_paragraph(inspect.getdoc(error) or "")


def _raised_codes() -> Iterator[tuple[str, str, str]]:
    """
    Yield codes that have no class of their own, given where the error is raised.
    """
    kinds = {error.__name__: str(getattr(error, "kind", "")) for error in _error_classes()}
    root = Path(tokenworks.__path__[0])
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                codes = [word.value for word in node.keywords if word.arg == "code"]
                kind = kinds.get(ast.unparse(node.func).rpartition(".")[2], "")
                place = path.relative_to(root).as_posix()
                for code in codes:
                    if isinstance(code, ast.Constant) and isinstance(code.value, str):
                        yield code.value, kind, f"Its message says what is wrong (`{place}`)."


def _error_classes() -> list[type[TokenworksError]]:
    for module in pkgutil.walk_packages(tokenworks.__path__, "tokenworks."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found: list[type[TokenworksError]] = []
    waiting: list[type[TokenworksError]] = [TokenworksError]
    while waiting:
        error = waiting.pop()
        found.append(error)
        waiting += error.__subclasses__()
    # In an order of its own: that of imports differs from run to run, and two classes may have
    # one code, of which the later one here is shown.
    return sorted(found, key=lambda error: (error.__module__, error.__qualname__), reverse=True)


def commands_page() -> str:
    """
    Return every command as it is typed, with the first paragraph of its help.
    """
    lines = [
        "# Commands",
        "",
        NOTICE,
        "Each takes `--help`, which lists its options.",
        "",
        "| command | what it does |",
        "|---|---|",
    ]
    for name, text in find_commands():
        lines.append(f"| `{name}` | {_first_paragraph(text)} |")
    return "\n".join(lines) + "\n"


def _first_paragraph(text: str) -> str:
    return " ".join(text.split("\n\n", maxsplit=1)[0].split()).replace("|", "\\|")


PAGES: Final = {
    "settings.md": settings_page,
    "errors.md": errors_page,
    "commands.md": commands_page,
}

if __name__ == "__main__":
    sys.exit(main())
