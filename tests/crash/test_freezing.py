"""
A database that stands still: calls are refused or late, never free.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.crash.freezing import judge_freeze, run_freeze
from tests.crash.report import Report
from tests.crash.sighting import Seen, Sighting
from tests.crash.workshop import memory_directory

SEED: Final = 20_261_126


@pytest.mark.acceptance
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_database_that_stands_still_for_ten_seconds_sells_nothing(tmp_path: Path) -> None:
    """
    Every call of that time is a 503 with Retry-After or is answered later; the books are clean.
    """
    report = run_freeze(seed=SEED, keep=tmp_path, place=memory_directory)
    print(report.to_text())
    assert report.findings == []
    assert report.facts["refused"] != 0


def test_free_answer_is_found() -> None:
    """
    An answer that came whole while nothing could be booked breaks a law, as does a 503 that
    does not say when to come again.
    """
    free = Sighting(key="a", seen=Seen.ANSWERED, begun_s=1.0, ended_s=2.0)
    hasty = Sighting(key="b", seen=Seen.REFUSED, status=503, begun_s=1.0, ended_s=6.0)
    findings = judge_freeze([free, hasty], 0.0, 10.0, Report(scenario="freeze", seed=0))
    assert [finding.split(":")[0] for finding in findings] == ["free", "retry"]
