"""
What some mutants put in place of the hub's own functions.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, LiteralString
from uuid import UUID

import psycopg

from tokenworks.gateway.settlement import SettlementLeg, settlement_legs
from tokenworks.ledger.batching.lane_connection import LaneConnection
from tokenworks.ledger.treasury import Treasury
from tokenworks.supply.model import Offer

PPM = 1_000_000


async def forgetful_claim(self: Treasury, rail: str, reference: str) -> UUID:
    """
    Give every telling of a payment an id of its own.
    """
    del rail, reference
    return self._ids.mint()


def forgetful_legs(
    offer: Offer, *, charge_quanta: int, counts: Mapping[str, int]
) -> list[SettlementLeg]:
    """
    Lose the leg that is paid last.
    """
    return settlement_legs(offer, charge_quanta=charge_quanta, counts=counts)[:-1]


def leg_by_leg(total: int, shares_ppm: Sequence[int]) -> list[int]:
    """
    Round each share for itself; the last one gets what is left.
    """
    parts = [(2 * total * share + PPM) // (2 * PPM) for share in shares_ppm[:-1]]
    return [*parts, total - sum(parts)]


def gather_everything(
    queue: deque[Any], size: int, *, key: Callable[[Any], UUID], is_withdrawable: bool
) -> list[Any]:
    """
    Take the next batch, whatever facts are in it.
    """
    del key, is_withdrawable
    return [queue.popleft() for _ in range(min(size, len(queue)))]


async def deaf_call(
    self: LaneConnection, query: LiteralString, parameters: Sequence[Any]
) -> list[Any]:
    """
    Do not listen to what the database says when it commits.
    """
    assert self._connection is not None, "connected before any work"
    await self._connection.execute("BEGIN")
    async with self._connection.cursor(binary=True) as cursor:
        await cursor.execute(query, parameters, prepare=True)
        rows = await cursor.fetchall()
    with contextlib.suppress(psycopg.Error):
        await self._connection.execute("COMMIT")
    return rows
