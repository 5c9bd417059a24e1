"""
Read and write parties and keys; every function takes part in the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from tokenworks.identity.admission import ChainLink, KeyRecord, make_record
from tokenworks.identity.model import ApiKey, Level, Party, PartyKind, PartyState, Role
from tokenworks.postgres.pool import Connection, Row
from tokenworks.postgres.queries import load

EVERYTHING: Final = "*"
"""Payload of a notification after which nothing remembered may be used."""

_queries: Final = load("tokenworks.identity")


async def insert_party(
    connection: Connection,
    *,
    party_id: UUID,
    kind: PartyKind,
    level: Level,
    name: str,
    parent: Party | None,
    default_tier: str | None,
    created_at: datetime,
) -> Party | None:
    """
    Add a party; return ``None`` when the name is taken.
    """
    cursor = await connection.execute(
        _queries["insert_party"],
        {
            "party_id": party_id,
            "organisation_id": party_id if parent is None else parent.organisation_id,
            "kind": kind.value,
            "level": level.value,
            "name": name,
            "parent_id": None if parent is None else parent.party_id,
            "parent_level": None if parent is None else parent.level.value,
            "default_tier": default_tier,
            "created_at": created_at,
        },
    )
    return _party_or_none(await cursor.fetchone())


async def find_party(connection: Connection, reference: UUID | str) -> Party | None:
    """
    Return the party of an id or a name.
    """
    if isinstance(reference, UUID):
        cursor = await connection.execute(_queries["select_party_by_id"], {"party_id": reference})
    else:
        cursor = await connection.execute(_queries["select_party_by_name"], {"name": reference})
    return _party_or_none(await cursor.fetchone())


async def lock_party(connection: Connection, party_id: UUID) -> PartyState:
    """
    Return a party's state and keep it so until the transaction ends.
    """
    cursor = await connection.execute(_queries["lock_party"], {"party_id": party_id})
    row = await cursor.fetchone()
    assert row is not None, "parties are never deleted"
    return PartyState(row[0])


async def list_parties(
    connection: Connection,
    *,
    kind: PartyKind | None,
    level: Level | None,
    organisation_id: UUID | None,
    after: UUID | None,
    count: int,
) -> list[Party]:
    """
    Return up to ``count`` parties whose ids follow ``after``.
    """
    cursor = await connection.execute(
        _queries["select_parties"],
        {
            "kind": None if kind is None else kind.value,
            "level": None if level is None else level.value,
            "organisation_id": organisation_id,
            "after": after,
            "count": count,
        },
    )
    return [_party(row) for row in await cursor.fetchall()]


async def read_chains(
    connection: Connection, party_ids: Sequence[UUID]
) -> dict[UUID, tuple[Party, ...]]:
    """
    Return some parties, each with its ancestors, root first; who is unknown is left out.
    """
    cursor = await connection.execute(_queries["select_chains"], {"party_ids": list(party_ids)})
    chains: dict[UUID, list[Party]] = {}
    for *row, asked_id in await cursor.fetchall():
        chains.setdefault(asked_id, []).append(_party(tuple(row)))
    return {party_id: tuple(chain) for party_id, chain in chains.items()}


async def read_stopped(connection: Connection, party_ids: Sequence[UUID]) -> dict[UUID, PartyState]:
    """
    Return those of some parties that may not act, and whether closed or frozen.
    """
    parameters = {"party_ids": list(party_ids)}
    cursor = await connection.execute(_queries["select_stopped"], parameters)
    return {row[0]: PartyState(row[1]) for row in await cursor.fetchall()}


async def read_tree(connection: Connection, party_id: UUID | None, *, count: int) -> list[Party]:
    """
    Return a party and those below it, or all buyers; parents first, up to ``count``.
    """
    parameters = {"party_id": party_id, "count": count}
    cursor = await connection.execute(_queries["select_tree"], parameters)
    return [_party(row) for row in await cursor.fetchall()]


async def update_party_state(
    connection: Connection, *, party_id: UUID, state: PartyState
) -> Party | None:
    """
    Change a state; return ``None`` when the party is closed and stays so.
    """
    cursor = await connection.execute(
        _queries["update_party_state"], {"party_id": party_id, "state": state.value}
    )
    return _party_or_none(await cursor.fetchone())


async def update_party_tier(
    connection: Connection, *, party_id: UUID, default_tier: str | None
) -> Party:
    """
    Change the tier that a party's calls are served at when they name none.
    """
    cursor = await connection.execute(
        _queries["update_party_tier"], {"party_id": party_id, "default_tier": default_tier}
    )
    row = await cursor.fetchone()
    assert row is not None, "parties are never deleted"
    return _party(row)


async def insert_key(
    connection: Connection,
    *,
    key_id: UUID,
    party_id: UUID,
    role: Role,
    label: str,
    models: frozenset[str] | None,
    requests_per_minute: int | None,
    expires_at: datetime | None,
    created_at: datetime,
    mandate_id: UUID | None = None,
    call_quanta_max: int | None = None,
) -> None:
    """
    Add a key, still without a secret.
    """
    await connection.execute(
        _queries["insert_key"],
        {
            "key_id": key_id,
            "party_id": party_id,
            "role": role.value,
            "label": label,
            "models": None if models is None else sorted(models),
            "requests_per_minute": requests_per_minute,
            "expires_at": expires_at,
            "created_at": created_at,
            "mandate_id": mandate_id,
            "call_quanta_max": call_quanta_max,
        },
    )


async def insert_secret(
    connection: Connection, *, key_id: UUID, secret_sha256: str, prefix: str, created_at: datetime
) -> None:
    """
    Add the newest secret's hash; the one before must have been retired.
    """
    await connection.execute(
        _queries["insert_secret"],
        {
            "key_id": key_id,
            "secret_sha256": secret_sha256,
            "prefix": prefix,
            "created_at": created_at,
        },
    )


async def retire_secrets(connection: Connection, *, key_id: UUID, valid_until: datetime) -> None:
    """
    End every secret of a key at ``valid_until`` or earlier.
    """
    await connection.execute(
        _queries["retire_secrets"], {"key_id": key_id, "valid_until": valid_until}
    )


async def find_key(connection: Connection, key_id: UUID) -> ApiKey | None:
    """
    Return a key.
    """
    cursor = await connection.execute(_queries["select_key"], {"key_id": key_id})
    row = await cursor.fetchone()
    return None if row is None else _key(row)


async def lock_key(connection: Connection, key_id: UUID) -> None:
    """
    Make other writers of a key wait until the transaction ends.
    """
    await connection.execute(_queries["lock_key"], {"key_id": key_id})


async def list_keys(
    connection: Connection,
    *,
    party_id: UUID | None,
    organisation_id: UUID | None,
    after: UUID | None,
    count: int,
) -> list[ApiKey]:
    """
    Return up to ``count`` keys whose ids follow ``after``.
    """
    cursor = await connection.execute(
        _queries["select_keys"],
        {
            "party_id": party_id,
            "organisation_id": organisation_id,
            "after": after,
            "count": count,
        },
    )
    return [_key(row) for row in await cursor.fetchall()]


async def revoke_key(connection: Connection, *, key_id: UUID, revoked_at: datetime) -> None:
    """
    Revoke a key unless it already is.
    """
    await connection.execute(_queries["revoke_key"], {"key_id": key_id, "revoked_at": revoked_at})


async def update_spend_path_version(connection: Connection, *, key_id: UUID, version: int) -> None:
    """
    Raise the spend path's version of a key; a lower one changes nothing.
    """
    await connection.execute(
        _queries["update_spend_path_version"],
        {"key_id": key_id, "spend_path_version": version},
    )


async def find_presented(connection: Connection, secret_sha256: str) -> KeyRecord | None:
    """
    Return all that is recorded of a presented secret, in one round trip.
    """
    cursor = await connection.execute(
        _queries["select_presented_key"], {"secret_sha256": secret_sha256}
    )
    rows = await cursor.fetchall()
    return _record(rows) if rows else None


async def notify(connection: Connection, payload: str) -> None:
    """
    Tell every process, when the transaction commits, what to forget.
    """
    await connection.execute(_queries["notify"], {"payload": payload})


async def listen(connection: Connection) -> None:
    """
    Subscribe a connection to what ``notify`` says.
    """
    await connection.execute(_queries["listen"])


def _party_or_none(row: Row | None) -> Party | None:
    return None if row is None else _party(row)


def _party(row: Row) -> Party:
    party_id, kind, level, name, organisation_id, parent_id, tier, state, created_at = row
    return Party(
        party_id=party_id,
        kind=PartyKind(kind),
        level=Level(level),
        name=name,
        organisation_id=organisation_id,
        parent_id=parent_id,
        default_tier=tier,
        state=PartyState(state),
        created_at=created_at,
    )


def _key(row: Row) -> ApiKey:
    (key_id, party_id, role, prefix, label, models, rate, version) = row[:8]
    (expires, revoked, created, mandate_id) = row[8:]
    return ApiKey(
        key_id=key_id,
        party_id=party_id,
        role=Role(role),
        prefix=prefix,
        label=label,
        models=None if models is None else frozenset(models),
        requests_per_minute=rate,
        spend_path_version=version,
        expires_at=expires,
        revoked_at=revoked,
        created_at=created,
        mandate_id=mandate_id,
    )


def _record(rows: Sequence[Row]) -> KeyRecord:
    chain = [
        ChainLink(party_id=row[9], name=row[10], state=PartyState(row[11]), default_tier=row[12])
        for row in rows
    ]
    (digest, key_id, role, models, rate, version, expires_at, revoked_at, valid_until) = rows[0][:9]
    return make_record(
        secret_sha256=digest,
        key_id=key_id,
        role=Role(role),
        models=None if models is None else frozenset(models),
        requests_per_minute=rate,
        spend_path_version=version,
        expires_at=expires_at,
        revoked_at=revoked_at,
        secret_valid_until=valid_until,
        chain=chain,
        mandate_id=rows[0][13],
        call_quanta_max=rows[0][14],
    )
