"""
Name this process in its leases, tell whether another is gone, and end this one.
"""

from __future__ import annotations

import os
import signal
import socket

import psutil

from tokenworks.adapters.operating_system.process_mark import is_gone, mark_process


def make_holder(name: str) -> str:
    """
    Return what this process is called in its leases: the service, then its mark.
    """
    mark = mark_process()
    if mark is None:
        started_at_s = psutil.Process().create_time()
        mark = f"{socket.gethostname()}:{os.getpid()}:{started_at_s:.2f}"
    return f"{name}@{mark}"


def is_holder_gone(holder: str) -> bool | None:
    """
    Tell whether the process of a lease runs no more; ``None``: cannot be told from here.
    """
    return is_gone(holder.partition("@")[2])


def end_process() -> None:
    """
    Tell this process to finish what it does, and end.

    A process that cannot book is of no use: it drains, ends, and is started again.
    """
    os.kill(os.getpid(), signal.SIGTERM)
