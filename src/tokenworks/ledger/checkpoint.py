"""
Sign where every lane and every balance stood at one moment.

Who keeps a checkpoint elsewhere can later tell that history was rewritten, also from its
end. ``check`` compares the stored ones with the chain, and starts from the last one.

Version 2 names the receipts' heads of each lane and leaves accounts that never moved out of
the hash, so that a later reader can rebuild it from today's balances and the records since.
Version 1 named neither; those that are stored stay good for comparing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import msgspec
from psycopg import IsolationLevel

from tokenworks.foundation.clock import Clock
from tokenworks.postgres.pool import Connection, Pool
from tokenworks.postgres.queries import load

FETCH_ROWS: Final = 2_000
VERSION: Final = 2

_QUERIES: Final = load("tokenworks.ledger", "checkpoint_queries.sql")
_BALANCES: Final = b"tokenworks-balances-v2\n"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """
    All lane heads and all balances at one moment, signed.
    """

    taken_at: datetime
    lanes: str
    """Canonical JSON: for each lane its number, last batch, its hash, last receipt, its link."""
    balances_hash: bytes
    signature: str


async def take_checkpoint(pool: Pool, sign: Callable[[bytes], str], clock: Clock) -> Checkpoint:
    """
    Read one snapshot, sign it and store it.

    Args:
        pool: Of the posting role.
        sign: Returns the signature (a JWS) of the checkpoint's canonical bytes; called
            outside any transaction.
        clock: When it is taken; a second checkpoint of one microsecond is not stored.
    """
    taken_at = clock.now()
    async with pool.connection() as connection:
        await connection.set_isolation_level(IsolationLevel.REPEATABLE_READ)
        await connection.set_read_only(True)
        try:
            async with connection.transaction():
                lanes = await _lane_heads(connection)
                balances_hash = await _hash_balances(connection)
        finally:
            await connection.set_isolation_level(None)
            await connection.set_read_only(None)
    signature = sign(checkpoint_bytes(taken_at, lanes, balances_hash))
    async with pool.connection() as connection:
        await connection.execute(
            _QUERIES["add_checkpoint"],
            {
                "now": taken_at,
                "lanes": lanes,
                "balances_hash": balances_hash,
                "signature": signature,
            },
        )
    return Checkpoint(
        taken_at=taken_at, lanes=lanes, balances_hash=balances_hash, signature=signature
    )


def checkpoint_bytes(
    taken_at: datetime, lanes: str, balances_hash: bytes, *, version: int = VERSION
) -> bytes:
    """
    Return what a checkpoint's signature covers.
    """
    elapsed = taken_at - _EPOCH
    time = (elapsed.days * 86_400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds
    balances = balances_hash.hex()
    return (f'{{"v":{version},"time":{time},"lanes":{lanes},"balances":"{balances}"}}').encode()


def hash_balances(counters: Iterable[Sequence[object]]) -> bytes:
    """
    Return the hash of all balances, as version 2 makes it.

    Args:
        counters: (account, debits pending, credits pending, debits posted, credits posted)
            in the order of accounts; those without any movement are to be left out.
    """
    digest = hashlib.sha256(_BALANCES)
    for row in counters:
        digest.update(_balance_line(row))
    return digest.digest()


def _balance_line(row: Sequence[object]) -> bytes:
    return (" ".join(str(value) for value in row) + "\n").encode()


async def _lane_heads(connection: Connection) -> str:
    cursor = await connection.execute(_QUERIES["lane_heads"])
    heads = [
        (lane, batch, head.hex(), receipts, receipt_head.hex())
        for lane, batch, head, receipts, receipt_head in await cursor.fetchall()
    ]
    return msgspec.json.encode(heads).decode()


async def _hash_balances(connection: Connection) -> bytes:
    digest = hashlib.sha256(_BALANCES)
    async with connection.cursor(name="checkpoint_balances") as cursor:
        cursor.itersize = FETCH_ROWS
        await cursor.execute(_QUERIES["counters"])
        async for row in cursor:
            digest.update(_balance_line(row))
    return digest.digest()
