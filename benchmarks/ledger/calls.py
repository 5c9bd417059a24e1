"""
Calls behind group commit: scenarios, and the driver of their processes.

Each scenario runs on a fresh copy of the same database, in processes of its own, for the same
time; CPU time and WAL are counted over the measured time, rows over the whole life of the
copy, warm-up included on both sides of the division.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from benchmarks.ledger.caller import Job
from benchmarks.ledger.server import Counters, Database, Server
from benchmarks.ledger.statements import StatementProfile
from benchmarks.rig import ROOT

STOP_TIMEOUT_S: Final = 60.0
WAITERS: Final = (1, 16, 128, 512)
MOST: Final = WAITERS[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallScenario:
    """
    One line of the table of calls.
    """

    name: str
    against: str | None = None
    """The scenario of the same run that its rate is a ratio to."""
    kind: str = "full"
    waiters: int = MOST
    processes: int = 1
    suppliers: int = 1
    is_one_organisation: bool = True
    has_refusals: bool = False
    empty_share: float = 0.0
    grown_buyers: int = 0
    """Of ``fill``, who then pay; 0: the buyers of the business do."""
    is_fresh: bool = False
    """Whether the tables have no statistics yet, as in the first minutes of a hub."""
    target_rate: int | None = None
    """Calls a second that the issue asks for."""
    target_ratio: float | None = None
    """Of the rate to that of ``against``."""


FULL: Final = f"calls w={MOST}"
MANY_SUPPLIERS: Final = f"calls w={MOST} 100 suppliers"

SCENARIOS: Final = (
    *(CallScenario(name=f"calls w={n}", against=FULL, waiters=n) for n in WAITERS[:-1]),
    CallScenario(name=MANY_SUPPLIERS, against=FULL, suppliers=100),
    CallScenario(name=FULL, against=MANY_SUPPLIERS, target_rate=4_000, target_ratio=0.9),
    CallScenario(name=f"{FULL} 100 organisations", against=FULL, is_one_organisation=False),
    CallScenario(name=f"{FULL} 10 % refused", against=FULL, has_refusals=True),
    CallScenario(name=f"{FULL} half on an empty account", against=FULL, empty_share=0.5),
    CallScenario(name=f"{FULL} no statistics yet", against=FULL, is_fresh=True),
    CallScenario(name=f"{FULL} 2 processes", against=FULL, processes=2),
    CallScenario(name=f"{FULL} no receipt, no row", against=FULL, kind="bare"),
    *(
        CallScenario(
            name=f"single account w={n}",
            against=FULL if n == MOST else f"single account w={MOST}",
            kind="single",
            waiters=n,
            target_rate=8_000 if n == MOST else None,
        )
        for n in WAITERS
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """
    How long a scenario runs.
    """

    warm_up_s: float
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CallProfile:
    """
    Look closer at one scenario; costs some per cent on both sides.
    """

    statements: StatementProfile
    python_file: str
    """Where the first process leaves cProfile's figures."""


def run_scenario(
    scenario: CallScenario,
    server: Server,
    database: Database,
    span: Span,
    *,
    business_file: str,
    profile: CallProfile | None = None,
) -> dict[str, Any]:
    """
    Run one scenario on a database; return its figures.
    """
    profile_file = profile.python_file if profile else None
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                _started(_job(scenario, server, database, index, business_file, profile_file))
            )
            for index in range(scenario.processes)
        ]
        for process in processes:
            _hear(process, "ready")
        time.sleep(span.warm_up_s)
        if profile:
            profile.statements.begin()
        before = server.counters()
        _tell(processes, "measure")
        time.sleep(span.duration_s)
        _tell(processes, "rest")
        spent = server.counters() - before
        statements = profile.statements.end() if profile else None
        _tell(processes, "stop")
        reports = [json.loads(_hear(process)) for process in processes]
    figures = summarise(reports, spent, database.rows_written())
    return figures if statements is None else figures | {"statements": statements}


def _job(
    scenario: CallScenario,
    server: Server,
    database: Database,
    index: int,
    business_file: str,
    profile_file: str | None,
) -> Job:
    waiters = scenario.waiters // scenario.processes
    return Job(
        name=f"caller-{index}",
        dsn=database.dsn_posting,
        data_dir=str(server.data_dir),
        business_file=business_file,
        kind=scenario.kind,
        waiters=waiters,
        suppliers=scenario.suppliers,
        is_one_organisation=scenario.is_one_organisation,
        has_refusals=scenario.has_refusals,
        grown_buyers=scenario.grown_buyers,
        empty_waiters=round(waiters * scenario.empty_share),
        profile_file=profile_file if index == 0 else None,
    )


def summarise(
    reports: Sequence[dict[str, Any]], spent: Counters, rows: dict[str, int]
) -> dict[str, Any]:
    """
    Return the figures of one round, all processes together.

    Percentiles are the worst process's. CPU time of refused holds counts for the calls that
    were settled.
    """
    settled = sum(report["settled"] for report in reports)
    calls_total = max(1, sum(report["calls_total"] for report in reports))
    calls = max(1, settled)
    operations = sum(report["operations"] for report in reports)
    figures: dict[str, Any] = {
        "settled": settled,
        "calls_total": calls_total,
        "refused": sum(report["refused"] for report in reports),
        "rate_per_s": sum(report["settled"] / report["took_s"] for report in reports),
        "refused_per_s": sum(report["refused"] / report["took_s"] for report in reports),
        "python_us_per_call": sum(report["cpu_s"] for report in reports) / calls * 1e6,
        "postgres_us_per_call": spent.cpu_s / calls * 1e6,
        "python_cores": sum(report["cpu_s"] / report["took_s"] for report in reports),
        "postgres_cores": spent.cpu_s / reports[0]["took_s"],
        "wal_bytes_per_call": spent.wal_bytes / calls,
        "operations_per_batch": operations / max(1, sum(report["batches"] for report in reports)),
    }
    for step in ("hold", "settle"):
        for rank in ("p50", "p99"):
            values = [r[f"{step}_ms"][rank] for r in reports if r[f"{step}_ms"]]
            if values:
                figures[f"{step}_{rank}_ms"] = max(values)
    figures["rows_per_call"] = sum(rows.get(name, 0) for name in _HOT_ROWS) / calls_total
    figures["rows"] = {name: round(rows.get(name, 0) / calls_total, 3) for name in _HOT_ROWS}
    return figures


_HOT_ROWS: Final = (
    "holds inserted",
    "holds updated",
    "entries inserted",
    "batches inserted",
    "balances updated",
    "lanes updated",
    "calls inserted",
)
"""What a call writes; other tables are written when the business is opened."""


def median_of(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """
    Return each figure's median over the rounds.
    """
    names = {
        name
        for figures in rounds
        for name, value in figures.items()
        if isinstance(value, int | float)
    }
    medians: dict[str, Any] = {
        name: round(statistics.median(f[name] for f in rounds if name in f), 3)
        for name in sorted(names)
    }
    return medians | {"rows": rounds[-1]["rows"]}


@contextmanager
def _started(job: Job) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benchmarks.ledger.caller", msgspec.json.encode(job).decode()]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        yield process
    finally:
        assert process.stdin is not None, "it is a pipe"
        assert process.stdout is not None, "it is a pipe"
        process.stdin.close()  # one that still waits for a word ends now
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _tell(processes: Sequence[subprocess.Popen[str]], word: str) -> None:
    for process in processes:
        assert process.stdin is not None, "it is a pipe"
        process.stdin.write(word + "\n")
        process.stdin.flush()


def _hear(process: subprocess.Popen[str], word: str | None = None) -> str:
    assert process.stdout is not None, "it is a pipe"
    line = process.stdout.readline().strip()
    if not line or (word is not None and line != word):
        process.kill()
        raise RuntimeError(f"A caller stopped: {line or 'see its error above'}")
    return line
