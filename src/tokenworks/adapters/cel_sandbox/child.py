"""
The sandbox's other side: evaluate one expression after another, and nothing else.

Run by path with ``-I -S``, so that no package but the engine's shared object is loaded. After the
engine is there, the process gives up what it does not need: new file descriptors (so files and
sockets), memory beyond a limit, and on Linux every system call but the few that reading,
computing and writing take (seccomp). Each evaluation has a timer of processor time whose signal
nobody handles: the kernel ends the process, whatever the engine is doing.

A frame is four bytes of length and JSON. In: ``{"condition", "document"}`` (without a document
only the syntax is checked). Out: ``{"kind", ..}`` with ``bool``, ``ratio``, ``text`` or ``error``.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.util
import json
import os
import platform
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

FRAME_BYTES_MAX: Final = 4 * 1024 * 1024
ERROR_CHARACTERS_MAX: Final = 240
TEXT_CHARACTERS_MAX: Final = 64
HELLO: Final = "ready"

_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2
_ALLOW: Final = 0x7FFF0000
_REFUSE_EPERM: Final = 0x00050001
_LOAD_WORD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K

# As the kernel's audit names a machine (linux/audit.h).
_MACHINES: Final[Mapping[str, int]] = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_SYSTEM_CALLS: Final[Mapping[str, Mapping[str, int]]] = {
    "read": {"x86_64": 0, "aarch64": 63},
    "write": {"x86_64": 1, "aarch64": 64},
    "close": {"x86_64": 3, "aarch64": 57},
    "brk": {"x86_64": 12, "aarch64": 214},
    "mmap": {"x86_64": 9, "aarch64": 222},
    "munmap": {"x86_64": 11, "aarch64": 215},
    "mremap": {"x86_64": 25, "aarch64": 216},
    "mprotect": {"x86_64": 10, "aarch64": 226},
    "madvise": {"x86_64": 28, "aarch64": 233},
    "futex": {"x86_64": 202, "aarch64": 98},
    "sched_yield": {"x86_64": 24, "aarch64": 124},
    "rt_sigaction": {"x86_64": 13, "aarch64": 134},
    "rt_sigprocmask": {"x86_64": 14, "aarch64": 135},
    "rt_sigreturn": {"x86_64": 15, "aarch64": 139},
    "sigaltstack": {"x86_64": 131, "aarch64": 132},
    "setitimer": {"x86_64": 38, "aarch64": 103},
    "clock_gettime": {"x86_64": 228, "aarch64": 113},
    "getrandom": {"x86_64": 318, "aarch64": 278},
    "getpid": {"x86_64": 39, "aarch64": 172},
    "gettid": {"x86_64": 186, "aarch64": 178},
    "tgkill": {"x86_64": 234, "aarch64": 131},
    "exit": {"x86_64": 60, "aarch64": 93},
    "exit_group": {"x86_64": 231, "aarch64": 94},
}


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("when_true", ctypes.c_ubyte),
        ("when_false", ctypes.c_ubyte),
        ("operand", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.POINTER(_Instruction)))


def load_engine(path: str) -> Any:  # noqa: ANN401 - a foreign module
    """
    Load the shared object alone; the package around it brings a command line along.
    """
    loader = importlib.machinery.ExtensionFileLoader("cel.cel", path)
    spec = importlib.util.spec_from_file_location("cel.cel", path, loader=loader)
    assert spec is not None, "a file that is there has its specification"
    engine = importlib.util.module_from_spec(spec)
    loader.exec_module(engine)
    return engine


def confine(*, memory_bytes: int) -> str:
    """
    Give up what an expression never needs; return how far that went.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    # Pipes stay; nothing new can be opened, neither a file nor a socket.
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    return "seccomp" if _forbid_system_calls() else "limits"


def _forbid_system_calls() -> bool:
    name = platform.machine()
    if sys.platform != "linux" or name not in _MACHINES:
        return False
    allowed = [numbers[name] for numbers in _SYSTEM_CALLS.values()]
    steps = [
        _Instruction(_LOAD_WORD, 0, 0, 4),  # offset of the machine in struct seccomp_data
        _Instruction(_JUMP_EQUAL, 1, 0, _MACHINES[name]),
        _Instruction(_RETURN, 0, 0, _REFUSE_EPERM),
        _Instruction(_LOAD_WORD, 0, 0, 0),  # the system call's number
        *(
            _Instruction(_JUMP_EQUAL, len(allowed) - place, 0, number)
            for place, number in enumerate(allowed)
        ),
        _Instruction(_RETURN, 0, 0, _REFUSE_EPERM),
        _Instruction(_RETURN, 0, 0, _ALLOW),
    ]
    program = _Program(len(steps), (_Instruction * len(steps))(*steps))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) == 0


def answer(engine: Any, request: Mapping[str, Any]) -> dict[str, object]:  # noqa: ANN401 - as above
    """
    Return what one request's expression comes to.
    """
    try:
        program = engine.compile(request["condition"])
        if request.get("document") is None:
            return {"kind": "bool", "value": True}
        return to_frame(program.execute({"result": request["document"]}))
    except MemoryError:
        return {"kind": "error", "value": "out_of_memory: the condition needs too much memory"}
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - a panic of the engine is no Exception
        text = " ".join(str(error).split())[:ERROR_CHARACTERS_MAX]
        return {"kind": "error", "value": f"{type(error).__name__}: {text}"}


def to_frame(value: object) -> dict[str, object]:
    """
    Return a value in the form it travels in; what can be no share is an error.
    """
    if isinstance(value, bool):
        return {"kind": "bool", "value": value}
    if isinstance(value, int):
        return {"kind": "ratio", "value": [str(value), "1"]}
    if isinstance(value, str) and len(value) <= TEXT_CHARACTERS_MAX:
        return {"kind": "text", "value": value}
    kind = type(value).__name__
    if isinstance(value, list):
        parts = cast("list[object]", value)
        if len(parts) == 2 and all(type(part) is int for part in parts):
            return {"kind": "ratio", "value": [str(part) for part in parts]}
    if isinstance(value, float):
        text = "share_is_float: a share is true, false, [part, whole] or a decimal text"
        return {"kind": "error", "value": text}
    text = f"not_a_share: {kind} is neither true, false nor [part, whole]"
    return {"kind": "error", "value": text}


def serve(
    engine: Any,  # noqa: ANN401 - a foreign module
    *,
    cpu_s: float,
    read: Callable[[int], bytes],
) -> None:
    """
    Answer frames until the pipe ends.
    """
    while (head := _exactly(4, read)) is not None:
        size = int.from_bytes(head)
        body = _exactly(size, read) if size <= FRAME_BYTES_MAX else None
        if body is None:
            return
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        frame = json.dumps(answer(engine, json.loads(body))).encode()
        signal.setitimer(signal.ITIMER_PROF, 0)
        _write(frame)


def _exactly(size: int, read: Callable[[int], bytes]) -> bytes | None:
    parts: list[bytes] = []
    missing = size
    while missing:
        part = read(missing)
        if not part:
            return None
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _write(frame: bytes) -> None:
    content = len(frame).to_bytes(4) + frame
    while content:
        content = content[os.write(1, content) :]


def main() -> None:
    """
    Load, confine, say so, serve: ``child.py SHARED_OBJECT MEMORY_BYTES CPU_MS``.
    """
    path, memory_bytes, cpu_ms = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    engine = load_engine(path)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    # What the engine looks up at first use (the interpreter's dates) it cannot find later: no
    # file can be opened then.
    warm = engine.compile("result.a.matches('a') && duration('1s') < duration('2s')")
    assert warm.execute({"result": {"a": "a", "list": [1, 1.5, None]}}), "the engine works"
    confinement = confine(memory_bytes=memory_bytes)
    _write(json.dumps({"kind": HELLO, "value": confinement}).encode())
    serve(engine, cpu_s=cpu_ms / 1000, read=lambda size: os.read(0, size))


if __name__ == "__main__":
    main()
