"""
A full disk: nothing is acknowledged; with room again the hub goes on, and the books are clean.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.crash.filling import run_full_disk

SEED: Final = 20_261_128


@pytest.mark.acceptance
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_full_disk_sells_nothing_and_the_hub_goes_on_by_itself(tmp_path: Path) -> None:
    """
    The hub's data is on a small tmpfs that is filled under load, then emptied.
    """
    report = run_full_disk(seed=SEED, keep=tmp_path)
    print(report.to_text())
    if report.skipped is not None:
        pytest.skip(report.to_text())
    assert report.findings == []
    assert report.facts["came back"] == "by itself"
