"""
Read and write rule sets, version by version; each function takes part in the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Json

from tokenworks.agents.brake.records import QUERIES
from tokenworks.agents.brake.rule_documents import StoredRules, parse_rules
from tokenworks.postgres.pool import Connection


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
