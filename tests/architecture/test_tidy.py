"""
Each house rule of tools/tidy.py with examples it must accept and examples it must report.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import pytest
import typer

from tools import tidy
from tools.tidy import SOURCE, File, Finding

Rule = Callable[[File], Iterator[Finding]]
INTRODUCTION = '"""\nX.\n\nOwns: a.\nDoes not own: b.\nInvariants: c.\n"""\n'
# In pieces, or the rule about addresses would find this file.
REGISTRY = "https://py" + "pi.org/project/x"
MACHINE_PATH = "see /wo" + "rk/main"
NEIGHBOUR = "../sha" + "red/notes.md"


def source(text: str, path: str = "ledger/service.py") -> File:
    """
    Return a shipped file.
    """
    return File(path=SOURCE + path, text=text)


def browser_test(text: str) -> File:
    """
    Return a test of a page.
    """
    return File(path="tests/console/test_page.py", text=text)


ACCEPTED: list[tuple[Rule, File]] = [
    (tidy.find_banned_names, source("", "ledger/writer.py")),
    (tidy.find_banned_names, File(path="docs/database.md", text="")),
    (tidy.find_private_addresses, File(path="README.md", text="https://www.postgresql.org/docs")),
    (
        tidy.find_private_addresses,
        File(path="Makefile", text="at work/life, teamwork/x, $D/work/x"),
    ),
    (tidy.find_bare_ignores, source("x = 1  # noqa: S108 - the path must be short")),
    (tidy.find_bare_ignores, source("# The port has no stub.\nx = y()  # type: ignore[no-any]")),
    (
        tidy.find_bare_ignores,
        source("x = y()  # pyright: ignore[reportAny] # parsed JSON, see below"),
    ),
    (tidy.find_bare_ignores, source('pattern = "# noqa"')),
    (tidy.find_hidden_inputs, source("moment = clock.now()\nkey = ids.mint()")),
    (tidy.find_hidden_inputs, source("datetime.now(UTC)", "foundation/clock.py")),
    (tidy.find_hidden_inputs, source("import random", "testing/weather.py")),
    (tidy.find_hidden_inputs, source("time.perf_counter()")),
    (tidy.find_foreign_stores, source("from tokenworks.ledger.store import read")),
    (tidy.find_foreign_stores, source("from tokenworks.supply.service import Supply")),
    (tidy.find_hasty_reads, browser_test("expect(page.locator('p')).to_have_count(2)")),
    (tidy.find_hasty_reads, browser_test("read(lambda: rows.count(), until=bool)")),
    (tidy.find_hasty_reads, browser_test("read(rows.all_inner_texts, until=bool)")),
    (
        tidy.find_hasty_reads,
        browser_test("def look():\n    return rows.count()\nread(look, until=bool)"),
    ),
    (tidy.find_hasty_reads, browser_test("reaches.count('unreachable') == console.url")),
    (tidy.find_thin_introductions, source(INTRODUCTION, "ledger/__init__.py")),
    (tidy.find_thin_introductions, source('"""\nThe package.\n"""', "__init__.py")),
]

REPORTED: list[tuple[Rule, File, str]] = [
    (tidy.find_banned_names, source("", "ledger/utils.py"), "'utils' says nothing"),
    (tidy.find_banned_names, source("", "common/money.py"), "'common' says nothing"),
    (tidy.find_banned_names, File(path="tools/manager.py", text=""), "'manager' says nothing"),
    (tidy.find_private_addresses, File(path="README.md", text=REGISTRY), "is an address"),
    (tidy.find_private_addresses, File(path="README.md", text=MACHINE_PATH), "is an address"),
    (tidy.find_private_addresses, File(path="STYLE.md", text=NEIGHBOUR), "is an address"),
    (tidy.find_bare_ignores, source("x = 1  # noqa"), "names the rule's code"),
    (tidy.find_bare_ignores, source("x = 1  # type: ignore"), "names the rule's code"),
    (tidy.find_bare_ignores, source("x = 1  # noqa: S108"), "says why"),
    (tidy.find_bare_ignores, source("x = y()  # pyright: ignore[reportAny]"), "says why"),
    (tidy.find_hidden_inputs, source("datetime.now(UTC)"), "datetime.now()"),
    (tidy.find_hidden_inputs, source("datetime.datetime.now(UTC)"), "datetime.now()"),
    (tidy.find_hidden_inputs, source("started = time.time()"), "time.time()"),
    (tidy.find_hidden_inputs, source("key = uuid.uuid4()"), "uuid.uuid4()"),
    (tidy.find_hidden_inputs, source("from random import choice"), "random"),
    (tidy.find_foreign_stores, source("from tokenworks.supply import store"), "supply alone"),
    (tidy.find_foreign_stores, source("import tokenworks.supply.store"), "supply alone"),
    (tidy.find_hasty_reads, browser_test("assert rows.all_inner_texts() == []"), "all_inner_texts"),
    (tidy.find_hasty_reads, browser_test("for row in rows.all(): pass"), "all() does not wait"),
    (tidy.find_hasty_reads, browser_test("assert rows.count() == 2"), "count() does not wait"),
    (tidy.find_hasty_reads, browser_test("read(bool, until=row.is_visible)"), "is_visible()"),
    (tidy.find_hasty_reads, browser_test("visitor.page.url.endswith('x')"), "page.url"),
    (tidy.find_hasty_reads, browser_test("page.wait_for_timeout(700)"), "hopes"),
    (tidy.find_thin_introductions, source('"""\nX.\n"""', "ledger/__init__.py"), "lacks Owns"),
    (tidy.find_thin_introductions, source("", "web/hub_api/__init__.py"), "Invariants"),
]


@pytest.mark.parametrize(("rule", "file"), ACCEPTED)
def test_rule_accepts_valid_example(rule: Rule, file: File) -> None:
    """
    What keeps the rule is not reported.
    """
    assert list(rule(file)) == []


@pytest.mark.parametrize(("rule", "file", "message"), REPORTED)
def test_rule_reports_invalid_example(rule: Rule, file: File, message: str) -> None:
    """
    What breaks the rule is reported with its file and the reason.
    """
    findings = list(rule(file))

    assert findings
    assert findings[0].path == file.path
    assert message in findings[0].message


def test_finding_prints_as_a_clickable_place() -> None:
    """
    A finding is printed as path:line: message, which editors and terminals turn into a link.
    """
    assert str(Finding(path="a/b.py", line=3, message="no")) == "a/b.py:3: no"


def test_code_that_does_not_parse_is_a_finding() -> None:
    """
    A file with a syntax error, or with syntax newer than the oldest Python, is reported once.
    """
    files = [source("x = ("), source("def f[T](x: T) -> T: ...", "b.py"), source("x = 1", "c.py")]

    assert [finding.path for finding in tidy.find_unreadable_code(files)] == [
        "src/tokenworks/ledger/service.py",
        "src/tokenworks/b.py",
    ]


def test_folder_with_modules_needs_an_introduction() -> None:
    """
    A source folder with modules has an ``__init__.py``; a folder of SQL or YAML needs none.
    """
    files = [
        source("", "ledger/__init__.py"),
        source("", "ledger/writer.py"),
        source("", "gateway/quote.py"),
        File(path=SOURCE + "postgres/migrations/0001_pre_roles.sql", text=""),
    ]

    assert [finding.path for finding in tidy.find_folders_without_introduction(files)] == [
        "src/tokenworks/gateway"
    ]


@pytest.mark.parametrize(
    "user",
    [
        source("from tokenworks.ledger.chain import verify"),
        source("from tokenworks.ledger import chain"),
        source('run("tokenworks.ledger.chain:app")'),
        File(path="pyproject.toml", text='script = "tokenworks.ledger.chain:app"'),
        File(path="tests/unit/test_chain.py", text="import tokenworks.ledger.chain"),
    ],
)
def test_module_in_use_is_alive(user: File) -> None:
    """
    An import, a test or a name in text (uvicorn, a script) keeps a module alive.
    """
    module = source("", "ledger/chain.py")

    assert module.path not in {finding.path for finding in tidy.find_dead_modules([module, user])}


def test_module_that_nothing_names_is_dead() -> None:
    """
    A module that nothing imports, starts or names is reported.
    """
    module = source("", "ledger/chain.py")
    neighbour = source("from tokenworks.ledger.chains import x", "ledger/__init__.py")

    assert [f.path for f in tidy.find_dead_modules([module, neighbour])] == [module.path]


def test_released_migration_never_changes() -> None:
    """
    Changed, gone, or slipped in before a released one: each is reported; a later one is not.
    """
    folder = tidy.MIGRATIONS
    hashes = {name: hashlib.sha256(b"SELECT 1;").hexdigest() for name in ("0001_pre_a.sql",)}
    lines = [f"{hashes['0001_pre_a.sql']}  {name}" for name in ("0001_pre_a.sql", "0003_pre_c.sql")]
    released = File(path=tidy.RELEASED, text="\n".join(lines) + "\n")
    first = File(path=folder + "0001_pre_a.sql", text="SELECT 1;")
    third = File(path=folder + "0003_pre_c.sql", text="SELECT 1;")
    later = File(path=folder + "0004_post_d.sql", text="")

    assert list(tidy.find_changed_migrations([released, first, third, later])) == []
    changed = File(path=third.path, text="SELECT 2;")
    slipped = File(path=folder + "0002_pre_b.sql", text="")
    found = list(tidy.find_changed_migrations([released, changed, slipped, later]))
    assert [finding.path for finding in found] == [released.path, third.path, slipped.path]


def test_architecture_names_every_folder() -> None:
    """
    Folders of the package and of the top level stand in ARCHITECTURE.md; hidden ones need not.
    """
    files = [
        File(path="ARCHITECTURE.md", text="`ledger/` and `tests/`"),
        source("", "ledger/writer.py"),
        source("", "gateway/quote.py"),
        File(path="tests/unit/test_x.py", text=""),
        File(path="tools/tidy.py", text=""),
        File(path=".ci/run", text=""),
    ]

    messages = [finding.message for finding in tidy.find_unmentioned_folders(files)]

    assert messages == ["does not name gateway/", "does not name tools/"]


def test_documents_name_every_setting() -> None:
    """
    A setting that shipped code reads is explained by a document; the changelog is none.
    """
    code = source('a = env["TOKENWORKS_KEY"]\nb = env["TOKENWORKS_KEY_PATH"]', "settings.py")
    document = File(path="docs/settings.md", text="Set `TOKENWORKS_KEY_PATH`.")
    changelog = File(path="CHANGELOG.md", text="`TOKENWORKS_KEY` is new.")

    findings = list(tidy.find_unmentioned_settings([code, document, changelog]))

    assert [(finding.line, finding.message) for finding in findings] == [
        (1, "no document names TOKENWORKS_KEY")
    ]


def test_documents_name_every_field_of_the_settings() -> None:
    """
    A field of ``Settings`` is a setting, though its name stands nowhere in capitals.
    """
    code = source(
        "class Settings:\n    port: int = _setting(1)\n    sources: object", "settings.py"
    )

    assert [str(finding) for finding in tidy.find_unmentioned_settings([code])] == [
        "src/tokenworks/settings.py:2: no document names TOKENWORKS_PORT"
    ]


@pytest.mark.parametrize(
    "text",
    [
        '    code = "price_missing"',
        'raise X("…", code="price_missing")',
        'code: str = "price_missing"',
    ],
)
def test_documents_name_every_error_code(text: str) -> None:
    """
    A code is found where a class or a raise sets it, and must stand in a document as `code`.
    """
    explained = File(path="docs/errors.md", text="| `price_missing` | … |")
    hinted = File(path="docs/errors.md", text="a price_missing")

    assert list(tidy.find_unmentioned_error_codes([source(text), explained])) == []
    assert len(list(tidy.find_unmentioned_error_codes([source(text), hinted]))) == 1


def test_documents_show_every_command() -> None:
    """
    A command stands in a document as it is typed, also over a line's end; a longer name is
    another command.
    """
    files = [File(path="README.md", text="Run `tokenworks ledger\ncheck`, `tokenworks up-grade`.")]

    findings = list(
        tidy.find_unmentioned_commands(files, ["tokenworks ledger check", "tokenworks up"])
    )

    assert [finding.message for finding in findings] == ["no document shows `tokenworks up`"]


@pytest.mark.parametrize(
    ("proof", "count"),
    [
        ("`tests/unit/test_x.py::test_it`", 0),
        ("`tests/unit/test_x.py`", 0),
        ("`make bench`", 0),
        ("`tokenworks ledger check --json`", 0),
        ("not shown, because it needs two machines", 0),
        ("pending", 0),
        ("`tests/unit/test_x.py::test_other`", 1),
        ("`tests/unit/test_gone.py`", 1),
        ("seen by hand", 1),
        ("", 1),
    ],
)
def test_acceptance_row_needs_a_proof(proof: str, count: int) -> None:
    """
    A row names a test that exists, a command, or says why it is not shown.
    """
    table = f"| # | line | shown by |\n|---|---|---|\n| 1.1 | a \\| b | {proof} |\n"
    files = [
        File(path="docs/acceptance.md", text=table),
        File(path="tests/unit/test_x.py", text="def test_it() -> None: ..."),
    ]

    assert len(list(tidy.find_unproved_acceptance_rows(files))) == count


def test_relative_links_lead_somewhere() -> None:
    """
    A relative link names a file or folder of the project; other addresses are not looked at.
    """
    document = File(
        path="docs/internals/ledger.md",
        text="[a](../glossary.md#hold) [b](gone.md)\n[c](https://example.org/x) [d](../../src/)",
    )
    files = [document, File(path="docs/glossary.md", text=""), source("")]

    assert [str(finding) for finding in tidy.find_dead_links(files)] == [
        "docs/internals/ledger.md:1: dead link: gone.md"
    ]


def test_commands_are_walked_to_their_leaves() -> None:
    """
    A command is listed with its whole path; groups and hidden commands are not listed.
    """
    app, ledger = typer.Typer(), typer.Typer()
    app.add_typer(ledger, name="ledger")
    for name, holder, hidden in (("up", app, False), ("check", ledger, False), ("x", app, True)):
        holder.command(name, hidden=hidden)(lambda: None)

    commands = sorted(tidy.walk_commands("tokenworks", typer.main.get_command(app)))

    assert [name for name, _ in commands] == ["tokenworks ledger check", "tokenworks up"]
