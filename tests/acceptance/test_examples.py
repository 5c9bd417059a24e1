"""
The examples run as they are printed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.acceptance.conftest import Demo
from tests.acceptance.hub_process import clean_environment

ROOT = Path(__file__).parents[2]
RUN_TIMEOUT_S = 240


def run_example(*arguments: str) -> subprocess.CompletedProcess[str]:
    """
    Run an example to its end.
    """
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        check=False,
        cwd=ROOT,
        env=clean_environment(),
        text=True,
        timeout=RUN_TIMEOUT_S,
    )


def test_first_call_buys_and_proves(demo: Demo) -> None:
    """
    Plain, stream, receipt: all succeed against the demo.
    """
    done = run_example("examples/first_call.py", str(demo.file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the receipt is good" in done.stdout


def test_load_charges_every_call(demo: Demo) -> None:
    """
    No call fails, each is charged.
    """
    before = len(demo.all_calls())
    done = run_example("examples/load.py", "--calls", "6", "--max-tokens", "4", str(demo.file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 calls in" in done.stdout
    assert len(demo.all_calls()) == before + 6


def test_agent_pays_for_answers(demo: Demo) -> None:
    """
    An agent is hired, buys three answers by x402 and says what it paid.
    """
    done = run_example("examples/pay_for_answers.py", str(demo.file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("-- signed for ") == 3
    assert "the agent paid 0.000" in done.stdout
    assert "what is too dear is not signed" in done.stdout


def test_agents_hire_each_other_and_a_person_holds_the_brake(demo: Demo) -> None:
    """
    Three escrows on real model calls: paid in parts, refunded, approved by a person.
    """
    done = run_example("examples/agent_team.py", str(demo.file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "opening: 0.08 (condition_met)" in done.stdout
    assert "length: 0." in done.stdout
    assert "the hub metered " in done.stdout
    assert "condition is met: False" in done.stdout
    assert "cancelled: 0 of 0.1 USD paid" in done.stdout
    assert "the brake holds 0.4 USD" in done.stdout
    assert "settled: 0.4 of 0.4 USD paid" in done.stdout
    assert "inbox: approved" in done.stdout
    assert "client money covered: True" in done.stdout
