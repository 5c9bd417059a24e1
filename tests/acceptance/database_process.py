"""
The server of the books as its operator runs it: alone, or as a standby.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil
from psycopg import conninfo

from tests.acceptance.hub_process import (
    COMMAND,
    READY_TIMEOUT_S,
    STOP_TIMEOUT_S,
    Document,
    clean_environment,
    run_command,
)


class DatabaseProcess:
    """
    A running ``tokenworks database run`` or ``tokenworks standby run``.

    Args:
        data_dir: Where it keeps the books.
        noun: ``database`` or ``standby``.
        arguments: More of the command.
    """

    def __init__(self, data_dir: Path, *arguments: str, noun: str = "database") -> None:
        self.data_dir = data_dir
        self.noun = noun
        self.arguments = arguments
        self.facts: Document = {}
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """
        Start it and wait until it says that it is ready.
        """
        command = [*COMMAND, self.noun, "run", "--data", str(self.data_dir), "--json"]
        self.process = subprocess.Popen(
            [*command, *self.arguments],
            env=clean_environment(),
            start_new_session=True,
            stderr=subprocess.STDOUT,
            stdout=subprocess.PIPE,
        )
        self.facts = self._wait_until_ready(self.process)

    def stop(self) -> None:
        """
        Ask it to end; make sure that nothing of it is left.
        """
        process, self.process = self.process, None
        if process is None:
            return
        tree = _tree(process.pid)
        for member in tree:
            with suppress(psutil.NoSuchProcess):
                member.resume()
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        finally:
            _kill(tree)
            if process.stdout is not None:
                process.stdout.close()

    def kill(self) -> None:
        """
        ``kill -9`` of PostgreSQL and of who watches it, as when the machine loses its power.
        """
        process, self.process = self.process, None
        assert process is not None, "it runs"
        _kill(_tree(process.pid))
        process.wait(STOP_TIMEOUT_S)
        if process.stdout is not None:
            process.stdout.close()

    def freeze(self) -> list[psutil.Process]:
        """
        Stop every process of PostgreSQL with SIGSTOP; return them, to be resumed.
        """
        assert self.process is not None, "it runs"
        frozen = [one for one in _tree(self.process.pid) if one.pid != self.process.pid]
        for member in frozen:
            member.suspend()
        return frozen

    def lose_the_disk(self) -> None:
        """
        Delete everything there was.
        """
        shutil.rmtree(self.data_dir)

    @property
    def socket_directory(self) -> str:
        """
        Where PostgreSQL's socket is: the host in a connection string.
        """
        return str(conninfo.conninfo_to_dict(str(self.facts["database_url"]))["host"])

    def tell(self, *arguments: str) -> Document:
        """
        Run a command on this data directory that must succeed.
        """
        done = run_command(*arguments, "--data", str(self.data_dir), "--json")
        assert done.returncode == 0, f"{arguments}: {done.returncode} {done.stdout} {done.stderr}"
        return json.loads(done.stdout)

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> Document:
        assert process.stdout is not None, "it is a pipe"
        deadline = time.monotonic() + READY_TIMEOUT_S
        text = b""
        while time.monotonic() < deadline:
            if select.select([process.stdout], [], [], 0.2)[0]:
                read = os.read(process.stdout.fileno(), 65_536)
                text += read
                for line in text.split(b"\n"):
                    if line.startswith(b"{") and line.endswith(b"}"):
                        event = json.loads(line)
                        if event.get("event") == "ready":
                            return event
                if not read:
                    break
        message = f"the database did not become ready: {text.decode()}"
        raise AssertionError(message)


def standby_of(primary: DatabaseProcess, data_dir: Path, name: str) -> DatabaseProcess:
    """
    Make a standby with the operator's command; it is not started yet.
    """
    arguments = ("--of", str(primary.data_dir), "--data", str(data_dir), "--name", name)
    done = run_command("standby", "create", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return DatabaseProcess(data_dir, noun="standby")


def hub_environment(*servers: DatabaseProcess) -> dict[str, str]:
    """
    Return the settings of a hub that follows whichever of these servers is writable.
    """
    hosts = ",".join(server.socket_directory for server in servers)
    common = f"host={hosts} dbname=tokenworks target_session_attrs=read-write"
    return {
        "TOKENWORKS_DATABASE_URL": f"{common} user=postgres",
        "TOKENWORKS_POSTING_DATABASE_URL": f"{common} user=tokenworks_posting",
    }


def _tree(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    return []


def _kill(tree: list[psutil.Process]) -> None:
    # The watcher last: its end would be told to PostgreSQL, which would then stop cleanly.
    for member in reversed(tree):
        with suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(tree, timeout=STOP_TIMEOUT_S)
