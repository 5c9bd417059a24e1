"""
Run the steps of a seed on a fresh database and say what came of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Iterable
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import structlog

from tests.simulation.simulator.laws import BrokenLawError, Law
from tests.simulation.simulator.plan import OPERATIONS, Plan
from tests.simulation.simulator.simulation import BEGINS, Simulation, open_simulation
from tests.simulation.simulator.trace import Trace
from tests.simulation.simulator.virtual_time import JumpingClock, VirtualTimeLoop
from tokenworks.ledger import writer as writer_module

AUDIT_EVERY = 10
CHECK_EVERY = 250
STEP_SECONDS_MAX = 120.0
"""Of real time; an operation that is not answered by then never will be."""


@dataclass(kw_only=True)
class Run:
    """
    What came of a seed.
    """

    seed: int
    steps_done: int = 0
    operations: int = 0
    calls: int = 0
    counts: Counter[str] = field(default_factory=Counter[str])
    broken: BrokenLawError | None = None
    failed_step: int | None = None
    digest: str = ""
    lines: list[str] = field(default_factory=list[str])


Progress = Callable[[Run], None]


def run_steps(
    seed: int,
    steps: Iterable[int],
    dsn: str,
    *,
    audit_every: int = AUDIT_EVERY,
    on_step: Progress = lambda _: None,
    wish_to_stop: Callable[[], bool] = lambda: False,
) -> Run:
    """
    Run some steps of a seed on a fresh, migrated database; the books are checked at the end.

    Args:
        seed: Of the world, the plan and every draw.
        steps: Numbers of the plan's steps, ascending; others are left out.
        dsn: The database, as its owner.
        audit_every: After how many steps all balances, holds and limits are compared.
        on_step: Is told the state after each step.
        wish_to_stop: Asked after each step.
    """
    clock = JumpingClock(BEGINS)
    run = Run(seed=seed)
    with (
        quiet_logs(),
        immediate_reconnects(),
        asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(clock)) as runner,
    ):
        runner.run(
            _run(
                run,
                steps,
                dsn,
                clock,
                audit_every=audit_every,
                on_step=on_step,
                wish_to_stop=wish_to_stop,
            )
        )
    return run


async def _run(
    run: Run,
    steps: Iterable[int],
    dsn: str,
    clock: JumpingClock,
    *,
    audit_every: int,
    on_step: Progress,
    wish_to_stop: Callable[[], bool],
) -> None:
    trace, plan = Trace(), Plan(run.seed)
    try:
        async with open_simulation(run.seed, dsn, clock) as simulation:
            for step in steps:
                run.failed_step = step
                kind = plan.kind(step)
                said = await _bounded(simulation, _step(simulation, step, kind, audit_every))
                trace.add(f"{step} {kind}: {said}")
                run.steps_done += 1
                run.counts[kind] += 1
                run.calls, run.operations = len(simulation.calls), simulation.auditor.operations
                run.digest = trace.digest
                on_step(run)
                if wish_to_stop():
                    break
            await _bounded(simulation, _audit(simulation))
            run.failed_step = None
    except BrokenLawError as broken:
        run.broken = broken
        trace.add(f"{run.failed_step}: {broken}")
    run.digest, run.lines = trace.digest, list(trace.lines)


async def _step(simulation: Simulation, step: int, kind: str, audit_every: int) -> str:
    random = simulation.dice.begin(step)
    said = await OPERATIONS[kind][1](simulation, random)
    simulation.collect()
    if step % audit_every == audit_every - 1:
        await simulation.audit(full=step % CHECK_EVERY == CHECK_EVERY - 1)
    return said


async def _audit(simulation: Simulation) -> str:
    await simulation.audit(full=True)
    return "audited"


async def _bounded(simulation: Simulation, work: Coroutine[Any, Any, str]) -> str:
    """
    Wait for one step: until a law is broken, and for a bounded real time at most.

    The loop's own time stands still, so a thread counts the seconds.
    """
    task = asyncio.create_task(work)
    loop = asyncio.get_running_loop()
    timer = threading.Timer(STEP_SECONDS_MAX, loop.call_soon_threadsafe, [task.cancel])
    timer.daemon = True
    timer.start()
    simulation.auditor.on_breach = task.cancel
    try:
        return await task
    except asyncio.CancelledError as error:
        simulation.auditor.raise_breach()
        message = f"no answer within {STEP_SECONDS_MAX:g} s of real time"
        raise BrokenLawError(Law.ANSWERED, message) from error
    except BrokenLawError:
        raise
    except Exception as error:
        simulation.auditor.raise_breach()
        message = f"{type(error).__name__} instead of an answer: {error}"
        raise BrokenLawError(Law.ANSWERED, message) from error
    finally:
        timer.cancel()


@contextlib.contextmanager
def immediate_reconnects() -> Generator[None]:
    """
    Let writers reconnect without waiting: on a fake clock a pause would never end.
    """
    with mock.patch.object(writer_module, "RECONNECT_DELAYS_S", (0.0,)):
        yield


@contextlib.contextmanager
def quiet_logs() -> Generator[None]:
    """
    Say nothing of what goes wrong on purpose.
    """
    kept = structlog.get_config()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    try:
        yield
    finally:
        structlog.configure(**kept)
