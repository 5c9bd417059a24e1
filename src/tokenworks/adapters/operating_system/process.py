"""
Recognise a process again later, and end it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import psutil

_START_TIME_TOLERANCE_S: Final = 2.0
"""A start time is derived from the machine's clock, which may be set meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessIdentity:
    """
    A process, not just its number.
    """

    pid: int
    started_at_s: float  # Unix time

    @property
    def is_alive(self) -> bool:
        """
        Tell whether this very process still runs.
        """
        return _handle(self) is not None


def this_process() -> ProcessIdentity:
    """
    Return the identity of the calling process.
    """
    return ProcessIdentity(pid=os.getpid(), started_at_s=psutil.Process().create_time())


def identify(pid: int) -> ProcessIdentity | None:
    """
    Return the identity behind a number; ``None`` when no such process runs.
    """
    try:
        return ProcessIdentity(pid=pid, started_at_s=psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def listens_on(pid: int, port: int) -> bool:
    """
    Tell whether a process accepts TCP connections on ``port``.
    """
    try:
        connections = psutil.Process(pid).net_connections(kind="tcp")
    except psutil.Error:
        return False
    return any(
        connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
        for connection in connections
        if connection.laddr
    )


def end_processes(identities: Sequence[ProcessIdentity], *, patience_s: float) -> int:
    """
    Ask processes to end, wait, then kill what is left; return how many were alive.
    """
    handles = [handle for identity in identities if (handle := _handle(identity)) is not None]
    _signal_all(handles, signal.SIGTERM)
    _, stubborn = psutil.wait_procs(handles, timeout=patience_s)
    _signal_all(stubborn, signal.SIGKILL)
    psutil.wait_procs(stubborn, timeout=patience_s)
    return len(handles)


def _signal_all(handles: Sequence[psutil.Process], which: signal.Signals) -> None:
    for handle in handles:
        try:
            handle.send_signal(which)
        except psutil.NoSuchProcess:
            continue


def _handle(identity: ProcessIdentity) -> psutil.Process | None:
    try:
        process = psutil.Process(identity.pid)
        difference_s = abs(process.create_time() - identity.started_at_s)
        is_zombie = process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return None
    if is_zombie or difference_s > _START_TIME_TOLERANCE_S:
        return None
    return process
