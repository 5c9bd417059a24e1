"""
Read and write wallets and mandates; every function takes part in the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from tokenworks.agents.mandates.model import Mandate, MandateEvent, MandateState, Wallet
from tokenworks.agents.mandates.terms import terms_from_json, terms_to_json
from tokenworks.postgres.pool import Connection, Row
from tokenworks.postgres.queries import load

_queries: Final = load("tokenworks.agents.mandates")


async def insert_wallet(
    connection: Connection, *, address: str, agent_id: UUID, label: str, created_at: datetime
) -> Wallet | None:
    """
    Register a wallet; return ``None`` when the address is registered already.
    """
    parameters = {
        "address": address,
        "agent_id": agent_id,
        "label": label,
        "created_at": created_at,
    }
    cursor = await connection.execute(_queries["insert_wallet"], parameters)
    row = await cursor.fetchone()
    return None if row is None else _wallet(row)


async def find_wallet(connection: Connection, address: str) -> Wallet | None:
    """
    Return a wallet by its address.
    """
    cursor = await connection.execute(_queries["select_wallet"], {"address": address})
    row = await cursor.fetchone()
    return None if row is None else _wallet(row)


async def wallets_of(connection: Connection, agent_ids: Sequence[UUID]) -> list[Wallet]:
    """
    Return all wallets of some agents, each one's newest first, revoked ones included.
    """
    parameters = {"agent_ids": list(agent_ids)}
    cursor = await connection.execute(_queries["select_wallets"], parameters)
    return [_wallet(row) for row in await cursor.fetchall()]


async def revoke_wallet(connection: Connection, *, address: str, revoked_at: datetime) -> None:
    """
    Revoke a wallet; a repeat changes nothing.
    """
    parameters = {"address": address, "revoked_at": revoked_at}
    await connection.execute(_queries["revoke_wallet"], parameters)


async def insert_mandate(connection: Connection, mandate: Mandate) -> bool:
    """
    Add a mandate; return whether its id was free.
    """
    cursor = await connection.execute(
        _queries["insert_mandate"],
        {
            "mandate_id": mandate.mandate_id,
            "agent_id": mandate.agent_id,
            "issuer_id": mandate.issuer_id,
            "organisation_id": mandate.organisation_id,
            "parent_id": mandate.parent_id,
            "parent_depth": None if mandate.parent_id is None else mandate.depth - 1,
            "depth": mandate.depth,
            "terms": terms_to_json(mandate.terms).decode(),
            "label": mandate.label,
            "jws": mandate.jws,
            "created_at": mandate.created_at,
            "expires_at": mandate.expires_at,
        },
    )
    return await cursor.fetchone() is not None


async def read_chain(connection: Connection, mandate_id: UUID) -> tuple[Mandate, ...]:
    """
    Return a mandate and those above it, root first; empty when there is none.
    """
    parameters = {"mandate_id": mandate_id}
    cursor = await connection.execute(_queries["select_mandate_chain"], parameters)
    return tuple(_mandate(row) for row in await cursor.fetchall())


async def read_above(connection: Connection, mandates: Sequence[Mandate]) -> list[Mandate]:
    """
    Return the mandates above some others that are not among them.
    """
    known = {mandate.mandate_id for mandate in mandates}
    parents = {m.parent_id for m in mandates if m.parent_id is not None} - known
    if not parents:
        return []
    parameters = {"parent_ids": list(parents), "known_ids": list(known)}
    cursor = await connection.execute(_queries["select_above"], parameters)
    return [_mandate(row) for row in await cursor.fetchall()]


async def list_mandates(
    connection: Connection,
    *,
    agent_ids: Sequence[UUID] | None,
    organisation_id: UUID | None,
    state: MandateState | None,
    after: UUID | None,
    count: int,
) -> list[Mandate]:
    """
    Return up to ``count`` mandates whose ids follow ``after``.
    """
    cursor = await connection.execute(
        _queries["select_mandates"],
        {
            "agent_ids": None if agent_ids is None else list(agent_ids),
            "organisation_id": organisation_id,
            "state": None if state is None else state.value,
            "after": after,
            "count": count,
        },
    )
    return [_mandate(row) for row in await cursor.fetchall()]


async def usable_mandates(
    connection: Connection, agent_id: UUID, *, now: datetime
) -> tuple[UUID, ...]:
    """
    Return up to two mandates of an agent that it may use as far as they say themselves.
    """
    parameters = {"agent_id": agent_id, "now": now}
    cursor = await connection.execute(_queries["select_usable_mandates"], parameters)
    return tuple(row[0] for row in await cursor.fetchall())


async def lock_mandate(connection: Connection, mandate_id: UUID) -> MandateState | None:
    """
    Return a mandate's state and keep it until the transaction ends; ``None``: there is none.
    """
    cursor = await connection.execute(_queries["lock_mandate"], {"mandate_id": mandate_id})
    row = await cursor.fetchone()
    return None if row is None else MandateState(row[0])


async def update_state(
    connection: Connection, mandate_id: UUID, state: MandateState, *, revoked_at: datetime | None
) -> None:
    """
    Change a locked mandate's state.
    """
    parameters = {"mandate_id": mandate_id, "state": state.value, "revoked_at": revoked_at}
    await connection.execute(_queries["update_mandate_state"], parameters)


async def insert_event(
    connection: Connection,
    *,
    event_id: UUID,
    mandate_id: UUID,
    kind: str,
    happened_at: datetime,
    actor: str,
    details: Mapping[str, object],
) -> None:
    """
    Note what was done to a mandate.
    """
    await connection.execute(
        _queries["insert_event"],
        {
            "event_id": event_id,
            "mandate_id": mandate_id,
            "kind": kind,
            "happened_at": happened_at,
            "actor": actor,
            "details": msgspec.json.encode(details, order="sorted").decode(),
        },
    )


async def read_events(
    connection: Connection, mandate_id: UUID, *, count: int
) -> list[MandateEvent]:
    """
    Return what was done to a mandate, the first first.
    """
    parameters = {"mandate_id": mandate_id, "count": count}
    cursor = await connection.execute(_queries["select_events"], parameters)
    return [
        MandateEvent(
            event_id=row[0],
            kind=row[1],
            happened_at=row[2],
            actor=row[3],
            details=msgspec.json.decode(row[4]),
        )
        for row in await cursor.fetchall()
    ]


async def notify(connection: Connection, payload: str) -> None:
    """
    Tell every process at commit what to read again.
    """
    await connection.execute(_queries["notify"], {"payload": payload})


async def listen(connection: Connection) -> None:
    """
    Hear what to read again.
    """
    await connection.execute(_queries["listen"])


def _wallet(row: Row) -> Wallet:
    address, agent_id, label, created_at, revoked_at = row
    return Wallet(
        address=address,
        agent_id=agent_id,
        label=label,
        created_at=created_at,
        revoked_at=revoked_at,
    )


def _mandate(row: Sequence[Any]) -> Mandate:
    return Mandate(
        mandate_id=row[0],
        agent_id=row[1],
        issuer_id=row[2],
        organisation_id=row[3],
        parent_id=row[4],
        depth=row[5],
        terms=terms_from_json(row[6]),
        state=MandateState(row[7]),
        label=row[8],
        jws=row[9],
        created_at=row[10],
        expires_at=row[11],
        revoked_at=row[12],
    )
