"""
A process is called gone only where that is certain.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tokenworks.adapters.operating_system.process_mark import is_gone, mark_process

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing can be told")


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """
    A process that waits until it is ended.
    """
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def _mark(pid: int) -> str:
    mark = mark_process(pid)
    assert mark is not None
    return mark


def test_who_runs_is_not_gone() -> None:
    """
    This process is not, whoever asks.
    """
    assert is_gone(_mark(os.getpid())) is False
    assert mark_process() == _mark(os.getpid())


def test_who_is_stopped_is_not_gone(child: subprocess.Popen[bytes]) -> None:
    """
    It may go on at any time.
    """
    mark = _mark(child.pid)
    os.kill(child.pid, signal.SIGSTOP)
    os.waitpid(child.pid, os.WUNTRACED)
    assert is_gone(mark) is False
    os.kill(child.pid, signal.SIGCONT)


def test_who_was_killed_is_gone_before_and_after_its_parent_looks(
    child: subprocess.Popen[bytes],
) -> None:
    """
    A zombie does nothing any more.
    """
    mark = _mark(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert is_gone(mark) is True
    child.wait()
    assert is_gone(mark) is True


def test_number_that_another_process_has_now_is_not_taken_for_it() -> None:
    """
    The one with other ticks is gone.
    """
    surroundings, _, ticks = _mark(os.getpid()).rpartition("/")
    assert is_gone(f"{surroundings}/{int(ticks) + 1}") is True


@pytest.mark.parametrize("place", range(4))
def test_other_machine_start_or_namespace_cannot_be_judged(place: int) -> None:
    """
    The number means nothing there, even if nobody has it here.
    """
    fields = _mark(os.getpid()).split("/")
    fields[place] += "x"
    assert is_gone("/".join(fields)) is None


@pytest.mark.parametrize("mark", ["", "host:7:1700000000.25", "a/b/c/d/e/f", "/////"])
def test_mark_that_is_none_cannot_be_judged(mark: str) -> None:
    """
    Such as what an older version left.
    """
    assert is_gone(mark) is None


def test_process_that_does_not_run_has_no_mark(child: subprocess.Popen[bytes]) -> None:
    """
    There is nothing to mark.
    """
    child.kill()
    child.communicate()
    assert mark_process(child.pid) is None
