"""
The rows that a check reads, sorted, from the database and from archived files alike.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from operator import itemgetter
from types import MappingProxyType
from typing import Any, Final, LiteralString, TypeAlias

from tokenworks.ledger.check_archive import ArchivedRows
from tokenworks.postgres.pool import Connection
from tokenworks.postgres.queries import load

FETCH_ROWS: Final = 2_000
PROGRESS_ROWS: Final = 10_000

Row: TypeAlias = Sequence[Any]
Key: TypeAlias = Callable[[Row], Any]
Progress: TypeAlias = Callable[[str, int], None]
"""Is told a stage of the check and how many rows of it were read."""

_QUERIES: Final = load("tokenworks.ledger", "check_queries.sql")

ORDERS: Final[Mapping[str, Key]] = MappingProxyType(
    {
        "batches": itemgetter(0, 1),
        "entries": itemgetter(0, 1, 2),
        "facts": itemgetter(0),
        "holds": itemgetter(0),
        "calls": itemgetter(0),
        "payments": itemgetter(0),
    }
)
"""What is archived, and the order in which its rows come."""


class BookRows:
    """
    Named queries on one snapshot.

    Args:
        connection: In a transaction that sees one snapshot.
        on_progress: Told every ``PROGRESS_ROWS`` rows.
    """

    def __init__(self, connection: Connection, on_progress: Progress | None) -> None:
        self._connection = connection
        self._on_progress = on_progress
        self.counts: Counter[str] = Counter()
        self.archived: ArchivedRows | None = None
        """Merged into the history when it is read from the first batch."""
        self.since: Mapping[str, object] | None = None
        """Parameters of the ``_since`` queries; ``None`` reads from the first batch."""

    async def fetch(self, query: str, **parameters: object) -> list[Any]:
        """
        Return all rows of a short answer.
        """
        cursor = await self._connection.execute(_QUERIES[query], parameters)
        return await cursor.fetchall()

    def history(self, name: str) -> AsyncIterator[Row]:
        """
        Yield the rows of a part of the history from the start on, in the order of ``ORDERS``.
        """
        if self.since is not None:
            return self.stream(name, f"{name}_since", self.since)
        if self.archived is None:
            return self.stream(name)
        sources = [self.stream(name)]
        sources += [self._counted(name, part) for part in self.archived.parts(name)]
        return merge(sources, ORDERS[name])

    async def stream(
        self, name: str, query: str | None = None, parameters: Mapping[str, object] | None = None
    ) -> AsyncIterator[Row]:
        """
        Yield rows as the server sends them, and count them under ``name``.
        """
        text: LiteralString = _QUERIES[query or name]
        async with self._connection.cursor(name=f"check_{name}", binary=True) as cursor:
            cursor.itersize = FETCH_ROWS
            await cursor.execute(text, parameters)
            async for row in cursor:
                self._count(name)
                yield row

    async def _counted(self, name: str, part: AsyncIterator[Row]) -> AsyncIterator[Row]:
        async for row in part:
            self._count(name)
            yield row

    def _count(self, name: str) -> None:
        self.counts[name] += 1
        if self._on_progress and self.counts[name] % PROGRESS_ROWS == 0:
            self._on_progress(name, self.counts[name])


async def merge(sources: Sequence[AsyncIterator[Row]], key: Key) -> AsyncIterator[Row]:
    """
    Yield the rows of several sorted streams as one; one row of each in memory.
    """
    waiting: list[tuple[Any, int, Row]] = []
    for index, source in enumerate(sources):
        row = await anext(source, None)
        if row is not None:
            heapq.heappush(waiting, (key(row), index, row))
    while waiting:
        _, index, row = heapq.heappop(waiting)
        yield row
        following = await anext(sources[index], None)
        if following is not None:
            heapq.heappush(waiting, (key(following), index, following))


class Groups:
    """
    Rows of a sorted stream, taken key by key; one group in memory at a time.
    """

    def __init__(self, rows: AsyncIterator[Row], key: Key) -> None:
        self._rows = rows
        self._key = key
        self._next: Row | None = None
        self._is_started = False

    @property
    def key(self) -> Any:  # noqa: ANN401 - a column or several
        """
        Return the key of the next group, or ``None`` at the end.
        """
        return None if self._next is None else self._key(self._next)

    async def start(self) -> None:
        """
        Read the first row; without it ``key`` says nothing.
        """
        if not self._is_started:
            self._is_started = True
            self._next = await anext(self._rows, None)

    async def take(self, key: object) -> list[Row]:
        """
        Return the rows of the next group when that is its key, else none.
        """
        await self.start()
        group: list[Row] = []
        while self._next is not None and self._key(self._next) == key:
            group.append(self._next)
            self._next = await anext(self._rows, None)
        return group


async def nothing() -> AsyncIterator[Row]:
    """
    Yield no row.
    """
    for row in ():
        yield row
