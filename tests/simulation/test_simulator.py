"""
Whole hubs live on a fake clock, each from one seed; an auditor with naive books judges all.

``TOKENWORKS_LONG_TESTS=1`` for more and longer lives; `make simulate` for endless ones.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest

from tests.simulation.simulator.database import OpenDatabase, databases_of
from tests.simulation.simulator.plan import OPERATIONS
from tests.simulation.simulator.run import Run, run_steps
from tests.simulation.simulator.shrink import shrink

IS_LONG = bool(os.environ.get("TOKENWORKS_LONG_TESTS"))
SEEDS = range(1, 41 if IS_LONG else 9)
STEPS = 1_000 if IS_LONG else 150


@pytest.fixture(scope="session")
def open_database(server_dsn: str, template_database: str) -> OpenDatabase:
    """
    Fresh, migrated databases.
    """
    return databases_of(server_dsn, template_database)


def _run(open_database: OpenDatabase, seed: int, steps: Sequence[int]) -> Run:
    with open_database() as dsn:
        return run_steps(seed, steps, dsn)


@pytest.mark.timeout(3_600 if IS_LONG else 300)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_law_holds_in_a_whole_life(open_database: OpenDatabase, seed: int) -> None:
    """
    Every answer, and at intervals every balance, hold and limit, is that of the naive books.
    """
    run = _run(open_database, seed, range(STEPS))
    assert run.broken is None, "\n".join([*run.lines[-20:], str(run.broken)])
    assert run.steps_done == STEPS


def test_same_seed_lives_the_same_life(open_database: OpenDatabase) -> None:
    """
    A seed says everything: a second run has the same trace, another seed has another one.
    """
    first, second = (_run(open_database, 77, range(120)) for _ in range(2))
    assert first.lines == second.lines
    assert first.digest == second.digest
    assert _run(open_database, 78, range(120)).digest != first.digest


def test_steps_may_be_left_out(open_database: OpenDatabase) -> None:
    """
    What is left of a plan still runs, and no law is broken by leaving something out.
    """
    run = _run(open_database, 5, range(0, 150, 3))
    assert run.broken is None, str(run.broken)
    assert run.steps_done == 50


def test_seeds_try_every_operation(open_database: OpenDatabase) -> None:
    """
    No operation is listed and never done.
    """
    run = _run(open_database, 3, range(250))
    assert run.broken is None, str(run.broken)
    assert run.counts.keys() == OPERATIONS.keys()


def test_shrinking_keeps_what_is_needed_in_order() -> None:
    """
    A plan that fails for two of its steps is cut down to them and the last one.
    """

    def fails(plan: Sequence[int]) -> bool:
        return {7, 31} <= set(plan)

    assert shrink(range(60), fails) == [7, 31, 59]
