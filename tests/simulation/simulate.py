"""
Run the simulator by hand: `make simulate SEED=7 STEPS=1000`, or without an end until Ctrl-C.

Exit codes: 0 every law held, 1 a law was broken, 2 the simulation could not be run.
"""

from __future__ import annotations

import argparse
import json
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TextIO

from tests.databases import OpenDatabase
from tests.simulation.simulator.database import NO_DATABASE, open_server
from tests.simulation.simulator.explain import explain
from tests.simulation.simulator.run import Run, run_steps

STEPS_A_SEED: Final = 1_000
"""So long is each seed's life when no end was given."""
SHRINK_SECONDS_MAX: Final = 240.0
PROGRESS_EVERY_S: Final = 0.2


@dataclass(kw_only=True)
class Summary:
    """
    What all seeds came to.
    """

    seeds: int = 0
    steps: int = 0
    operations: int = 0
    calls: int = 0
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter[str])
    digests: dict[int, str] = field(default_factory=dict[int, str])
    failure: dict[str, Any] | None = None

    def add(self, run: Run) -> None:
        """
        Count one seed.
        """
        self.seeds += 1
        self.steps += run.steps_done
        self.operations += run.operations
        self.calls += run.calls
        self.counts += run.counts
        self.digests[run.seed] = run.digest

    def to_json(self) -> dict[str, Any]:
        """
        Return plain fields.
        """
        return {
            "is_clean": self.failure is None,
            "seeds": self.seeds,
            "steps": self.steps,
            "operations": self.operations,
            "calls": self.calls,
            "seconds": round(self.seconds, 1),
            "trace_sha256": {str(seed): digest for seed, digest in self.digests.items()},
            "steps_by_kind": dict(sorted(self.counts.items())),
            "failure": self.failure,
        }


class Stop:
    """
    Ctrl-C ends the run after the step at hand; a second one ends it at once.
    """

    def __init__(self) -> None:
        self.is_wished = False
        signal.signal(signal.SIGINT, self._wish)

    def _wish(self, *_: object) -> None:
        if self.is_wished:
            raise KeyboardInterrupt
        self.is_wished = True


class ProgressLine:
    """
    One line on a terminal, written over and over; nothing elsewhere.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream if stream.isatty() else None
        self._shown_at_s = 0.0

    def show(self, text: str, *, is_final: bool = False) -> None:
        """
        Show a text, at most a few times a second.
        """
        if self._stream is None:
            return
        now_s = time.monotonic()
        if is_final or now_s - self._shown_at_s > PROGRESS_EVERY_S:
            self._shown_at_s = now_s
            self._stream.write(f"\r\x1b[2K{text}" + ("\n" if is_final else ""))
            self._stream.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Simulate, print a summary, and return the exit code.
    """
    options = _parser().parse_args(arguments)
    progress, stop, summary = ProgressLine(sys.stderr), Stop(), Summary()
    started_s = time.monotonic()
    try:
        with open_server() as open_database:
            _simulate(options, open_database, summary, progress, stop)
    except NO_DATABASE as error:
        print(f"simulate: no database to run on: {error}", file=sys.stderr)
        return 2
    summary.seconds = time.monotonic() - started_s
    _print(summary, as_json=options.json)
    return 0 if summary.failure is None else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="simulate", description="Simulate whole hubs.")
    parser.add_argument("--seed", type=int, help="the first seed; a random one when omitted")
    parser.add_argument("--seeds", type=_count, help="how many seeds, one after the other")
    parser.add_argument("--steps", type=_count, help="steps of each seed; endless when omitted")
    parser.add_argument("--keep", type=_steps, help="only these steps of the seed: 3,17,40")
    parser.add_argument("--no-shrink", action="store_true", help="do not look for a shorter plan")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        message = f"{text!r} is no number from 1 on"
        raise argparse.ArgumentTypeError(message)
    return int(text)


def _steps(text: str) -> list[int]:
    words = text.split(",")
    if not all(word.isascii() and word.isdigit() for word in words):
        message = f"{text!r} is no list of step numbers such as 3,17,40"
        raise argparse.ArgumentTypeError(message)
    return sorted({int(word) for word in words})


def _simulate(
    options: argparse.Namespace,
    open_database: OpenDatabase,
    summary: Summary,
    progress: ProgressLine,
    stop: Stop,
) -> None:
    seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    is_endless = options.steps is None and options.keep is None
    count = options.seeds or (None if is_endless else 1)
    while not stop.is_wished and (count is None or summary.seeds < count):
        plan = range(options.steps or STEPS_A_SEED)
        steps = plan if options.keep is None else options.keep
        run = _run(seed, steps, open_database, summary, progress, stop)
        summary.add(run)
        if run.broken is not None:
            summary.failure = _explain(options, run, steps, open_database, progress, stop)
            return
        seed += 1


def _run(
    seed: int,
    steps: Sequence[int],
    open_database: OpenDatabase,
    summary: Summary,
    progress: ProgressLine,
    stop: Stop,
) -> Run:
    def show(run: Run) -> None:
        done = summary.steps + run.steps_done
        progress.show(
            f"seed {seed}, step {run.steps_done} of {len(steps)}; in all {done} steps, "
            f"{summary.operations + run.operations} operations, {summary.calls + run.calls} calls"
        )

    with open_database() as dsn:
        return run_steps(seed, steps, dsn, on_step=show, wish_to_stop=lambda: stop.is_wished)


def _explain(
    options: argparse.Namespace,
    run: Run,
    steps: Sequence[int],
    open_database: OpenDatabase,
    progress: ProgressLine,
    stop: Stop,
) -> dict[str, Any]:
    ends_at_s = time.monotonic() + (0.0 if options.no_shrink else SHRINK_SECONDS_MAX)
    return explain(
        run,
        steps,
        open_database,
        is_enough=lambda: stop.is_wished or time.monotonic() > ends_at_s,
        on_try=lambda tries, size: progress.show(f"shrinking: run {tries}, {size} steps"),
    )


def _print(summary: Summary, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(summary.to_json(), indent=2))
        return
    failure = summary.failure
    if failure is not None:
        print(f"seed {failure['seed']} breaks a law: {failure['sentence']}")
        print(f"  {failure['message']}")
        print(
            f"shortest failing prefix: {failure['prefix_steps']} steps; "
            f"of these {len(failure['kept_steps'])} are needed:"
        )
        for line in failure["lines"]:
            print(f"  {line}")
        print(f"repeat it: {failure['command']}")
    rate = summary.steps / summary.seconds if summary.seconds else 0.0
    print(
        f"{summary.seeds} seeds, {summary.steps} steps, {summary.operations} ledger operations, "
        f"{summary.calls} calls in {summary.seconds:.1f} s ({rate:.0f} steps/s): "
        + ("every law held" if failure is None else "A LAW IS BROKEN")
    )


if __name__ == "__main__":
    sys.exit(main())
