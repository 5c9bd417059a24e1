"""
Read and write what is known of agents and payees, and judgements; in the caller's transaction.

Order of locks: the profiles of agents by their ids, then those of trees by theirs, so that no two
batches wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
from psycopg import AsyncCursor

from tokenworks.agents.brake.model import Decision, Review, Subject
from tokenworks.agents.brake.records import QUERIES, insert_in_window, to_json
from tokenworks.agents.brake.review_store import from_row
from tokenworks.identity.model import PLATFORM_ID
from tokenworks.postgres.pool import Connection, Row

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
class Read:
    """
    Everything a batch of judgements needs, read under the locks of its profiles.
    """

    profiles: Mapping[ProfileKey, bytes]
    payees: Mapping[PayeeKey, KnownPayee]
    judgements: Mapping[UUID, tuple[bytes, Decision]]  # digest and decision
    reviews: Mapping[UUID, Review]
    versions: Mapping[UUID, int]


async def relax_commit(connection: Connection) -> None:
    """
    Let the transaction's commit not wait for the disk.
    """
    await connection.execute(QUERIES["relax_commit"])


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
        reviews={row[0]: from_row(row) for row in reviews},
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
    await insert_in_window(
        connection,
        "insert_judgement",
        {
            "payment_id": subject.payment_id,
            "digest": subject.digest,
            "agent_id": subject.agent_id,
            "decision": to_json(decision),
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
