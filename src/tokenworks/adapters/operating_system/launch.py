"""
Launch a program that is told when its parent dies without saying so (``kill -9``).

On Linux the kernel sends the child a signal when its parent ends: prctl(2),
``PR_SET_PDEATHSIG``. It must be asked for by the child itself, after any change of user
(which would clear it), so this file is also the small program that does it and then
becomes the real one. (``preexec_fn`` could do the same, but is unsafe in a process
with threads.)

Elsewhere (macOS) the program is started the same way and the signal never comes: the
next ``tokenworks up`` ends what is left, by the record in ``runtime.json``.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_NOBODY: Final = -1
_ARGUMENTS: Final = 4


def launch_command(
    command: Sequence[str],
    *,
    on_parent_death: signal.Signals,
    user_id: int | None = None,
    group_id: int | None = None,
) -> list[str]:
    """
    Return the command that starts ``command`` with the signal asked for.

    The process keeps its pid. Called outside the main thread it asks for no signal: the
    kernel watches the *thread* that forked, which may end long before its process.

    Args:
        command: The program's absolute path and its arguments.
        on_parent_death: What the child gets.
        user_id: The user to become; the present one when ``None``.
        group_id: Its group; set with ``user_id``.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    watched = sys.platform == "linux" and in_main_thread
    numbers = (
        os.getpid(),
        int(on_parent_death) if watched else 0,
        _NOBODY if user_id is None else user_id,
        _NOBODY if group_id is None else group_id,
    )
    # -I -S: nothing of the environment or the working directory is imported.
    return [sys.executable, "-I", "-S", __file__, *map(str, numbers), *command]


def _become(numbers: Sequence[int], command: list[str]) -> None:
    parent, which, user_id, group_id = numbers
    # Loaded first: the new user may have no way to this interpreter's library.
    libc = ctypes.CDLL(None)
    if user_id != _NOBODY:
        os.setgroups([])
        os.setgid(group_id)
        os.setuid(user_id)
    if which:
        libc.prctl(_PR_SET_PDEATHSIG, which, 0, 0, 0)
        if os.getppid() != parent:
            # The parent was gone before the kernel was asked.
            sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    _become([int(number) for number in sys.argv[1 : 1 + _ARGUMENTS]], sys.argv[1 + _ARGUMENTS :])
