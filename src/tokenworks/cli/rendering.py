"""
Show answers to people as tables and to programs as JSON.

Results go to standard output, everything else (notes, errors) to standard error, so that a
pipe only ever sees results.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Final, TypeAlias, cast

from rich.console import Console
from rich.table import Table
from rich.text import Text

Record: TypeAlias = "Mapping[str, Any]"
Cell: TypeAlias = "str | Callable[[Record], object]"

PIPE_WIDTH: Final = 400
"""Columns when the output is no terminal, so that no value is cut or wrapped."""

_CONTROL: Final = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """
    One column of a table, or one line of a single record.
    """

    title: str
    value: Cell  # a dotted path into the record, or a function of it
    is_right: bool = False


def column(title: str, value: Cell | None = None, *, right: bool = False) -> Column:
    """
    Return a column; without a value its path is the title in snake case.
    """
    return Column(title=title, value=value or title.lower().replace(" ", "_"), is_right=right)


class Output:
    """
    Where a command's result goes.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def records(self, rows: Sequence[Record], columns: Sequence[Column], *, empty: str) -> None:
        """
        Show a list.

        Args:
            rows: The records.
            columns: What people see of each; programs see all of it.
            empty: The sentence people see when there is none.
        """
        if self.as_json:
            self.document({"items": list(rows)})
            return
        if not rows:
            self.note(empty)
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for head in columns:
            table.add_column(
                head.title, justify="right" if head.is_right else "left", overflow="fold"
            )
        for row in rows:
            table.add_row(*(Text(to_text(_value(row, head.value))) for head in columns))
        _stdout().print(table)

    def record(self, row: Record, columns: Sequence[Column]) -> None:
        """
        Show one record as lines of name and value; lines without a value are left out.
        """
        if self.as_json:
            self.document(row)
            return
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for line in columns:
            text = to_text(_value(row, line.value))
            if text:
                table.add_row(line.title, Text(text))
        _stdout().print(table)

    def document(self, value: object) -> None:
        """
        Print a value as JSON.
        """
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def note(self, text: str) -> None:
        """
        Tell people something that is no result; programs are not told.
        """
        if not self.as_json:
            _stderr().print(Text(clean(text)))

    def error(self, text: str, *, hint: str | None = None, document: Record | None = None) -> None:
        """
        Say what went wrong and what to do about it.
        """
        if self.as_json:
            body = {"error": dict(document or {"detail": text}), "hint": hint}
            sys.stderr.write(json.dumps(body, ensure_ascii=False) + "\n")
            return
        _stderr().print(Text.assemble(("error: ", "bold red"), clean(text)))
        if hint:
            _stderr().print(Text(clean(hint)))


def to_text(value: object) -> str:
    """
    Return a JSON value as people write it.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        record = cast("Record", value)
        if "name" in record:
            return to_text(record["name"])
        return ", ".join(f"{clean(name)}={to_text(part)}" for name, part in record.items())
    if isinstance(value, Iterable):
        return ", ".join(to_text(part) for part in cast("Iterable[object]", value))
    return str(value)


def clean(text: str) -> str:
    """
    Return text without control characters, which could rewrite a terminal.
    """
    return text.replace("\n", " ").translate(_CONTROL)


def short_moment(field: str) -> Callable[[Record], str]:
    """
    Return a cell that shows an ISO time to the second.
    """

    def cell(row: Record) -> str:
        moment = row.get(field)
        return f"{moment[:19]}Z" if isinstance(moment, str) else ""

    return cell


def whole_number(field: str) -> Callable[[Record], str]:
    """
    Return a cell that shows a number without its fraction.
    """

    def cell(row: Record) -> str:
        number = row.get(field)
        return f"{number:.0f}" if isinstance(number, int | float) else ""

    return cell


def _value(row: Record, cell: Cell) -> object:
    if callable(cell):
        return cell(row)
    name, _, rest = cell.partition(".")
    value: object = row.get(name)
    if not rest:
        return value
    return _value(cast("Record", value), rest) if isinstance(value, Mapping) else None


def _stdout() -> Console:
    return _console(sys.stdout)


def _stderr() -> Console:
    return _console(sys.stderr)


def _console(file: IO[str]) -> Console:
    # Made anew each time: a test or a caller may have replaced the stream.
    width = None if file.isatty() else PIPE_WIDTH
    return Console(file=file, width=width, highlight=False, markup=False, emoji=False)
