"""
Read one count of a supplier's usage object, or say exactly which field is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, cast

from tokenworks.metering.errors import UsageError

USAGE_COUNT_MAX: Final = 100_000_000
"""Above every model's context and output; a larger count cannot be true."""


def read_object(holder: object, *, path: str) -> Mapping[str, object]:
    """
    Return ``holder`` as a JSON object.

    Raises:
        UsageError: It is something else.
    """
    if not isinstance(holder, dict):
        message = f"The supplier's {path} is {_kind(holder)}, not an object."
        raise UsageError(message, param=path)
    return cast("dict[str, object]", holder)


def read_details(holder: Mapping[str, object], name: str, *, path: str) -> Mapping[str, object]:
    """
    Return the object under ``name``, or an empty one where it is absent or null.

    Raises:
        UsageError: It is something else.
    """
    value = holder.get(name)
    return {} if value is None else read_object(value, path=f"{path}.{name}")


def read_count(holder: Mapping[str, object], name: str, *, path: str, count_max: int) -> int | None:
    """
    Return the count under ``name``; ``None`` where it is absent or null.

    Raises:
        UsageError: It is no integer (a boolean is none), negative, or above ``count_max``.
    """
    value = holder.get(name)
    if value is None:
        return None
    if type(value) is not int:
        message = f"The supplier's {path}.{name} is {_kind(value)}, not an integer."
        raise UsageError(message, param=f"{path}.{name}")
    if not 0 <= value <= count_max:
        message = f"The supplier's {path}.{name} is {value}: not between 0 and {count_max}."
        raise UsageError(message, param=f"{path}.{name}")
    return value


def check_part(part: int, whole: int, *, param: str, whole_name: str) -> None:
    """
    Refuse a part that is larger than what it is a part of.

    Raises:
        UsageError: It is.
    """
    if part > whole:
        message = f"The supplier's {param} is {part}, more than its {whole_name} of {whole}."
        raise UsageError(message, param=param)


def unknown_counts(
    holder: Mapping[str, object], *, known: frozenset[str], path: str
) -> Iterator[tuple[str, int]]:
    """
    Yield positive integers under names that are not ``known``; a ratio or a text is no count.
    """
    for name, value in holder.items():
        if name not in known and type(value) is int and value > 0:
            yield f"{path}.{name}", value


def _kind(value: object) -> str:
    return "null" if value is None else f"a {type(value).__name__}"
