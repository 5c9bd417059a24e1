"""
Read and write rules, profiles, reviews and webhooks; each function takes part in the caller's
transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from psycopg import AsyncCursor
from psycopg.errors import CheckViolation
from psycopg.types.json import Json

from tokenworks.agents.brake.errors import PaymentOutsideWindowError
from tokenworks.agents.brake.model import (
    Decision,
    Review,
    ReviewState,
    Scope,
    Subject,
)
from tokenworks.agents.brake.reviewing import Approval
from tokenworks.agents.brake.rule_documents import StoredRules, parse_rules
from tokenworks.agents.mandates.model import MoneyLimit, Window
from tokenworks.identity.model import PLATFORM_ID
from tokenworks.postgres.pool import Connection, Row
from tokenworks.postgres.queries import load

QUERIES: Final = load("tokenworks.agents.brake")

_subjects: Final = msgspec.json.Decoder(Subject)
_decisions: Final = msgspec.json.Decoder(Decision)

ProfileKey = tuple[UUID, str]  # agent and currency
PayeeKey = tuple[UUID, str, UUID]  # agent, currency and payee


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPayee:
    """
    What an agent knows of a payee.
    """

    payments: int  # zero: approved by a person and not yet paid
    recent_quanta: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """
    One entry of what was said about a review.
    """

    word: str  # approve, deny or expire
    actor: str
    person_id: UUID | None
    scope: Scope
    note: str
    digest: bytes
    decided_at: datetime
    raised: MoneyLimit | None = None  # with ``Scope.RAISE``: the new limit


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewFilter:
    """
    Which reviews; ``None``: all.
    """

    organisation_id: UUID | None = None
    party_id: UUID | None = None  # at or above the agent
    agent_id: UUID | None = None
    state: ReviewState | None = None


async def relax_commit(connection: Connection) -> None:
    """
    Let the transaction's commit not wait for the disk.
    """
    await connection.execute(QUERIES["relax_commit"])


async def ensure_partitions(connection: Connection) -> None:
    """
    Make the months that the ledger has.
    """
    await connection.execute(QUERIES["ensure_partitions"])


# ------------------------------------------------------------------------------- judging


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """
    Everything a batch of judgements needs, read under the locks of its profiles.
    """

    profiles: Mapping[ProfileKey, bytes]
    payees: Mapping[PayeeKey, KnownPayee]
    judgements: Mapping[UUID, tuple[bytes, Decision]]  # digest and decision
    reviews: Mapping[UUID, Review]
    versions: Mapping[UUID, int]


async def lock_and_read(
    connection: Connection,
    subjects: Sequence[Subject],
    *,
    judged: Sequence[Subject],
    now: datetime,
) -> Read:
    """
    Lock the profiles of some payments' agents, and read what their judgement needs.

    One round trip: the statements go out together, and each has a snapshot of its own, taken
    after the locks were.

    Args:
        connection: In a transaction, which may have begun in the same round trip.
        subjects: Whose profiles and payees are read.
        judged: Those that are to be judged; of others (captures) no word is looked up.
        now: Since when new profiles are there.
    """
    keys = sorted({(subject.agent_id, subject.currency) for subject in subjects})
    agents = {"agents": [key[0] for key in keys], "currencies": [key[1] for key in keys]}
    payees = sorted({(s.agent_id, s.currency, s.payee_id) for s in subjects})
    payment_ids = [subject.payment_id for subject in judged]
    parties = {party for subject in judged for party in subject.rule_parties} | {PLATFORM_ID}
    async with connection.pipeline():
        await connection.execute(QUERIES["ensure_profiles"], {**agents, "now": now})
        profiles = await connection.execute(QUERIES["lock_profiles"], agents)
        known = await connection.execute(
            QUERIES["known_payees"],
            {
                "agents": [key[0] for key in payees],
                "currencies": [key[1] for key in payees],
                "payees": [key[2] for key in payees],
            },
        )
        words = await _read_words(connection, payment_ids, parties) if judged else None
    judgements, reviews, versions = (
        ([], [], []) if words is None else [await cursor.fetchall() for cursor in words]
    )
    return Read(
        profiles={(row[0], row[1]): bytes(row[2]) for row in await profiles.fetchall()},
        payees={
            (row[0], row[1], row[2]): KnownPayee(payments=row[3], recent_quanta=tuple(row[4]))
            for row in await known.fetchall()
        },
        judgements={row[0]: (bytes(row[1]), _decisions.decode(row[2])) for row in judgements},
        reviews={row[0]: _review(row) for row in reviews},
        versions={row[0]: row[1] for row in versions},
    )


async def lock_trees(
    connection: Connection, keys: Iterable[ProfileKey], *, now: datetime
) -> dict[ProfileKey, bytes]:
    """
    Lock the profiles of trees and return them.

    Always after those of the agents, and in their own order, so that no two batches wait for
    each other.
    """
    wanted = sorted(keys)
    trees = {"agents": [key[0] for key in wanted], "currencies": [key[1] for key in wanted]}
    await connection.execute(QUERIES["ensure_profiles"], {**trees, "now": now})
    cursor = await connection.execute(QUERIES["lock_profiles"], trees)
    return {(row[0], row[1]): bytes(row[2]) for row in await cursor.fetchall()}


async def _read_words(
    connection: Connection, payment_ids: list[UUID], parties: Iterable[UUID]
) -> tuple[AsyncCursor[Row], ...]:
    return (
        await connection.execute(QUERIES["judgements"], {"payment_ids": payment_ids}),
        await connection.execute(QUERIES["reviews"], {"review_ids": payment_ids}),
        await connection.execute(QUERIES["rule_versions"], {"party_ids": list(parties)}),
    )


async def write_profiles(
    connection: Connection, states: Mapping[ProfileKey, bytes], *, now: datetime
) -> None:
    """
    Write profiles that are locked.
    """
    await connection.execute(
        QUERIES["store_profiles"],
        {
            "agents": [key[0] for key in states],
            "currencies": [key[1] for key in states],
            "states": list(states.values()),
            "now": now,
        },
    )


async def insert_judgement(
    connection: Connection, subject: Subject, decision: Decision, *, now: datetime
) -> None:
    """
    Remember a hold or a denial.
    """
    await _in_window(
        connection,
        "insert_judgement",
        {
            "payment_id": subject.payment_id,
            "digest": subject.digest,
            "agent_id": subject.agent_id,
            "decision": _json(decision),
            "now": now,
        },
    )


async def know_payees(
    connection: Connection,
    payees: Mapping[PayeeKey, KnownPayee],
    *,
    approved_by: str | None,
    now: datetime,
) -> None:
    """
    Remember payees, all in one statement; an approval leaves one that is known as it is.
    """
    keys = sorted(payees)
    await connection.execute(
        QUERIES["know_payees"],
        {
            "agents": [key[0] for key in keys],
            "currencies": [key[1] for key in keys],
            "payees": [key[2] for key in keys],
            "payments": [payees[key].payments for key in keys],
            # Lists of several lengths fit into no array of arrays.
            "recent_quanta": [
                f"{{{','.join(map(str, payees[key].recent_quanta))}}}" for key in keys
            ],
            "approved_by": approved_by,
            "now": now,
        },
    )


# --------------------------------------------------------------------------------- rules


async def rule_versions(connection: Connection, party_ids: Iterable[UUID]) -> dict[UUID, int]:
    """
    Return the version in force of each party that has rules.
    """
    cursor = await connection.execute(QUERIES["rule_versions"], {"party_ids": list(party_ids)})
    return {row[0]: row[1] for row in await cursor.fetchall()}


async def read_rules(connection: Connection, versions: Iterable[int]) -> list[StoredRules]:
    """
    Return rule sets by version.
    """
    cursor = await connection.execute(QUERIES["rules_by_version"], {"versions": list(versions)})
    return [
        StoredRules(
            party_id=row[0],
            version=row[1],
            document=row[2],
            actor=row[3],
            created_at=row[4],
            rules=parse_rules(row[2], owner_id=row[0]),
        )
        for row in await cursor.fetchall()
    ]


async def lock_rules(connection: Connection) -> None:
    """
    Let others who write rules wait until the transaction ends.
    """
    await connection.execute(QUERIES["lock_rules"])


async def insert_rules(
    connection: Connection,
    party_id: UUID,
    document: Mapping[str, Any],
    *,
    actor: str,
    now: datetime,
) -> int:
    """
    Add a version of a party's rules, after ``lock_rules``; return it.
    """
    cursor = await connection.execute(
        QUERIES["insert_rules"],
        {"party_id": party_id, "rules": Json(dict(document)), "actor": actor, "now": now},
    )
    row = await cursor.fetchone()
    assert row is not None, "a new row is returned"
    return row[0]


# ------------------------------------------------------------------------------- reviews


async def insert_review(connection: Connection, review: Review) -> bool:
    """
    Open a review; return ``False`` when there is one of this payment.
    """
    subject = review.subject
    return await _in_window(
        connection,
        "insert_review",
        {
            "review_id": review.review_id,
            "digest": subject.digest,
            "organisation_id": subject.organisation_id,
            "agent_id": subject.agent_id,
            "party_chain": list(subject.party_chain),
            "subject": _json(subject),
            "decision": _json(review.decision),
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
    return None if row is None else _review(row)


async def read_reviews(connection: Connection, review_ids: Iterable[UUID]) -> dict[UUID, Review]:
    """
    Return reviews by id.
    """
    cursor = await connection.execute(QUERIES["reviews"], {"review_ids": list(review_ids)})
    return {row[0]: _review(row) for row in await cursor.fetchall()}


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
    return [_review(row) for row in await cursor.fetchall()]


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


def _review(row: Row) -> Review:
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


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


async def _in_window(connection: Connection, name: str, parameters: Mapping[str, object]) -> bool:
    """
    Insert a row into the month of its payment; return whether it is new.

    Raises:
        PaymentOutsideWindowError: The books have no such month: the id's time is far off.
    """
    try:
        cursor = await connection.execute(QUERIES[name], parameters)
        # Fetched, so that a pipeline too says here what came of it.
        is_new = await cursor.fetchone() is not None
    except CheckViolation as error:
        message = "The payment's id names a time that the books do not cover."
        raise PaymentOutsideWindowError(message) from error
    return is_new
