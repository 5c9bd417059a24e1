"""
Remember the answers of writes, so that a repeat is answered and not done again.

A key goes ``running`` -> ``answered`` (2xx, stored) or ``failed`` (anything else; may run
again). Claiming is one statement, so of two parallel requests exactly one runs. A run that
died with its process is taken over after ``RUN_DEAD_AFTER``; the writes below this door are
idempotent by themselves (unique names, ledger references), so a take-over cannot move value
twice.

Known limit: a run slower than ``RUN_DEAD_AFTER`` would be taken over while it lives; the
door's own time limits are far below it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
from psycopg.types.json import Jsonb

from tokenworks.foundation.clock import Clock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.postgres import queries as query_files
from tokenworks.postgres.pool import Pool
from tokenworks.web.hub_api.errors import IdempotencyConflictError, IdempotencyInFlightError

RUN_DEAD_AFTER: Final = timedelta(seconds=120)
KEY_CHARACTERS_MAX: Final = 255
SECRET_FIELD: Final = "secret"  # noqa: S105 - the name of a field

_QUERIES: Final = query_files.load("tokenworks.web.hub_api")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAnswer:
    """
    The first answer to a request, as it is given again.
    """

    status: int
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """
    The right to do one request; given back by ``finish`` or ``release``.
    """

    party_id: UUID
    key: str
    run_id: UUID


def request_hash(*, method: str, path: str, query: bytes, body: bytes) -> bytes:
    """
    Return the hash that tells whether two requests are the same.
    """
    digest = hashlib.sha256()
    for part in (method.encode(), path.encode(), query, body):
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.digest()


def without_secret(body: bytes) -> dict[str, Any]:
    """
    Return a JSON object with its secret taken out; secrets are never stored.
    """
    document: dict[str, Any] = msgspec.json.decode(body)
    if SECRET_FIELD in document:
        document[SECRET_FIELD] = None
    return document


class IdempotencyStore:
    """
    The table of idempotency keys.
    """

    def __init__(self, pool: Pool, *, clock: Clock, ids: IdentifierSource) -> None:
        self._pool = pool
        self._clock = clock
        self._ids = ids

    async def begin(self, *, party_id: UUID, key: str, request_hash: bytes) -> Run | StoredAnswer:
        """
        Claim the key, or return the answer it already has.

        Raises:
            IdempotencyConflictError: The key belongs to another request.
            IdempotencyInFlightError: The first request is still running.
        """
        now = self._clock.now()
        run = Run(party_id=party_id, key=key, run_id=self._ids.mint())
        async with self._pool.connection() as connection:
            claimed = await connection.execute(
                _QUERIES["claim_key"],
                {
                    "party_id": party_id,
                    "key": key,
                    "request_hash": request_hash,
                    "run_id": run.run_id,
                    "now": now,
                    "dead_before": now - RUN_DEAD_AFTER,
                },
            )
            if await claimed.fetchone() is not None:
                return run
            known = await connection.execute(
                _QUERIES["read_key"], {"party_id": party_id, "key": key}
            )
            row = await known.fetchone()
        assert row is not None, "a key that could not be claimed is there"
        return _answer_of(row, request_hash=request_hash)

    async def finish(self, run: Run, *, status: int, body: bytes) -> None:
        """
        Store the answer of a run that did something.
        """
        await self._update(
            "store_answer",
            run,
            now=self._clock.now(),
            status=status,
            body=Jsonb(without_secret(body)),
        )

    async def release(self, run: Run) -> None:
        """
        Give the key back after a run that did nothing.
        """
        await self._update("release_key", run)

    async def _update(self, name: str, run: Run, **values: object) -> None:
        async with self._pool.connection() as connection:
            await connection.execute(
                _QUERIES[name],
                {"party_id": run.party_id, "key": run.key, "run_id": run.run_id, **values},
            )


def _answer_of(row: tuple[Any, ...], *, request_hash: bytes) -> StoredAnswer:
    known_hash, state, status, body = row
    if bytes(known_hash) != request_hash:
        message = "This Idempotency-Key was used with another request; use a new one."
        raise IdempotencyConflictError(message)
    if state != "answered":
        message = "The first request with this Idempotency-Key is still running."
        raise IdempotencyInFlightError(message, retry_after_s=1)
    return StoredAnswer(status=status, body=msgspec.json.encode(body))
