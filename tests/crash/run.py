"""
The crash tests by hand, as long as asked: ``make crash-test KILLS=100 SEED=1``.

Prints a line for each harm done and a summary of what was measured; exits with 1 when a law
was broken. ``--json`` prints one JSON object a line instead: progress, then each report.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tests.crash.cut_commits import run_cuts
from tests.crash.filling import run_full_disk
from tests.crash.freezing import run_freeze
from tests.crash.killing import run_kills
from tests.crash.load import LoadPlan
from tests.crash.report import Report
from tests.crash.workshop import Say

KEEP: Final = Path("artefacts/crash")
SEEDS: Final = 2**31


def main(arguments_given: Sequence[str] | None = None) -> int:
    """
    Run the scenarios that were asked for, all by default.
    """
    parser = argparse.ArgumentParser(description="Harm a hub under load, then audit its books.")
    parser.add_argument("--kills", type=positive, default=100, help="processes to kill (100)")
    parser.add_argument("--cuts", type=positive, default=60, help="commits to cut (60)")
    parser.add_argument("--seed", type=int, help="repeat a run; a new one is drawn and printed")
    parser.add_argument(
        "--slots", type=positive, default=4, help="calls at once of each of 2 clients"
    )
    parser.add_argument("--keep", type=Path, default=KEEP, help=f"folder for the logs ({KEEP})")
    parser.add_argument(
        "--asynchronous",
        action="store_true",
        help="kills: let PostgreSQL answer before the disk has it; the audit must find that",
    )
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.add_argument("scenarios", nargs="*", help="of: kills disk freeze cuts")
    arguments = parser.parse_args(arguments_given)
    seed = random.randrange(SEEDS) if arguments.seed is None else arguments.seed
    say = say_json if arguments.json else say_text
    say(f"seed {seed}")
    scenarios = choose_scenarios(arguments, seed, say)
    wanted: list[str] = arguments.scenarios or list(scenarios)
    unknown = set(wanted) - scenarios.keys()
    if unknown:
        parser.error(f"no scenario {', '.join(sorted(unknown))}; there are {', '.join(scenarios)}")
    is_clean = True
    for name in wanted:
        report = scenarios[name]()
        is_clean = is_clean and report.is_clean
        if arguments.json:
            write_line(json.dumps({"report": report.to_document()}))
        else:
            write_line(report.to_text())
    return 0 if is_clean else 1


def positive(text: str) -> int:
    """
    Read a number that is at least one.
    """
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number


def choose_scenarios(
    arguments: argparse.Namespace, seed: int, say: Say
) -> dict[str, Callable[[], Report]]:
    """
    Return what can be run, by name.
    """
    plan = LoadPlan(slots=arguments.slots)
    keep: Path = arguments.keep
    return {
        "kills": lambda: run_kills(
            kills=arguments.kills,
            seed=seed,
            keep=keep / "kills",
            plan=plan,
            say=say,
            is_durable=not arguments.asynchronous,
        ),
        "freeze": lambda: run_freeze(seed=seed, keep=keep / "freeze", plan=plan, say=say),
        "disk": lambda: run_full_disk(seed=seed, keep=keep / "disk", plan=plan, say=say),
        "cuts": lambda: run_cuts(
            cuts=arguments.cuts, seed=seed, keep=keep / "cuts", plan=plan, say=say
        ),
    }


def say_text(text: str) -> None:
    """
    Print a line of progress.
    """
    write_line(text)


def say_json(text: str) -> None:
    """
    Print a line of progress as JSON.
    """
    write_line(json.dumps({"progress": text}))


def write_line(text: str) -> None:
    """
    Print at once: someone waits.
    """
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
