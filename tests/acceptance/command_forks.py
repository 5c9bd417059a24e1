"""
Run ``tokenworks`` commands as forks of one process that has imported them all.

A command imports for longer than it works, and the tests run hundreds of them. So a process of
its own (the tests' one has threads) imports the command line once; each command is a fork of it
with its own arguments, environment, folder and streams, and ends as any process ends. What a
command imports by itself is not seen this way: ``run_command(..., is_fork=False)`` shows that.

The parts, from the tests down: ``Forks`` (in the tests' process), the server (``serve``), for
each command a fork that waits (``_wait_for_command``), and its fork that is the command.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
MODULE: Final = "tokenworks.cli.main"
WAITING_MAX: Final = 64
START_TIMEOUT_S: Final = 300.0
STOP_TIMEOUT_S: Final = 60.0
ENVIRONMENT: Final = dict(os.environ)
"""The server's; not what a test has made of it by the time of the first command."""


class Forks:
    """
    The tests' side: a server that is started with the first command.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tw-commands-")
        address = Path(self._folder.name) / "socket"
        self._address = str(address)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self._address)
            listener.listen(WAITING_MAX)
            # It ends when its standard input does, so also when the tests are killed.
            self._server = subprocess.Popen(
                [sys.executable, "-m", __name__, str(listener.fileno())],
                cwd=ROOT,
                env=dict(ENVIRONMENT),
                pass_fds=[listener.fileno()],
                stdin=subprocess.PIPE,
            )

    @property
    def pid(self) -> int:
        """
        The server's pid.
        """
        return self._server.pid

    def can_run(self, environment: Mapping[str, str]) -> bool:
        """
        Tell whether a command with this environment would import what the server has.
        """
        return environment.get("PYTHONPATH") == ENVIRONMENT.get("PYTHONPATH")

    def run(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        cwd: Path | None,
        timeout_s: float,
    ) -> subprocess.CompletedProcess[str]:
        """
        Run a command to its end.

        Raises:
            subprocess.TimeoutExpired: It took too long and was killed.
        """
        order = {
            "arguments": list(command),
            "environment": dict(environment),
            "cwd": str(cwd or Path.cwd()),
        }
        with (
            tempfile.TemporaryFile() as stdout,
            tempfile.TemporaryFile() as stderr,
            socket.socket(socket.AF_UNIX) as server,
        ):
            server.settimeout(START_TIMEOUT_S)
            server.connect(self._address)
            content = json.dumps(order).encode() + b"\n"
            socket.send_fds(server, [content[:1]], [stdout.fileno(), stderr.fileno()])
            server.sendall(content[1:])
            with server.makefile("rb") as answers:
                pid = json.loads(answers.readline())["pid"]
                server.settimeout(timeout_s)
                try:
                    status = json.loads(answers.readline())["returncode"]
                except TimeoutError as error:
                    os.kill(pid, signal.SIGKILL)
                    raise subprocess.TimeoutExpired(command, timeout_s) from error
            texts: list[str] = []
            for file in (stdout, stderr):
                file.seek(0)
                texts.append(file.read().decode())
        return subprocess.CompletedProcess(command, status, *texts)

    def close(self) -> None:
        """
        End the server.
        """
        assert self._server.stdin is not None, "it is a pipe"
        self._server.stdin.close()
        self._server.wait(STOP_TIMEOUT_S)
        self._folder.cleanup()


_starting = threading.Lock()


@functools.cache
def _opened() -> Forks:
    forks = Forks()
    atexit.register(forks.close)
    return forks


def forks() -> Forks:
    """
    Return this process's server, started at the first call.
    """
    with _starting:
        return _opened()


# ------------------------------------------------------------------ the server


def serve(listener: socket.socket) -> None:
    """
    Fork for each connection until standard input ends; return only in a command.
    """
    main = importlib.import_module(MODULE)
    for registration in main.COMMANDS:
        importlib.import_module(registration.module)
    for name in ("tokenworks.bootstrap", "typer.rich_utils", "uvloop"):
        importlib.import_module(name)
    del sys.modules[MODULE]  # each command runs it as its main module
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who waits for a command is not waited for
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            raise SystemExit(0)
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _wait_for_command(connection)
            return
        connection.close()


def _wait_for_command(connection: socket.socket) -> None:
    """
    Fork the command, tell its pid and how it ended; return only in the command.
    """
    first, streams, _, _ = socket.recv_fds(connection, 1, 2)
    with connection.makefile("rb") as lines:
        order = json.loads(first + lines.readline())
    pid = os.fork()
    if pid == 0:
        connection.close()
        _become(order, streams)
        return
    connection.sendall(json.dumps({"pid": pid}).encode() + b"\n")
    _, status = os.waitpid(pid, 0)
    returncode = os.waitstatus_to_exitcode(status)
    with contextlib.suppress(BrokenPipeError):  # whose patience was over
        connection.sendall(json.dumps({"returncode": returncode}).encode() + b"\n")
    os._exit(0)


def _become(order: dict[str, Any], streams: list[int]) -> None:
    """
    Take over what makes a process another one.
    """
    with Path(os.devnull).open("rb") as nothing:
        for source, target in ((nothing.fileno(), 0), (streams[0], 1), (streams[1], 2)):
            os.dup2(source, target)
    for stream in streams:
        os.close(stream)
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["cwd"])
    sys.argv = ["tokenworks", *order["arguments"]]


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as inherited:
        serve(inherited)
    runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
