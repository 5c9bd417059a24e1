"""
End a child when its parent dies without a chance to say so (``kill -9``).

Linux's ``prctl(PR_SET_PDEATHSIG)``, prctl(2). It is set in the child between fork and
exec, after any change of user (which would clear it).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def signal_on_parent_death(which: signal.Signals) -> Callable[[], None] | None:
    """
    Return the ``preexec_fn`` that asks for a signal when this process ends.

    ``None`` where it cannot be had: not Linux, or not the main thread (the kernel
    watches the *thread* that forked, which may end long before its process).
    """
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(which), 0, 0, 0)
        if os.getppid() != parent:
            # The parent was gone before the kernel was asked.
            os._exit(1)

    return ask
