"""
The processes of a benchmark: stub, hub and loader, their CPU time and their memory.

Invariants: everything measured runs in processes of its own; the hub is started by the
command a user would type; CPU time is that of the hub's whole process tree, PostgreSQL's
apart.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import psutil

from benchmarks.setup_hub import MODEL, TIER, prepare
from tokenworks.testing.supplier_behaviour import Behaviour
from tokenworks.testing.supplier_process import SupplierProcess, running_supplier

READY_TIMEOUT_S: Final = 90.0
STOP_TIMEOUT_S: Final = 60.0
COMMAND_TIMEOUT_S: Final = 120.0
KEY_VARIABLE: Final = "BENCHMARK_KEY"
ROOT: Final = Path(__file__).resolve().parent.parent


class RigError(Exception):
    """
    A process did not start or answer; the message says which and why.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """
    What the loader is to do.
    """

    is_stream: bool
    connections: int
    duration_s: float
    warm_up_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuTime:
    """
    Seconds of CPU, user and system together.
    """

    gateway_s: float
    postgres_s: float

    def __sub__(self, earlier: CpuTime) -> CpuTime:
        return CpuTime(
            gateway_s=self.gateway_s - earlier.gateway_s,
            postgres_s=self.postgres_s - earlier.postgres_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """
    Memory of one process, in MiB.
    """

    pid: int
    name: str
    rss_mib: float
    pss_mib: float | None
    """``None`` where the system does not tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """
    A running hub, as the benchmarks need it.
    """

    url: str
    buyer_key: str
    model: str
    pid: int | None
    """Root of its process tree; ``None``: given by address, so nothing is known."""
    data: Path | None

    def cpu_time(self) -> CpuTime:
        """
        Return the CPU time of the tree so far.
        """
        gateway_s = postgres_s = 0.0
        for process in self._processes():
            try:
                times = process.cpu_times()
                is_postgres = _is_postgres(process)
            except psutil.Error:
                continue
            own_s = times.user + times.system
            # What ended meanwhile (an autovacuum worker) is in its parent's sums.
            ended_s = times.children_user + times.children_system
            if is_postgres:
                postgres_s += own_s + ended_s
            else:
                gateway_s += own_s
        return CpuTime(gateway_s=gateway_s, postgres_s=postgres_s)

    def memory(self) -> list[Memory]:
        """
        Return the memory of each process but PostgreSQL's, the largest first.
        """
        found: list[Memory] = []
        for process in self._processes():
            try:
                if not _is_postgres(process):
                    found.append(_memory_of(process))
            except psutil.Error:
                continue
        return sorted(found, key=lambda memory: -memory.rss_mib)

    def pin(self, *, gateway_core: int, other_core: int) -> None:
        """
        Keep the gateway on one core and PostgreSQL on another.
        """
        for process in self._processes():
            process.cpu_affinity([other_core if _is_postgres(process) else gateway_core])

    def _processes(self) -> list[psutil.Process]:
        if self.pid is None:
            return []
        root = psutil.Process(self.pid)
        return [root, *root.children(recursive=True)]


def _is_postgres(process: psutil.Process) -> bool:
    return process.name().startswith("postgres")


def _memory_of(process: psutil.Process) -> Memory:
    try:
        full = process.memory_full_info()
        pss_mib = round(full.pss / 2**20, 1)
    except (psutil.AccessDenied, AttributeError):
        full, pss_mib = process.memory_info(), None
    words = [Path(word).name for word in process.cmdline()[:6]]
    name = " ".join(words)[:60] or process.name()
    return Memory(pid=process.pid, name=name, rss_mib=round(full.rss / 2**20, 1), pss_mib=pss_mib)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """
    Everything that runs; ``hub`` is ``None`` when only the stub is measured.
    """

    stub: SupplierProcess
    hub: Hub | None
    loader_core: int | None

    def load(self, load: Load, *, through_hub: bool) -> dict[str, Any]:
        """
        Run the loader once; add CPU microseconds per call of each side.
        """
        hub = self.hub
        assert hub is not None or not through_hub, "there is a hub to go through"
        url, key, model = self.stub.base_url, "sk-simulation", MODEL
        if hub is not None and through_hub:
            url, key, model = f"{hub.url}/v1", hub.buyer_key, hub.model
        before = hub.cpu_time() if hub is not None else None
        stub_before_s = _cpu_of(self.stub.pid)
        report = _run_loader(load, url=url, key=key, model=model, core=self.loader_core)
        calls = max(1, int(report["calls_total"]))
        report["stub_us_per_call"] = _per_call_us(_cpu_of(self.stub.pid) - stub_before_s, calls)
        if hub is not None and hub.pid is not None and before is not None and through_hub:
            spent = hub.cpu_time() - before
            report["gateway_us_per_call"] = _per_call_us(spent.gateway_s, calls)
            report["postgres_us_per_call"] = _per_call_us(spent.postgres_s, calls)
        return report


def _per_call_us(cpu_s: float, calls: int) -> float:
    return round(cpu_s / calls * 1e6, 1)


def _cpu_of(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def _run_loader(load: Load, *, url: str, key: str, model: str, core: int | None) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.loader", "--url", url, "--model", model]
    command += ["--connections", str(load.connections), "--duration", str(load.duration_s)]
    command += ["--warm-up", str(load.warm_up_s), "--key-env", KEY_VARIABLE]
    if load.is_stream:
        command.append("--stream")
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, KEY_VARIABLE: key},
    ) as process:
        if core is not None:
            psutil.Process(process.pid).cpu_affinity([core])
        output, _ = process.communicate(timeout=load.duration_s + load.warm_up_s + 90)
    if not output:
        raise RigError(f"The loader stopped with exit code {process.returncode}.")
    return json.loads(output)


# Starting and stopping


@contextmanager
def running_rig(
    *,
    with_hub: bool = True,
    url: str | None = None,
    admin_key: str | None = None,
    command: Sequence[str] | None = None,
    is_pinned: bool = False,
) -> Generator[Rig]:
    """
    Run stub and hub until the block ends.

    Args:
        with_hub: Otherwise only the stub.
        url: A hub that runs already; with ``admin_key``. ``None`` starts one.
        admin_key: Of that hub.
        command: How the hub is started; ``{data}`` and ``{port}`` are filled in.
        is_pinned: The gateway on core 0; stub, loader and PostgreSQL on core 1.
    """
    with ExitStack() as stack:
        stub = stack.enter_context(running_supplier(Behaviour()))
        hub = None
        if with_hub and url is not None:
            assert admin_key is not None, "a running hub is set up with its admin key"
            hub = _known_hub(url, admin_key, stub)
        elif with_hub:
            hub = stack.enter_context(_running_hub(command or default_command(), stub))
        if is_pinned:
            psutil.Process(stub.pid).cpu_affinity([1])
            if hub is not None:
                hub.pin(gateway_core=0, other_core=1)
        yield Rig(stub=stub, hub=hub, loader_core=1 if is_pinned else None)


def default_command() -> list[str]:
    """
    Return the command that starts a hub, as a user would type it.
    """
    up = [_tokenworks(), "up", "--data", "{data}", "--port", "{port}"]
    return [*up, "--no-console"]


def data_root() -> Path:
    """
    Return where the hub's data goes: a real disk, because /tmp may be memory.
    """
    given = os.environ.get("BENCHMARK_DATA_ROOT")
    return Path(given or "/var/tmp")


def _tokenworks() -> str:
    return str(Path(sys.executable).with_name("tokenworks"))


def _known_hub(url: str, admin_key: str, stub: SupplierProcess) -> Hub:
    suffix = f"-{os.urandom(3).hex()}"
    model = MODEL + suffix
    buyer_key = prepare(url, admin_key, stub.base_url, model=model, suffix=suffix)
    return Hub(url=url, buyer_key=buyer_key, model=f"{model}@{TIER}", pid=None, data=None)


@contextmanager
def _running_hub(command: Sequence[str], stub: SupplierProcess) -> Generator[Hub]:
    with tempfile.TemporaryDirectory(prefix="tokenworks-bench-", dir=data_root()) as folder:
        data = Path(folder) / "data"
        port = _free_port()
        words = [word.format(data=data, port=port) for word in command]
        log_path = Path(folder) / "hub.log"
        url = f"http://127.0.0.1:{port}"
        with log_path.open("wb") as log, _started(words, log) as process:
            _wait_until(lambda: _is_healthy(url), process, log_path)
            buyer_key = prepare(url, _admin_key(data), stub.base_url)
            yield Hub(
                url=url,
                buyer_key=buyer_key,
                model=f"{MODEL}@{TIER}",
                pid=process.pid,
                data=data,
            )


@contextmanager
def _started(words: list[str], log: BinaryIO) -> Generator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(words, stdout=log, stderr=log, cwd=ROOT)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until(
    is_ready: Callable[[], bool], process: subprocess.Popen[bytes], log_path: Path
) -> None:
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while not is_ready():
        if process.poll() is not None or time.monotonic() > deadline_s:
            tail = log_path.read_text(errors="replace")[-3_000:]
            raise RigError(f"The hub did not become ready:\n{tail}")
        time.sleep(0.1)


def _is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _admin_key(data: Path) -> str:
    answer = json.loads(_command_output("key", "add", "--admin", "--data", str(data), "--json"))
    return str(answer["secret"])


def _command_output(*arguments: str) -> bytes:
    result = subprocess.run(
        [_tokenworks(), *arguments],
        check=False,
        capture_output=True,
        timeout=COMMAND_TIMEOUT_S,
        cwd=ROOT,
    )
    if result.returncode != 0:
        # The output may hold a key: only what went wrong is shown.
        text = result.stderr.decode(errors="replace")[-1_000:]
        raise RigError(f"tokenworks {arguments[0]} {arguments[1]} failed: {text}")
    return result.stdout


def check_books(data: Path) -> dict[str, Any]:
    """
    Run ``tokenworks ledger check`` on the hub that was measured.

    Raises:
        RigError: The books are broken, or could not be checked.
    """
    return json.loads(_command_output("ledger", "check", "--full", "--data", str(data), "--json"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
