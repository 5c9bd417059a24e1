"""
Read rows of a CSV or JSON-lines file strictly; pure.

Every refusal names the file, the row as an editor counts it, and the column.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from itertools import chain
from typing import Final, cast

from tokenworks.factory.errors import TableInvalidError
from tokenworks.foundation.limits import (
    FACTORY_CALL_TOKENS_MAX,
    FACTORY_LINE_CHARACTERS_MAX,
    FACTORY_NAME_CHARACTERS_MAX,
    FACTORY_VALUE_MAX,
)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_MICRO: Final = 1_000_000
_COUNT: Final = re.compile(r"\d{1,12}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """
    One row, with its place.
    """

    file: str
    number: int  # as an editor counts lines; a record's last line where it has several
    cells: Mapping[str, object]  # text in CSV; any JSON in JSON lines
    is_json: bool = False

    def fault(self, column: str, text: str) -> TableInvalidError:
        """
        Return the refusal of one cell.
        """
        return fault(self.file, self.number, column, text)

    def text(self, column: str) -> str:
        """
        Return a name: not empty, printable, not too long.
        """
        value = self.cells.get(column)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or not value.strip():
            raise self.fault(column, "is empty")
        value = value.strip()
        if len(value) > FACTORY_NAME_CHARACTERS_MAX or not value.isprintable():
            message = f"is no name of at most {FACTORY_NAME_CHARACTERS_MAX} printable characters"
            raise self.fault(column, message)
        return value

    def count(self, column: str, *, default: int | None = None) -> int:
        """
        Return a whole number of tokens; an absent or empty cell is the default.
        """
        value = self.cells.get(column)
        if default is not None and value in {None, ""}:
            return default
        if self.is_json:
            is_whole = isinstance(value, int) and not isinstance(value, bool)
            written = str(value) if is_whole else ""
        else:
            written = str(value or "").strip()
        if not _COUNT.fullmatch(written) or int(written) > FACTORY_CALL_TOKENS_MAX:
            message = f"is no whole number from 0 to {FACTORY_CALL_TOKENS_MAX}: {_shown(value)}"
            raise self.fault(column, message)
        return int(written)

    def micro(self, column: str) -> int | None:
        """
        Return a decimal number in millionths, rounded down; ``None`` when it is no number.
        """
        value = to_decimal(self.cells.get(column))
        return None if value is None else int((value * _MICRO).to_integral_value("ROUND_FLOOR"))

    def time_us(self, column: str) -> int:
        """
        Return microseconds since 1970, rounded down.

        Written as seconds since 1970 with decimals, or as RFC 3339 with its zone.
        """
        value = self.cells.get(column)
        if to_decimal(value) is not None:
            micro = self.micro(column)
            assert micro is not None, "a decimal has its millionths"
            if micro >= 0:
                return micro
        elif isinstance(value, str):
            try:
                moment = datetime.fromisoformat(value.strip())
            except ValueError:
                moment = None
            if moment is not None and moment.tzinfo is None:
                raise self.fault(column, f"has no zone (write 'Z' or an offset): {_shown(value)}")
            if moment is not None and moment >= _EPOCH:
                return (moment - _EPOCH) // _MICROSECOND
        message = "is neither RFC 3339 nor seconds since 1970"
        raise self.fault(column, f"{message}: {_shown(value)}")


def to_decimal(value: object) -> Decimal | None:
    """
    Return a finite number of sensible size, or ``None``.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        return None
    try:
        number = Decimal(value.strip() if isinstance(value, str) else value)
    except InvalidOperation:
        return None
    # Compared before anything is computed: 1e999999 would overflow, or take all memory as an int.
    if not number.is_finite() or number.copy_abs() > FACTORY_VALUE_MAX:
        return None
    return number


def read_rows(
    lines: Iterable[str],
    file: str,
    *,
    required: Sequence[str],
    optional: Sequence[str] = (),
    first_row: int = 1,
) -> Iterator[Row]:
    """
    Yield the rows of a CSV file with a header, or of JSON lines (a first ``{`` tells).

    Raises:
        TableInvalidError: For a header or line that cannot be read, with row and column.
    """
    bounded = _bounded(lines, file, first_row)
    first = next(bounded, None)
    if first is None:
        raise fault(file, 1, required[0], "is missing: the file is empty")
    every = chain([first], bounded)
    columns = (*required, *optional)
    if first.lstrip().startswith("{"):
        yield from _read_json(every, file, columns, first_row)
    else:
        yield from _read_csv(every, file, required, columns)


def fault(file: str, row: int, column: str, text: str) -> TableInvalidError:
    """
    Return the refusal of one cell of a file.
    """
    return TableInvalidError(
        f"{file}: row {row}, column {column}: {text}",
        param=column,
        details={"file": file, "row": row, "column": column},
    )


def _bounded(lines: Iterable[str], file: str, first_row: int) -> Iterator[str]:
    number = first_row - 1
    try:
        for number, line in enumerate(lines, start=first_row):
            if len(line) > FACTORY_LINE_CHARACTERS_MAX:
                text = f"is longer than {FACTORY_LINE_CHARACTERS_MAX} characters"
                raise fault(file, number, "(line)", text)
            yield line
    except UnicodeDecodeError as error:
        raise fault(file, number + 1, "(line)", "is not UTF-8") from error


def _read_csv(
    lines: Iterator[str], file: str, required: Sequence[str], columns: Sequence[str]
) -> Iterator[Row]:
    reader = csv.reader(lines, strict=True)
    try:
        header = [cell.strip() for cell in next(reader)]
        for name in required:
            if name not in header:
                raise fault(file, 1, name, "is missing in the header")
        for place, name in enumerate(header):
            if name not in columns:
                known = ", ".join(columns)
                raise fault(file, 1, name or f"number {place + 1}", f"is unknown; known: {known}")
            if name in header[:place]:
                raise fault(file, 1, name, "is there twice")
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                column = header[min(len(cells), len(header) - 1)]
                text = f"the row has {len(cells)} cells, the header {len(header)}"
                raise fault(file, reader.line_num, column, text)
            yield Row(
                file=file, number=reader.line_num, cells=dict(zip(header, cells, strict=True))
            )
    except csv.Error as error:
        raise fault(file, reader.line_num, "(line)", f"is no CSV: {error}") from error


def _read_json(
    lines: Iterator[str], file: str, columns: Sequence[str], first_row: int
) -> Iterator[Row]:
    for number, line in enumerate(lines, start=first_row):
        if not line.strip():
            continue
        try:
            content: object = json.loads(
                line, parse_float=Decimal, parse_constant=str, object_pairs_hook=_unique
            )
        except (ValueError, RecursionError) as error:
            raise fault(file, number, "(line)", f"is no JSON: {error}") from error
        if not isinstance(content, dict):
            raise fault(file, number, "(line)", "is no JSON object")
        cells = cast("dict[str, object]", content)
        for name in cells:
            if name not in columns:
                raise fault(file, number, name, f"is unknown; known: {', '.join(columns)}")
        yield Row(file=file, number=number, cells=cells, is_json=True)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        message = "a member is there twice"
        raise ValueError(message)
    return members


def _shown(value: object) -> str:
    return repr(value)[:60]
