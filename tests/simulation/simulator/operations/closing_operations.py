"""
Dates are closed: each close is the trial balance of its date, and nothing is booked there any more.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from random import Random

from tests.simulation.simulator.laws import BrokenLawError, Law
from tests.simulation.simulator.simulation import Simulation
from tokenworks.ledger.closing import Closing
from tokenworks.ledger.model import ASSET_CODES

ALLOWANCE = timedelta(seconds=2)
"""So long after its end a date may be closed."""


@dataclass
class NaiveClosings:
    """
    The closes by date, as they were signed.
    """

    signed: dict[date, str] = field(default_factory=dict[date, str])


async def close(simulation: Simulation, random: Random) -> str:
    """
    Close a date: the next one, one too early, one again, or out of turn.
    """
    closed = simulation.model(NaiveClosings).signed
    last = max(closed, default=None)
    now = simulation.clock.now()
    waiting = sorted(day for day in simulation.auditor.booked if last is None or day > last)
    day = now.date() - timedelta(days=random.choice((0, 1, 2, 5)))
    if waiting and random.random() < 0.6:
        day = waiting[0]
    earlier = any(other < day for other in waiting)
    expected: str | None = None
    if now < datetime.combine(day + timedelta(days=1), time(), UTC) + ALLOWANCE:
        expected = "date_not_over"
    elif day not in closed and last is not None and last > day:
        expected = "date_closed"
    elif day not in closed and earlier:
        expected = "earlier_date_open"
    found, code = await simulation.ask(simulation.hub.closings.close(day, actor="simulation"))
    _require(code == expected, f"{day} closed: {code}, naively {expected}")
    if found is None:
        return f"{day} is not closed: {code}"
    if found.replayed:
        _require(closed.get(day) == found.signature, f"{day} was closed otherwise before")
        return f"{day} was closed before"
    _judge(simulation, day, found)
    closed[day] = found.signature
    simulation.auditor.naive.closed_through = day
    return f"{day} is closed"


def _judge(simulation: Simulation, day: date, closing: Closing) -> None:
    """
    Require the rows that the journal of all movements gives, lanes and parties summed.
    """
    until: Counter[tuple[str, str, str]] = Counter()
    within: Counter[tuple[str, str, str]] = Counter()
    for booked, debit, credit, quanta in simulation.auditor.journal:
        if booked > day:
            continue
        for side, name in (("debits", debit), ("credits", credit)):
            key = (ASSET_CODES[name[2]], name[1], side)
            until[key] += quanta
            if booked == day:
                within[key] += quanta
    found_until: Counter[tuple[str, str, str]] = Counter()
    found_within: Counter[tuple[str, str, str]] = Counter()
    for row in closing.statement.rows:
        found_until[row.asset, row.purpose, "debits"] += int(row.debits)
        found_until[row.asset, row.purpose, "credits"] += int(row.credits)
        found_within[row.asset, row.purpose, "debits"] += int(row.debits_of_day)
        found_within[row.asset, row.purpose, "credits"] += int(row.credits_of_day)
    for what, found, naive in (("until", found_until, until), ("on", found_within, within)):
        wrong = {key for key in found.keys() | naive.keys() if found[key] != naive[key]}
        shown = [f"{key}: {found[key]}, naively {naive[key]}" for key in sorted(wrong)]
        _require(not wrong, f"close {what} {day}: {shown[:3]}")


def _require(is_lawful: bool, message: str) -> None:
    if not is_lawful:
        raise BrokenLawError(Law.CLOSED, message)


OPERATIONS = {
    "close_date": (4, close),
}
