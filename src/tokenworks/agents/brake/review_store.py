"""
Read and write reviews and what was said about them; in the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from tokenworks.agents.brake.model import (
    Decision,
    Review,
    ReviewFilter,
    ReviewState,
    Said,
    Scope,
    Subject,
)
from tokenworks.agents.brake.records import QUERIES, insert_in_window, to_json
from tokenworks.agents.brake.reviewing import Approval
from tokenworks.agents.mandates.model import MoneyLimit, Window
from tokenworks.identity.model import PLATFORM_ID
from tokenworks.postgres.pool import Connection, Row

_subjects: Final = msgspec.json.Decoder(Subject)
_decisions: Final = msgspec.json.Decoder(Decision)


async def insert_review(connection: Connection, review: Review) -> bool:
    """
    Open a review; return ``False`` when there is one of this payment.
    """
    subject = review.subject
    return await insert_in_window(
        connection,
        "insert_review",
        {
            "review_id": review.review_id,
            "digest": subject.digest,
            "organisation_id": subject.organisation_id,
            "agent_id": subject.agent_id,
            "party_chain": list(subject.party_chain),
            "subject": to_json(subject),
            "decision": to_json(review.decision),
            "approvals_needed": review.approvals_needed,
            "now": review.created_at,
            "expires_at": review.expires_at,
        },
    )


async def count_pending(connection: Connection, agent_id: UUID, *, now: datetime) -> int:
    """
    Return how many payments of an agent wait for people.
    """
    parameters = {"agent_id": agent_id, "now": now}
    row = await (await connection.execute(QUERIES["count_pending"], parameters)).fetchone()
    assert row is not None, "a count is always there"
    return row[0]


async def find_review(
    connection: Connection, review_id: UUID, *, is_locked: bool = False
) -> Review | None:
    """
    Return a review; locked, others wait to decide until the transaction ends.
    """
    if is_locked:
        # First the lock, then a new statement: its snapshot has what others said meanwhile.
        await connection.execute(QUERIES["lock_review"], {"review_id": review_id})
    cursor = await connection.execute(QUERIES["reviews"], {"review_ids": [review_id]})
    row = await cursor.fetchone()
    return None if row is None else from_row(row)


async def read_reviews(connection: Connection, review_ids: Iterable[UUID]) -> dict[UUID, Review]:
    """
    Return reviews by id.
    """
    cursor = await connection.execute(QUERIES["reviews"], {"review_ids": list(review_ids)})
    return {row[0]: from_row(row) for row in await cursor.fetchall()}


async def list_reviews(
    connection: Connection,
    wanted: ReviewFilter,
    *,
    before: UUID | None,
    count: int,
    now: datetime,
) -> list[Review]:
    """
    Return one page of reviews, newest first.
    """
    cursor = await connection.execute(
        QUERIES["list_reviews"],
        {
            "organisation_id": wanted.organisation_id,
            "party_id": wanted.party_id,
            "agent_id": wanted.agent_id,
            "state": None if wanted.state is None else wanted.state.value,
            "before": before,
            "count": count,
            "now": now,
        },
    )
    return [from_row(row) for row in await cursor.fetchall()]


async def approvals(connection: Connection, review_id: UUID) -> list[Approval]:
    """
    Return who approved a review, and how far, in order.
    """
    cursor = await connection.execute(QUERIES["approvals"], {"review_id": review_id})
    return [
        Approval(person=row[0], scope=Scope(row[1]), raised=_raised(row[2], row[3]))
        for row in await cursor.fetchall()
    ]


async def add_said(connection: Connection, review_id: UUID, said: Said) -> None:
    """
    Add what somebody said about a locked review.
    """
    await connection.execute(
        QUERIES["insert_decision"],
        {
            "review_id": review_id,
            "word": said.word,
            "digest": said.digest,
            "person_id": said.person_id,
            "actor": said.actor,
            "scope": said.scope.value,
            "raise_window": None if said.raised is None else said.raised.window.value,
            "raise_quanta": None if said.raised is None else said.raised.quanta,
            "note": said.note,
            "now": said.decided_at,
        },
    )


async def said_of(connection: Connection, review_id: UUID) -> list[Said]:
    """
    Return everything that was said about a review, in order.
    """
    cursor = await connection.execute(QUERIES["decisions_of"], {"review_id": review_id})
    return [
        Said(
            word=row[0],
            actor=row[1],
            person_id=row[2],
            scope=Scope(row[3]),
            note=row[4],
            digest=bytes(row[5]),
            decided_at=row[6],
            raised=_raised(row[7], row[8]),
        )
        for row in await cursor.fetchall()
    ]


async def end_review(
    connection: Connection, review_id: UUID, state: ReviewState, *, note: str, now: datetime
) -> None:
    """
    End a review that is pending and locked.
    """
    cursor = await connection.execute(
        QUERIES["end_review"],
        {"review_id": review_id, "state": state.value, "note": note, "now": now},
    )
    assert cursor.rowcount == 1, "a review ends once"


async def due_reviews(
    connection: Connection, *, count: int, now: datetime
) -> list[tuple[UUID, bytes]]:
    """
    Lock and return reviews whose time is over, with their digests.
    """
    cursor = await connection.execute(QUERIES["due_reviews"], {"count": count, "now": now})
    return [(row[0], bytes(row[1])) for row in await cursor.fetchall()]


async def enqueue_deliveries(
    connection: Connection, review_id: UUID, event: str, *, now: datetime
) -> None:
    """
    Put a message to every webhook that is to know into the outbox.
    """
    await connection.execute(
        QUERIES["enqueue_deliveries"],
        {"review_id": review_id, "event": event, "operator": PLATFORM_ID, "now": now},
    )


def from_row(row: Row) -> Review:
    """
    Return a review as ``reviews`` selects it.
    """
    review_id, subject, decision, state, needed, created_at, expires_at, decided_at, note = row[:9]
    approved_by, denied_by = row[9:]
    return Review(
        review_id=review_id,
        subject=_subjects.decode(subject),
        decision=_decisions.decode(decision),
        state=ReviewState(state),
        approvals_needed=needed,
        approved_by=tuple(approved_by),
        denied_by=denied_by,
        created_at=created_at,
        expires_at=expires_at,
        decided_at=decided_at,
        note=note,
    )


def _raised(window: str | None, quanta: int | None) -> MoneyLimit | None:
    if window is None or quanta is None:
        return None
    return MoneyLimit(window=Window(window), quanta=quanta)
