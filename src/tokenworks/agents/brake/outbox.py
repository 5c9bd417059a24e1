"""
Read and write webhooks and the messages to them; each function takes part in the caller's
transaction.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from tokenworks.agents.brake.ports import Sent
from tokenworks.agents.brake.records import QUERIES
from tokenworks.agents.brake.webhooks import Delivery, Webhook
from tokenworks.postgres.pool import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredWebhook:
    """
    A webhook with its secret, still encrypted.
    """

    webhook: Webhook
    secret_encrypted: bytes = field(repr=False)


async def put_webhook(connection: Connection, webhook: Webhook, *, secret_encrypted: bytes) -> None:
    """
    Set a party's webhook, in place of the one it has.
    """
    await connection.execute(
        QUERIES["put_webhook"],
        {
            "party_id": webhook.party_id,
            "url": webhook.url,
            "secret_encrypted": secret_encrypted,
            "allow_private": webhook.allow_private,
            "actor": webhook.actor,
            "now": webhook.created_at,
        },
    )


async def read_webhooks(
    connection: Connection, party_ids: Iterable[UUID]
) -> dict[UUID, StoredWebhook]:
    """
    Return the webhooks of parties, by party.
    """
    cursor = await connection.execute(QUERIES["webhooks"], {"party_ids": list(party_ids)})
    return {
        row[0]: StoredWebhook(
            webhook=Webhook(
                party_id=row[0],
                url=row[1],
                allow_private=row[3],
                actor=row[4],
                created_at=row[5],
            ),
            secret_encrypted=bytes(row[2]),
        )
        for row in await cursor.fetchall()
    }


async def delete_webhook(connection: Connection, party_id: UUID) -> bool:
    """
    Forget a party's webhook; return whether there was one.
    """
    cursor = await connection.execute(QUERIES["delete_webhook"], {"party_id": party_id})
    return cursor.rowcount == 1


async def claim(
    connection: Connection, *, count: int, leased_until: datetime, now: datetime
) -> list[Delivery]:
    """
    Take due messages, until a time when somebody else may.
    """
    cursor = await connection.execute(
        QUERIES["claim_deliveries"], {"count": count, "leased_until": leased_until, "now": now}
    )
    return [
        Delivery(
            review_id=row[0],
            party_id=row[1],
            event=row[2],
            state="waiting",
            attempts=row[3],
            created_at=row[4],
            attempted_at=now,
            next_attempt_at=leased_until,
            http_status=None,
            error=None,
        )
        for row in await cursor.fetchall()
    ]


async def end_attempt(
    connection: Connection,
    delivery: Delivery,
    sent: Sent,
    *,
    state: str,
    next_attempt_at: datetime,
) -> None:
    """
    Write down what became of an attempt, unless somebody has tried again since.
    """
    await connection.execute(
        QUERIES["end_attempt"],
        {
            "review_id": delivery.review_id,
            "party_id": delivery.party_id,
            "event": delivery.event,
            "attempts": delivery.attempts,
            "state": state,
            "next_attempt_at": next_attempt_at,
            "http_status": sent.http_status,
            "error": sent.error,
        },
    )


async def deliveries_of(connection: Connection, party_id: UUID, *, count: int) -> list[Delivery]:
    """
    Return the last messages to a party, newest first.
    """
    cursor = await connection.execute(
        QUERIES["deliveries_of"], {"party_id": party_id, "count": count}
    )
    return [
        Delivery(
            review_id=row[0],
            party_id=party_id,
            event=row[1],
            state=row[2],
            attempts=row[3],
            created_at=row[4],
            attempted_at=row[5],
            next_attempt_at=row[6] if row[2] == "waiting" else None,
            http_status=row[7],
            error=row[8],
        )
        for row in await cursor.fetchall()
    ]
