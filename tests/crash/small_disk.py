"""
A small file system of its own that can be filled and emptied: a tmpfs.
"""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

PIECE_BYTES: Final = 1024 * 1024
BALLAST: Final = "ballast"


class NoDiskError(Exception):
    """
    No tmpfs can be mounted here; says why.
    """


class SmallDisk:
    """
    A mounted tmpfs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / BALLAST

    @property
    def free_bytes(self) -> int:
        """
        Return what can still be written.
        """
        numbers = os.statvfs(self.folder)
        return numbers.f_bavail * numbers.f_frsize

    def fill(self) -> None:
        """
        Write until nothing more can be written; what others freed meanwhile is taken too.
        """
        for size in (PIECE_BYTES, 4096, 1):
            with self._ballast.open("ab", buffering=0) as file:
                try:
                    while file.write(bytes(size)) == size:
                        continue
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def empty(self) -> None:
        """
        Make room again.
        """
        self._ballast.unlink(missing_ok=True)


@contextmanager
def mounted_disk(size_mb: int) -> Generator[SmallDisk]:
    """
    Mount a tmpfs below the temporary folder until the block ends.

    Raises:
        NoDiskError: Only root may mount, and some containers forbid it to root too.
    """
    folder = Path(tempfile.mkdtemp(prefix="tw-disk-"))
    try:
        options = f"size={size_mb}m,mode=755"
        command = ["mount", "-t", "tmpfs", "-o", options, "tokenworks-crash", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, check=False, text=True)
        except OSError as error:
            raise NoDiskError(str(error)) from error
        if done.returncode != 0:
            reason = done.stderr.strip() or f"mount ended with {done.returncode}"
            raise NoDiskError(reason)
        try:
            yield SmallDisk(folder)
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
    finally:
        folder.rmdir()
