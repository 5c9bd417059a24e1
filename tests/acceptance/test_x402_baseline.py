"""
The shipped table of the official defaults is what the official packages really do.

Needs what ``make x402-baseline`` installs (the packages of requirements-baseline.lock, and a
chain for this machine from npm); without it the test is skipped, and says so.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHAIN = ROOT / ".venv" / "anvil" / "node_modules" / "@foundry-rs"
PACKAGES = ("x402", "web3", "eth_account", "coincurve", "vyper")
RUN_TIMEOUT_S = 240


def missing() -> list[str]:
    """
    Return what is not installed.
    """
    packages = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    return packages + ([] if list(CHAIN.glob("anvil-*/bin/anvil")) else ["anvil"])


@pytest.mark.skipif(bool(missing()), reason=f"make x402-baseline installs: {missing()}")
def test_official_packages_do_what_the_table_says(tmp_path: Path) -> None:
    """
    A new run finds the verdicts that are shipped, and the seller's handlers run as often.
    """
    output = tmp_path / "table.json"
    words = [sys.executable, "-m", "benchmarks.x402_baseline.run"]
    words += ["--in-parallel", "8", "--output", str(output)]
    done = subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text(encoding="utf-8"))
    shipped_file = ROOT / "src" / "tokenworks" / "conformance" / "official_defaults.json"
    shipped = json.loads(shipped_file.read_text(encoding="utf-8"))
    assert _verdicts(found) == _verdicts(shipped)
    rows = {(row["attack"], row["flow"]): row for row in found["seller"]}
    # One payment, one balance: work for all of them by default, for one when settled first.
    assert rows["duplicate", "authorization"]["handlers_ran"] == 8
    assert rows["duplicate", "upfront"]["handlers_ran"] == 1
    assert rows["overdraft", "authorization"]["handlers_ran"] > 1
    assert rows["overdraft", "upfront"]["handlers_ran"] == 1
    assert rows["other_resource", "authorization"]["answered_200"] == 1


def _verdicts(table: dict[str, dict[str, dict[str, str]]]) -> dict[str, str]:
    return {check_id: row["verdict"] for check_id, row in table["facilitator"].items()}
