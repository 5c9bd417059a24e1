"""
Resident children, one expression at a time in each, a bounded queue in front.

There are two seats, so that whoever comes while a condition overruns is served by the other one,
and a child that ended is replaced before somebody asks.

What ends a child decides what it means:

==========================  =======================================================
the kernel's timer          ``out_of_time``: the expression overran, so it is not met
an abort or a fault         ``crashed``: likewise (memory is a limit of the child)
the child's own answer      whatever it says, an error of the expression included
a kill, silence, no start   no verdict: ``EvaluatorUnavailableError``, to be asked again
==========================  =======================================================

So nothing that happens to the machine can make a condition not met, and nothing that a
condition does can leave it undecided.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import importlib.util
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from tokenworks.adapters.cel_sandbox import child as child_module
from tokenworks.agents.escrow.errors import EvaluatorUnavailableError
from tokenworks.agents.escrow.model import Evaluation, Share

PACKAGE: Final = "common-expression-language"
CPU_MS_MAX: Final = 250
"""Processor time of one evaluation; an ordinary one takes a tenth of a millisecond."""
MEMORY_BYTES_MAX: Final = 256 * 1024 * 1024
"""Address space of the child, of which the interpreter and the engine take some 40 MiB."""
PATIENCE_S: Final = 10.0
"""Without an answer for so long the machine, not the expression, is at fault."""
WAITING_MAX: Final = 256
SEATS: Final = 2
"""Expressions that are evaluated at once, and children that are kept."""
EVALUATIONS_MAX: Final = 10_000
"""A child is replaced after so many, so that nothing it keeps can grow."""
OUT_OF_TIME: Final = (
    f"out_of_time: the condition took more than {CPU_MS_MAX} ms of processor time (map and filter"
    " copy what they have kept with each element: some 2,000 plain values or 500 objects are in"
    " time; all, exists and exists_one copy nothing)"
)

_FRAME_BYTES_MAX: Final = 64 * 1024
_FAULTS: Final[Mapping[int, str]] = {
    -signal.SIGPROF: OUT_OF_TIME,
    -signal.SIGXCPU: "out_of_time: the condition took too much processor time",
    -signal.SIGABRT: "crashed: the condition exhausted its memory or broke the engine",
    -signal.SIGSEGV: "crashed: the condition broke the engine",
    -signal.SIGBUS: "crashed: the condition broke the engine",
    -signal.SIGILL: "crashed: the condition broke the engine",
    -signal.SIGTRAP: "crashed: the condition broke the engine",
}


@dataclass(slots=True, eq=False)
class _Child:
    """
    One process, and how much it has done.
    """

    process: asyncio.subprocess.Process
    evaluated: int = 0


class CelSandbox:
    """
    Evaluate CEL expressions outside this process.

    Args:
        patience_s: How long a process may be silent.
        waiting_max: How many may wait for their turn.
    """

    def __init__(self, *, patience_s: float = PATIENCE_S, waiting_max: int = WAITING_MAX) -> None:
        self.engine = f"{PACKAGE}/{importlib.metadata.version(PACKAGE)}"
        self.confinement: str | None = None  # of the processes that run: ``seccomp`` or ``limits``
        self.children_started = 0
        self._patience_s = patience_s
        self._waiting_max = waiting_max
        self._waiting = 0
        self._seats = asyncio.Semaphore(SEATS)
        self._idle: list[_Child] = []
        self._starting: set[asyncio.Task[None]] = set()

    async def check(self, condition: str) -> str | None:
        """
        Return why an expression cannot be read, or ``None`` when it can.

        Raises:
            EvaluatorUnavailableError: Nobody could look at it now.
        """
        frame = await self._ask({"condition": condition, "document": None})
        return str(frame["value"]) if frame["kind"] == "error" else None

    async def evaluate(self, condition: str, document: bytes) -> Evaluation:
        """
        Return what an expression says of a document (JSON, checked by the caller).

        Raises:
            EvaluatorUnavailableError: There is no verdict now; asking again may give one.
        """
        frame = await self._ask({"condition": condition, "document": msgspec.Raw(document)})
        return to_evaluation(frame)

    async def close(self) -> None:
        """
        End the processes, when the last answer is given.
        """
        for _ in range(SEATS):
            await self._seats.acquire()
        await asyncio.gather(*self._starting)
        while self._idle:
            await _end(self._idle.pop())

    # ------------------------------------------------------------------ the processes

    async def _ask(self, request: Mapping[str, object]) -> Mapping[str, Any]:
        if self._waiting >= self._waiting_max:
            message = "Too many conditions wait to be evaluated."
            raise EvaluatorUnavailableError(message, retry_after_s=1)
        self._waiting += 1
        try:
            async with self._seats:
                return await self._exchange(msgspec.json.encode(request))
        finally:
            self._waiting -= 1

    async def _exchange(self, content: bytes) -> Mapping[str, Any]:
        child = self._taken()
        try:
            async with asyncio.timeout(self._patience_s):
                if child is None:
                    child = await self._started()
                    self._start_spare()
                frame = await _sent_and_read(child.process, content)
        except TimeoutError as error:
            await self._replace(child)
            message = "The evaluator did not answer."
            raise EvaluatorUnavailableError(message, retry_after_s=1) from error
        except OSError as error:
            await self._replace(child)
            message = "The evaluator could not be reached."
            raise EvaluatorUnavailableError(message, retry_after_s=1) from error
        except BaseException:
            # Whoever asks next must not get this one's answer.
            await self._replace(child)
            raise
        if frame is not None:
            child.evaluated += 1
            if child.evaluated < EVALUATIONS_MAX:
                await self._keep(child)
            else:
                await self._replace(child)
            return frame
        code = await self._replace(child)
        if code is not None and code in _FAULTS:
            return {"kind": "error", "value": _FAULTS[code]}
        message = "The evaluator ended without an answer."
        raise EvaluatorUnavailableError(message, retry_after_s=1, details={"exit_code": code})

    def _taken(self) -> _Child | None:
        """
        Return a child that waits; one that died while it waited is forgotten.
        """
        while self._idle:
            child = self._idle.pop()
            if child.process.returncode is None:
                return child
        return None

    async def _started(self) -> _Child:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *(
                "-I",
                "-S",
                str(child_module.__file__),
                shared_object(),
                str(MEMORY_BYTES_MAX),
                str(CPU_MS_MAX),
            ),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={},
            cwd="/",
        )
        self.children_started += 1
        child = _Child(process)
        try:
            hello = await _read(process)
            if hello is None or hello["kind"] != child_module.HELLO:
                raise OSError("the process did not start")
        except BaseException:
            await _end(child)
            raise
        self.confinement = str(hello["value"])
        return child

    async def _keep(self, child: _Child) -> None:
        if len(self._idle) < SEATS:
            self._idle.append(child)
        else:
            await _end(child)

    async def _replace(self, child: _Child | None) -> int | None:
        """
        End a child and return its exit code; another one starts while nobody waits for it.
        """
        if child is None:
            return None
        code = await _end(child)
        self._start_spare()
        return code

    def _start_spare(self) -> None:
        if len(self._idle) + len(self._starting) >= SEATS:
            return
        task = asyncio.create_task(self._started_for_later())
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def _started_for_later(self) -> None:
        # Whoever asks next starts one if this fails, and says so if that fails too.
        with contextlib.suppress(TimeoutError, OSError, EvaluatorUnavailableError):
            async with asyncio.timeout(self._patience_s):
                spare = await self._started()
            await self._keep(spare)


async def _end(child: _Child) -> int | None:
    process = child.process
    assert process.stdin is not None, "it was started with pipes"
    process.stdin.close()
    # A process that ended by itself has the code that says why; only the others are killed.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.1):
            return await process.wait()
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    return await process.wait()


def shared_object() -> str:
    """
    Return the engine's file, found without importing the package around it.
    """
    package = importlib.util.find_spec("cel")
    assert package is not None, "it is a dependency"
    for folder in package.submodule_search_locations or ():
        for file in sorted(Path(folder).glob("cel.*.so")):
            return str(file)
    raise EvaluatorUnavailableError("The evaluator's engine is not installed.")


def to_evaluation(frame: Mapping[str, Any]) -> Evaluation:
    """
    Return a frame's share of the whole; one outside it is an error.
    """
    kind, value = frame["kind"], frame["value"]
    if kind == "error":
        return Evaluation(share=None, error=str(value))
    if kind == "bool":
        return Evaluation(share=Share(part=int(value), whole=1), error=None)
    if kind == "text":
        return _evaluated(Share.from_text(value))
    part, whole = (int(number) for number in value)
    return _evaluated(Share.of(part, whole))


def _evaluated(share: Share | None) -> Evaluation:
    if share is None:
        text = "share_outside: a share is between 0 and 1, of whole numbers up to 10^18"
        return Evaluation(share=None, error=text)
    return Evaluation(share=share, error=None)


async def _sent_and_read(
    process: asyncio.subprocess.Process, content: bytes
) -> Mapping[str, Any] | None:
    assert process.stdin is not None, "it was started with pipes"
    process.stdin.write(len(content).to_bytes(4) + content)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        await process.stdin.drain()
    return await _read(process)


async def _read(process: asyncio.subprocess.Process) -> Mapping[str, Any] | None:
    """
    Return the next frame; ``None`` when the process ended.
    """
    assert process.stdout is not None, "it was started with pipes"
    try:
        size = int.from_bytes(await process.stdout.readexactly(4))
        if size > _FRAME_BYTES_MAX:
            raise OSError("the process sent too much")
        return cast("dict[str, Any]", msgspec.json.decode(await process.stdout.readexactly(size)))
    except asyncio.IncompleteReadError:
        return None
