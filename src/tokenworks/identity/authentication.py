"""
Turn a presented secret into a principal, quickly, and never on old facts alone.

The hot path is one hash and one dictionary look-up. What is remembered is at most
``CACHE_LIFETIME_S`` old, is judged again on every call, and is dropped at once when a
notification says that it changed.

Known limits: a process that hears no notifications (its listening connection is down) uses
what it remembers for up to ``CACHE_LIFETIME_S``; request rates are counted per process.
"""

from __future__ import annotations

import asyncio
import hmac
from typing import NoReturn
from uuid import UUID

import psycopg

from tokenworks.foundation.clock import Clock
from tokenworks.identity import placing, store
from tokenworks.identity.admission import KeyRecord, admit
from tokenworks.identity.cache import KeyCache
from tokenworks.identity.errors import (
    IdentityUnavailableError,
    InvalidApiKeyError,
    RequestRateExceededError,
    TooManyFailuresError,
)
from tokenworks.identity.model import Principal
from tokenworks.identity.rate import FailureLimiter, RequestLimiter
from tokenworks.identity.secret import digest_secret, is_secret_shaped
from tokenworks.postgres.pool import Connection, Pool


class Authenticator:
    """
    Remember keys, limit requests and failures, and hear what changed.
    """

    def __init__(self, pool: Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock
        self._cache = KeyCache()
        self._requests = RequestLimiter()
        self._failures = FailureLimiter()
        self._reading: dict[str, asyncio.Task[KeyRecord | None]] = {}

    async def authenticate(
        self, presented: str, *, address: str | None = None, may_be_frozen: bool = False
    ) -> Principal:
        """
        Return who a presented secret stands for.

        The order of the checks: shape, known, revoked, expired, closed, frozen. An address
        that presented too many unknown keys is refused before the database is asked, unless
        the key worked lately.

        Args:
            presented: The secret as it came; never logged, never in an error.
            address: Where it came from; ``None`` skips the limit of failures.
            may_be_frozen: Admit a frozen party, for doors that only read.

        Raises:
            InvalidApiKeyError: Not a key of this hub.
            KeyRevokedError, KeyExpiredError: It was one.
            PartyClosedError, PartyFrozenError: Its party may not act.
            TooManyFailuresError: The address must wait.
            IdentityUnavailableError: The database does not answer.
        """
        if not is_secret_shaped(presented):
            self._refuse_unknown(address)
        digest = digest_secret(presented)
        now_s = self._clock.monotonic_s()
        record = self._cache.find(digest, now_s=now_s)
        if record is None:
            record = await self._look_up(digest, address=address, now_s=now_s)
        # The index already compared the hash; this second look costs nothing and does not
        # depend on how the index or the cache compares.
        if record is None or not hmac.compare_digest(record.secret_sha256, digest):
            self._refuse_unknown(address)
        return admit(record, now=self._clock.now(), may_be_frozen=may_be_frozen)

    def count_request(self, principal: Principal) -> None:
        """
        Count one request against the key's own rate.

        Raises:
            RequestRateExceededError: With the seconds to wait; nothing was counted.
        """
        rate = principal.requests_per_minute
        if rate is None:
            return
        wait_s = self._requests.take(
            principal.key_id, per_minute=rate, now_s=self._clock.monotonic_s()
        )
        if wait_s > 0:
            message = f"This API key allows {rate} requests a minute."
            raise RequestRateExceededError(
                message, details={"requests_per_minute": rate}, retry_after_s=wait_s
            )

    def invalidate(self, key_id: UUID) -> None:
        """
        Forget what is remembered of one key.
        """
        self._cache.forget(key_id)

    def invalidate_all(self) -> None:
        """
        Forget what is remembered of every key.
        """
        self._cache.forget_all()

    async def watch(self, connection: Connection) -> None:
        """
        Forget what other processes change, until the connection ends or this is cancelled.

        Args:
            connection: One of its own, outside any pool. When it breaks, the caller opens
                another and calls again: everything is forgotten at the start, because
                notifications may have been missed in between.

        Raises:
            psycopg.OperationalError: The connection broke.
        """
        await store.listen(connection)
        self.invalidate_all()
        async for notice in connection.notifies():
            key_id = placing.parse_party_id(notice.payload)
            if key_id is None:
                self.invalidate_all()
            else:
                self.invalidate(key_id)

    def _refuse_unknown(self, address: str | None) -> NoReturn:
        now_s = self._clock.monotonic_s()
        self._refuse_flooding(address, now_s=now_s)
        self._failures.note(address, now_s=now_s)
        message = "This API key is not known here. Keys begin with 'tw_'."
        raise InvalidApiKeyError(message)

    def _refuse_flooding(self, address: str | None, *, now_s: float) -> None:
        wait_s = self._failures.wait_s(address, now_s=now_s)
        if wait_s > 0:
            message = "Too many unknown API keys came from this address."
            raise TooManyFailuresError(message, retry_after_s=wait_s)

    async def _look_up(self, digest: str, *, address: str | None, now_s: float) -> KeyRecord | None:
        if self._cache.is_unknown(digest, now_s=now_s):
            return None
        if not self._cache.has_seen(digest):
            self._refuse_flooding(address, now_s=now_s)
        reading = self._reading.get(digest)
        if reading is None:
            # One read for all who wait for the same key: when a busy key's record grows old,
            # its hundreds of callers must not queue for the pool.
            reading = asyncio.create_task(self._read(digest))
            self._reading[digest] = reading
            reading.add_done_callback(lambda done: self._end_reading(digest, done))
        return await asyncio.shield(reading)

    async def _read(self, digest: str) -> KeyRecord | None:
        generation = self._cache.generation
        now_s = self._clock.monotonic_s()
        try:
            async with self._pool.connection() as connection:
                record = await store.find_presented(connection, digest)
        except psycopg.OperationalError as error:
            message = "API keys cannot be checked right now."
            raise IdentityUnavailableError(message, retry_after_s=1.0) from error
        self._cache.keep(digest, record, generation=generation, now_s=now_s)
        return record

    def _end_reading(self, digest: str, done: asyncio.Task[KeyRecord | None]) -> None:
        self._reading.pop(digest, None)
        if not done.cancelled():
            done.exception()  # Seen, even when everyone who waited has gone.
