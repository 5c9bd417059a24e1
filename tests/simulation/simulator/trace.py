"""
What happened, one line a step, and a hash of it all: the same seed gives the same hash.
"""

from __future__ import annotations

import hashlib
from collections import deque

LINES_KEPT = 400


class Trace:
    """
    The lines of a run; the last ones are kept, all of them are hashed.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.lines: deque[str] = deque(maxlen=LINES_KEPT)

    def add(self, line: str) -> None:
        """
        Add one line.
        """
        self._hash.update(line.encode() + b"\n")
        self.lines.append(line)

    @property
    def digest(self) -> str:
        """
        Return the hash so far, in hexadecimal digits.
        """
        return self._hash.hexdigest()
