"""
The outermost arm of the doors without a framework: whatever goes wrong is counted and told.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import psycopg
import structlog
from psycopg_pool import PoolTimeout

from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import LimitExceededError, TokenworksError, UnavailableError
from tokenworks.identity.rate import RequestLimiter, address_group
from tokenworks.web.asgi import Scope, unexpected_error
from tokenworks.web.metrics import HubMetrics

_log: Final = structlog.get_logger("tokenworks.web")

Tell = Callable[[TokenworksError], Awaitable[None]]


async def guarded(serving: Awaitable[None], *, path: str, metrics: HubMetrics, tell: Tell) -> None:
    """
    Serve one request; a refusal, a lost database and a bug get an answer each.

    Args:
        serving: What serves it; it raises before it answers, never after.
        path: Of the request, for the log.
        metrics: Counts refusals.
        tell: Answers with an error, in the door's own words.
    """
    try:
        await serving
        return
    except TokenworksError as error:
        told = error
    except (psycopg.OperationalError, PoolTimeout) as error:
        # A look-up outside the ledger: nothing is acknowledged.
        _log.warning("database_unavailable", error=type(error).__name__, path=path)
        told = UnavailableError("The database does not answer right now.")
    except Exception:  # noqa: BLE001 - the outermost door: a bug still gets an answer
        _log.exception("unexpected_error", path=path)
        told = unexpected_error()
    metrics.refused(told.code)
    await tell(told)


class AddressRate:
    """
    At most so many requests a minute from one address, for doors that need no key.
    """

    def __init__(self, clock: Clock, *, per_minute: int) -> None:
        self._clock = clock
        self._per_minute = per_minute
        self._limiter = RequestLimiter()

    def take(self, scope: Scope) -> None:
        """
        Count one request.

        Raises:
            LimitExceededError: There were too many.
        """
        client = scope.get("client")
        if not client:
            return
        wait_s = self._limiter.take(
            address_group(client[0]), per_minute=self._per_minute, now_s=self._clock.monotonic_s()
        )
        if wait_s:
            message = f"At most {self._per_minute} requests a minute from one address."
            raise LimitExceededError(message, code="rate_limited", retry_after_s=wait_s)
