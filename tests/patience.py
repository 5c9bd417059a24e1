"""
Patience of the tests: how slow a machine is says nothing about a law.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Generator
from typing import Final
from unittest import mock

from tokenworks.agents.payments import placing
from tokenworks.gateway import holding
from tokenworks.ledger.batching import operation_queue
from tokenworks.postgres import pool

PATIENCE_S: Final = 120.0
"""Less than pytest's own, so that what did not happen is named."""

_POLL_S: Final = 0.01


async def until(is_so: Callable[[], Awaitable[object]], otherwise: str) -> None:
    """
    Return when something has become so; fail with ``otherwise`` when it never does.
    """
    ends_at_s = time.monotonic() + PATIENCE_S
    while not await is_so():
        assert time.monotonic() < ends_at_s, otherwise
        await asyncio.sleep(_POLL_S)


@contextlib.contextmanager
def patient_hub() -> Generator[None]:
    """
    Let a hub wait longer for its database than it would for a buyer's sake.
    """
    with contextlib.ExitStack() as stack:
        for module, name in (
            (pool, "ANSWER_TIMEOUT_S"),
            (pool, "POOL_WAIT_TIMEOUT_S"),
            (operation_queue, "LEDGER_ANSWER_TIMEOUT_S"),
            (holding, "LEDGER_ANSWER_TIMEOUT_S"),
            (placing, "LEDGER_ANSWER_TIMEOUT_S"),
        ):
            stack.enter_context(mock.patch.object(module, name, PATIENCE_S))
        yield
