"""
Say of a seed that breaks a law what breaks it, in as few steps as can be found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from tests.databases import OpenDatabase
from tests.simulation.simulator.run import AUDIT_EVERY, Run, run_steps
from tests.simulation.simulator.shrink import shrink

SHOWN_LINES: Final = 30


def explain(
    run: Run,
    steps: Sequence[int],
    open_database: OpenDatabase,
    *,
    is_enough: Callable[[], bool] = lambda: False,
    on_try: Callable[[int, int], None] = lambda _tries, _steps: None,
) -> dict[str, Any]:
    """
    Find the shortest plan that breaks the same law, and say how to repeat it.

    Args:
        run: What was broken.
        steps: The plan that broke it.
        open_database: Gives fresh databases for more runs.
        is_enough: Asked before each run whether to stop looking for a shorter plan.
        on_try: Is told how many runs there were and how short the plan is by now.
    """
    assert run.broken is not None, "there is something to explain"
    assert run.failed_step is not None, "it broke in a step"
    prefix = [step for step in steps if step <= run.failed_step]
    # Looking after every step may show it earlier.
    exact = _again(run, prefix, open_database, audit_every=1)
    if exact.broken is None or exact.failed_step is None:
        return _explanation(run, prefix, kept=prefix)
    prefix = [step for step in prefix if step <= exact.failed_step]
    law, shortest = exact.broken.law, exact

    def fails(plan: Sequence[int]) -> bool:
        nonlocal shortest
        tried = _again(run, plan, open_database, audit_every=AUDIT_EVERY)
        has_failed = tried.broken is not None and tried.broken.law is law
        shortest = tried if has_failed else shortest
        return has_failed

    kept = shrink(prefix, fails, is_enough=is_enough, on_try=on_try)
    return _explanation(shortest, prefix, kept=kept)


def _again(run: Run, plan: Sequence[int], open_database: OpenDatabase, *, audit_every: int) -> Run:
    with open_database() as dsn:
        return run_steps(run.seed, plan, dsn, audit_every=audit_every)


def _explanation(run: Run, prefix: Sequence[int], *, kept: Sequence[int]) -> dict[str, Any]:
    assert run.broken is not None, "it breaks"
    law = run.broken.law
    keep = ",".join(str(step) for step in kept)
    return {
        "seed": run.seed,
        "law": law.name.lower(),
        "law_line": law.line,
        "sentence": str(law),
        "message": run.broken.message,
        "prefix_steps": prefix[-1] + 1,
        "kept_steps": list(kept),
        "lines": run.lines[-SHOWN_LINES:],
        "command": f"make simulate SEED={run.seed} KEEP={keep}",
    }
