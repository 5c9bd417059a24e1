"""
Measure payments of agents: ``python -m benchmarks.agents.run [--quick] [--only TEXT]``.

Settle calls against settle calls, in one run: the official x402 facilitator on a local chain with
signatures in C, and a hub over HTTP, durable, both loaded with payments that were signed before.
Then the hub again with many agents, and what a chain of mandates and the brake's score add.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.agents import mandate_chain, official, scoring
from benchmarks.agents.business import Business, Size, open_business
from benchmarks.agents.settling import IN_FLIGHT, Span, load
from benchmarks.ledger.server import EMPTY, running_server
from benchmarks.rig import ROOT, Hub, check_books, data_root, default_command, running_rig

HUB_RATE_AT_MOST: Final = 2_500
"""Settlements a second that are prepared for; when they run out, the report says so."""
RATIO_WANTED: Final = 10.0
P50_WANTED_MS: Final = 15.0
SCORE_WANTED_US: Final = 50.0
IN_FLIGHT_FOR_P50: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """
    How long, how often and how large.
    """

    rounds: int
    span: Span
    small: Size
    large: Size
    effort: mandate_chain.Effort
    seeds: Sequence[int]


QUICK: Final = Plan(
    rounds=1,
    span=Span(warm_up_s=1.0, duration_s=3.0),
    small=Size(organisations=4, agents=64, payees=100, payees_each=100),
    large=Size(organisations=20, agents=1_000, payees=200, payees_each=100),
    effort=mandate_chain.QUICK,
    seeds=scoring.SEEDS[:1],
)
FULL: Final = Plan(
    rounds=3,
    span=Span(warm_up_s=2.0, duration_s=8.0),
    small=Size(organisations=4, agents=64, payees=100, payees_each=100),
    large=Size(organisations=100, agents=10_000, payees=1_000, payees_each=100),
    effort=mandate_chain.FULL,
    seeds=scoring.SEEDS,
)


class Bench:
    """
    One run.
    """

    def __init__(self, plan: Plan, *, only: str | None, workers: int, console: Console) -> None:
        self._plan = plan
        self._only = only
        self._workers = workers
        self._console = console

    def run(self) -> dict[str, Any]:
        """
        Measure everything that was asked for.
        """
        results: dict[str, Any] = {}
        with tempfile.TemporaryDirectory(prefix="tokenworks-agents-", dir=data_root()) as name:
            folder = Path(name)
            if self._wants("settle") or self._wants("size"):
                command = [*default_command(), "--workers", str(self._workers)]
                with running_rig(command=command) as rig:
                    hub = rig.hub
                    assert hub is not None, "it was asked for"
                    assert hub.data is not None, "it was started here"
                    if self._wants("settle"):
                        results |= self._settle(hub, hub.data, folder)
                    if self._wants("size"):
                        results["size"] = self._size(hub, hub.data, folder)
                    results["books"] = check_books(hub.data)
        if self._wants("chain"):
            results["chain"] = self._chain()
        if self._wants("scoring"):
            self._say("scoring (SIMULATION of a stream; no database)")
            results["scoring"] = scoring.measure(self._plan.seeds)
        return results

    def _wants(self, name: str) -> bool:
        return not self._only or self._only in name

    def _say(self, text: str) -> None:
        self._console.print(text, style="dim", highlight=False)

    # ------------------------------------------------------------------ settle against settle

    def _settle(self, hub: Hub, data: Path, folder: Path) -> dict[str, Any]:
        business = open_business(data, self._plan.small, name="small", console=self._console)
        hub_rounds: list[list[dict[str, Any]]] = []
        official_rounds: list[list[dict[str, Any]]] = []
        chain = ""
        for turn in range(self._plan.rounds):
            self._say(f"round {turn + 1}/{self._plan.rounds}: official facilitator on a chain")
            measured = official.measure(folder, self._plan.span)
            official_rounds.append(measured["reports"])
            chain = measured["chain"]
            self._say(f"round {turn + 1}/{self._plan.rounds}: hub")
            hub_rounds.append(self._load_hub(hub, business, folder, seed=turn))
        return {
            "settle": {
                "official": _medians(official_rounds),
                "hub": _medians(hub_rounds),
                "chain": chain,
                "business": self._plan.small.name,
            },
            "rounds": {"official": official_rounds, "hub": hub_rounds},
        }

    def _load_hub(
        self, hub: Hub, business: Business, folder: Path, *, seed: int
    ) -> list[dict[str, Any]]:
        return [
            self._load_one(hub, business, folder, connections=connections, seed=seed)
            for connections in IN_FLIGHT
        ]

    def _load_one(
        self, hub: Hub, business: Business, folder: Path, *, connections: int, seed: int
    ) -> dict[str, Any]:
        span = self._plan.span
        before = hub.cpu_time()
        report = load(
            f"{hub.url}/x402",
            lambda count: business.sign(count, seed=seed),
            count=int(span.total_s * HUB_RATE_AT_MOST),
            connections=connections,
            span=span,
            folder=folder,
        )
        spent = hub.cpu_time() - before
        calls = max(1, int(report["calls_total"]))
        report["gateway_us_per_call"] = round(spent.gateway_s / calls * 1e6, 1)
        report["postgres_us_per_call"] = round(spent.postgres_s / calls * 1e6, 1)
        return report

    # ------------------------------------------------------------------ many agents

    def _size(self, hub: Hub, data: Path, folder: Path) -> dict[str, Any]:
        """
        Settle at the large size and at the small one, in turns on the same hub.
        """
        small = open_business(data, self._plan.small, name="few", console=self._console)
        self._say(f"opening {self._plan.large.name}")
        large = open_business(data, self._plan.large, name="many", console=self._console)
        found: dict[str, list[list[dict[str, Any]]]] = {"small": [], "large": []}
        for turn in range(self._plan.rounds):
            for name, business in (("small", small), ("large", large)):
                self._say(f"round {turn + 1}/{self._plan.rounds}: {name}")
                report = self._load_one(
                    hub, business, folder, connections=IN_FLIGHT_FOR_P50, seed=turn
                )
                found[name].append([report])
        return {
            name: {"business": size.name, **_medians(found[name])[0]}
            for name, size in (("small", self._plan.small), ("large", self._plan.large))
        }

    # ------------------------------------------------------------------ parts

    def _chain(self) -> dict[str, Any]:
        self._say("holds along chains of mandates and along plain paths")
        with running_server() as server, server.copy(EMPTY) as database:
            return asyncio.run(mandate_chain.measure_on(server, database, self._plan.effort))


def _medians(rounds: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """
    Return for each number in flight the medians over the rounds.
    """
    return [_median([reports[index] for reports in rounds]) for index in range(len(rounds[0]))]


def _median(reports: list[dict[str, Any]]) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "connections": reports[0]["connections"],
        "rate_per_s": round(median(report["rate_per_s"] for report in reports), 1),
        "p50_ms": round(median(report["latency_ms"]["p50"] for report in reports), 2),
        "p99_ms": round(median(report["latency_ms"]["p99"] for report in reports), 2),
        "refused": sum(sum(report["refusals"].values()) for report in reports),
        "ran_out": any(report["ran_out"] for report in reports),
        "loader_cpu_share": max(report["loader_cpu_share"] for report in reports),
    }
    for name in ("gateway_us_per_call", "postgres_us_per_call"):
        if name in reports[0]:
            figures[name] = round(median(report[name] for report in reports), 1)
    return figures


# Printing


def print_results(results: dict[str, Any], console: Console) -> None:
    """
    Print the facts and the tables.
    """
    facts = results["machine"]
    console.print(
        f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB, {facts['system']}, "
        f"data on {facts['data_filesystem']}, Python {facts['python']}, commit {facts['commit']}"
        f"{' with changes' if facts['is_changed'] else ''}, load {facts['load_average'][0]}, "
        f"{results['gateways']} gateway process(es)"
    )
    if settle := results.get("settle"):
        console.print(_settle_table(settle))
        best = max(row["rate_per_s"] for row in settle["hub"])
        base = max(row["rate_per_s"] for row in settle["official"])
        p50 = next(r["p50_ms"] for r in settle["hub"] if r["connections"] == IN_FLIGHT_FOR_P50)
        console.print(
            f"best against best: {best / base:.1f}x (wanted {RATIO_WANTED:g}x); "
            f"p50 at {IN_FLIGHT_FOR_P50} in flight {p50:g} ms (wanted {P50_WANTED_MS:g} ms)"
        )
    if size := results.get("size"):
        console.print(_size_table(size))
    if chain := results.get("chain"):
        console.print(mandate_chain.table(chain))
        console.print(f"eight mandates' predicates alone {chain['predicates_us']:g} us")
    if score := results.get("scoring"):
        speed = score["speed"]
        console.print(
            f"scoring: {speed['score_us']:.1f} us a payment (wanted {SCORE_WANTED_US:g} us), p99"
            f" {speed['score_p99_us']:.1f} us; whole judgement {speed['judgement_us']:.1f} us"
        )
    if books := results.get("books"):
        console.print(f"books after the run: {books}")


def _settle_table(settle: dict[str, Any]) -> Table:
    table = Table(title=f"settle calls: hub ({settle['business']}) and official on a chain")
    headings = ("in flight", "official /s", "hub /s", "ratio", "official p50", "hub p50", "hub p99")
    for heading in (*headings, "CPU us gw", "CPU us PG", "refused"):
        table.add_column(heading, justify="right")
    for theirs, ours in zip(settle["official"], settle["hub"], strict=True):
        table.add_row(
            str(ours["connections"]),
            f"{theirs['rate_per_s']:g}",
            f"{ours['rate_per_s']:g}",
            f"{ours['rate_per_s'] / theirs['rate_per_s']:.1f}",
            f"{theirs['p50_ms']:g}",
            f"{ours['p50_ms']:g}",
            f"{ours['p99_ms']:g}",
            f"{ours['gateway_us_per_call']:g}",
            f"{ours['postgres_us_per_call']:g}",
            str(theirs["refused"] + ours["refused"]),
        )
    return table


def _size_table(size: dict[str, Any]) -> Table:
    table = Table(title=f"settle calls at {IN_FLIGHT_FOR_P50} in flight, by size")
    for heading in ("size", "hub /s", "of small", "p50 ms", "p99 ms", "CPU us gw", "CPU us PG"):
        table.add_column(heading, justify="left" if heading == "size" else "right")
    for row in (size["small"], size["large"]):
        table.add_row(
            row["business"],
            f"{row['rate_per_s']:g}",
            f"{row['rate_per_s'] / size['small']['rate_per_s']:.2f}",
            f"{row['p50_ms']:g}",
            f"{row['p99_ms']:g}",
            f"{row['gateway_us_per_call']:g}",
            f"{row['postgres_us_per_call']:g}",
        )
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the benchmark and print it.
    """
    parser = argparse.ArgumentParser(description="Measure payments of agents.")
    parser.add_argument("--quick", action="store_true", help="one short round, fewer agents")
    parser.add_argument("--json", metavar="FILE", help="also write everything measured")
    parser.add_argument(
        "--only", help="parts whose name contains this: settle, size, chain, scoring"
    )
    parser.add_argument("--workers", type=int, default=1, help="gateway processes of the hub")
    arguments = parser.parse_args(argv)
    # Whatever ends the run, what it started is stopped and its folders removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    plan = QUICK if arguments.quick else FULL
    bench = Bench(
        plan, only=arguments.only, workers=arguments.workers, console=Console(stderr=True)
    )
    facts = machine.describe(ROOT, data_root=data_root())
    results = {"machine": facts, "gateways": arguments.workers, **bench.run()}
    print_results(results, Console(width=None if sys.stdout.isatty() else 180))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
