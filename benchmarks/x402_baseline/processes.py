"""
Processes of the baseline: started, waited for, and ended with the block.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

READY_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 10.0


class BaselineError(Exception):
    """
    Something is not installed, did not start or did not answer; the message says what.
    """


@contextmanager
def running(
    words: Sequence[str],
    log_path: Path,
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Generator[subprocess.Popen[bytes]]:
    """
    Run a program until the block ends.
    """
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            list(words),
            stdout=log,
            stderr=log,
            cwd=folder,
            env={**os.environ, **(environment or {})},
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_until(
    is_ready: Callable[[], bool], process: subprocess.Popen[bytes], log_path: Path
) -> None:
    """
    Wait until a program answers.
    """
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while not is_ready():
        if process.poll() is not None or time.monotonic() > deadline_s:
            tail = log_path.read_text(errors="replace")[-3_000:]
            message = f"{log_path.stem} did not become ready:\n{tail}"
            raise BaselineError(message)
        time.sleep(0.05)


def free_port() -> int:
    """
    Return a port nobody listens on.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
