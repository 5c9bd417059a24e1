"""
Read archived months as if their rows still stood in the database.

Each file's hash is compared with the one recorded at the cut first; what differs is a finding,
and the rows are followed all the same, so that the chain says what was changed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

from tokenworks.ledger.archive_files import ArchivedMonth, hash_file, month_name
from tokenworks.ledger.errors import ArchiveUnreadableError
from tokenworks.ledger.findings import Findings, ProblemCode
from tokenworks.ledger.parquet import read_parquet, require_pyarrow

_HOLD_OPERATIONS: Final = frozenset({"place", "extend", "capture", "void", "expire"})

_COLUMNS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "batches": (
            "lane",
            "batch",
            "epoch",
            "recorded_at",
            "operations",
            "previous_hash",
            "hash",
        ),
        "entries": (
            "lane",
            "batch",
            "position",
            "fact_id",
            "operation",
            "ordinal",
            "recorded_at",
            "record",
            "receipt_sequence",
            "receipt_previous",
        ),
        "holds": (
            "hold_id",
            "state",
            "placed_at",
            "expires_at",
            "closed_at",
            "on_expiry",
            "part_accounts",
            "part_held",
            "part_captured",
        ),
        "calls": ("call_id", "charge_quanta"),
        "payments": ("payment_id", "operation", "ordinal", "captured_quanta"),
    }
)
_TABLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "batches": "ledger.batches",
        "entries": "ledger.entries",
        "facts": "ledger.entries",
        "holds": "ledger.holds",
        "calls": "gateway.calls",
        "payments": "agents.payments",
    }
)
_IDENTIFIERS: Final[Mapping[str, int]] = MappingProxyType(
    {"entries": 3, "facts": 0, "holds": 0, "calls": 0, "payments": 0}
)
"""Where an identifier stands in a row; files keep it as text."""


class ArchivedRows:
    """
    The archived months of a hub.

    Args:
        folder: Where their files are now.
        months: What the database says was archived.
        findings: Told what differs.
    """

    def __init__(self, folder: Path, months: Sequence[ArchivedMonth], findings: Findings) -> None:
        self._folder = folder
        self._months = months
        self._findings = findings

    def verify(self) -> int:
        """
        Compare every file with the hash recorded at its cut; return how many there are.

        Raises:
            ArchiveToolMissingError: ``pyarrow`` is not installed.
            ArchiveUnreadableError: A file is not there.
        """
        require_pyarrow()
        count = 0
        for month in self._months:
            for file in month.files.values():
                path = self._folder / file.file
                try:
                    found = hash_file(path)
                except OSError as error:
                    message = f"The archive of {month_name(month.starts_at)} is incomplete: {error}"
                    raise ArchiveUnreadableError(message) from error
                if found != file.sha256:
                    message = "The file is not the one that was written before the drop."
                    self._findings.problem(ProblemCode.ARCHIVE_DIFFERS, str(path), message)
                count += 1
        return count

    def parts(self, name: str) -> list[AsyncIterator[Sequence[Any]]]:
        """
        Return one sorted stream of rows for each month.
        """
        return [
            self._part(name, self._folder / month.files[_TABLES[name]].file)
            for month in self._months
            if _TABLES[name] in month.files
        ]

    async def _part(self, name: str, path: Path) -> AsyncIterator[Sequence[Any]]:
        read = _facts if name == "facts" else _reader(_COLUMNS[name])
        place = _IDENTIFIERS.get(name)
        try:
            for row in read(path):
                if place is None:
                    yield row
                else:
                    yield (*row[:place], UUID(row[place]), *row[place + 1 :])
        except (ArchiveUnreadableError, ValueError) as error:
            self._findings.problem(ProblemCode.ARCHIVE_DIFFERS, str(path), str(error))


def _reader(columns: tuple[str, ...]) -> Callable[[Path], Iterator[tuple[Any, ...]]]:
    return lambda path: read_parquet(path, columns)


def _facts(path: Path) -> Iterator[tuple[Any, ...]]:
    # Files are in the order of the chain; a hold's life is wanted together. The nameless
    # database lies on the disk and sorts there, so memory does not grow with the month.
    with closing(sqlite3.connect("")) as store:
        store.execute("CREATE TABLE facts (fact_id TEXT NOT NULL, record TEXT NOT NULL)")
        store.executemany(
            "INSERT INTO facts VALUES (?, ?)",
            (
                (fact_id, record)
                for fact_id, operation, record in read_parquet(
                    path, ("fact_id", "operation", "record")
                )
                if operation in _HOLD_OPERATIONS
            ),
        )
        yield from store.execute("SELECT fact_id, record FROM facts ORDER BY fact_id")
