"""
Keep a set of processes running: start in order, restart with patience, stop in order.

Invariants:
    * A service that ends by itself is started again after a pause that doubles from
      ``RESTART_PAUSE_S`` to ``RESTART_PAUSE_S_MAX``; running ``STEADY_AFTER_S`` resets it:
      then what ended it was news. Nothing is ever given up: a full disk or a broken network
      mends, and until then the others refuse what they cannot book.
    * Services stop in the reverse order of their rank, one rank after the other, each
      asked first and killed only when its patience is over.
    * Every change of a process is reported before anything else happens; on a full disk,
      where it cannot be, as soon as there is room.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from tokenworks.adapters.operating_system.launch import launch_command
from tokenworks.adapters.operating_system.process import identify
from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import TokenworksError, UnavailableError
from tokenworks.settings import ChildRecord

RESTART_PAUSE_S: Final = 0.5
RESTART_PAUSE_S_MAX: Final = 30.0
STEADY_AFTER_S: Final = 10.0
"""Long enough that starting again and again costs next to nothing."""
READY_TIMEOUT_S: Final = 60.0
LOG_BYTES_MAX: Final = 8 * 1024 * 1024
LOG_TAIL_LINES: Final = 20

_WATCH_S: Final = 0.1
_READY_POLL_S: Final = 0.03
_ROTATE_EVERY_S: Final = 5.0
_KILL_PATIENCE_S: Final = 5.0
_LOG_TAIL_BYTES: Final = 16 * 1024

Probe = Callable[[int], Awaitable[bool]]
"""Given the pid: does the service do its work yet?"""


class ServiceFailedError(UnavailableError):
    """
    A service ended, or did not become ready, while the hub was starting.
    """

    code = "service_failed"


class Service(Protocol):
    """
    Something that runs as a process.
    """

    @property
    def name(self) -> str:
        """
        Its name in messages and of its log file.
        """
        ...

    @property
    def rank(self) -> int:
        """
        Higher ranks stop first.
        """
        ...

    @property
    def log_path(self) -> Path:
        """
        Where its output goes.
        """
        ...

    @property
    def stop_signals(self) -> Sequence[tuple[signal.Signals, float]]:
        """
        How it is asked to end, each with the seconds it then has.
        """
        ...

    def spawn(self) -> subprocess.Popen[bytes]:
        """
        Start the process and return at once.
        """
        ...

    async def is_ready(self, pid: int) -> bool:
        """
        Tell whether it does its work.
        """
        ...


async def is_ready_at_once(pid: int) -> bool:
    """
    Probe a service that has no door to knock at.
    """
    return pid > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramService:
    """
    A program that logs to a file and ends at SIGTERM.
    """

    name: str
    rank: int
    command: tuple[str, ...]
    environment: Mapping[str, str]
    log_path: Path
    stop_patience_s: float
    probe: Probe = is_ready_at_once

    @property
    def stop_signals(self) -> Sequence[tuple[signal.Signals, float]]:
        """
        Ask with SIGTERM; then kill.
        """
        return ((signal.SIGTERM, self.stop_patience_s), (signal.SIGKILL, _KILL_PATIENCE_S))

    def spawn(self) -> subprocess.Popen[bytes]:
        """
        Start it in a session of its own, so that Ctrl-C reaches only the supervisor.
        """
        self.log_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self.log_path.chmod(0o600)
            return subprocess.Popen(
                launch_command(self.command, on_parent_death=signal.SIGTERM),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(self.environment),
                start_new_session=True,
            )

    async def is_ready(self, pid: int) -> bool:
        """
        Ask the probe.
        """
        return await self.probe(pid)


class Listener(Protocol):
    """
    Who is told what happens to the services.
    """

    def notice(self, text: str) -> None:
        """
        Pass on a sentence for the operator.
        """
        ...

    def children_changed(self, children: tuple[ChildRecord, ...]) -> None:
        """
        Note the processes that run now.
        """
        ...


class _Child:
    def __init__(self, service: Service) -> None:
        self.service = service
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at_s = 0.0
        self.restart_at_s: float | None = None
        self.pause_s = RESTART_PAUSE_S

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Supervisor:
    """
    Start, watch and stop services.
    """

    def __init__(self, listener: Listener, clock: Clock) -> None:
        self._listener = listener
        self._clock = clock
        self._children: list[_Child] = []
        self._is_reported = True
        self._is_hurried = False

    def spawn(self, service: Service) -> None:
        """
        Start a service; ``wait_until_ready`` tells when it works.
        """
        child = _Child(service)
        self._children.append(child)
        self._spawn(child)

    async def wait_until_ready(self, name: str, timeout_s: float = READY_TIMEOUT_S) -> None:
        """
        Wait until a service that was spawned does its work.

        Raises:
            ServiceFailedError: It ended or took too long; the message ends with its log.
        """
        child = next(child for child in self._children if child.service.name == name)
        deadline = self._clock.monotonic_s() + timeout_s
        while child.is_running and self._clock.monotonic_s() < deadline:
            assert child.process is not None, "it runs"
            if await child.service.is_ready(child.process.pid):
                return
            await asyncio.sleep(_READY_POLL_S)
        what = "was not ready in time" if child.is_running else f"ended ({_ending(child)})"
        log_path = child.service.log_path
        tail = log_tail(log_path)
        raise ServiceFailedError(f"{name} {what}. The end of {log_path}:\n{tail}")

    async def watch(self, until: asyncio.Event) -> None:
        """
        Restart what ends, keep the logs small; return when ``until`` is set.
        """
        rotate_at_s = self._clock.monotonic_s()
        while not until.is_set():
            for child in self._children:
                self._look_after(child)
            if self._clock.monotonic_s() >= rotate_at_s:
                rotate_at_s = self._clock.monotonic_s() + _ROTATE_EVERY_S
                for child in self._children:
                    rotate_log(child.service.log_path)
                if not self._is_reported:
                    self._report_children()
            try:
                await asyncio.wait_for(until.wait(), _WATCH_S)
            except TimeoutError:
                continue

    def hurry(self) -> None:
        """
        Stop being patient: whoever stops now is killed.
        """
        self._is_hurried = True

    async def stop(self) -> None:
        """
        Stop everything, the highest rank first; return when no process is left.
        """
        for rank in sorted({child.service.rank for child in self._children}, reverse=True):
            group = [child for child in self._children if child.service.rank == rank]
            await asyncio.gather(*(self._stop_child(child) for child in group))
        self._children.clear()
        self._report_children()

    def _spawn(self, child: _Child) -> None:
        child.process = child.service.spawn()
        child.started_at_s = self._clock.monotonic_s()
        child.restart_at_s = None
        self._report_children()

    def _look_after(self, child: _Child) -> None:
        now_s = self._clock.monotonic_s()
        if child.is_running:
            return
        if child.restart_at_s is None:
            self._plan_restart(child, now_s, _ending(child))
        elif now_s >= child.restart_at_s:
            try:
                self._spawn(child)
            except (TokenworksError, OSError) as error:
                self._plan_restart(child, now_s, str(error))
            else:
                self._listener.notice(f"{child.service.name} was started again.")

    def _plan_restart(self, child: _Child, now_s: float, reason: str) -> None:
        if now_s - child.started_at_s >= STEADY_AFTER_S:
            child.pause_s = RESTART_PAUSE_S
        child.restart_at_s = now_s + child.pause_s
        self._listener.notice(
            f"{child.service.name} ended ({reason}); starting it again in "
            f"{child.pause_s:g} s. Its log is {child.service.log_path}."
        )
        child.pause_s = min(child.pause_s * 2, RESTART_PAUSE_S_MAX)

    async def _stop_child(self, child: _Child) -> None:
        process = child.process
        if process is None:
            return
        for which, patience_s in child.service.stop_signals:
            deadline = self._clock.monotonic_s() + patience_s
            if process.poll() is None:
                process.send_signal(which)
            while process.poll() is None and self._clock.monotonic_s() < deadline:
                if self._is_hurried and which is not signal.SIGKILL:
                    break
                await asyncio.sleep(_READY_POLL_S)
            if process.poll() is not None:
                return
            self._listener.notice(f"{child.service.name} is slow to stop; insisting.")

    def _report_children(self) -> None:
        records: list[ChildRecord] = []
        for child in self._children:
            identity = identify(child.process.pid) if child.process is not None else None
            if identity is not None:
                records.append(
                    ChildRecord(
                        name=child.service.name,
                        pid=identity.pid,
                        started_at_s=identity.started_at_s,
                    )
                )
        try:
            self._listener.children_changed(tuple(records))
        except OSError as error:
            self._is_reported = False
            self._listener.notice(f"The record of the processes cannot be written: {error}")
        else:
            self._is_reported = True


def _ending(child: _Child) -> str:
    code = None if child.process is None else child.process.poll()
    if code is None:
        return "no process"
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"


def rotate_log(path: Path, *, bytes_max: int = LOG_BYTES_MAX) -> None:
    """
    Move a log that has grown over ``bytes_max`` to ``<name>.1``.

    The content is copied and the file cut, because its process keeps it open (and
    appends); lines written in that moment may be lost. Where there is no room for the
    copy the log stays as it is.
    """
    try:
        if path.stat().st_size <= bytes_max:
            return
        older = path.with_name(path.name + ".1")
        shutil.copyfile(path, older)
        older.chmod(0o600)
        with path.open("r+b") as log:
            log.truncate(0)
    except OSError:
        return


def log_tail(path: Path, lines: int = LOG_TAIL_LINES) -> str:
    """
    Return the last lines of a log, for a message.
    """
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - _LOG_TAIL_BYTES))
            text = log.read().decode(errors="replace")
    except OSError:
        return "(no log)"
    return "\n".join(text.splitlines()[-lines:]) or "(empty)"
