"""
Tell of a process, by a mark that it left, whether it is gone for certain.

Only where the answer cannot be wrong: on the machine's same start, in the same namespaces,
by the kernel's own count of ticks (the clock may be set, the count not). Everywhere else,
and where there is no ``/proc``, it cannot be told.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_ZOMBIE = "Z"
_STATE_FIELD = 0
_START_FIELD = 19
"""Of /proc/PID/stat, counted after the name: proc_pid_stat(5)."""


def mark_process(pid: int | None = None) -> str | None:
    """
    Return the mark of a process, this one by default; ``None`` where none can be made.
    """
    pid = os.getpid() if pid is None else pid
    surroundings, stat = _surroundings(), _stat(pid)
    if surroundings is None or stat is None:
        return None
    return f"{surroundings}/{pid}/{stat[_START_FIELD]}"


def is_gone(mark: str) -> bool | None:
    """
    Tell whether the process that has a mark runs no more; ``None``: cannot be told from here.
    """
    surroundings, _, rest = mark.rpartition("/")[0].rpartition("/")
    ticks = mark.rpartition("/")[2]
    if not rest.isdigit() or not ticks.isdigit() or surroundings != _surroundings():
        return None
    pid = int(rest)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # somebody else's, perhaps one that /proc does not show
    stat = _stat(pid)
    if stat is None:
        return None
    return stat[_STATE_FIELD] == _ZOMBIE or stat[_START_FIELD] != ticks


def _surroundings() -> str | None:
    """
    Return what a pid and its ticks mean something in: the machine, its start, the namespaces.
    """
    try:
        boot = _BOOT.read_text(encoding="ascii").strip()
        pids = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return None
    # Kernels before 5.6 have no namespaces of time: the ticks are the machine's.
    times = Path("/proc/self/ns/time")
    return f"{socket.gethostname()}/{boot}/{pids}/{times.stat().st_ino if times.exists() else 0}"


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name may have spaces and brackets in it.
    return text.rpartition(")")[2].split()
