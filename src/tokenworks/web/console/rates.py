"""
Rates and flows of a list of calls; pure.

A hub answers ``flow`` to admins only. Who may see only its own calls gets the same figures
from that list: a call counts at the moment it ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

from tokenworks.web.console.model import Call, Link, Node
from tokenworks.web.console.wording import moment_of, to_decimal

RATE_SPAN_S: Final = 10
HISTORY_S: Final = 300
HISTORY_STEP_S: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """
    The rates of the ``RATE_SPAN_S`` seconds before a moment.
    """

    at_s: float  # seconds since 1970
    tokens_per_s: float
    value_per_s: float  # drawn only, never added


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """
    What a span of time saw.
    """

    calls: int
    tokens: int
    value: Decimal


def totals_between(calls: Iterable[Call], since_s: float, until_s: float) -> Totals:
    """
    Return the totals of the calls that ended after ``since_s`` and not after ``until_s``.
    """
    counted = [call for call in calls if since_s < _counted_at(call) <= until_s]
    return Totals(
        calls=len(counted),
        tokens=sum(call.total_tokens for call in counted),
        value=sum((to_decimal(call.value) for call in counted), Decimal(0)),
    )


def point_at(calls: Sequence[Call], at_s: float) -> Point:
    """
    Return the rates at one moment.
    """
    totals = totals_between(calls, at_s - RATE_SPAN_S, at_s)
    return Point(
        at_s=at_s,
        tokens_per_s=totals.tokens / RATE_SPAN_S,
        value_per_s=float(totals.value) / RATE_SPAN_S,
    )


def history_of(calls: Sequence[Call], now: datetime, *, is_whole: bool) -> list[Point]:
    """
    Return the curve of the last minutes.

    Args:
        calls: Newest first.
        now: Where the curve ends.
        is_whole: Whether these are all calls of the span; else the curve begins where
            the oldest of them leaves no doubt.
    """
    until_s = now.timestamp()
    first_s = until_s - HISTORY_S
    if not is_whole and calls:
        first_s = max(first_s, min(_counted_at(call) for call in calls) + RATE_SPAN_S)
    steps = range(int(max(0.0, until_s - first_s)) // HISTORY_STEP_S, -1, -1)
    return [point_at(calls, until_s - step * HISTORY_STEP_S) for step in steps]


def own_flow(
    calls: Sequence[Call], *, is_supplier: bool, own_name: str
) -> tuple[tuple[Node, ...], tuple[Link, ...]]:
    """
    Return the picture of what a reader may see of its own: who spent on what, or earned.
    """
    amounts: dict[tuple[Node, Node], Decimal] = {}
    for call in calls:
        service = Node(id=f"service:{call.model}@{call.tier}", label=_service(call), kind="service")
        if is_supplier:
            pair = (service, Node(id="own", label=own_name, kind="supplier"))
        else:
            spender = call.party.name if call.party else own_name
            pair = (Node(id=f"buyer:{spender}", label=spender, kind="buyer"), service)
        amounts[pair] = amounts.get(pair, Decimal(0)) + to_decimal(call.value)
    # By name, so that the picture keeps its order.
    links = sorted(
        Link(source=source.id, target=target.id, amount=f"{amount:f}")
        for (source, target), amount in amounts.items()
        if amount > 0
    )
    flowing = {node for pair, amount in amounts.items() if amount > 0 for node in pair}
    return tuple(sorted(flowing)), tuple(links)


def _service(call: Call) -> str:
    return f"{call.model}@{call.tier}"


def _counted_at(call: Call) -> float:
    moment = moment_of(call.ended_at or call.started_at)
    return moment.timestamp() if moment else 0.0
