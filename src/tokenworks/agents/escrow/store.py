"""
Write escrows down and read them again; every function takes part in the caller's transaction.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from psycopg.rows import dict_row
from psycopg.types.json import Json

from tokenworks.agents.escrow.model import (
    Escrow,
    EscrowEvent,
    EscrowState,
    MilestoneStanding,
)
from tokenworks.agents.escrow.recording import from_content, to_content
from tokenworks.agents.escrow.standing import standing
from tokenworks.agents.escrow.terms import read_terms
from tokenworks.foundation.errors import InvalidError
from tokenworks.foundation.limits import PAGE_ROWS_MAX
from tokenworks.foundation.money import ASSETS
from tokenworks.postgres.pool import Connection, Pool
from tokenworks.postgres.queries import load

QUERIES: Final = load("tokenworks.agents.escrow")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEscrow:
    """
    What is written down before money is held.
    """

    escrow_id: UUID
    payer_agent_id: UUID
    organisation_id: UUID
    mandate_id: UUID
    payee_id: UUID
    payee_organisation_id: UUID
    arbiter_id: UUID | None
    currency: str
    quanta: int
    terms: str  # canonical JSON
    terms_sha256: str
    authorisation: str
    digest: bytes
    authorisation_ends_at: datetime
    now: datetime
    due_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEscrow:
    """
    An escrow as it stands, with what only its service needs.
    """

    escrow: Escrow
    payee_organisation_id: UUID
    authorisation: str
    digest: bytes
    authorisation_ends_at: datetime
    terms: dict[str, Any]  # as they were signed
    events_count: int


class EscrowStore:
    """
    The tables ``agents.escrows``, ``agents.escrow_events`` and ``agents.escrow_calls``.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def ensure_partitions(self) -> None:
        """
        Make the partitions of the ledger's months; call after the ledger's own.
        """
        async with self._pool.connection() as connection:
            await connection.execute(QUERIES["ensure_partitions"])

    async def add(self, new: NewEscrow) -> None:
        """
        Write an escrow down; one that is there stays as it is.
        """
        async with self._pool.connection() as connection:
            parameters = {name: getattr(new, name) for name in NewEscrow.__dataclass_fields__}
            await connection.execute(QUERIES["add"], parameters)

    async def get(self, escrow_id: UUID) -> StoredEscrow | None:
        """
        Return an escrow as it stands.
        """
        async with self._pool.connection() as connection, connection.transaction():
            return await self._read(connection, "get", escrow_id)

    @asynccontextmanager
    async def locked(
        self, escrow_id: UUID
    ) -> AsyncGenerator[tuple[StoredEscrow | None, Connection]]:
        """
        Read an escrow for whoever decides about it; others wait until the transaction ends.
        """
        async with self._pool.connection() as connection, connection.transaction():
            yield await self._read(connection, "lock", escrow_id), connection

    async def append(
        self,
        connection: Connection,
        stored: StoredEscrow,
        events: Sequence[EscrowEvent],
        *,
        state: EscrowState,
        due_at: datetime | None,
    ) -> None:
        """
        Add facts to an escrow that the caller has locked, and where it stands after them.
        """
        escrow_id = stored.escrow.escrow_id
        for number, event in enumerate(events):
            await connection.execute(
                QUERIES["append"],
                {
                    "escrow_id": escrow_id,
                    "sequence": stored.events_count + number,
                    "kind": event.kind.value,
                    "occurred_at": event.occurred_at,
                    "actor": event.actor,
                    "content": Json(msgspec.json.decode(to_content(event))),
                    "result": event.result,
                },
            )
        await connection.execute(
            QUERIES["move"],
            {
                "escrow_id": escrow_id,
                "state": state.value,
                "due_at": due_at,
                "events_count": stored.events_count + len(events),
            },
        )

    async def claim_calls(
        self,
        connection: Connection,
        call_ids: Sequence[UUID],
        *,
        escrow_id: UUID,
        milestone: int,
        now: datetime,
    ) -> list[UUID]:
        """
        Bind calls to a milestone for good; return those that serve another one already.

        A call that another transaction claims now is waited for.

        Args:
            connection: Whose transaction has the escrow locked, and ends when any is returned.
            call_ids: Sorted, so that nobody waits for nobody.
            escrow_id: Which escrow.
            milestone: Its place in the terms.
            now: When.
        """
        parameters = {
            "call_ids": list(call_ids),
            "escrow_id": escrow_id,
            "milestone": milestone,
            "now": now,
        }
        await connection.execute(QUERIES["claim_calls"], parameters)
        cursor = await connection.execute(QUERIES["calls_of_others"], parameters)
        return [row[0] for row in await cursor.fetchall()]

    async def due(self, now: datetime, limit: int) -> list[UUID]:
        """
        Return escrows that somebody has to look at.
        """
        async with self._pool.connection() as connection:
            cursor = await connection.execute(QUERIES["due"], {"now": now, "limit": limit})
            return [row[0] for row in await cursor.fetchall()]

    async def result(self, escrow_id: UUID, milestone: int) -> bytes | None:
        """
        Return what was last submitted for a milestone, as canonical JSON.
        """
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                QUERIES["last_result"], {"escrow_id": escrow_id, "milestone": milestone}
            )
            row = await cursor.fetchone()
        return None if row is None else bytes(row[0])

    async def list_escrows(
        self,
        *,
        within_party_id: UUID | None,
        state: EscrowState | None,
        cursor: str | None,
        limit: int,
    ) -> tuple[list[StoredEscrow], str | None]:
        """
        Return one page of the escrows a party has a part in, newest first, and the next cursor.

        Raises:
            InvalidError: The cursor is not one of ours.
        """
        count = min(limit, PAGE_ROWS_MAX)
        parameters = {
            "within_party_id": within_party_id,
            "state": None if state is None else state.value,
            "before": _from_cursor(cursor),
            "limit": count,
        }
        async with (
            self._pool.connection() as connection,
            connection.transaction(),
            connection.cursor(row_factory=dict_row) as reader,
        ):
            await reader.execute(QUERIES["list"], parameters)
            rows = await reader.fetchall()
            ids = [row["escrow_id"] for row in rows]
            await reader.execute(QUERIES["events_of_some"], {"escrow_ids": ids})
            found = await reader.fetchall()
        events: dict[UUID, list[EscrowEvent]] = {escrow_id: [] for escrow_id in ids}
        for row in found:
            events[row["escrow_id"]].append(_event_of(row))
        page = [_stored(row, events[row["escrow_id"]]) for row in rows]
        is_full = len(page) == count
        return page, str(ids[-1]) if is_full and ids else None

    async def _read(
        self, connection: Connection, query: str, escrow_id: UUID
    ) -> StoredEscrow | None:
        async with connection.cursor(row_factory=dict_row) as reader:
            await reader.execute(QUERIES[query], {"escrow_id": escrow_id})
            row = await reader.fetchone()
            if row is None:
                return None
            await reader.execute(QUERIES["events"], {"escrow_id": escrow_id})
            events = [_event_of(found) for found in await reader.fetchall()]
        return _stored(row, events)


def _event_of(row: dict[str, Any]) -> EscrowEvent:
    return from_content(row["kind"], row["occurred_at"], row["actor"], row["content"])


def _stored(row: dict[str, Any], events: Sequence[EscrowEvent]) -> StoredEscrow:
    terms: dict[str, Any] = msgspec.json.decode(row["terms"])
    read = read_terms(terms, ASSETS[row["currency"]])
    opening = Escrow(
        escrow_id=row["escrow_id"],
        state=EscrowState.OPENING,
        payer_agent_id=row["payer_agent_id"],
        organisation_id=row["organisation_id"],
        mandate_id=row["mandate_id"],
        payee_id=row["payee_id"],
        currency=row["currency"],
        quanta=row["quanta"],
        captured_quanta=0,
        terms=read,
        terms_sha256=row["terms_sha256"],
        created_at=row["created_at"],
        decided_at=None,
        milestones=(MilestoneStanding(),) * len(read.milestones),
    )
    return StoredEscrow(
        escrow=standing(opening, events),
        payee_organisation_id=row["payee_organisation_id"],
        authorisation=row["authorisation"],
        digest=bytes(row["digest"]),
        authorisation_ends_at=row["authorisation_ends_at"],
        terms=terms,
        events_count=row["events_count"],
    )


def _from_cursor(cursor: str | None) -> UUID | None:
    if cursor is None:
        return None
    try:
        return UUID(cursor)
    except ValueError as error:
        raise InvalidError("The cursor is not one of ours.", param="cursor") from error
