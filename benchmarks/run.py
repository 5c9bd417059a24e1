"""
Measure the gateway against its bare stub: ``python -m benchmarks.run [--quick]``.

Every absolute figure stands beside its ratio to a bare limit measured in the same run: the
stub called directly for rates, two bare durable commits for latency. Rounds go forward,
then backward; each figure is the median of its rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks import bare_commits, machine
from benchmarks.rig import ROOT, Load, Rig, check_books, data_root, running_rig
from tokenworks.testing.supplier_behaviour import Behaviour

CONNECTIONS: Final = (1, 16, 64)
PACE_MS: Final = 5
PACED_STREAMS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """
    One line of the table.
    """

    name: str
    is_stream: bool
    connections: int
    pace_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """
    How long and how often.
    """

    rounds: int
    duration_s: float
    warm_up_s: float
    commit_pairs: int


QUICK: Final = Plan(rounds=1, duration_s=1.5, warm_up_s=0.5, commit_pairs=500)
FULL: Final = Plan(rounds=3, duration_s=4.0, warm_up_s=1.0, commit_pairs=2_000)

SCENARIOS: Final = (
    *(Scenario(name=f"plain c={c}", is_stream=False, connections=c) for c in CONNECTIONS),
    *(Scenario(name=f"stream c={c}", is_stream=True, connections=c) for c in CONNECTIONS),
    Scenario(
        name=f"paced c={PACED_STREAMS}",
        is_stream=True,
        connections=PACED_STREAMS,
        pace_ms=PACE_MS,
    ),
)

Reports = dict[tuple[str, bool], list[dict[str, Any]]]


def measure(rig: Rig, plan: Plan, scenarios: Sequence[Scenario], console: Console) -> Reports:
    """
    Run every scenario directly and through the hub, in rounds there and back.
    """
    sides = (False, True) if rig.hub is not None else (False,)
    steps = [(scenario, side) for scenario in scenarios for side in sides]
    reports: Reports = {}
    for turn in range(plan.rounds):
        for scenario, through_hub in steps if turn % 2 == 0 else reversed(steps):
            console.print(
                f"round {turn + 1}/{plan.rounds}: {scenario.name} "
                f"{'through the hub' if through_hub else 'direct'}",
                style="dim",
            )
            report = _measure_once(rig, plan, scenario, through_hub=through_hub)
            reports.setdefault((scenario.name, through_hub), []).append(report)
    return reports


def _measure_once(rig: Rig, plan: Plan, scenario: Scenario, *, through_hub: bool) -> dict[str, Any]:
    rig.stub.set_behaviour(Behaviour(chunk_pace_ms=scenario.pace_ms))
    load = Load(
        is_stream=scenario.is_stream,
        connections=scenario.connections,
        duration_s=plan.duration_s,
        warm_up_s=plan.warm_up_s,
    )
    return rig.load(load, through_hub=through_hub)


def summarise(scenario: Scenario, reports: Reports, pair_ms: float | None) -> dict[str, Any]:
    """
    Return the medians of one scenario and its ratios.
    """
    direct = _medians(reports[scenario.name, False])
    summary: dict[str, Any] = {"scenario": scenario.name, "direct": direct}
    if (scenario.name, True) not in reports:
        return summary
    hub = _medians(reports[scenario.name, True])
    added_ms = _difference(hub.get("p50_ms"), direct.get("p50_ms"))
    summary |= {
        "hub": hub,
        "rate_ratio": _ratio(hub.get("rate_per_s"), direct.get("rate_per_s")),
        "p99_ratio": _ratio(hub.get("p99_ms"), direct.get("p99_ms")),
        "added_p50_ms": added_ms,
        "added_in_commit_pairs": _ratio(added_ms, pair_ms),
    }
    return summary


def _medians(reports: list[dict[str, Any]]) -> dict[str, Any]:
    flat = [_flat(report) for report in reports]
    names = sorted({name for report in flat for name in report})
    medians = {
        name: statistics.median([report[name] for report in flat if name in report])
        for name in names
    }
    medians["failed"] = sum(_failed(report) for report in reports)
    return {name: round(value, 3) for name, value in medians.items()}


def _flat(report: dict[str, Any]) -> dict[str, float]:
    flat = {
        name: value
        for name, value in report.items()
        if name.endswith(("_per_s", "_per_call", "_share"))
    }
    flat |= {f"{name}_ms": value for name, value in report["latency_ms"].items()}
    first = report.get("first_byte_ms", {})
    return flat | {f"first_byte_{name}_ms": value for name, value in first.items()}


def _failed(report: dict[str, Any]) -> int:
    refused = sum(count for status, count in report["statuses"].items() if status != "200")
    return refused + sum(report["errors"].values())


def _ratio(value: float | None, base: float | None) -> float | None:
    return round(value / base, 3) if value is not None and base else None


def _difference(value: float | None, base: float | None) -> float | None:
    return round(value - base, 3) if value is not None and base is not None else None


# Printing


def print_results(results: dict[str, Any], console: Console) -> None:
    """
    Print the facts and the table.
    """
    facts = results["machine"]
    console.print(
        f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB, {facts['system']}, "
        f"data on {facts['data_filesystem']}, "
        f"Python {facts['python']}, commit {facts['commit']}"
        f"{' with changes' if facts['is_changed'] else ''}, load {facts['load_average'][0]}"
    )
    console.print(_table(results["scenarios"]))
    if commits := results.get("bare_commits"):
        console.print(
            f"two bare commits on the same PostgreSQL {commits['server_version']}: "
            f"p50 {commits['pair_ms']['p50']} ms, p99 {commits['pair_ms']['p99']} ms "
            f"(fsync {commits['fsync']}, synchronous_commit {commits['synchronous_commit']})"
        )
    for memory in results.get("memory", []):
        console.print(
            f"memory: {memory['rss_mib']} MiB RSS, {memory['pss_mib']} MiB PSS  {memory['name']}"
        )
    if books := results.get("books"):
        console.print(f"books after the run: {books}")


def _table(scenarios: list[dict[str, Any]]) -> Table:
    table = Table(title="hub against its bare stub (medians)")
    table.add_column("scenario")
    headings = ("direct /s", "hub /s", "ratio", "direct p50", "hub p50", "hub p99 ms", "added p50")
    for heading in (*headings, "x 2 commits", "p99 ratio", "CPU us gw", "CPU us PG", "failed"):
        table.add_column(heading, justify="right")
    for row in scenarios:
        direct, hub = row["direct"], row.get("hub", {})
        cells = (
            direct.get("rate_per_s"),
            hub.get("rate_per_s"),
            row.get("rate_ratio"),
            direct.get("p50_ms"),
            hub.get("p50_ms"),
            hub.get("p99_ms"),
            row.get("added_p50_ms"),
            row.get("added_in_commit_pairs"),
            row.get("p99_ratio"),
            hub.get("gateway_us_per_call"),
            hub.get("postgres_us_per_call"),
            direct.get("failed", 0) + hub.get("failed", 0),
        )
        table.add_row(row["scenario"], *map(_cell, cells))
    return table


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:g}"


# The command


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the gateway against its bare stub.")
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--json", metavar="FILE", help="also write everything measured")
    parser.add_argument("--only", help="scenarios whose name contains this")
    parser.add_argument("--rounds", type=int, help="instead of 3 (1 when quick)")
    parser.add_argument("--pin", action="store_true", help="gateway on core 0, the rest on 1")
    parser.add_argument("--no-hub", action="store_true", help="the stub's and loader's ceiling")
    parser.add_argument("--command", help="how to start the hub; {data} and {port} are filled in")
    parser.add_argument("--url", help="a hub that runs already (then no CPU and memory)")
    parser.add_argument(
        "--key", default=os.environ.get("TOKENWORKS_KEY"), help="its admin key, or TOKENWORKS_KEY"
    )
    return parser.parse_args(argv)


def _plan(arguments: argparse.Namespace) -> Plan:
    plan = QUICK if arguments.quick else FULL
    return Plan(
        rounds=arguments.rounds or plan.rounds,
        duration_s=plan.duration_s,
        warm_up_s=plan.warm_up_s,
        commit_pairs=plan.commit_pairs,
    )


def run(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """
    Measure and return everything.
    """
    plan = _plan(arguments)
    scenarios = [s for s in SCENARIOS if not arguments.only or arguments.only in s.name]
    results: dict[str, Any] = {
        "machine": machine.describe(ROOT, data_root=data_root()),
        "is_pinned": arguments.pin,
    }
    with running_rig(
        with_hub=not arguments.no_hub,
        url=arguments.url,
        admin_key=arguments.key,
        command=shlex.split(arguments.command) if arguments.command else None,
        is_pinned=arguments.pin,
    ) as rig:
        data = rig.hub.data if rig.hub is not None else None
        pair_ms = None
        if data is not None:
            dsn = bare_commits.server_of(data)
            results["bare_commits"] = bare_commits.measure(dsn, pairs=plan.commit_pairs)
            pair_ms = results["bare_commits"]["pair_ms"]["p50"]
        reports = measure(rig, plan, scenarios, console)
        results["scenarios"] = [summarise(s, reports, pair_ms) for s in scenarios]
        if rig.hub is not None:
            results["memory"] = [asdict(memory) for memory in rig.hub.memory()]
        if data is not None:
            results["books"] = check_books(data)
    results["rounds"] = [
        {"scenario": name, "through_hub": through_hub, "reports": found}
        for (name, through_hub), found in reports.items()
    ]
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the benchmark and print it.
    """
    arguments = _arguments(argv)
    results = run(arguments, Console(stderr=True))
    print_results(results, Console(width=None if sys.stdout.isatty() else 180))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
