"""
Load from real client processes, and everything they have seen so far.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from tests.acceptance.hub_process import HubProcess, clean_environment, wait_for
from tests.crash.client import ANSWER_TIMEOUT_S, PATIENCE_S
from tests.crash.sighting import Seen, Sighting

ROOT: Final = Path(__file__).resolve().parent.parent.parent
START_TIMEOUT_S: Final = 240.0
KILL_PATIENCE_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """
    How many clients call how fast.
    """

    processes: int = 2
    slots: int = 4  # of each process: calls at the same time
    pause_ms: int = 40  # of a slot between two calls, on average


class Load:
    """
    Running client processes; ``sightings`` grows while they call.
    """

    def __init__(self, folder: Path, plan: LoadPlan) -> None:
        self.plan = plan
        self.logs = [folder / f"client-{index}.jsonl" for index in range(plan.processes)]
        self.sightings: list[Sighting] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._offsets = [0] * plan.processes

    def start(self, *, url: str, api_key: str, seed: int) -> None:
        """
        Start the clients.
        """
        for index, log in enumerate(self.logs):
            log.write_bytes(b"")
            command = [sys.executable, "-m", "tests.crash.client", "--url", url]
            command += ["--log", str(log), "--seed", f"{seed}-{index}"]
            command += ["--slots", str(self.plan.slots), "--pause-ms", str(self.plan.pause_ms)]
            environment = clean_environment({"CRASH_KEY": api_key})
            self._processes.append(subprocess.Popen(command, cwd=ROOT, env=environment))

    def look(self) -> list[Sighting]:
        """
        Read what the clients have written since the last look; return the new lines.
        """
        new: list[Sighting] = []
        for index, log in enumerate(self.logs):
            with log.open("rb") as file:
                file.seek(self._offsets[index])
                whole, _, _ = file.read().rpartition(b"\n")
            if whole:
                self._offsets[index] += len(whole) + 1
                new += [msgspec.json.decode(line, type=Sighting) for line in whole.split(b"\n")]
        self.sightings += new
        for index, process in enumerate(self._processes):
            assert process.poll() in {None, 0}, f"client {index} failed: {process.returncode}"
        return new

    def answers_since(self, moment_s: float) -> list[Sighting]:
        """
        Return the answers of calls that began after a moment.
        """
        self.look()
        return [
            seen
            for seen in self.sightings
            if seen.seen is Seen.ANSWERED and seen.begun_s > moment_s
        ]

    def wait_for_answers(self, moment_s: float, *, timeout_s: float) -> float:
        """
        Wait for one answer a slot after a moment; return when the first of them came.
        """
        wanted = self.plan.processes * self.plan.slots

        def enough() -> list[Sighting] | None:
            answers = self.answers_since(moment_s)
            return answers if len(answers) >= wanted else None

        answers = wait_for("answers", enough, timeout_s=timeout_s)
        return min(seen.ended_s for seen in answers)

    def finish(self) -> None:
        """
        End the new calls, and wait until each key has an end.
        """
        self._signal(signal.SIGTERM)
        for process in self._processes:
            process.wait(PATIENCE_S + 2 * ANSWER_TIMEOUT_S)
        self.look()

    def kill(self) -> None:
        """
        End what still runs.
        """
        self._signal(signal.SIGKILL)
        for process in self._processes:
            process.wait(KILL_PATIENCE_S)

    def _signal(self, which: signal.Signals) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(which)

    def counts(self) -> Counter[str]:
        """
        Return how tries ended: ``answered``, an error's code, or how the connection was lost.
        """
        return Counter(
            seen.seen.value if seen.code is None else f"{seen.status or 'lost'} {seen.code}"
            for seen in self.sightings
        )


@contextmanager
def calling(
    hub: HubProcess, *, api_key: str, seed: int, folder: Path, plan: LoadPlan
) -> Generator[Load]:
    """
    Keep clients calling until the block calls ``finish`` or ends.
    """
    load = Load(folder, plan)
    try:
        load.start(url=hub.base_url, api_key=api_key, seed=seed)
        load.wait_for_answers(0.0, timeout_s=START_TIMEOUT_S)
        yield load
    finally:
        load.kill()
