"""
``postmaster.pid``: what a running server says about itself, and whether it is true.

The file survives a crash, and its process number may by then belong to anybody. A
process counts as the server of a data directory only when it is a ``postgres`` whose
working directory is that data directory. (Format: PostgreSQL's ``miscinit.h``.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

FILE_NAME: Final = "postmaster.pid"
_LINES_UNTIL_SOCKET: Final = 5
_LINES_UNTIL_STATUS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Postmaster:
    """
    The content of ``postmaster.pid``.

    ``socket_directory`` is ``None`` until the server has opened its socket.
    """

    pid: int
    port: int | None
    socket_directory: Path | None
    is_ready: bool


def read_postmaster(cluster: Path) -> Postmaster | None:
    """
    Return what the file of ``cluster`` says, true or not; ``None`` without a file.
    """
    try:
        lines = (cluster / FILE_NAME).read_text(encoding="utf-8").splitlines()
        pid = abs(int(lines[0]))
    except (FileNotFoundError, IndexError, ValueError):
        return None
    has_socket = len(lines) >= _LINES_UNTIL_SOCKET and lines[4].strip()
    has_status = len(lines) >= _LINES_UNTIL_STATUS
    return Postmaster(
        pid=pid,
        port=int(lines[3]) if has_socket else None,
        socket_directory=Path(lines[4].strip()) if has_socket else None,
        is_ready=has_status and lines[7].strip() == "ready",
    )


def running_postmaster(cluster: Path) -> Postmaster | None:
    """
    Return the file's content when its process is alive and is this cluster's server.
    """
    postmaster = read_postmaster(cluster)
    if postmaster is None or not serves(postmaster.pid, cluster):
        return None
    return postmaster


def serves(pid: int, cluster: Path) -> bool:
    """
    Tell whether a living process is a PostgreSQL process of ``cluster``.
    """
    try:
        process = psutil.Process(pid)
        return (
            process.status() != psutil.STATUS_ZOMBIE
            and process.name().startswith("postgres")
            and Path(process.cwd()) == cluster.resolve()
        )
    except (psutil.Error, OSError):
        return False


def processes_of(cluster: Path) -> Iterator[int]:
    """
    Yield the pids of every PostgreSQL process of ``cluster``, orphans included.
    """
    for pid in psutil.pids():
        if serves(pid, cluster):
            yield pid
