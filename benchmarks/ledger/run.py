"""
Measure the ledger: ``python -m benchmarks.ledger.run [--quick] [--only TEXT]``.

Every figure stands beside its ratio to another one of the same run: postings to a bare insert
of the same rows and to batches of one, calls to the full call at 512 waiters, growth to the
smallest books.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop
from rich.console import Console

from benchmarks import bare_commits, machine
from benchmarks.ledger import calls, growth, posting
from benchmarks.ledger.business import open_business
from benchmarks.ledger.calls import Span
from benchmarks.ledger.posting import Slices
from benchmarks.ledger.profiling import print_profiles, profile_calls, profile_posting
from benchmarks.ledger.server import EMPTY, Database, Server, running_server
from benchmarks.ledger.tables import print_results
from benchmarks.rig import ROOT, data_root

BUSINESS: Final = "business"
"""The database in which the business of the calls is open."""
GROWN: Final = "grown"
"""A copy of it that is filled."""
FRESH: Final = "fresh"
"""The same without any statistics of its tables."""
MEMORY_FILESYSTEMS: Final = frozenset({"tmpfs", "ramfs"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """
    How long and how often.
    """

    rounds: int
    span: Span
    slices: Slices
    commit_pairs: int


QUICK: Final = Plan(
    rounds=1,
    span=Span(warm_up_s=1.0, duration_s=2.5),
    slices=Slices(count=3, duration_s=1.0),
    commit_pairs=500,
)
FULL: Final = Plan(
    rounds=3,
    span=Span(warm_up_s=2.0, duration_s=6.0),
    slices=Slices(count=7, duration_s=2.0),
    commit_pairs=2_000,
)


class Bench:
    """
    One run: a server, what is measured on it, and what was found.
    """

    def __init__(
        self,
        server: Server,
        plan: Plan,
        *,
        only: str | None,
        is_profiled: bool,
        sizes: tuple[growth.Size, ...],
        console: Console,
    ) -> None:
        self._server = server
        self._plan = plan
        self._only = only
        self._is_profiled = is_profiled
        self._sizes = sizes
        self._console = console

    def run(self) -> dict[str, Any]:
        """
        Measure everything that was asked for.
        """
        results: dict[str, Any] = {
            "settings": self._server.settings(),
            "bare_commits": bare_commits.measure(
                self._server.running.dsn_owner, pairs=self._plan.commit_pairs
            ),
        }
        results["postings"] = self._postings()
        self._open_business()
        results["calls"] = self._calls()
        results["growth"] = self._growth()
        return results

    def _wanted(self, name: str) -> bool:
        return not self._only or self._only in name

    def _say(self, text: str) -> None:
        self._console.print(text, style="dim", highlight=False)

    def _postings(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for scenario in posting.SCENARIOS:
            if not self._wanted(scenario.name):
                continue
            self._say(f"{scenario.name}: posting and its bare inserts")
            with self._server.copy(EMPTY) as database:
                figures = self._one_posting(scenario, database)
                figures["books"] = database.check_books()
            found.append({"scenario": scenario.name, **msgspec.to_builtins(scenario), **figures})
        return found

    def _one_posting(self, scenario: posting.PostScenario, database: Database) -> dict[str, Any]:
        if self._is_profiled:
            return profile_posting(scenario, self._server, database, self._plan.slices)
        return uvloop.run(posting.measure(scenario, self._server, database, self._plan.slices))

    def _open_business(self) -> None:
        names = [s.name for s in calls.SCENARIOS] + [size.name for size in growth.FULL]
        if not any(map(self._wanted, names)):
            return
        self._server.create(BUSINESS, template=EMPTY)
        database = self._server.database(BUSINESS)
        data_dir = self._server.data_dir
        business = asyncio.run(open_business(database.dsn_posting, data_dir, self._say))
        self._server.create(FRESH, template=BUSINESS)
        self._server.database(FRESH).stop_autovacuum()
        database.vacuum()
        self._business_file.touch(mode=0o600)
        self._business_file.write_bytes(msgspec.json.encode(business))

    @property
    def _business_file(self) -> Path:
        return self._server.data_dir / "business.json"

    def _calls(self) -> list[dict[str, Any]]:
        wanted = [s for s in calls.SCENARIOS if self._wanted(s.name)]
        rounds: dict[str, list[dict[str, Any]]] = {}
        for turn in range(self._plan.rounds):
            for scenario in wanted if turn % 2 == 0 else reversed(wanted):
                self._say(f"round {turn + 1}/{self._plan.rounds}: {scenario.name}")
                rounds.setdefault(scenario.name, []).append(self._one_call(scenario))
        return [
            {**msgspec.to_builtins(s), "rounds": rounds[s.name], **calls.median_of(rounds[s.name])}
            for s in wanted
        ]

    def _one_call(self, scenario: calls.CallScenario) -> dict[str, Any]:
        with self._server.copy(FRESH if scenario.is_fresh else BUSINESS) as database:
            run_one = profile_calls if self._is_profiled else calls.run_scenario
            figures = run_one(
                scenario,
                self._server,
                database,
                self._plan.span,
                business_file=str(self._business_file),
            )
            figures["books"] = database.check_books()
        return figures

    def _growth(self) -> list[dict[str, Any]]:
        sizes = tuple(size for size in self._sizes if self._wanted(size.name))
        if not sizes or self._is_profiled:
            return []
        self._server.create(GROWN, template=BUSINESS)
        return growth.measure(
            self._server,
            GROWN,
            sizes,
            self._plan.span,
            rounds=self._plan.rounds,
            business_file=str(self._business_file),
            progress=self._say,
        )


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the ledger by itself.")
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--json", metavar="FILE", help="also write everything measured")
    parser.add_argument("--only", help="scenarios whose name contains this")
    parser.add_argument(
        "--profile",
        action="store_true",
        help="time each statement of the ledger's functions, and Python's (implies --quick)",
    )
    parser.add_argument(
        "--growth",
        choices=list(growth.SIZES),
        default="small",
        help="up to 10^5 accounts and 10^6 entries (small), or ten times as many (full)",
    )
    parser.add_argument("--rounds", type=int, help="of calls, instead of 3 (1 when quick)")
    return parser.parse_args(argv)


def run(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """
    Measure and return everything.
    """
    facts = machine.describe(ROOT, data_root=data_root())
    if facts["data_filesystem"] in MEMORY_FILESYSTEMS:
        message = f"{data_root()} is memory: a commit there is none. Set BENCHMARK_DATA_ROOT."
        raise SystemExit(message)
    plan = QUICK if arguments.quick or arguments.profile else FULL
    if arguments.rounds:
        plan = dataclasses.replace(plan, rounds=arguments.rounds)
    with running_server(is_profiled=arguments.profile) as server:
        bench = Bench(
            server,
            plan,
            only=arguments.only,
            is_profiled=arguments.profile,
            sizes=growth.SIZES[arguments.growth],
            console=console,
        )
        return {"machine": facts, "is_profiled": arguments.profile, **bench.run()}


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the benchmark and print it.
    """
    arguments = _arguments(argv)
    # Whatever ends the run, the server is stopped and its folder removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    results = run(arguments, Console(stderr=True))
    console = Console(width=None if sys.stdout.isatty() else 200)
    if arguments.profile:
        print_profiles(results, console)
    else:
        print_results(results, console)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
