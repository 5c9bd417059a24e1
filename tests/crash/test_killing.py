"""
Ten kills under load: what was answered is in the books once, and a retried key is charged once.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from tests.crash.killing import plan_rounds, run_kills
from tests.crash.workshop import memory_directory

SEED: Final = 20_261_125
KILLS: Final = 10


@pytest.mark.acceptance
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_kills_lose_nothing_and_charge_nothing_twice(tmp_path: Path) -> None:
    """
    Gateways, worker and PostgreSQL are killed alone and together, at moments from the seed.
    """
    report = run_kills(kills=KILLS, seed=SEED, keep=tmp_path, place=memory_directory)
    print(report.to_text())
    assert report.findings == []
    assert report.harm.total() == KILLS
    assert report.audit is not None
    assert report.audit.keys_retried > 0, "the kills hit nobody"
    assert report.audit.streams > 0


def test_rounds_follow_from_the_seed() -> None:
    """
    The same seed kills the same processes in the same order, and exactly as many as asked for.
    """
    rounds = list(plan_rounds(100, random.Random(SEED)))
    assert rounds == list(plan_rounds(100, random.Random(SEED)))
    assert sum(map(len, rounds)) == 100
    kinds = Counter(len(names) for names in rounds)
    assert kinds[1] > 0
    assert kinds[4] > 0
