"""
Files that only their owner can read, replaced as a whole.

A reader sees the old content or the new one, and what was written is on the disk when the
call returns, its name included.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_private(path: Path, content: bytes) -> None:
    """
    Replace a file at once with one only its owner can read (mode 0600).
    """
    file_number, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(file_number, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """
    Make the names in a folder durable, as ``fsync`` makes a file's bytes.
    """
    file_number = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file_number)
    finally:
        os.close(file_number)


class SharedPrivateFile:
    """
    A private file that several processes change, one at a time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def update(self, decide: Callable[[bytes | None], bytes | None]) -> None:
        """
        Replace the content with what ``decide`` makes of it, under a lock.

        ``decide`` gets ``None`` when there is no file, and returns ``None`` to leave the
        file as it is; what it raises is passed on and nothing is written.
        """
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = self.path.with_name(self.path.name + ".lock")
        file_number = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file_number, fcntl.LOCK_EX)
            content = decide(self._read())
            if content is not None:
                write_private(self.path, content)
        finally:
            os.close(file_number)

    def _read(self) -> bytes | None:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return None
