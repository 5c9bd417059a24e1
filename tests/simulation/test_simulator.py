"""
Whole hubs live on a fake clock, each from one seed; an auditor with naive books judges all.

``TOKENWORKS_LONG_TESTS=1`` for more and longer lives; `make simulate` for endless ones.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Sequence

import pytest

from tests.databases import OpenDatabase
from tests.simulation import simulate
from tests.simulation.mutants.catalogue import MUTANTS
from tests.simulation.simulator.explain import explain
from tests.simulation.simulator.plan import OPERATIONS, Plan
from tests.simulation.simulator.run import Run, run_steps
from tests.simulation.simulator.shrink import shrink

IS_LONG = bool(os.environ.get("TOKENWORKS_LONG_TESTS"))
SEEDS = range(1, 41 if IS_LONG else 9)
STEPS = 1_000 if IS_LONG else 200


@pytest.fixture(scope="module", autouse=True)
def _patience() -> None:
    """
    Wait no longer than a hub does: time is simulated, and the auditor knows what is too late.
    """


def _run(open_database: OpenDatabase, seed: int, steps: Sequence[int]) -> Run:
    with open_database() as dsn:
        return run_steps(seed, steps, dsn)


@pytest.mark.timeout(3_600 if IS_LONG else 600)
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
    assert _run(open_database, 78, range(20)).lines[:20] != first.lines[:20]


def test_steps_may_be_left_out(open_database: OpenDatabase) -> None:
    """
    What is left of a plan still runs, and no law is broken by leaving something out.
    """
    run = _run(open_database, 5, range(0, 150, 3))
    assert run.broken is None, str(run.broken)
    assert run.steps_done == 50


def test_seeds_try_every_operation() -> None:
    """
    No operation is listed and never done by the seeds that are lived here.
    """
    plans = [Plan(seed) for seed in SEEDS]
    assert {plan.kind(step) for plan in plans for step in range(STEPS)} == OPERATIONS.keys()


def test_shrinking_keeps_what_is_needed_in_order() -> None:
    """
    A plan that fails for two of its steps is cut down to them and the last one.
    """

    def fails(plan: Sequence[int]) -> bool:
        return {7, 31} <= set(plan)

    assert shrink(range(60), fails) == [7, 31, 59]


@pytest.mark.parametrize("wish", [["--steps", "0"], ["--keep", "3,x"], ["--seeds", "-1"]])
def test_wrong_arguments_are_refused_in_words(
    wish: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """
    Nothing is started for a plan that cannot be.
    """
    with pytest.raises(SystemExit) as ended:
        simulate.main(wish)
    assert ended.value.code == 2
    assert wish[1] in capsys.readouterr().err


def test_failing_seed_is_explained_by_a_short_plan(open_database: OpenDatabase) -> None:
    """
    Of a broken hub the law is named, with the few steps that show it and the command for them.
    """
    mutant = next(mutant for mutant in MUTANTS if mutant.name == "lost_leg")

    @contextlib.contextmanager
    def open_broken() -> Generator[str]:
        with open_database() as dsn, mutant.applied(dsn):
            yield dsn

    with open_broken() as dsn:
        run = run_steps(1, range(STEPS), dsn)
    found = explain(run, range(STEPS), open_broken)
    kept = found["kept_steps"]
    assert found["law"] == "legs"
    assert len(kept) <= min(3, found["prefix_steps"])
    assert found["command"] == f"make simulate SEED=1 KEEP={','.join(map(str, kept))}"
    assert _run(open_database, 1, kept).broken is None, "a healthy hub lives these steps"
