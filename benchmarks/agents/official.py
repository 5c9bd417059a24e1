"""
The other side of the ratio: the official facilitator, settling on a local chain.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.agents.settling import IN_FLIGHT, Span, load
from benchmarks.x402_baseline.rig import PRICE, Official, running_official
from tokenworks.conformance.facilitator import Order
from tokenworks.conformance.ground import EARLY_S
from tokenworks.conformance.rails import Times, order_for

RATE_AT_MOST: Final = 150
"""Settlements a second that no machine of today exceeds: how many orders are signed."""
LIFETIME_S: Final = 3_600


def measure(folder: Path, span: Span) -> dict[str, Any]:
    """
    Return the official facilitator's figures at each number in flight.
    """
    with running_official(folder) as official:
        before = official.chain.balance_of(official.payee.address)
        count = int(span.total_s * RATE_AT_MOST)
        reports = [
            load(
                official.url,
                lambda count: _sign(official, count),
                count=count,
                connections=connections,
                span=span,
                folder=folder,
            )
            for connections in IN_FLIGHT
        ]
        paid = (official.chain.balance_of(official.payee.address) - before) // PRICE
        return {"reports": reports, "paid_on_chain": paid, "chain": official.chain.version()}


def _sign(official: Official, count: int) -> Iterable[Order]:
    now_s = int(datetime.now(UTC).timestamp())
    times = Times(since_s=now_s - EARLY_S, until_s=now_s + LIFETIME_S)
    sale, wallet = official.sale(), official.wallet()
    for _ in range(count):
        yield order_for(official.rail, sale, official.rail.sign(wallet, sale, times))
