"""
Commits whose answer is lost: the writer asks again by id, and each is booked once.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from tests.crash.cut_commits import run_cuts
from tests.crash.workshop import memory_directory

SEED: Final = 20_261_127
CUTS: Final = 9


@pytest.mark.acceptance
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_cut_commits_are_booked_once(tmp_path: Path) -> None:
    """
    Before the server sees the batch, while it works on it, and after it has committed.
    """
    report = run_cuts(cuts=CUTS, seed=SEED, keep=tmp_path, place=memory_directory)
    print(report.to_text())
    assert report.findings == []
    each = CUTS // 3
    kinds = {f"cut {kind} commit": each for kind in ("before", "while", "after")}
    assert report.harm == Counter(kinds)
