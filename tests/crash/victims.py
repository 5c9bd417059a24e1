"""
The processes of a hub, and what can be done to them.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Final

import psutil

from tests.acceptance.hub_process import HubProcess, wait_for

LIVING_TIMEOUT_S: Final = 240.0
"""The supervisor waits up to 30 s before it starts what ends again and again."""
BACKEND: Final = "backend"
"""One of PostgreSQL's processes that serve the hub: the server restarts all of them."""


def backends(postmaster_pid: int) -> list[psutil.Process]:
    """
    Return the processes that serve the hub's connections.
    """
    found: list[psutil.Process] = []
    for process in psutil.Process(postmaster_pid).children():
        with suppress(psutil.NoSuchProcess):
            if "tokenworks" in " ".join(process.cmdline()):
                found.append(process)
    return found


def living(hub: HubProcess, names: tuple[str, ...]) -> dict[str, int] | None:
    """
    Return the pids of the hub's services if those that are named run, else ``None``.
    """
    with suppress(OSError, ValueError):
        pids = hub.children()
        needed = ["postgres" if name == BACKEND else name for name in names]
        if all(is_alive(pids.get(name)) for name in needed):
            return pids
    return None


def is_alive(pid: int | None) -> bool:
    """
    Tell whether a process runs and is no zombie.
    """
    with suppress(psutil.NoSuchProcess):
        return pid is not None and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def kill_dead(hub: HubProcess, names: tuple[str, ...], dice: random.Random) -> dict[str, int]:
    """
    ``kill -9`` services at once; return the pids they had.

    Who just starts again, after a kill before, is waited for: the dead cannot be killed.
    """
    pids = wait_for(f"{names} run", lambda: living(hub, names), timeout_s=LIVING_TIMEOUT_S)
    killed: dict[str, int] = {}
    for name in names:
        if name == BACKEND:
            serving = backends(pids["postgres"])
            pid = dice.choice(serving).pid if serving else None
        else:
            pid = pids[name]
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed[name] = pid
    return killed


def is_back(hub: HubProcess, name: str, old_pid: int) -> bool:
    """
    Tell whether a service runs as another process now.
    """
    with suppress(OSError, ValueError):
        return hub.children().get(name, old_pid) != old_pid
    return False


@contextmanager
def stopped(pid: int) -> Generator[None]:
    """
    Freeze a process and all that it started (a whole database server) until the block ends.
    """
    parent = psutil.Process(pid)
    tree = [parent, *parent.children(recursive=True)]
    try:
        for process in tree:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        yield
    finally:
        for process in tree:
            with suppress(psutil.NoSuchProcess):
                process.resume()
