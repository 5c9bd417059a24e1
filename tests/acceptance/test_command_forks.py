"""
A command that is a fork does what the same command does as a process of its own.
"""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.acceptance.command_forks import forks
from tests.acceptance.hub_process import clean_environment, run_command, wait_for

NOBODY = {"TOKENWORKS_URL": "http://127.0.0.1:1", "TOKENWORKS_KEY": "tw_x"}


@pytest.mark.parametrize(
    "arguments",
    [("party", "list"), ("config", "show", "--json"), ("nonsense",), ("ledger", "check", "--help")],
    ids=" ".join,
)
def test_fork_says_and_returns_what_the_command_does(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    """
    Exit code, output and errors are the same; environment and folder are those that were given.
    """
    both = [
        run_command(*arguments, environment=NOBODY, cwd=tmp_path, is_fork=is_fork)
        for is_fork in (True, False)
    ]
    fork, process = ((done.returncode, done.stdout, done.stderr) for done in both)
    assert fork == process


def test_environment_of_one_command_is_not_the_nexts() -> None:
    """
    Each command is a fork of the same process, which keeps nothing of them.
    """
    told = run_command("config", "show", "--json", environment={"TOKENWORKS_PORT": "9123"})
    untold = run_command("config", "show", "--json")
    assert "9123" in told.stdout
    assert "9123" not in untold.stdout
    assert json.loads(untold.stdout)


def test_command_that_takes_too_long_is_killed() -> None:
    """
    As ``subprocess.run`` does it: nothing of it is left.
    """
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(subprocess.TimeoutExpired):
            run_command("party", "list", environment={**NOBODY, "TOKENWORKS_URL": url}, timeout_s=1)
    server = psutil.Process(forks().pid)
    wait_for("the command is gone", lambda: not server.children(recursive=True))


def test_other_code_is_never_run_as_a_fork() -> None:
    """
    With another ``PYTHONPATH`` a command would import something else than the server has.
    """
    assert forks().can_run(clean_environment())
    assert not forks().can_run(clean_environment({"PYTHONPATH": "/another"}))
