"""
The folder of an archive: one folder a month, one Parquet file a table.

A month is written beside its place and put there with one rename, synced before and after;
what is there already is moved aside, never deleted. A file counts only once its hash stands
in ``ledger.archives``: until then the month is still in the database.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec

MANIFEST: Final = "manifest.json"
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_READ_BYTES: Final = 1 << 20


class ArchivedFile(msgspec.Struct, frozen=True, kw_only=True):
    """
    One table's rows of one month.
    """

    file: str  # below the archive's folder
    rows: int
    bytes: int
    sha256: str


class LaneSpan(msgspec.Struct, frozen=True, array_like=True):
    """
    Which batches of a lane a month holds.
    """

    lane: int
    first: int
    last: int
    hash: str
    """Of the last batch, in hexadecimal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedMonth:
    """
    A month that was archived and dropped.
    """

    starts_at: datetime
    ends_at: datetime
    folder: str  # where it was written
    files: Mapping[str, ArchivedFile]  # by table
    spans: tuple[LaneSpan, ...] = ()
    recorded_last: int | None = None  # microseconds; None: no record

    def to_json(self) -> dict[str, object]:
        """
        Return plain fields.
        """
        return {
            "starts_at": self.starts_at.isoformat().replace("+00:00", "Z"),
            "ends_at": self.ends_at.isoformat().replace("+00:00", "Z"),
            "folder": self.folder,
            "files": {table: msgspec.to_builtins(file) for table, file in self.files.items()},
        }


def earlier_months(rows: Iterable[Sequence[Any]]) -> list[ArchivedMonth]:
    """
    Return what ``ledger.archives`` says, the oldest first.
    """
    return [
        ArchivedMonth(
            starts_at=starts_at,
            ends_at=ends_at,
            folder=folder,
            files=msgspec.convert(files, dict[str, ArchivedFile]),
            spans=msgspec.convert(spans, tuple[LaneSpan, ...]),
            recorded_last=recorded_last,
        )
        for starts_at, ends_at, folder, files, spans, recorded_last in rows
    ]


def microseconds(moment: datetime) -> int:
    """
    Return a moment as the ledger's records tell it.
    """
    return (moment - EPOCH) // timedelta(microseconds=1)


def month_name(starts_at: datetime) -> str:
    """
    Return a month's folder, e.g. ``2026-01``.
    """
    return f"{starts_at.astimezone(UTC):%Y-%m}"


def hash_file(path: Path) -> str:
    """
    Return the SHA-256 of a file in hexadecimal; O(its size).

    Raises:
        OSError: It cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_READ_BYTES):
            digest.update(part)
    return digest.hexdigest()


def sync_path(path: Path) -> None:
    """
    Return when a file or folder is on the disk.
    """
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def begin_month(folder: Path, name: str) -> Path:
    """
    Return an empty folder to write a month into; what an interrupted run left is cleared.
    """
    partial = folder / f".{name}.partial"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700)
    return partial


def publish_month(
    partial: Path, folder: Path, name: str, files: Mapping[str, ArchivedFile]
) -> Path:
    """
    Put a month that is written and verified in its place, durably.
    """
    manifest = partial / MANIFEST
    content = {"version": 1, "month": name, "files": dict(files)}
    manifest.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")
    sync_path(manifest)
    sync_path(partial)
    place = folder / name
    if place.exists():
        # Of a run that ended before the drop, or of another hub: not for us to delete.
        number = 1
        while (aside := folder / f"{name}.superseded-{number}").exists():
            number += 1
        place.rename(aside)
    partial.rename(place)
    sync_path(folder)
    return place
