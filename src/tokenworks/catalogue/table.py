"""
Read a CSV table of measured facts and check each row against its JSON schema.

A table starts with comment lines (``#``) that name its sources. Every fault says the line of
the file and the column; the first one stops the reading, so no row is ever left out silently.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Final

from jsonschema import Draft202012Validator, ValidationError

from tokenworks.catalogue.reader import CatalogueError

_PACKAGE: Final = "tokenworks.catalogue"

_SOURCE_LINE: Final = re.compile(r"# ([a-z0-9][a-z0-9-]*): (.+)")

ROWS_MAX: Final = 100_000
"""Rows of one table, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """
    One row as text, with where it stands.
    """

    file: str
    line: int  # of the file, the first is 1
    cells: Mapping[str, str]

    def error(self, column: str, reason: str) -> CatalogueError:
        """
        Return an error that points at one cell of this row.
        """
        return CatalogueError(
            file=self.file, place=f"row {self.line}, column {column}", reason=reason
        )


def read_shipped_table(name: str) -> tuple[Row, ...]:
    """
    Return the checked rows of ``name``.csv as shipped with the package.

    Raises:
        CatalogueError: The table does not fit ``name``.schema.json.
    """
    return read_table(resources.files(_PACKAGE).joinpath(f"{name}.csv"), schema=name)


def read_shipped_sources(name: str) -> dict[str, str]:
    """
    Return the sources that ``name``.csv names in its first lines, each by its id.
    """
    lines = _lines(resources.files(_PACKAGE).joinpath(f"{name}.csv"))
    return {found[1]: found[2] for line in lines if (found := _SOURCE_LINE.fullmatch(line))}


def read_table(file: Traversable, *, schema: str) -> tuple[Row, ...]:
    """
    Return the checked rows of a CSV file, e.g. an operator's own.

    Args:
        file: The file; any ``pathlib.Path`` will do.
        schema: Name of the schema in this package, without ``.schema.json``.

    Raises:
        CatalogueError: The file cannot be read, or one cell does not fit; says which.
    """
    rules = _schema(schema)
    lines = _lines(file)
    start = next((at for at, line in enumerate(lines) if not line.startswith("#")), len(lines))
    reader = csv.reader(lines[start:], strict=True)
    try:
        header = next(reader, None)
        _check_header(header or [], rules, file=file.name, line=start + 1)
        assert header is not None
        validator = Draft202012Validator(rules)
        rows: list[Row] = []
        for cells in reader:
            line = start + reader.line_num
            rows.append(_row(cells, header, validator, file=file.name, line=line))
            if len(rows) > ROWS_MAX:
                reason = f"the table has more than {ROWS_MAX} rows."
                raise CatalogueError(file=file.name, place=f"row {line}", reason=reason)
    except csv.Error as error:
        place = f"row {start + reader.line_num}"
        raise CatalogueError(file=file.name, place=place, reason=f"no CSV: {error}.") from error
    if not rows:
        raise CatalogueError(file=file.name, place="the end", reason="the table has no row.")
    return tuple(rows)


def _schema(name: str) -> dict[str, Any]:
    text = resources.files(_PACKAGE).joinpath(f"{name}.schema.json").read_text(encoding="utf-8")
    rules: dict[str, Any] = json.loads(text)
    return rules


def _lines(file: Traversable) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        place = f"byte {error.start}"
        raise CatalogueError(file=file.name, place=place, reason="it is no UTF-8.") from error
    except OSError as error:
        raise CatalogueError(file=file.name, place="the top", reason=str(error)) from error


def _check_header(header: list[str], rules: dict[str, Any], *, file: str, line: int) -> None:
    place = f"row {line}"
    for column in header:
        if column not in rules["properties"]:
            names = ", ".join(rules["properties"])
            reason = f"there is no column {column!r}; the columns are {names}."
            raise CatalogueError(file=file, place=place, reason=reason)
        if header.count(column) > 1:
            reason = f"the column {column!r} stands twice."
            raise CatalogueError(file=file, place=place, reason=reason)
    for column in rules["required"]:
        if column not in header:
            reason = f"the column {column!r} is missing."
            raise CatalogueError(file=file, place=place, reason=reason)


def _row(
    cells: list[str], header: list[str], validator: Draft202012Validator, *, file: str, line: int
) -> Row:
    if len(cells) != len(header):
        column = header[len(cells)] if len(cells) < len(header) else header[-1]
        reason = f"{len(cells)} cells where the header has {len(header)}."
        raise CatalogueError(file=file, place=f"row {line}, column {column}", reason=reason)
    row = Row(file=file, line=line, cells=dict(zip(header, cells, strict=True)))
    try:
        validator.validate(row.cells)  # pyright: ignore[reportUnknownMemberType]  its stub
    except ValidationError as error:
        column = str(error.absolute_path[-1]) if error.absolute_path else header[0]
        rule: Any = error.schema  # pyright: ignore[reportUnknownMemberType]  its stub
        reason = f"{row.cells[column]!r} is not {rule['description']}."
        raise row.error(column, reason) from error
    return row
