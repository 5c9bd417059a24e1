"""
Read a supplier's statement from CSV (RFC 4180); pure.

Strict on purpose: a row that is not understood stops the import, because a guess here is
money. All faulty rows are reported at once, with their lines.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from tokenworks.foundation.errors import InvalidError, TooLargeError
from tokenworks.foundation.limits import STATEMENT_BYTES_MAX, STATEMENT_LINES_MAX
from tokenworks.foundation.money import Amount, Asset
from tokenworks.reconciliation.errors import StatementInvalidError
from tokenworks.reconciliation.model import StatementLine

COLUMNS: Final = (
    "reference",
    "amount",
    "currency",
    "call_id",
    "time",
    "model",
    "input_tokens",
    "output_tokens",
)
REQUIRED: Final = ("reference", "amount")
FIRST_YEAR: Final = 1970
LAST_YEAR: Final = 9998
"""Of a line: days are added to its time, and the calendar ends with 9999."""
FAULTS_SHOWN_MAX: Final = 100
TEXT_CHARACTERS_MAX: Final = 200
COUNT_MAX: Final = 10**12

_COUNT: Final = re.compile(r"\d{1,13}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """
    How a file is to be read.
    """

    asset: Asset
    """The only currency its amounts may have."""
    columns: Mapping[str, str]
    """Our name of a column -> the file's; a name that is not here is the same in both."""
    has_currency: bool
    """Whether the currency was said beside the file, so that no column needs to."""
    time_zone: str | None = None
    """Of times without an offset; ``None``: such a time is a fault."""


class _RowFaultError(ValueError):
    """
    What is wrong with a row; names the column.
    """

    def __init__(self, column: str, message: str) -> None:
        super().__init__(message)
        self.column = column


def read_statement(content: bytes, reading: Reading) -> list[StatementLine]:
    """
    Return every line of a file, or refuse all of it.

    Raises:
        TooLargeError: More than ``STATEMENT_BYTES_MAX`` or ``STATEMENT_LINES_MAX``.
        StatementInvalidError: No CSV with the columns that are needed, or faulty rows;
            ``details["rows"]`` names up to ``FAULTS_SHOWN_MAX`` of them.
    """
    if len(content) > STATEMENT_BYTES_MAX:
        message = f"A statement has at most {STATEMENT_BYTES_MAX} bytes; cut it by date."
        raise TooLargeError(message)
    zone = _zone(reading.time_zone)
    rows = _rows(_decoded(content))
    header = _header(next(rows, None))
    places = _places(header, reading)
    lines: list[StatementLine] = []
    faults: list[dict[str, object]] = []
    fault_count = 0
    for number, row in rows:
        if not any(cell.strip() for cell in row):
            continue
        if len(lines) + fault_count >= STATEMENT_LINES_MAX:
            message = f"A statement has at most {STATEMENT_LINES_MAX} lines; cut it by date."
            raise TooLargeError(message)
        try:
            lines.append(_line(number, row, len(header), places, reading.asset, zone))
        except _RowFaultError as fault:
            fault_count += 1
            if len(faults) < FAULTS_SHOWN_MAX:
                faults.append({"line": number, "column": fault.column, "message": str(fault)})
    if faults:
        raise _rows_invalid(faults, fault_count)
    if not lines:
        message = "The file has a header and no line below it."
        raise StatementInvalidError(message)
    return lines


def _rows_invalid(faults: Sequence[Mapping[str, object]], count: int) -> StatementInvalidError:
    first = faults[0]
    message = (
        f"{count} rows cannot be read; nothing was imported. Line {first['line']},"
        f" {first['column']}: {first['message']}"
    )
    return StatementInvalidError(
        message, param=str(first["column"]), details={"rows": list(faults), "count": count}
    )


def _decoded(content: bytes) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"The file is not UTF-8: byte {error.start} is not."
        raise StatementInvalidError(message) from error
    if "\0" in text:
        message = "The file is no text: it has a byte of zero."
        raise StatementInvalidError(message)
    return text


def _rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """
    Yield each row with the line on which it begins.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    begins = 1
    try:
        for row in reader:
            yield begins, row
            begins = reader.line_num + 1
    except csv.Error as error:
        message = f"Line {begins}: {error}."
        raise StatementInvalidError(message) from error


def _header(first: tuple[int, list[str]] | None) -> list[str]:
    names = [] if first is None else [name.strip() for name in first[1]]
    if not any(names):
        message = "The file is empty: its first line names the columns."
        raise StatementInvalidError(message)
    for name in names:
        if name and names.count(name) > 1:
            message = f"The column {name!r} stands twice in the header."
            raise StatementInvalidError(message)
    return names


def _places(header: Sequence[str], reading: Reading) -> dict[str, int]:
    for ours in reading.columns:
        if ours not in COLUMNS:
            message = f"A statement has no column {ours!r}; known: {', '.join(COLUMNS)}."
            raise StatementInvalidError(message, param="columns")
    required = REQUIRED if reading.has_currency else (*REQUIRED, "currency")
    places: dict[str, int] = {}
    for ours in COLUMNS:
        theirs = reading.columns.get(ours, ours)
        if theirs in header:
            places[ours] = header.index(theirs)
        elif ours in required or ours in reading.columns:
            message = (
                f"There is no column {theirs!r} for {ours}; the file has:"
                f" {', '.join(header)[:TEXT_CHARACTERS_MAX]}."
            )
            raise StatementInvalidError(message, param="columns")
    return places


def _line(
    number: int,
    row: Sequence[str],
    width: int,
    places: Mapping[str, int],
    asset: Asset,
    zone: tzinfo | None,
) -> StatementLine:
    if len(row) != width:
        raise _RowFaultError("row", f"It has {len(row)} fields, the header {width}.")
    cells = {ours: row[place].strip() for ours, place in places.items()}
    currency = cells.get("currency", asset.code)
    if currency != asset.code:
        raise _RowFaultError("currency", f"It is {currency[:10]!r}; this hub owes in {asset.code}.")
    return StatementLine(
        number=number,
        reference=_text(cells["reference"], "reference"),
        quanta=_quanta(cells["amount"], asset),
        call_id=_call_id(cells.get("call_id", "")),
        occurred_at=_moment(cells.get("time", ""), zone),
        model=_text(cells["model"], "model") if cells.get("model") else None,
        input_tokens=_count(cells.get("input_tokens", ""), "input_tokens"),
        output_tokens=_count(cells.get("output_tokens", ""), "output_tokens"),
    )


def _text(cell: str, column: str) -> str:
    if not cell or len(cell) > TEXT_CHARACTERS_MAX or not cell.isprintable():
        raise _RowFaultError(column, f"It is not 1 to {TEXT_CHARACTERS_MAX} printable characters.")
    return cell


def _quanta(cell: str, asset: Asset) -> int:
    try:
        quanta = Amount.from_text(cell, asset).quanta
    except InvalidError as error:
        raise _RowFaultError("amount", error.message) from error
    if quanta < 0:
        raise _RowFaultError("amount", "It is below zero; credits are not read from a statement.")
    return quanta


def _call_id(cell: str) -> UUID | None:
    if not cell:
        return None
    try:
        return UUID(cell)
    except ValueError as error:
        raise _RowFaultError("call_id", f"{cell[:40]!r} is no call id.") from error


def _count(cell: str, column: str) -> int | None:
    if not cell:
        return None
    if not _COUNT.fullmatch(cell) or int(cell) > COUNT_MAX:
        raise _RowFaultError(column, f"{cell[:20]!r} is no whole number of tokens.")
    return int(cell)


def _moment(cell: str, zone: tzinfo | None) -> datetime | None:
    if not cell:
        return None
    try:
        moment = datetime.fromisoformat(cell)
    except ValueError as error:
        raise _RowFaultError("time", f"{cell[:40]!r} is no ISO 8601 time.") from error
    if moment.tzinfo is None:
        moment = _located(moment, zone)
    try:
        in_utc = moment.astimezone(UTC)
    except OverflowError as error:
        raise _RowFaultError("time", f"{cell[:40]!r} is out of range.") from error
    if not FIRST_YEAR <= in_utc.year <= LAST_YEAR:
        raise _RowFaultError("time", f"{cell[:40]!r} is out of range.")
    return in_utc


def _located(moment: datetime, zone: tzinfo | None) -> datetime:
    if zone is None:
        raise _RowFaultError("time", "It has no offset from UTC; add one, or name the time zone.")
    early, late = (moment.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    if early.utcoffset() != late.utcoffset():
        raise _RowFaultError("time", "The clocks were changed then: say the offset from UTC.")
    return early


def _zone(name: str | None) -> tzinfo | None:
    if name is None:
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        message = f"{name!r} is no time zone; use a name such as Europe/Berlin."
        raise InvalidError(message, code="time_zone_unknown", param="time_zone") from error


def period_of(
    lines: Sequence[StatementLine], *, since: datetime | None, until: datetime | None
) -> tuple[datetime, datetime] | None:
    """
    Return the days (UTC) that the lines are of, or what was said instead.

    ``None``: it was not said, and no line has a time.
    """
    moments = [line.occurred_at for line in lines if line.occurred_at is not None]
    if (since is None or until is None) and not moments:
        return None
    starts = since or _midnight(min(moments))
    ends = until or _midnight(max(moments)) + timedelta(days=1)
    return starts, ends


def _midnight(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)
