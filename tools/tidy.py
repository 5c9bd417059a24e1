"""
Check the house rules that no other tool knows (STYLE.md); `make tidy` runs it.

Each rule is a function that yields findings, with valid and invalid examples in
`tests/architecture/test_tidy.py`. A finding fails the run; notes and sizes are only printed.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
SOURCE: Final = "src/tokenworks/"
SETTINGS: Final = SOURCE + "settings.py"
MIGRATIONS: Final = SOURCE + "postgres/migrations/"
RELEASED: Final = MIGRATIONS + "released.txt"
OLDEST_PYTHON: Final = (3, 11)
MODULE_LINES_GUIDE: Final = 400
FUNCTION_LINES_GUIDE: Final = 70

BANNED_NAMES: Final = frozenset(
    {"utils", "util", "helpers", "helper", "common", "misc", "base", "manager", "data", "info"}
)
ANATOMY: Final = ("Owns:", "Does not own:", "Invariants:")
HIDDEN_INPUTS: Final = frozenset(
    {"datetime.now", "datetime.utcnow", "datetime.today", "date.today", "time.time"}
    | {"time.time_ns", "uuid.uuid1", "uuid.uuid4", "uuid1", "uuid4"}
)
# Put together from pieces, or this file would find itself.
PRIVATE_ADDRESSES: Final = re.compile(
    "|".join(
        (
            r"\b(?:[\w-]+\.)*py" + r"pi\.org\b",
            r"\bfiles\.python" + r"hosted\.org\b",
            r"\bregistry\.npm" + r"js\.org\b",
            r"\bregistry\.yarn" + r"pkg\.com\b",
            r"\b(?:deb|security)\.debian" + r"\.org\b",
            r"\bproxy\.go" + r"lang\.org\b",
            r"(?<![\w.$}-])/wo" + r"rk/\w",
            r"\.\./sha" + r"red\b",
            r"(?<![\w.-])/opt/py" + r"pi",
        )
    )
)
BROWSER_TESTS: Final = "tests/console/test_"
# What Playwright answers at once, without waiting for what is meant.
HASTY_READS: Final = frozenset(
    {"all_inner_texts", "all_text_contents", "inner_html", "inner_text", "text_content"}
    | {"evaluate", "evaluate_all", "evaluate_handle", "eval_on_selector", "bounding_box"}
    | {"get_attribute", "input_value", "query_selector", "query_selector_all", "aria_snapshot"}
    | {"is_checked", "is_disabled", "is_editable", "is_enabled", "is_hidden", "is_visible"}
)
HASTY_READS_WITHOUT_ARGUMENTS: Final = frozenset({"all", "content", "count", "title"})
HOPEFUL_SLEEPS: Final = frozenset({"sleep", "wait_for_timeout"})
PROVED_DOCUMENTS: Final = ("docs/acceptance.md", "docs/safety.md")
TEXT_SUFFIXES: Final = frozenset(
    {".py", ".md", ".sql", ".yaml", ".yml", ".json", ".toml", ".lock", ".in", ".sh", ".txt"}
    | {".css", ".js", ".html", ".service", ".cfg", ".ini", ""}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """
    One text file of the project.
    """

    path: str  # Relative to the root, with forward slashes.
    text: str

    @property
    def is_source(self) -> bool:
        """
        Whether the file is Python code that is shipped.
        """
        return self.path.startswith(SOURCE) and self.path.endswith(".py")

    @property
    def is_browser_test(self) -> bool:
        """
        Whether the file tests pages in a browser.
        """
        return self.path.startswith(BROWSER_TESTS) and "Visitor" in self.text

    @property
    def is_document(self) -> bool:
        """
        Whether the file tells people what exists; a list of past changes does not.
        """
        return self.path.endswith(".md") and self.path not in {"CHANGELOG.md", "STYLE.md"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """
    One breach of a rule.
    """

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


Findings = Iterator[Finding]


def main() -> int:
    """
    Print every finding; return 1 when there is one.
    """
    parser = argparse.ArgumentParser(description="Check the house rules of STYLE.md.")
    parser.add_argument("--docs", action="store_true", help="only the rules about documents")
    only_documents: bool = parser.parse_args().docs
    files = read_project(ROOT)
    findings = list(find_unreadable_code(files))
    unreadable = {finding.path for finding in findings}
    files = [file for file in files if file.path not in unreadable]
    findings += list(find_in_documents(files, [name for name, _ in find_commands()]))
    if not only_documents:
        findings += find_in_code(files)
    for finding in sorted(findings, key=lambda finding: (finding.path, finding.line)):
        print(finding)
    print_notes(files, with_sizes=not only_documents)
    print(f"tidy: {len(files)} files, {len(findings)} findings")
    return 1 if findings else 0


def find_in_code(files: list[File]) -> Findings:
    """
    Yield what breaks the rules about names, imports, inputs and addresses.
    """
    for file in files:
        yield from find_banned_names(file)
        yield from find_private_addresses(file)
        if file.path.endswith(".py"):
            yield from find_bare_ignores(file)
        if file.is_source:
            yield from find_hidden_inputs(file)
            yield from find_foreign_stores(file)
            yield from find_thin_introductions(file)
        if file.is_browser_test:
            yield from find_hasty_reads(file)
    yield from find_folders_without_introduction(files)
    yield from find_dead_modules(files)
    yield from find_changed_migrations(files)


def find_in_documents(files: list[File], commands: list[str]) -> Findings:
    """
    Yield what the documents leave out, promise without proof or link to in vain.
    """
    yield from find_unmentioned_folders(files)
    yield from find_unmentioned_settings(files)
    yield from find_unmentioned_error_codes(files)
    yield from find_unmentioned_commands(files, commands)
    yield from find_unproved_acceptance_rows(files)
    yield from find_dead_links(files)


def find_unreadable_code(files: list[File]) -> Findings:
    """
    Yield a file that the oldest supported Python cannot parse; the other rules pass it over.
    """
    for file in files:
        if file.path.endswith(".py"):
            try:
                ast.parse(file.text, feature_version=OLDEST_PYTHON)
            except SyntaxError as error:
                yield Finding(path=file.path, line=error.lineno or 1, message=error.msg)


# --------------------------------------------------------------------------- names


def find_banned_names(file: File) -> Findings:
    """
    Yield a folder or module whose name says nothing about what is in it.
    """
    *folders, name = file.path.split("/")
    modules = [name.removesuffix(".py")] if name.endswith(".py") else []
    for part in [*folders, *modules]:
        if part in BANNED_NAMES:
            yield Finding(
                path=file.path, line=1, message=f"'{part}' says nothing: name it after its noun"
            )
            return


def find_private_addresses(file: File) -> Findings:
    """
    Yield a package registry's host or a path of one particular machine.
    """
    for number, line in enumerate(file.text.splitlines(), start=1):
        if match := PRIVATE_ADDRESSES.search(line):
            yield Finding(
                path=file.path,
                line=number,
                message=f"'{match.group()}' is an address of one machine or registry",
            )


# --------------------------------------------------------------------------- code


def find_bare_ignores(file: File) -> Findings:
    """
    Yield a switched-off check without its code, or without the reason beside or above it.
    """
    lines = file.text.splitlines()
    pattern = re.compile(r"#\s*(noqa|type: ignore|pyright: ignore)(?P<rest>[^#]*)(?P<more>#.*)?$")
    for number, line in enumerate(lines, start=1):
        match = pattern.search(line)
        if match is None or _is_inside_text(line, match.start()):
            continue
        code = re.match(r"(: ?[A-Z]+\d+(, ?[A-Z]+\d+)*|\[[\w-]+(, ?[\w-]+)*\])", match["rest"])
        if code is None:
            yield Finding(path=file.path, line=number, message="an ignore names the rule's code")
            continue
        reason = match["rest"][code.end() :] + (match["more"] or "")
        above = lines[number - 2].strip() if number > 1 else ""
        if len(re.findall(r"\w+", reason)) < 2 and not above.startswith("#"):
            yield Finding(path=file.path, line=number, message="an ignore says why, in words")


def _is_inside_text(line: str, position: int) -> bool:
    before = line[:position]
    return before.count('"') % 2 == 1 or before.count("`") % 2 == 1


def find_hidden_inputs(file: File) -> Findings:
    """
    Yield a clock, random number or identifier that was not passed in.
    """
    if file.path.startswith((SOURCE + "foundation/", SOURCE + "testing/")):
        return
    for node in ast.walk(ast.parse(file.text)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            short = ".".join(name.split(".")[-2:])
            if short in HIDDEN_INPUTS:
                yield Finding(
                    path=file.path, line=node.lineno, message=f"{short}(): take a clock or ids"
                )
        elif isinstance(node, ast.Import | ast.ImportFrom) and "random" in _top_names(node):
            yield Finding(path=file.path, line=node.lineno, message="random: take a seeded source")


def _top_names(node: ast.Import | ast.ImportFrom) -> set[str]:
    if isinstance(node, ast.ImportFrom):
        return {(node.module or "").split(".")[0]}
    return {alias.name.split(".")[0] for alias in node.names}


def find_foreign_stores(file: File) -> Findings:
    """
    Yield an import of another concept's ``store``: concepts meet through services and models.
    """
    own = file.path.removeprefix(SOURCE).split("/")[0]
    for name, line in _imports(file):
        parts = name.split(".")
        if len(parts) > 2 and parts[2] == "store" and parts[1] != own:
            yield Finding(path=file.path, line=line, message=f"{name} belongs to {parts[1]} alone")


def find_hasty_reads(file: File) -> Findings:
    """
    Yield what a test reads of a page before the page is there, and sleeps that hope it will be.

    What was clicked, typed or said by the hub shows when the browser gets round to it:
    ``expect(...)`` waits for it, and so does ``read(look, until=...)``.
    """
    tree = ast.parse(file.text)
    looks: list[ast.AST] = [
        node.args[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "read" and node.args
    ]
    names = {look.id for look in looks if isinstance(look, ast.Name)}
    looks += [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in names
    ]
    waited_for = {inside for look in looks for inside in ast.walk(look)}
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) if name in HOPEFUL_SLEEPS:
                message = f"{name}() hopes; wait for what is meant"
            case _ if node in waited_for:
                continue
            case ast.Attribute(attr=name) if name in HASTY_READS:
                message = f"{name}() does not wait; use expect() or read(look, until=...)"
            case ast.Call(func=ast.Attribute(attr=name), args=[], keywords=[]) if (
                name in HASTY_READS_WITHOUT_ARGUMENTS
            ):
                message = f"{name}() does not wait; use expect() or read(look, until=...)"
            case ast.Attribute(attr="url", value=ast.Name(id="page") | ast.Attribute(attr="page")):
                message = "page.url does not wait; use expect(page).to_have_url(...)"
            case _:
                continue
        yield Finding(path=file.path, line=node.lineno, message=message)


def find_thin_introductions(file: File) -> Findings:
    """
    Yield a package whose docstring does not say what it owns, does not own and keeps true.
    """
    if not file.path.endswith("/__init__.py") or file.path == SOURCE + "__init__.py":
        return
    docstring = ast.get_docstring(ast.parse(file.text)) or ""
    missing = [heading for heading in ANATOMY if heading not in docstring]
    if missing:
        yield Finding(path=file.path, line=1, message=f"the docstring lacks {', '.join(missing)}")


def find_folders_without_introduction(files: list[File]) -> Findings:
    """
    Yield a source folder with modules but no ``__init__.py``.
    """
    modules = [file.path for file in files if file.is_source]
    for folder in sorted({path.rpartition("/")[0] for path in modules}):
        if f"{folder}/__init__.py" not in modules:
            yield Finding(path=folder, line=1, message="has modules but no __init__.py")


def find_dead_modules(files: list[File]) -> Findings:
    """
    Yield a shipped module that nothing imports, starts or names.
    """
    named: set[str] = set()
    for file in files:
        if file.path.endswith((".py", ".toml")):
            named.update(re.findall(r"tokenworks(?:\.\w+)+", file.text))
        if file.path.endswith(".py"):
            named.update(name for name, _ in _imports(file))
    for file in files:
        module = file.path.removeprefix("src/").removesuffix(".py").replace("/", ".")
        if file.is_source and not module.endswith("__") and module not in named:
            yield Finding(path=file.path, line=1, message="nothing imports it: use it or delete it")


def find_changed_migrations(files: list[File]) -> Findings:
    """
    Yield a released migration that was changed or removed, and one slipped in before it.

    ``released.txt`` is what `make release-migrations` wrote when a version was released.
    """
    texts = {file.path: file.text for file in files}
    released: dict[str, str] = {}
    for number, line in enumerate(texts.get(RELEASED, "").splitlines(), start=1):
        sha256, _, name = line.partition("  ")
        released[name] = sha256
        text = texts.get(MIGRATIONS + name)
        if text is None:
            yield Finding(path=RELEASED, line=number, message=f"{name} was released and is gone")
        elif hashlib.sha256(text.encode()).hexdigest() != sha256:
            message = "was released and must not change: write a new migration"
            yield Finding(path=MIGRATIONS + name, line=1, message=message)
    last = max(released, default="")
    for path in texts:
        name = path.removeprefix(MIGRATIONS)
        is_migration = path.startswith(MIGRATIONS) and name.endswith(".sql")
        if is_migration and name < last and name not in released:
            message = f"comes before {last}, which was released: take the next number"
            yield Finding(path=path, line=1, message=message)


def _imports(file: File) -> Iterator[tuple[str, int]]:
    """
    Yield every imported dotted name with its line, ``from a import b`` as a.b and as a.
    """
    for node in ast.walk(ast.parse(file.text)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


# --------------------------------------------------------------------------- documents


def find_unmentioned_folders(files: list[File]) -> Findings:
    """
    Yield a source folder or a folder at the top that ARCHITECTURE.md does not name.
    """
    architecture = "".join(file.text for file in files if file.path == "ARCHITECTURE.md")
    folders: set[str] = set()
    for file in files:
        inner = file.path.removeprefix(SOURCE)
        if "/" in inner and not inner.startswith("."):
            folders.add(inner.split("/")[0])
    for folder in sorted(folders):
        if f"{folder}/" not in architecture:
            yield Finding(path="ARCHITECTURE.md", line=1, message=f"does not name {folder}/")


def find_unmentioned_settings(files: list[File]) -> Findings:
    """
    Yield a setting that the code reads and no document explains.
    """
    documents = _documents(files)
    named = list(_first_places(files, r"\bTOKENWORKS_[A-Z][A-Z0-9_]*[A-Z0-9]\b"))
    fields = [place for file in files if file.path == SETTINGS for place in _setting_fields(file)]
    for name, place in {**dict(fields), **dict(named)}.items():
        if not re.search(rf"\b{name}\b", documents):
            yield Finding(path=place.path, line=place.line, message=f"no document names {name}")


def _setting_fields(file: File) -> Iterator[tuple[str, Finding]]:
    for node in ast.walk(ast.parse(file.text)):
        if isinstance(node, ast.ClassDef) and node.name == "Settings":
            for field in node.body:
                if isinstance(field, ast.AnnAssign) and "_setting(" in ast.unparse(field):
                    name = f"TOKENWORKS_{ast.unparse(field.target).upper()}"
                    yield name, Finding(path=file.path, line=field.lineno, message="")


def find_unmentioned_error_codes(files: list[File]) -> Findings:
    """
    Yield an error code that a caller can get and no document explains.
    """
    documents = _documents(files)
    pattern = r"\bcode(?:: [\w\[\]]+)? ?= ?\"([a-z][a-z_0-9]+)\""
    for code, place in _first_places(files, pattern):
        if f"`{code}`" not in documents:
            yield Finding(path=place.path, line=place.line, message=f"no document names `{code}`")


def find_unmentioned_commands(files: list[File], commands: list[str]) -> Findings:
    """
    Yield a command of the command line that no document shows.
    """
    documents = re.sub(r"\s+", " ", _documents(files))
    for command in commands:
        if not re.search(rf"{re.escape(command)}(?![\w-])", documents):
            yield Finding(path="docs", line=1, message=f"no document shows `{command}`")


def find_unproved_acceptance_rows(files: list[File]) -> Findings:
    """
    Yield a row of a document of proofs with neither a test that exists, a command nor a reason.
    """
    texts = {file.path: file.text for file in files}
    for document in PROVED_DOCUMENTS:
        yield from _unproved_rows(document, texts)


def _unproved_rows(document: str, texts: dict[str, str]) -> Findings:
    for row, number in _acceptance_rows(texts.get(document, "")):
        proof = row[-1]
        references = re.findall(r"`(tests/[^`: ]+)(?:::(\w+))?`", proof)
        for path, name in references:
            holders = [text for place, text in texts.items() if place.startswith(path)]
            if not holders or (name and not any(f"def {name}(" in text for text in holders)):
                yield Finding(
                    path=document,
                    line=number,
                    message=f"no such test: {path}{'::' + name if name else ''}",
                )
        is_command = re.search(r"`(make|tokenworks|benchmarks|curl|python)\b", proof)
        if not (references or is_command or proof.startswith(("not shown, because", "pending"))):
            yield Finding(
                path=document,
                line=number,
                message="shown by a `tests/…`, a `make …`, a `tokenworks …`, "
                "or 'not shown, because …'",
            )


def _acceptance_rows(text: str) -> Iterator[tuple[list[str], int]]:
    for number, line in enumerate(text.splitlines(), start=1):
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
        if cells and re.fullmatch(r"\d+\.\d+", cells[0]):
            yield cells, number


def find_dead_links(files: list[File]) -> Findings:
    """
    Yield a relative link of a document whose target does not exist.
    """
    paths = {file.path for file in files}
    for file in (file for file in files if file.path.endswith(".md")):
        for number, line in enumerate(file.text.splitlines(), start=1):
            for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", line):
                if "://" in target or target.startswith("mailto:"):
                    continue
                path = _resolve(file.path, target)
                if path not in paths and not any(place.startswith(path + "/") for place in paths):
                    yield Finding(path=file.path, line=number, message=f"dead link: {target}")


def _resolve(document: str, target: str) -> str:
    parts = document.split("/")[:-1]
    for part in target.rstrip("/").split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def _documents(files: list[File]) -> str:
    return "\n".join(file.text for file in files if file.is_document)


def _first_places(files: list[File], pattern: str) -> Iterator[tuple[str, Finding]]:
    """
    Yield each name that ``pattern`` finds in shipped code, with the first place of it.
    """
    seen: set[str] = set()
    for file in (file for file in files if file.is_source):
        for number, line in enumerate(file.text.splitlines(), start=1):
            for name in re.findall(pattern, line):
                if name not in seen:
                    seen.add(name)
                    yield name, Finding(path=file.path, line=number, message="")


# --------------------------------------------------------------------------- reading, printing


def read_project(root: Path) -> list[File]:
    """
    Return every text file that is, or would be, committed.
    """
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=root,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    paths = sorted(path for path in listing.split("\0") if path)
    return [
        File(path=path, text=(root / path).read_text(encoding="utf-8"))
        for path in paths
        if Path(path).suffix in TEXT_SUFFIXES and (root / path).is_file()
    ]


def find_commands() -> list[tuple[str, str]]:
    """
    Return every command that ``tokenworks`` understands, with its help.

    The main group loads a noun when it is used, so each noun's module is asked here; one that
    is announced and not written yet has no commands.
    """
    registrations = importlib.import_module("tokenworks.cli.main").COMMANDS
    get_command = importlib.import_module("typer.main").get_command
    found: list[tuple[str, str]] = []
    for registration in registrations:
        try:
            app = importlib.import_module(registration.module).app
        except ModuleNotFoundError as error:
            if error.name != registration.module:
                raise
            continue
        for name, text in walk_commands(f"tokenworks {registration.name}", get_command(app)):
            found.append((name, text or registration.summary))
    return sorted(found)


def walk_commands(name: str, command: object) -> Iterator[tuple[str, str]]:
    """
    Yield the commands below a Click command with their help, hidden ones left out.
    """
    children: dict[str, object] = getattr(command, "commands", {})
    for child_name, child in children.items():
        if not getattr(child, "hidden", False):
            yield from walk_commands(f"{name} {child_name}", child)
    if not children:
        yield name, str(getattr(command, "help", None) or "")


def print_notes(files: list[File], *, with_sizes: bool) -> None:
    """
    Print what is worth knowing and fails nothing: open proofs, sizes beside their guide.
    """
    texts = {file.path: file.text for file in files}
    rows = [row[-1] for row, _ in _acceptance_rows(texts.get("docs/acceptance.md", ""))]
    pending = sum(row.startswith("pending") for row in rows)
    print(f"note: docs/acceptance.md: {len(rows)} rows, {pending} pending")
    if not with_sizes:
        return
    functions = [size for file in files if file.is_source for size in _function_sizes(file)]
    if functions:
        ordered = sorted(lines for _, lines in functions)
        share = ordered[int(len(ordered) * 0.95)]
        median = round(statistics.median(ordered))
        print(f"note: {len(ordered)} functions, median {median} lines, 95 % below {share + 1}")
    for place, lines in functions:
        if lines > FUNCTION_LINES_GUIDE:
            print(f"note: {place}: {lines} lines")
    for file in files:
        count = file.text.count("\n")
        if file.is_source and count > MODULE_LINES_GUIDE:
            print(f"note: {file.path}: {count} lines; does a second concept hide in it?")


def _function_sizes(file: File) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(file.text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            yield f"{file.path}:{node.lineno} {node.name}()", lines


if __name__ == "__main__":
    sys.exit(main())
