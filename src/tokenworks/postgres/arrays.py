"""
Send whole columns to a function as binary arrays.

A batch is a dozen columns of up to a thousand values; packing them here costs about a
tenth of what the driver's general list adaption costs, and the types are exact.
Format: PostgreSQL ``array_recv`` (src/backend/utils/adt/arrayfuncs.c).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from typing import Any, Final
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.adapt import Dumper
from psycopg.pq import Format

_HEADER: Final = struct.Struct(">iiIii")
_NULL: Final = b"\xff\xff\xff\xff"
_INT2: Final = struct.Struct(">ih")
_INT4: Final = struct.Struct(">ii")
_INT8: Final = struct.Struct(">iq")
_BOOL: Final = struct.Struct(">i?")
_LENGTH: Final = struct.Struct(">i")
_UUID_LENGTH: Final = _LENGTH.pack(16)
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)


class BinaryArray(bytes):
    """
    An array in PostgreSQL's binary format; each subclass names its type.
    """

    array_oid = 0


class Int2Array(BinaryArray):
    """
    ``smallint[]``.
    """

    array_oid = 1005


class Int4Array(BinaryArray):
    """
    ``integer[]``.
    """

    array_oid = 1007


class Int8Array(BinaryArray):
    """
    ``bigint[]``.
    """

    array_oid = 1016


class BoolArray(BinaryArray):
    """
    ``boolean[]``.
    """

    array_oid = 1000


class UuidArray(BinaryArray):
    """
    ``uuid[]``.
    """

    array_oid = 2951


class TextArray(BinaryArray):
    """
    ``text[]``.
    """

    array_oid = 1009


class ByteaArray(BinaryArray):
    """
    ``bytea[]``.
    """

    array_oid = 1001


class TimestampArray(BinaryArray):
    """
    ``timestamptz[]``.
    """

    array_oid = 1185


class DateArray(BinaryArray):
    """
    ``date[]``.
    """

    array_oid = 1182


def int2_array(values: Sequence[int]) -> Int2Array:
    """
    Pack small integers.
    """
    pack = _INT2.pack
    return Int2Array(_array(21, len(values), (pack(2, value) for value in values)))


def int4_array(values: Sequence[int | None]) -> Int4Array:
    """
    Pack integers; ``None`` is NULL.
    """
    pack = _INT4.pack
    return Int4Array(_array(23, len(values), (_NULL if v is None else pack(4, v) for v in values)))


def int8_array(values: Sequence[int | None]) -> Int8Array:
    """
    Pack long integers; ``None`` is NULL.
    """
    pack = _INT8.pack
    return Int8Array(_array(20, len(values), (_NULL if v is None else pack(8, v) for v in values)))


def bool_array(values: Sequence[bool]) -> BoolArray:
    """
    Pack truth values.
    """
    pack = _BOOL.pack
    return BoolArray(_array(16, len(values), (pack(1, value) for value in values)))


def uuid_array(values: Sequence[UUID | None]) -> UuidArray:
    """
    Pack identifiers; ``None`` is NULL.
    """
    return UuidArray(
        _array(2950, len(values), (_NULL if v is None else _UUID_LENGTH + v.bytes for v in values))
    )


def text_array(values: Sequence[str | None]) -> TextArray:
    """
    Pack texts as UTF-8; ``None`` is NULL.
    """
    return TextArray(_array(25, len(values), (_prefixed(v and v.encode()) for v in values)))


def bytea_array(values: Sequence[bytes | None]) -> ByteaArray:
    """
    Pack byte strings; ``None`` is NULL.
    """
    return ByteaArray(_array(17, len(values), (_prefixed(value) for value in values)))


def timestamp_array(values: Sequence[datetime | None]) -> TimestampArray:
    """
    Pack moments with their zone; ``None`` is NULL.
    """
    pack = _INT8.pack
    return TimestampArray(
        _array(
            1184,
            len(values),
            (_NULL if v is None else pack(8, _microseconds(v)) for v in values),
        )
    )


def date_array(values: Sequence[date | None]) -> DateArray:
    """
    Pack dates; ``None`` is NULL.
    """
    pack = _INT4.pack
    first = _EPOCH.date()
    return DateArray(
        _array(
            1082,
            len(values),
            (_NULL if v is None else pack(4, (v - first).days) for v in values),
        )
    )


def _microseconds(moment: datetime) -> int:
    elapsed = moment - _EPOCH
    return (elapsed.days * 86_400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds


def _prefixed(value: bytes | str | None) -> bytes:
    if value is None:
        return _NULL
    assert not isinstance(value, str) or value == "", "texts are encoded by the caller"
    data = value if isinstance(value, bytes) else b""
    return _LENGTH.pack(len(data)) + data


def _array(element_oid: int, count: int, elements: Iterable[bytes]) -> bytes:
    if count == 0:
        return struct.pack(">iiI", 0, 0, element_oid)
    return _HEADER.pack(1, 1, element_oid, count, 1) + b"".join(elements)


class _BinaryArrayDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Any) -> bytes:  # noqa: ANN401 - the driver's own signature
        return bytes(obj)


def register_arrays(connection: AsyncConnection[Any]) -> None:
    """
    Teach one connection to send these arrays as they are.
    """
    for kind in BinaryArray.__subclasses__():
        dumper = type(f"{kind.__name__}Dumper", (_BinaryArrayDumper,), {"oid": kind.array_oid})
        connection.adapters.register_dumper(kind, dumper)
