"""
Several writers race on one database; ``TOKENWORKS_LONG_TESTS=1`` for longer races.
"""

from __future__ import annotations

import os

import pytest

from tests.simulation.stress import run_stress

IS_LONG = bool(os.environ.get("TOKENWORKS_LONG_TESTS"))
ROUNDS = 1_000 if IS_LONG else 40


@pytest.mark.timeout(3_600 if IS_LONG else 600)
@pytest.mark.parametrize("seed", range(20 if IS_LONG else 2))
def test_races_leave_the_books_that_were_acknowledged(dsn: str, seed: int) -> None:
    """
    Each fact once, no overdraft, no open hold, no deadlock, and sums as they were answered.
    """
    tally = run_stress(dsn, seed=seed, rounds=ROUNDS)
    assert tally.refused["insufficient"], "money and limits were short for some"
    assert sum(tally.done.values()) > ROUNDS
