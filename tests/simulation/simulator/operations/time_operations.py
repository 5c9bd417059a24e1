"""
Time passes, the worker works, connections break.
"""

from __future__ import annotations

from datetime import timedelta
from random import Random

from tests.simulation.simulator.auditor import PLATFORM
from tests.simulation.simulator.laws import BrokenLawError, Law
from tests.simulation.simulator.operations.call_operations import finish_all
from tests.simulation.simulator.operations.control_operations import expect_collection
from tests.simulation.simulator.operations.money_operations import expect_set_off
from tests.simulation.simulator.simulation import HOLD_LIFETIME_S, Simulation
from tests.simulation.simulator.world import USD_ID
from tokenworks.foundation.money import USD, Amount

GRACE = timedelta(seconds=10)
BEAT = timedelta(seconds=HOLD_LIFETIME_S / 4)
HOP = timedelta(days=20)
"""Partitions are made that far ahead, at least."""


async def wait_shortly(simulation: Simulation, random: Random) -> str:
    """
    Let some seconds pass.
    """
    seconds = random.choice((0.001, 0.5, 3, 7, 40))
    await simulation.advance(timedelta(seconds=seconds))
    await finish_all(simulation)
    return f"{seconds} s pass"


async def wait_steadily(simulation: Simulation, random: Random) -> str:
    """
    Let minutes pass as they do: heartbeats keep what is held.
    """
    beats = random.randint(1, 8)
    for _ in range(beats):
        await simulation.advance(BEAT)
    await finish_all(simulation)
    return f"{beats} beats pass"


async def jump(simulation: Simulation, random: Random) -> str:
    """
    Let the clock jump, over a day, a month or more: the process stood still.
    """
    days = random.choice((0.02, 0.5, 1, 1, 3, 17, 33))
    step = timedelta(days=days)
    while step > timedelta(0):
        await simulation.advance(min(step, HOP))
        hub = simulation.hub
        await hub.ledger.ensure_partitions()
        await hub.calls.ensure_partitions()
        await hub.agents.payments.ensure_partitions()
        await hub.agents.brake.ensure_partitions()
        step -= HOP
    await finish_all(simulation)
    return f"{days} days pass at once"


async def set_back(simulation: Simulation, random: Random) -> str:
    """
    Let the clock be set back: ledger time stands still until it has caught up.
    """
    # So that no account was opened or frozen at a time that no batch has reached.
    party = simulation.world.organisations[0].party_id
    reference = f"clock-{simulation.auditor.operations}"
    simulation.expect((PLATFORM, "safeguarded", USD_ID), (party, "cash", USD_ID), 1)
    expect_set_off(simulation, party, 1)
    await simulation.hub.ledger.deposit(
        party_id=party,
        amount=Amount(quanta=1, asset=USD),
        rail="clock",
        reference=reference,
        actor="simulation",
    )
    seconds = random.choice((0.4, 2, 8, 45, 400))
    simulation.clock.set_back(timedelta(seconds=seconds))
    return f"the clock is set back by {seconds} s"


async def work(simulation: Simulation, random: Random) -> str:
    """
    Do what the worker does: expire what is due, collect what lowered limits owe.
    """
    del random
    naive, now = simulation.auditor.naive, simulation.clock.now()
    due = [
        hold
        for hold in naive.holds.values()
        if hold.state == "open" and hold.expires_at < now - GRACE and hold.fate != "wait"
    ]
    simulation.direct |= {i for i, hold in naive.holds.items() if hold in due}
    ended = await simulation.hub.ledger.expire_due(grace=GRACE)
    if ended != len(due):
        raise BrokenLawError(Law.LEDGER_TIME, f"{ended} holds expired, naively {len(due)}")
    simulation.collect_calls()
    owing = expect_collection(simulation)
    collected = await simulation.hub.ledger.collect_owed()
    if collected != owing:
        raise BrokenLawError(Law.WINDOW, f"{collected} windows gave back, naively {owing}")
    return f"{ended} holds expired, {collected} windows gave back"


async def lose_request(simulation: Simulation, random: Random) -> str:
    """
    Let the next batch be lost on its way to the database.
    """
    del random
    simulation.auditor.lose_next = "request"
    return "the next request is lost"


async def lose_answer(simulation: Simulation, random: Random) -> str:
    """
    Let the answer to the next batch be lost: it is in the books, and nobody knows.
    """
    del random
    simulation.auditor.lose_next = "answer"
    return "the next answer is lost"


async def fail_commit(simulation: Simulation, random: Random) -> str:
    """
    Let the database fail when it commits the next batch: nothing of it is done.
    """
    del random
    simulation.auditor.lose_next = "commit"
    return "the next commit fails"


async def crash(simulation: Simulation, random: Random) -> str:
    """
    Kill the hub's process and start another: what was answered stays, open holds wait.
    """
    del random
    simulation.auditor.lose_next = None
    lost = await simulation.crash()
    return f"a new process; {len(lost)} calls are lost"


OPERATIONS = {
    "wait": (8, wait_shortly),
    "wait_steadily": (4, wait_steadily),
    "jump": (3, jump),
    "set_clock_back": (2, set_back),
    "work": (6, work),
    "lose_request": (2, lose_request),
    "lose_answer": (2, lose_answer),
    "fail_commit": (2, fail_commit),
    "crash": (1, crash),
}
