"""
The services of a hub on one machine: what each runs, and when it counts as ready.

Order of stopping (rank): gateways finish their calls first, then the worker and the
console, then the demo model, and PostgreSQL last.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from tokenworks.adapters.embedded_postgres import RunningPostgres, launch
from tokenworks.adapters.operating_system.process import listens_on
from tokenworks.cli.data_directory import POSTGRES_NAME
from tokenworks.cli.supervisor import ProgramService
from tokenworks.foundation.errors import ConflictError
from tokenworks.settings import ENVIRONMENT_PREFIX, Settings, environment_name, reachable_host

MODEL_PORT: Final = 8702
MODEL_HOST: Final = "127.0.0.1"
HEALTH_PATH: Final = "/healthz"
PROBE_TIMEOUT_S: Final = 2.0

GATEWAY_DRAIN_S: Final = 45.0
OTHERS_DRAIN_S: Final = 15.0
MODEL_DRAIN_S: Final = 2.0
POSTGRES_STOP_S: Final = 30.0

_GATEWAY_RANK: Final = 3
_HELPER_RANK: Final = 2
_MODEL_RANK: Final = 1
_POSTGRES_RANK: Final = 0

_SECRETS: Final = frozenset(
    environment_name(name) for name in ("database_url", "posting_database_url", "master_key")
)


class PortInUseError(ConflictError):
    """
    Another program listens on a port the hub was told to use.
    """

    code = "port_in_use"


@dataclass(slots=True, kw_only=True)
class PostgresService:
    """
    The embedded server as a service; ``running`` is its latest start.
    """

    data_dir: Path
    wal_archive: Path | None = None
    name: str = POSTGRES_NAME
    rank: int = _POSTGRES_RANK
    running: RunningPostgres | None = field(default=None, init=False)

    @property
    def log_path(self) -> Path:
        """
        Where PostgreSQL's messages go.
        """
        return self.data_dir / "logs" / "postgres.log"

    @property
    def stop_signals(self) -> Sequence[tuple[signal.Signals, float]]:
        """
        Fast shutdown, immediate shutdown, kill.
        """
        return (
            (signal.SIGINT, POSTGRES_STOP_S),
            (signal.SIGQUIT, OTHERS_DRAIN_S),
            (signal.SIGKILL, OTHERS_DRAIN_S),
        )

    def spawn(self) -> subprocess.Popen[bytes]:
        """
        Launch the server, after clearing what a crash left.
        """
        self.running = launch(self.data_dir, wal_archive=self.wal_archive)
        return self.running.process

    async def is_ready(self, pid: int) -> bool:
        """
        Wait for it in a thread: it polls the server's own state file.
        """
        running = self.running
        assert running is not None, "spawned before it is asked"
        assert running.pid == pid, "one server at a time"
        await asyncio.to_thread(running.wait_until_ready)
        return True


def gateway_service(settings: Settings, index: int) -> ProgramService:
    """
    Return one gateway process; all of them share the port.
    """

    async def probe(pid: int) -> bool:
        if not listens_on(pid, settings.port):
            return False
        return await http_status(settings.host, settings.port, HEALTH_PATH) == 200

    data = str(settings.data_dir)
    return ProgramService(
        name=f"gateway-{index}",
        rank=_GATEWAY_RANK,
        command=_own_command("gateway", "--data", data, "--index", str(index)),
        environment=_environment(settings),
        log_path=settings.data_dir / "logs" / f"gateway-{index}.log",
        stop_patience_s=GATEWAY_DRAIN_S,
        probe=probe,
    )


def worker_service(settings: Settings) -> ProgramService:
    """
    Return the process of the periodic jobs.
    """
    return ProgramService(
        name="worker",
        rank=_HELPER_RANK,
        command=_own_command("worker", "--data", str(settings.data_dir)),
        environment=_environment(settings),
        log_path=settings.data_dir / "logs" / "worker.log",
        stop_patience_s=OTHERS_DRAIN_S,
    )


def console_service(settings: Settings) -> ProgramService:
    """
    Return the console; it sees no secret of the hub.
    """

    async def probe(pid: int) -> bool:
        return listens_on(pid, settings.console_port)

    environment = _environment(settings)
    return ProgramService(
        name="console",
        rank=_HELPER_RANK,
        command=_own_command("console", "--data", str(settings.data_dir)),
        environment={name: environment[name] for name in environment.keys() - _SECRETS},
        log_path=settings.data_dir / "logs" / "console.log",
        stop_patience_s=OTHERS_DRAIN_S,
        probe=probe,
    )


def model_service(settings: Settings, port: int) -> ProgramService:
    """
    Return the demo model; it sees none of the hub's settings.
    """

    async def probe(pid: int) -> bool:
        is_listening = listens_on(pid, port)
        return is_listening and await http_status(MODEL_HOST, port, "/health") == 200

    module = "tokenworks.adapters.llama_cpp.serve"
    return ProgramService(
        name="model",
        rank=_MODEL_RANK,
        command=(sys.executable, "-P", "-m", module, "--port", str(port)),
        environment={
            name: value
            for name, value in os.environ.items()
            if not name.startswith(ENVIRONMENT_PREFIX)
        },
        log_path=settings.data_dir / "logs" / "model.log",
        stop_patience_s=MODEL_DRAIN_S,
        probe=probe,
    )


def _own_command(*arguments: str) -> tuple[str, ...]:
    # -P: a file of the working directory must not stand in for a module.
    return (sys.executable, "-P", "-m", "tokenworks.cli.main", *arguments)


def _environment(settings: Settings) -> Mapping[str, str]:
    decided = {
        "data_dir": str(settings.data_dir),
        "host": settings.host,
        "port": str(settings.port),
        "console_port": str(settings.console_port),
        "workers": str(settings.workers),
    }
    clients_only = {environment_name("url"), environment_name("key")}
    return {
        **{name: os.environ[name] for name in os.environ.keys() - clients_only},
        **{environment_name(name): value for name, value in decided.items()},
        "PYTHONUNBUFFERED": "1",
    }


async def http_status(host: str, port: int, path: str) -> int | None:
    """
    Return the status of a GET, or ``None`` when there is no answer yet.
    """
    address = reachable_host(host).strip("[]")
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(address, port)
            try:
                request = f"GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
                writer.write(request.encode())
                line = await reader.readline()
            finally:
                writer.close()
        return int(line.split(b" ", 2)[1])
    except (OSError, TimeoutError, ValueError, IndexError):
        return None


def choose_port(host: str, port: int, *, flag: str) -> int:
    """
    Return ``port`` when it is free, any free one for 0.

    Raises:
        PortInUseError: Somebody listens there, or the address is not this machine's.
            The port of a free one is only likely to stay free until it is bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        # As the gateway binds: connections of a hub that has just stopped do not matter.
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            trial.bind((host, port))
            chosen = int(trial.getsockname()[1])
            reason = None
        except OSError as error:
            chosen, reason = port, error.strerror
    # Hubs share ports between their processes, so binding also succeeds beside another
    # hub's: knock.
    if reason is None and not _answers(host, chosen):
        return chosen
    reason = reason or "somebody listens there"
    message = (
        f"Cannot use port {port} of {host}: {reason}{_holder(port)}. Stop that program, or "
        f"choose another port with {flag}."
    )
    raise PortInUseError(message, details={"port": port})


def _answers(host: str, port: int) -> bool:
    address = reachable_host(host).strip("[]")
    try:
        with socket.create_connection((address, port), timeout=PROBE_TIMEOUT_S):
            return True
    except OSError:
        return False


def choose_model_port(*, is_any: bool) -> int:
    """
    Return the demo model's usual port, or a free one when it is taken.
    """
    try:
        return choose_port(MODEL_HOST, 0 if is_any else MODEL_PORT, flag="--port")
    except PortInUseError:
        return choose_port(MODEL_HOST, 0, flag="--port")


def _holder(port: int) -> str:
    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status != psutil.CONN_LISTEN or connection.pid is None:
                continue
            if connection.laddr and connection.laddr.port == port:
                name = psutil.Process(connection.pid).name()
                return f" (process {connection.pid}, {name})"
    except psutil.Error:
        return ""
    return ""
