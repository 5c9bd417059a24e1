"""
The stub supplier as a process of its own, for acceptance tests and benchmarks.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from tokenworks.testing.supplier_behaviour import Behaviour, behaviour_to_json

_STOP_TIMEOUT_S: Final = 10.0
_ANSWER_TIMEOUT_S: Final = 10.0


class _Ready(msgspec.Struct):
    """
    The line the stub prints when it listens.
    """

    port: int
    base_url: str
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SupplierProcess:
    """
    A running stub; the calls block and are meant for tests and benchmarks.
    """

    pid: int
    port: int
    base_url: str

    def stats(self) -> dict[str, object]:
        """
        Return the counters, as ``SupplierStub.stats`` does.
        """
        return msgspec.json.decode(self._ask("/stub/stats"), type=dict[str, object])

    def requests(self) -> list[dict[str, object]]:
        """
        Return the last requests, oldest first.
        """
        return msgspec.json.decode(self._ask("/stub/requests"), type=list[dict[str, object]])

    def set_behaviour(
        self, behaviour: Behaviour, *, model: str | None = None, times: int | None = None
    ) -> None:
        """
        Behave so from now on, as ``SupplierStub.set_behaviour`` does.
        """
        order = {"behaviour": behaviour_to_json(behaviour), "model": model, "times": times}
        self._ask("/stub/behaviour", msgspec.json.encode(order))

    def release(self) -> None:
        """
        Open the gate.
        """
        self._ask("/stub/release", b"{}")

    def reset(self) -> None:
        """
        Forget requests and counts, behave as at the start.
        """
        self._ask("/stub/reset", b"{}")

    def _ask(self, path: str, body: bytes | None = None) -> bytes:
        url = f"http://127.0.0.1:{self.port}{path}"
        with urllib.request.urlopen(url, data=body, timeout=_ANSWER_TIMEOUT_S) as answer:
            return answer.read()


@contextmanager
def running_supplier(
    behaviour: Behaviour | None = None,
    *,
    by_model: Mapping[str, Behaviour] | None = None,
    models: Sequence[str] = ("stub-model",),
    api_key: str | None = None,
    port: int = 0,
) -> Generator[SupplierProcess]:
    """
    Run a stub in a process of its own until the block ends.
    """
    script = {
        "behaviour": behaviour_to_json(behaviour or Behaviour()),
        "by_model": {name: behaviour_to_json(b) for name, b in (by_model or {}).items()},
        "models": list(models),
        "api_key": api_key,
    }
    with tempfile.TemporaryDirectory(prefix="tokenworks-stub-") as folder:
        file = Path(folder) / "script.json"
        file.write_bytes(msgspec.json.encode(script))
        command = [sys.executable, "-m", "tokenworks.testing.supplier_stub"]
        command += ["--port", str(port), "--script", str(file)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            try:
                yield _ready(process)
            finally:
                process.terminate()
                process.wait(_STOP_TIMEOUT_S)


def _ready(process: subprocess.Popen[bytes]) -> SupplierProcess:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        message = "The stub supplier stopped before it was ready."
        raise RuntimeError(message)
    ready = msgspec.json.decode(line, type=_Ready)
    return SupplierProcess(pid=ready.pid, port=ready.port, base_url=ready.base_url)
