"""
Calls begin, go on, are given up and are tried again.
"""

from __future__ import annotations

import asyncio
from random import Random

from tests.simulation.simulator.calls import Call, count_offers, draw_call
from tests.simulation.simulator.judging import judge
from tests.simulation.simulator.laws import BrokenLawError, Law
from tests.simulation.simulator.simulation import Simulation
from tests.simulation.simulator.world import SimulatedKey
from tokenworks.ledger.model import Placement

CALLS_AT_ONCE_MAX = 5


async def begin(simulation: Simulation, random: Random) -> str:
    """
    Begin one call; it runs until its supplier lets it wait.
    """
    call = draw_call(simulation, random, random.choice(simulation.world.keys))
    if random.random() < 0.3:
        call.idempotency_key = f"key-{call.number}"
    return await start(simulation, call)


async def begin_at_once(simulation: Simulation, random: Random) -> str:
    """
    Begin calls of several keys in one turn of the loop: their holds share a batch.
    """
    keys = list(simulation.world.keys)
    chosen = random.sample(keys, min(len(keys), random.randint(2, CALLS_AT_ONCE_MAX)))
    known: list[SimulatedKey] = []
    for key in chosen:
        # Looked up one after the other beforehand, so that only the ledger is asked together.
        try:
            await simulation.hub.identity.authenticate(key.secret)
        except Exception:  # noqa: BLE001 - what is wrong with a key is judged elsewhere
            continue
        known.append(key)
    calls = [draw_call(simulation, random, key) for key in known]
    for number, call in enumerate(calls):
        call.number = len(simulation.calls) + number
    for call in calls:
        # One answer at a time: what reads the database may not run at once in a simulation.
        for performance in call.performances:
            object.__setattr__(performance, "pauses", performance.pauses | {"head"})
    simulation.calls += calls
    for call in calls:
        call.task = asyncio.create_task(call.run(simulation))
    await simulation.quiet()
    return " | ".join([await finish(simulation, call) for call in calls])


async def go_on(simulation: Simulation, random: Random) -> str:
    """
    Let one supplier go on; any of those that wait.
    """
    if not simulation.upstream.parked:
        return "nobody waits"
    parked = random.choice(simulation.upstream.parked)
    call = simulation.asker(parked.request)
    parked.gate.set_result(None)
    await simulation.quiet()
    return await finish(simulation, call)


async def hang_up(simulation: Simulation, random: Random) -> str:
    """
    Let the client of a stream leave.
    """
    streams = [c for c in simulation.calls if c.is_stream and not c.is_over and c.open]
    if not streams:
        return "nobody streams"
    call = random.choice(streams)
    call.hang_up()
    await simulation.quiet()
    return f"call {call.number} is alone"


async def try_again(simulation: Simulation, random: Random) -> str:
    """
    Send a call with an idempotency key again: its answer was lost, or its body has changed.
    """
    earlier = [call for call in simulation.calls if call.idempotency_key is not None]
    if not earlier:
        return "nothing to repeat"
    first = random.choice(earlier)
    call = draw_call(simulation, random, first.key)
    call.idempotency_key = first.idempotency_key
    is_same = random.random() < 0.7
    if is_same:
        call.model, call.tier, call.body = first.model, first.tier, first.body
        call.is_stream, call.max_tokens = first.is_stream, first.max_tokens
        now = simulation.clock.now()
        call.prices = simulation.world.prices_at(call.model, call.tier, now)
        call.offers = count_offers(simulation, call.model, call.tier)
    is_same = call.body == _claimed_body(simulation, first, default=call.body)
    expected = _expected_code(simulation, first, is_same=is_same)
    said = await start(simulation, call)
    code = call.error.code if call.error and call.open is None else None
    if not call.opening and not _is_stopped(code) and code != expected:
        message = f"a repeat of call {first.number} was answered {code}, not {expected}"
        raise BrokenLawError(Law.FACT_ONCE, message)
    if expected and call.open is not None:
        message = f"a repeat of call {first.number} was sold again, not {expected}"
        raise BrokenLawError(Law.FACT_ONCE, message)
    return f"again {first.number}: {said}"


def _is_stopped(code: str | None) -> bool:
    return code in {
        "key_revoked",
        "key_expired",
        "party_frozen",
        "party_closed",
        "no_supplier_available",
        "model_not_found",
        "price_missing",
    }


def _holders(simulation: Simulation, first: Call) -> list[Call]:
    return [
        call
        for call in simulation.calls
        if call.idempotency_key == first.idempotency_key
        and call.scopes[0] == first.scopes[0]
        and call.open is not None
    ]


def _claimed_body(simulation: Simulation, first: Call, *, default: bytes) -> bytes:
    holders = _holders(simulation, first)
    return holders[0].body if holders else default


def _expected_code(simulation: Simulation, first: Call, *, is_same: bool) -> str | None:
    holders = _holders(simulation, first)
    if not holders:
        return None
    if not is_same:
        return "idempotency_conflict"
    last = holders[-1].call_id
    assert last is not None, "it was opened"
    state = simulation.auditor.naive.holds[last].state
    return {"open": "call_in_flight", "captured": "call_already_settled"}.get(state)


async def start(simulation: Simulation, call: Call) -> str:
    """
    Run a call until it waits or is over.
    """
    simulation.calls.append(call)
    call.task = asyncio.create_task(call.run(simulation))
    await simulation.quiet()
    return await finish(simulation, call)


async def finish(simulation: Simulation, call: Call) -> str:
    """
    Note what the ledger said to a call, and judge it when it is over.
    """
    simulation.hear()
    if not call.opening:
        call.opening = [
            a
            for a in simulation.answers
            if isinstance(a.wish, Placement) and not a.wish.extension and call.is_its_hold(a.wish)
        ]
    title = f"{simulation.world.label(call.payer_id)} {call.model}@{call.tier}"
    if not call.is_over:
        return f"{title} call {call.number} waits"
    assert call.task is not None, "it is over"
    call.task.result()
    simulation.collect_calls()
    said = await judge(call, simulation)
    await call.judged(simulation)
    return f"{title} call {call.number} {said}"


async def finish_all(simulation: Simulation) -> None:
    """
    Judge every call that has come to its end by itself, e.g. by a heartbeat.
    """
    for call in simulation.calls:
        if call.is_over and not call.is_judged:
            await finish(simulation, call)


OPERATIONS = {
    "call": (24, begin),
    "calls_at_once": (5, begin_at_once),
    "supplier_goes_on": (22, go_on),
    "client_hangs_up": (3, hang_up),
    "call_again": (5, try_again),
}
