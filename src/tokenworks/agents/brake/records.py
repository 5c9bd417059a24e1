"""
How the brake's records are reached: connections, named statements, and rows of a month.

Owns: that a database which cannot be asked is ``BrakeUnavailableError``, and that a row whose
payment's id names a time far off is refused. Does not own: any table (``profile_store``,
``review_store``, ``rule_store``, ``outbox``).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import msgspec
import psycopg
from psycopg.errors import CheckViolation
from psycopg_pool import PoolTimeout

from tokenworks.agents.brake.errors import BrakeUnavailableError, PaymentOutsideWindowError
from tokenworks.postgres.pool import Connection, Pool
from tokenworks.postgres.queries import load

QUERIES: Final = load("tokenworks.agents.brake")


class Records:
    """
    Connections to the brake's records.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def ensure_partitions(self) -> None:
        """
        Make the months that the ledger has.
        """
        async with self._pool.connection() as connection:
            await connection.execute(QUERIES["ensure_partitions"])

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Connection]:
        """
        Change records, all or nothing.

        Raises:
            BrakeUnavailableError: The database cannot be asked.
        """
        async with self.reading() as connection, connection.transaction():
            yield connection

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[Connection]:
        """
        Read records.

        Raises:
            BrakeUnavailableError: The database cannot be asked.
        """
        try:
            async with self._pool.connection() as connection:
                yield connection
        except (psycopg.OperationalError, PoolTimeout) as error:
            message = "The brake's records cannot be read or changed right now."
            raise BrakeUnavailableError(message, retry_after_s=1.0) from error


async def insert_in_window(
    connection: Connection, name: str, parameters: Mapping[str, object]
) -> bool:
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


def to_json(value: object) -> str:
    """
    Return a subject or a decision as it is stored.
    """
    return msgspec.json.encode(value).decode()
