"""
Find every mutant and say which law caught it: `make mutants`.

Exit codes: 0 all were found, 1 one was not or by a law that says nothing about it, 2 no database.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.databases import OpenDatabase
from tests.simulation.mutants.catalogue import MUTANTS
from tests.simulation.mutants.mutant import STRESS, Mutant
from tests.simulation.simulator.database import NO_DATABASE, open_server
from tests.simulation.simulator.laws import BrokenLawError
from tests.simulation.simulator.run import run_steps
from tests.simulation.stress import run_stress

STRESS_ROUNDS = 40
STRESS_SEEDS_MAX = 6


@dataclass(frozen=True, kw_only=True)
class Found:
    """
    How a mutant was found; no law when it was not.
    """

    mutant: Mutant
    broken: BrokenLawError | None
    seed: int
    steps: int | None
    """Of the simulator; ``None`` for the stress, whose races have no steps."""

    @property
    def is_found(self) -> bool:
        """
        Return whether a law caught it that says what is wrong.
        """
        return self.broken is not None and self.broken.law in self.mutant.laws

    def to_json(self) -> dict[str, Any]:
        """
        Return plain fields.
        """
        return {
            "mutant": self.mutant.name,
            "meaning": self.mutant.meaning,
            "is_found": self.is_found,
            "found_by": self.mutant.found_by,
            "law": self.broken and self.broken.law.name.lower(),
            "law_line": self.broken and self.broken.law.line,
            "message": self.broken and self.broken.message,
            "seed": self.seed,
            "steps": self.steps,
        }


def find(mutant: Mutant, open_database: OpenDatabase) -> Found:
    """
    Run a mutant until a law catches it, or its steps are over.
    """
    if mutant.found_by == STRESS:
        return _find_by_stress(mutant, open_database)
    with open_database() as dsn, mutant.applied(dsn):
        run = run_steps(mutant.seed, range(mutant.steps_max), dsn)
        return Found(mutant=mutant, broken=run.broken, seed=run.seed, steps=run.steps_done + 1)


def _find_by_stress(mutant: Mutant, open_database: OpenDatabase) -> Found:
    # A race may be lucky: it is run again before anybody says that nothing was found.
    for seed in range(mutant.seed, mutant.seed + STRESS_SEEDS_MAX):
        with open_database() as dsn, mutant.applied(dsn):
            try:
                run_stress(dsn, seed=seed, rounds=STRESS_ROUNDS)
            except BrokenLawError as broken:
                return Found(mutant=mutant, broken=broken, seed=seed, steps=None)
    return Found(mutant=mutant, broken=None, seed=mutant.seed, steps=None)


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Print a table of all mutants and return the exit code.
    """
    parser = argparse.ArgumentParser(prog="mutants", description="Find every mutant.")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    parser.add_argument("names", nargs="*", help="only these mutants")
    options = parser.parse_args(arguments)
    known = {mutant.name for mutant in MUTANTS}
    if unknown := set(options.names) - known:
        print(f"mutants: no such mutant: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    wanted = [mutant for mutant in MUTANTS if not options.names or mutant.name in options.names]
    found: list[Found] = []
    try:
        with open_server() as open_database:
            for mutant in wanted:
                found.append(find(mutant, open_database))
                if not options.json:
                    _print_row(found[-1])
    except NO_DATABASE as error:
        print(f"mutants: no database to run on: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps([item.to_json() for item in found], indent=2))
    count = sum(item.is_found for item in found)
    if not options.json:
        print(f"{count} of {len(found)} mutants were found")
    return 0 if count == len(found) else 1


def _print_row(found: Found) -> None:
    mutant, broken = found.mutant, found.broken
    law = "NOT FOUND" if broken is None else f"{broken.law.name.lower()} (law {broken.law.line})"
    where = f"seed {found.seed}"
    if mutant.found_by == STRESS:
        where = f"stress, {where}"
    elif found.steps is not None:
        where = f"{where}, step {found.steps}"
    print(f"{mutant.name:24} {law:28} {where:22} {mutant.meaning}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
