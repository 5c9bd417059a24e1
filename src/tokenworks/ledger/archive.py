"""
Archive old months to Parquet, and drop them once the files are proven.

Order, for one month after the other, the oldest first:

1. nothing may be open: a hold that is still open keeps its month, and all later ones;
2. write every table that follows the months (``ledger.retained_tables``), sync the files;
3. read the files back: the same rows, value by value, and the lanes' chains rebuilt from the
   records in the file;
4. put the files in their place, durably;
5. ``ledger.drop_month_v1``: under its locks it looks for open holds again, counts the rows,
   records the cut (files, hashes, heads, balances) and drops, in one transaction.

Until 5 has committed the month is in the database and the next run begins it again; after it
nothing is left to do. So a run may be killed between any two steps.

Known limits: blocking on purpose, to be run in a thread; a table is read in one snapshot, which
keeps the server from tidying up for as long as that takes.
"""

from __future__ import annotations

import contextlib
import heapq
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, LiteralString, TypeAlias
from uuid import UUID

import msgspec
import psycopg
from psycopg import sql

from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import InvalidError
from tokenworks.ledger.archive_files import (
    ArchivedFile,
    ArchivedMonth,
    begin_month,
    earlier_months,
    hash_file,
    microseconds,
    month_name,
    publish_month,
    sync_path,
)
from tokenworks.ledger.chain import NO_HASH, batch_hash
from tokenworks.ledger.errors import (
    ArchiveDiffersError,
    ArchiveRefusedError,
    LedgerUnavailableError,
)
from tokenworks.ledger.parquet import (
    MOMENT,
    ParquetColumn,
    RowDigest,
    is_plain,
    read_parquet,
    require_pyarrow,
    write_parquet,
)
from tokenworks.postgres.queries import load

FETCH_ROWS: Final = 5_000
PROGRESS_ROWS: Final = 10_000
SETTLED_AFTER: Final = timedelta(days=1)
"""A month may go when it has been over for so long; the database insists on it too."""
DROP_ATTEMPTS_MAX: Final = 60
DROP_PAUSE_S: Final = 0.5

ENTRIES: Final = "ledger.entries"
BATCHES: Final = "ledger.batches"

_QUERIES: Final = load("tokenworks.ledger", "archive_queries.sql")

Connection: TypeAlias = "psycopg.Connection[tuple[Any, ...]]"
Progress: TypeAlias = Callable[[str, int], None]
"""Is told each step as it begins, and how many rows of it were handled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveReport:
    """
    What was archived, and why it went no further.
    """

    months: tuple[ArchivedMonth, ...]
    refusal: str | None = None  # None: every month before the date is archived
    holds: tuple[str, ...] = ()  # some that are open

    def to_json(self) -> dict[str, object]:
        """
        Return plain fields.
        """
        return {
            "months": [month.to_json() for month in self.months],
            "refusal": self.refusal,
            "open_holds": list(self.holds),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Month:
    starts_at: datetime
    ends_at: datetime
    first_id: UUID
    last_id: UUID  # exclusive

    @property
    def name(self) -> str:
        return month_name(self.starts_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    name: str
    order: Sequence[str]
    has_partition: bool  # nobody may have made it; then it has no rows
    columns: Sequence[ParquetColumn]
    key: str  # the column by which it is partitioned
    is_by_identifier: bool  # else by time


def archive_months(
    dsn: str,
    folder: Path,
    *,
    before: datetime,
    clock: Clock,
    on_progress: Progress | None = None,
) -> ArchiveReport:
    """
    Archive and drop every month that is over before a moment; safe to run again at any time.

    Args:
        dsn: The retention role.
        folder: Where the files go; earlier months' files are looked for here too.
        before: A month that ends later stays.
        clock: Months that are not over for a day stay as well.
        on_progress: Told each step.

    Raises:
        ArchiveToolMissingError: ``pyarrow`` is not installed.
        ArchiveRefusedError: Another archiver runs, or the files cannot be written.
        ArchiveDiffersError: The files do not prove what the database holds.
        LedgerUnavailableError: The database did not answer.
    """
    require_pyarrow()
    now = clock.now()
    if before > now:
        raise InvalidError("Only months of the past can be archived.", param="before")
    try:
        with psycopg.connect(dsn, autocommit=True, application_name="tokenworks archive") as link:
            link.execute("SET timezone = 'UTC'")
            if not _all(link, "lock")[0][0]:
                raise ArchiveRefusedError("Another archiver is at work on this database.")
            try:
                archiver = _Archiver(link, folder, clock, on_progress or _silence)
                return archiver.run(min(before, now - SETTLED_AFTER))
            finally:
                # Closing would free it too, but only when the server has noticed.
                with contextlib.suppress(psycopg.Error):
                    _all(link, "unlock")
    except psycopg.Error as error:
        message = f"The database could not be archived: {error}"
        raise LedgerUnavailableError(message) from error
    except OSError as error:
        message = f"The archive cannot be written: {error}"
        raise ArchiveRefusedError(message) from error


class _Archiver:
    def __init__(self, link: Connection, folder: Path, clock: Clock, tell: Progress) -> None:
        self._link = link
        self._folder = folder
        self._clock = clock
        self._tell = tell

    def run(self, before: datetime) -> ArchiveReport:
        done: list[ArchivedMonth] = []
        for starts_at, ends_at, first_id, last_id in _all(self._link, "months", before=before):
            month = _Month(starts_at=starts_at, ends_at=ends_at, first_id=first_id, last_id=last_id)
            holds = _all(self._link, "open_holds", first_id=first_id, last_id=last_id)
            if holds:
                return ArchiveReport(
                    months=tuple(done),
                    refusal=f"{month.name} has holds that are still open, so it stays.",
                    holds=tuple(str(row[0]) for row in holds),
                )
            done.append(self._archive(month))
        return ArchiveReport(months=tuple(done))

    def _archive(self, month: _Month) -> ArchivedMonth:
        partial = begin_month(self._folder, month.name)
        written: dict[str, RowDigest] = {}
        for table in self._tables(month):
            self._tell(f"{month.name} write {table.name}", 0)
            path = partial / file_name(table.name)
            written[table.name] = write_parquet(path, table.columns, self._rows(table, month))
            sync_path(path)
        files: dict[str, ArchivedFile] = {}
        for table_name, digest in written.items():
            self._tell(f"{month.name} verify {table_name}", 0)
            files[table_name] = _verified(partial / file_name(table_name), month.name, digest)
        self._tell(f"{month.name} rebuild the chain", 0)
        self._verify_chain(partial, month)
        self._tell(f"{month.name} publish", 0)
        place = publish_month(partial, self._folder, month.name, files)
        self._tell(f"{month.name} drop", 0)
        self._drop(month, place, files)
        self._tell(f"{month.name} done", 0)
        return ArchivedMonth(
            starts_at=month.starts_at, ends_at=month.ends_at, folder=str(place), files=files
        )

    def _tables(self, month: _Month) -> list[_Table]:
        suffix = f"{month.starts_at.astimezone(UTC):%Y_%m}"
        return [
            _Table(
                name=name,
                order=order,
                has_partition=is_there,
                columns=[
                    ParquetColumn(name=column, database_type=kind)
                    for column, kind in zip(names, types, strict=True)
                ],
                key=key,
                is_by_identifier=is_by_identifier,
            )
            for name, order, is_there, names, types, key, is_by_identifier in _all(
                self._link, "tables", suffix=suffix
            )
        ]

    def _rows(self, table: _Table, month: _Month) -> Generator[tuple[Any, ...]]:
        if not table.has_partition:
            return
        # Read through the parent, which the role may read; the bounds leave one partition.
        query = sql.SQL("SELECT {} FROM {} WHERE {key} >= %s AND {key} < %s ORDER BY {}").format(
            sql.SQL(", ").join(_selected(column) for column in table.columns),
            sql.Identifier(*table.name.split(".")),
            sql.SQL(", ").join(sql.Identifier(column) for column in table.order),
            key=sql.Identifier(table.key),
        )
        bounds = (
            (month.first_id, month.last_id)
            if table.is_by_identifier
            else (month.starts_at, month.ends_at)
        )
        with self._link.transaction(), self._link.cursor(name="archive", binary=True) as cursor:
            cursor.itersize = FETCH_ROWS
            cursor.execute(query, bounds)
            for count, row in enumerate(cursor, start=1):
                if count % PROGRESS_ROWS == 0:
                    self._tell(f"{month.name} write {table.name}", count)
                yield row

    def _verify_chain(self, partial: Path, month: _Month) -> None:
        earlier = earlier_months(_all(self._link, "earlier"))
        heads = {span.lane: span for known in earlier for span in known.spans}
        columns = ("lane", "batch", "position", "record")
        sources = [
            read_parquet(partial / file_name(ENTRIES), columns),
            iter(_all(self._link, "later_records", last_id=month.last_id, ends_at=month.ends_at)),
        ]
        starts = microseconds(month.starts_at)
        for known in earlier:
            # Calls that began before midnight and ended after it: theirs are the earlier ids.
            if known.recorded_last is not None and known.recorded_last >= starts:
                path = self._folder / known.files[ENTRIES].file
                if not path.exists() or hash_file(path) != known.files[ENTRIES].sha256:
                    raise ArchiveRefusedError(
                        f"{month.name} has calls that began in {month_name(known.starts_at)}: "
                        f"{path} is missing or is not what was archived. Bring it back first."
                    )
                sources.append(read_parquet(path, columns, since=("recorded_at", starts)))
        entries = heapq.merge(*sources, key=lambda row: row[:3])
        rebuild_chain(
            read_parquet(
                partial / file_name(BATCHES),
                ("lane", "batch", "epoch", "recorded_at", "operations", "previous_hash", "hash"),
            ),
            entries,
            {lane: (span.last, bytes.fromhex(span.hash)) for lane, span in heads.items()},
        )

    def _drop(self, month: _Month, place: Path, files: Mapping[str, ArchivedFile]) -> None:
        parameters = {
            "starts_at": month.starts_at,
            "folder": str(place.absolute()),
            "files": msgspec.json.encode(dict(files)).decode(),
        }
        for attempt in range(1, DROP_ATTEMPTS_MAX + 1):
            try:
                self._link.execute(_QUERIES["drop_month"], {**parameters, "now": self._clock.now()})
            except psycopg.errors.LockNotAvailable as error:
                # The hub is busy: it goes first, and this one comes again.
                self._tell(f"{month.name} drop waits", attempt)
                if attempt == DROP_ATTEMPTS_MAX:
                    message = f"{month.name} is archived, but could not be locked to be dropped."
                    raise ArchiveRefusedError(message) from error
                time.sleep(DROP_PAUSE_S)
            except psycopg.Error as error:
                if error.sqlstate in _REFUSALS:
                    raise ArchiveRefusedError(
                        f"{month.name} stays: {_first_line(error)}."
                    ) from error
                raise
            else:
                return


_REFUSALS: Final = frozenset({"TW003", "TW010", "TW011", "TW012"})


def rebuild_chain(
    batches: Iterable[Sequence[Any]],
    entries: Iterable[Sequence[Any]],
    heads: Mapping[int, tuple[int, bytes]],
) -> int:
    """
    Hash every batch again from its records; return how many there were.

    Args:
        batches: (lane, batch, epoch, microseconds, operations, previous hash, hash), sorted.
        entries: (lane, batch, position, record), sorted; those of other batches are skipped.
        heads: By lane the last batch before, and its hash.

    Raises:
        ArchiveDiffersError: A batch is missing, or does not hash to what was recorded.
    """
    followed = dict(heads)
    records = iter(entries)
    entry = next(records, None)
    count = 0
    for lane, batch, epoch, moment, operations, previous, stored in batches:
        while entry is not None and (entry[0], entry[1]) < (lane, batch):
            entry = next(records, None)
        texts: list[str] = []
        while entry is not None and (entry[0], entry[1]) == (lane, batch):
            texts.append(entry[3])
            entry = next(records, None)
        last, head = followed.get(lane, (0, NO_HASH))
        found = batch_hash(head, lane=lane, batch=batch, epoch=epoch, time=moment, records=texts)
        if (batch, previous, len(texts), found) != (last + 1, head, operations, stored):
            raise ArchiveDiffersError(
                f"Batch {batch} of lane {lane} does not follow from its records: "
                "run `tokenworks ledger check --full`. Nothing was dropped."
            )
        followed[lane] = (batch, stored)
        count += 1
    return count


def file_name(table: str) -> str:
    """
    Return the file of a table within a month's folder.
    """
    return f"{table}.parquet"


def _verified(path: Path, month: str, written: RowDigest) -> ArchivedFile:
    found = RowDigest()
    for row in read_parquet(path):
        found.add(row)
    if (found.rows, found.hex) != (written.rows, written.hex):
        raise ArchiveDiffersError(
            f"{path.name} holds {found.rows} rows that are not the {written.rows} of the "
            "database. Nothing was dropped."
        )
    return ArchivedFile(
        file=f"{month}/{path.name}",
        rows=found.rows,
        bytes=path.stat().st_size,
        sha256=hash_file(path),
    )


def _selected(column: ParquetColumn) -> sql.Composable:
    name = sql.Identifier(column.name)
    if column.database_type == MOMENT:
        return sql.SQL("ledger.microseconds({})").format(name)
    return name if is_plain(column.database_type) else sql.SQL("{}::text").format(name)


def _first_line(error: psycopg.Error) -> str:
    return str(error).splitlines()[0]


def _all(link: Connection, query: LiteralString, **parameters: object) -> list[tuple[Any, ...]]:
    return link.execute(_QUERIES[query], parameters).fetchall()


def _silence(_step: str, _rows: int) -> None:
    return
