"""
The one connection by which a process writes, and the lane that it holds.

Owns: the lease (taken at every connection, renewed while it lasts, given back in the end), and
what counts as a clean answer of the database.
Does not own: what is sent, and what is done about an unclear answer (``ledger/writer.py``).
Invariants: a connection that is open holds a lane; taking it again puts its epoch up, which
fences the connection before; rows are returned only after their commit; a notice at a commit
(a standby that did not confirm) makes its outcome unknown.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, LiteralString

import psycopg
import structlog
from psycopg import errors as postgres_errors

from tokenworks.foundation.clock import Clock
from tokenworks.ledger.store import QUERIES
from tokenworks.postgres import arrays
from tokenworks.postgres.fence import Fence, ServerRefusedError
from tokenworks.postgres.pool import Connection, connect

LANES_MAX: Final = 1_024
LEASE_LIFETIME_S: Final = 30.0
LEASE_RENEWAL_S: Final = 8.0

_RECORDED: Final = re.compile(r"(entries|holds)_\d{4}_\d{2}_pkey")
_LANE_LOST: Final = "TW002"
_CLOCK_SKEWED: Final = "TW003"

_log = structlog.get_logger("tokenworks.ledger")


@dataclass(frozen=True, slots=True)
class Lane:
    """
    A writer's lease: its number and the epoch in which it holds it.
    """

    number: int
    epoch: int


class OutcomeUnknownError(Exception):
    """
    The connection said something else than a clean commit.
    """


class LaneConnection:
    """
    A connection that holds a lane while it is open; opened again after every trouble.

    Args:
        dsn: Connection string of the posting role.
        clock: Says until when a lease lasts.
        holder: Names this process in its leases; who names it again gets the same lane.
        fence: Asked at every connection; a server that was demoted is not written.
    """

    def __init__(self, dsn: str, *, clock: Clock, holder: str, fence: Fence | None) -> None:
        self._dsn = dsn
        self._clock = clock
        self._fence = fence
        self._connection: Connection | None = None
        self._lane: Lane | None = None
        self._renew_at_s = 0.0
        self._notices = 0
        self.holder: Final = holder
        self.refusal: ServerRefusedError | None = None
        """Why the server may not be written, as of the last attempt to connect."""

    @property
    def is_open(self) -> bool:
        """
        Return whether there is a connection, as far as is known.
        """
        return self._connection is not None

    @property
    def lane(self) -> Lane:
        """
        Return the lane that is held, or was held last.
        """
        assert self._lane is not None, "leased before any work"
        return self._lane

    # ------------------------------------------------------------------ the lease

    async def open(self) -> None:
        """
        Connect and take a lane, the one that was held before if it is still ours.

        Raises:
            ServerRefusedError: The server was demoted; only an operator can help.
            OutcomeUnknownError: The lease is not surely durable.
        """
        try:
            connection = await connect(self._dsn, name="ledger writer", fence=self._fence)
        except ServerRefusedError as error:
            self.refusal = error
            raise
        self.refusal = None
        arrays.register_arrays(connection)
        connection.prepare_threshold = 0
        connection.add_notice_handler(self._note_notice)
        self._connection = connection
        notices = self._notices
        now = self._clock.now()
        rows = await self.look_up(
            "lease_lane",
            {
                "holder": self.holder,
                "now": now,
                "until": now + timedelta(seconds=LEASE_LIFETIME_S),
                "lanes_max": LANES_MAX,
            },
        )
        # Facts that are sent again after an unknown outcome may be found recorded, and then
        # nothing is written and nothing waited for. The lease before them is a commit that
        # waits for the standby, and with it for all that came before: it must be clean.
        self._refuse_unconfirmed(notices)
        self._lane = Lane(int(rows[0][0]), int(rows[0][1]))
        self._renew_at_s = self._clock.monotonic_s() + LEASE_RENEWAL_S

    async def close(self) -> None:
        """
        Disconnect and leave the lease to run out.
        """
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error, OSError):
                await connection.close()

    async def give_back(self) -> None:
        """
        End the lease, so that another process may have the lane at once, and disconnect.
        """
        try:
            if self._connection is not None and self._lane is not None:
                with contextlib.suppress(psycopg.Error):
                    await self.renew(until=self._clock.now())
        finally:
            await self.close()

    @property
    def is_renewal_due(self) -> bool:
        """
        Return whether the lease has to be renewed before anything else.
        """
        return self._clock.monotonic_s() >= self._renew_at_s

    async def keep(self) -> None:
        """
        Renew the lease for a whole lifetime.

        Raises:
            OutcomeUnknownError: The lane was lost.
        """
        until = self._clock.now() + timedelta(seconds=LEASE_LIFETIME_S)
        if not await self.renew(until=until):
            message = "the lane was lost"
            raise OutcomeUnknownError(message)
        self._renew_at_s = self._clock.monotonic_s() + LEASE_RENEWAL_S

    async def renew(self, *, until: datetime) -> bool:
        """
        Let the lease last until a moment; return false when the lane was lost.
        """
        lane = self.lane
        rows = await self.look_up(
            "renew_lane", {"lane": lane.number, "epoch": lane.epoch, "until": until}
        )
        return bool(rows and rows[0][0])

    # ------------------------------------------------------------------ statements

    async def call(self, query: LiteralString, parameters: Sequence[Any]) -> list[Any]:
        """
        Run one function as one transaction; return only after its commit.

        In autocommit mode the statement's implicit commit happens before the server says
        it is ready, and the driver collects every result until then: an error at commit
        is raised here.

        Raises:
            OutcomeUnknownError: A notice came with the commit.
            SerializationFailure: Another writer recorded one of these facts first: run again,
                it will be seen.
        """
        assert self._connection is not None, "connected before any work"
        notices = self._notices
        try:
            async with self._connection.cursor(binary=True) as cursor:
                await cursor.execute(query, parameters, prepare=True)
                rows = await cursor.fetchall()
        except postgres_errors.UniqueViolation as error:
            if _RECORDED.fullmatch(error.diag.constraint_name or ""):
                raise postgres_errors.SerializationFailure(*error.args) from error
            raise
        self._refuse_unconfirmed(notices)
        return rows

    async def look_up(self, query: str, parameters: Mapping[str, Any]) -> list[Any]:
        """
        Run a named statement that moves no value; a notice is let pass.
        """
        assert self._connection is not None, "connected before any work"
        cursor = await self._connection.execute(QUERIES[query], parameters)
        return await cursor.fetchall()

    def is_at_fault(self, error: Exception) -> bool:
        """
        Return whether an error is about the connection or the lane, not about what was sent.
        """
        if not isinstance(error, psycopg.Error):
            return False
        if self._connection is None or self._connection.closed:
            return True
        return isinstance(
            error, (psycopg.OperationalError, psycopg.InterfaceError)
        ) or error.sqlstate in {_LANE_LOST, _CLOCK_SKEWED}

    def _note_notice(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        self._notices += 1
        _log.warning("ledger_notice", message=diagnostic.message_primary)

    def _refuse_unconfirmed(self, notices: int) -> None:
        if self._notices != notices:
            message = "a notice came with the commit"
            raise OutcomeUnknownError(message)
