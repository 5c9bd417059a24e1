"""
One batch: packed, run by one of the ledger's functions in this lane, read as outcomes.

Owns: which function a batch of postings goes to (``post_plain_v1`` where it seems that nothing
in it can be refused, else ``post_v2``), and what is packed ahead of its turn.
Does not own: which operations make a batch, and what is done when one fails.
Invariants: an answer stands for each operation, in their order; what was packed ahead is used
for the same operations in the same lane only; a plain batch that turns out not to be one has
written nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, LiteralString

import psycopg

from tokenworks.foundation.clock import Clock
from tokenworks.ledger.batching.lane_connection import LaneConnection
from tokenworks.ledger.batching.lane_shares import LaneShares
from tokenworks.ledger.batching.packing import (
    Columns,
    accounts_of,
    outcomes_by_position,
    outcomes_from_rows,
    place_columns,
    plain_columns,
    post_columns,
)
from tokenworks.ledger.model import OK, Outcome, Placement, Posting
from tokenworks.ledger.store import QUERIES

PLAIN_PAUSE_BATCHES: Final = 16
"""After a batch that was not plain, so many are not tried: those that come next are often alike."""
TOGETHER_FROM: Final = 32
"""Plain entries in a batch from which on the database decides them by sets: below it costs more."""

ALARMS: Final = (
    psycopg.Error,
    struct.error,
    ArithmeticError,
    AttributeError,
    TypeError,
    ValueError,
)
"""
What a single malformed operation can cause, in the server or while it is packed; nothing of
the batch was done.
"""
_NOT_PLAIN: Final = "TW030"


class Batches:
    """
    Run the batches of one writer, one at a time.

    Args:
        connection: Holds the lane.
        clock: Ledger time never runs behind it.
        rider: Name of the registered rider that gets the postings' ``rider_row``.
        together_from: See ``TOGETHER_FROM``; answers and records are the same.
        on_send: Called while PostgreSQL works on a batch of postings, once the callers of the
            batch before have gone on; may ``pack_ahead``.
    """

    def __init__(
        self,
        connection: LaneConnection,
        *,
        clock: Clock,
        rider: str | None,
        together_from: int,
        on_send: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._rider = rider
        self._together_from = together_from
        self._on_send = on_send
        self._shares = LaneShares(connection, clock)
        self._ahead: Columns | None = None
        self._plain_pause = 0  # batches until a plain one is tried again

    async def place(self, batch: Sequence[Placement]) -> list[Outcome]:
        """
        Place and extend holds in one transaction.
        """
        parameters = (*self._head(), *place_columns(batch))
        outcomes = outcomes_from_rows(await self._connection.call(QUERIES["place"], parameters))
        self._shares.learn_from_holds(batch, outcomes)
        return outcomes

    async def post(self, batch: Sequence[Posting]) -> list[Outcome]:
        """
        Post entries and end holds in one transaction.
        """
        columns = self._take_ahead(batch)
        if columns is None:
            await self._shares.learn(accounts_of(batch))
            columns = self._pack(batch)
        if columns.plain is not None:
            outcome = await self._post_plain(columns.plain)
            if outcome is not None:
                return [outcome] * len(batch)
            self._plain_pause = PLAIN_PAUSE_BATCHES
        packed = post_columns(batch, self._shares.known, self._rider)
        rows = await self._send(QUERIES["post"], (*self._head(), *packed, self._together_from))
        return outcomes_by_position(rows, len(batch))

    def pack_ahead(self, batch: Sequence[Posting]) -> None:
        """
        Pack a batch before its turn, where that needs no look-up.
        """
        # A malformed operation is found again, and told apart, when its batch is run.
        with contextlib.suppress(*ALARMS):
            if accounts_of(batch) <= self._shares.known.keys():
                self._ahead = self._pack(batch)

    def _head(self) -> tuple[int, int, datetime]:
        lane = self._connection.lane
        return lane.number, lane.epoch, self._clock.now()

    def _take_ahead(self, batch: Sequence[Posting]) -> Columns | None:
        columns, self._ahead = self._ahead, None
        if columns is None or columns.lane != self._connection.lane.number:
            return None
        return columns if columns.operations == batch else None

    def _pack(self, batch: Sequence[Posting]) -> Columns:
        is_tried = not self._plain_pause and len(batch) >= self._together_from
        plain = plain_columns(batch, self._shares.known) if is_tried else None
        self._plain_pause = max(0, self._plain_pause - 1)
        return Columns(operations=batch, lane=self._connection.lane.number, plain=plain)

    async def _post_plain(self, columns: tuple[Any, ...]) -> Outcome | None:
        """
        Post a batch that seems to be plain; ``None``: it is not, and nothing was written.
        """
        head = self._head()
        try:
            rows = await self._send(QUERIES["post_plain"], (*head, *columns))
        except psycopg.Error as error:
            if error.sqlstate != _NOT_PLAIN:
                raise
            return None
        moment: datetime | None = rows[0][0]
        if moment is None:
            return None
        return Outcome(code=OK, recorded_at=moment, lane=head[0])

    async def _send(self, query: LiteralString, parameters: Sequence[Any]) -> list[Any]:
        asyncio.get_running_loop().call_soon(self._on_send)
        return await self._connection.call(query, parameters)
