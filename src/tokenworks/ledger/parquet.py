"""
Write rows to a Parquet file and read them again; the only module that knows ``pyarrow``.

Rows are plain values (``str``, ``int``, ``bytes``, ``bool``, ``float``, lists, ``None``):
identifiers are text, moments are microseconds since 1970, so that what was read from the
database and what is read from the file compare without any conversion between them.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import msgspec

from tokenworks.ledger.errors import ArchiveToolMissingError, ArchiveUnreadableError

ROWS_PER_GROUP: Final = 20_000

Row: TypeAlias = Sequence[Any]

MOMENT: Final = "timestamp with time zone"

_encode = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class ParquetColumn:
    """
    A column and its type in the database.
    """

    name: str
    database_type: str  # as format_type() says it


def _pyarrow(module: str = "pyarrow") -> Any:  # noqa: ANN401 - it ships no types
    try:
        return importlib.import_module(module)
    except ImportError as error:
        message = (
            "Archives are Parquet files, and pyarrow is not installed: "
            "pip install 'tokenworks[archive]'."
        )
        raise ArchiveToolMissingError(message) from error


def require_pyarrow() -> None:
    """
    Fail before any work is done when Parquet cannot be written or read.

    Raises:
        ArchiveToolMissingError: ``pyarrow`` is not installed.
    """
    _pyarrow()


_TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "bigint": "int64",
        "integer": "int32",
        "smallint": "int16",
        "boolean": "bool_",
        "bytea": "binary",
        "double precision": "float64",
    }
)
_LISTS: Final[Mapping[str, str]] = MappingProxyType(
    {"bigint[]": "int64", "integer[]": "int32", "smallint[]": "int16"}
)


def is_plain(database_type: str) -> bool:
    """
    Tell whether values of a type are kept as they are; all others are kept as text.
    """
    return database_type in _TYPES or database_type in _LISTS or database_type == MOMENT


def _field_type(database_type: str) -> Any:  # noqa: ANN401 - as above
    arrow = _pyarrow()
    if database_type == MOMENT:
        return arrow.timestamp("us", tz="UTC")
    if database_type in _LISTS:
        return arrow.list_(getattr(arrow, _LISTS[database_type])())
    return getattr(arrow, _TYPES.get(database_type, "string"))()


class RowDigest:
    """
    Count rows and hash every value of them, in order.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._hash = hashlib.sha256()

    def add(self, row: Row) -> None:
        """
        Take the next row.
        """
        self.rows += 1
        self._hash.update(_encode(list(row)))

    @property
    def hex(self) -> str:
        """
        Return the hash of all rows so far.
        """
        return self._hash.hexdigest()


def write_parquet(path: Path, columns: Sequence[ParquetColumn], rows: Iterable[Row]) -> RowDigest:
    """
    Write rows to a new file and return what was written; the caller syncs it.
    """
    arrow, parquet = _pyarrow(), _pyarrow("pyarrow.parquet")
    types = [_field_type(column.database_type) for column in columns]
    schema = arrow.schema(
        [(column.name, kind) for column, kind in zip(columns, types, strict=True)]
    )
    digest = RowDigest()
    group: list[Row] = []
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:

        def flush() -> None:
            arrays = [
                arrow.array([row[index] for row in group], type=kind)
                for index, kind in enumerate(types)
            ]
            writer.write_table(arrow.Table.from_arrays(arrays, schema=schema))
            group.clear()

        for row in rows:
            digest.add(row)
            group.append(row)
            if len(group) == ROWS_PER_GROUP:
                flush()
        if group or not digest.rows:
            flush()
    return digest


def read_parquet(
    path: Path,
    columns: Sequence[str] | None = None,
    *,
    since: tuple[str, int] | None = None,
) -> Iterator[tuple[Any, ...]]:
    """
    Yield the rows of a file in their order; one row group in memory at a time.

    Args:
        path: The file.
        columns: Only these, in this order; all of them when omitted.
        since: A column of moments and a moment in microseconds: row groups that are older
            altogether are left out.

    Raises:
        ArchiveUnreadableError: Not a whole Parquet file with these columns.
    """
    arrow, parquet = _pyarrow(), _pyarrow("pyarrow.parquet")
    try:
        with parquet.ParquetFile(path) as file:
            names = list(columns or file.schema_arrow.names)
            for index in range(file.num_row_groups):
                if since is not None and _latest(file, index, since[0]) < since[1]:
                    continue
                table = file.read_row_group(index, columns=names).select(names)
                yield from zip(*(_values(column) for column in table.columns), strict=True)
    except (arrow.ArrowException, OSError, KeyError, UnicodeDecodeError) as error:
        message = f"{path} cannot be read: {error}"
        raise ArchiveUnreadableError(message) from error


def _latest(file: Any, index: int, name: str) -> int:  # noqa: ANN401 - as above
    column = file.read_row_group(index, columns=[name]).column(0)
    return max((value for value in _values(column) if value is not None), default=0)


def _values(column: Any) -> list[Any]:  # noqa: ANN401 - as above
    arrow = _pyarrow()
    if arrow.types.is_timestamp(column.type):
        column = column.cast(arrow.int64())
    values: list[Any] = column.to_pylist()
    return values
