"""
The disk that holds the hub's data is full, under load; then there is room again.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final

import httpx
import psycopg

from tests.acceptance.hub_process import raw_call, wait_for
from tests.crash.client import ANSWER_TIMEOUT_S
from tests.crash.load import Load, LoadPlan
from tests.crash.report import Report, named
from tests.crash.sighting import Seen, Sighting
from tests.crash.small_disk import NoDiskError, SmallDisk, mounted_disk
from tests.crash.workshop import Say, Workshop, conclude, keep_reading, open_workshop

DISK_MB: Final = 128
"""PostgreSQL's cluster takes about 40 MB at first."""
REFUSALS_IN_A_ROW: Final = 16
FULL_TIMEOUT_S: Final = 240.0
CONNECT_TIMEOUT_S: Final = 30
PROBES: Final = 4
REFUSED: Final = "503 with Retry-After"
BACK_TIMEOUT_S: Final = 240.0
"""The supervisor waits up to 30 s before it starts what fails again and again."""


def run_full_disk(
    *, seed: int, keep: Path, plan: LoadPlan | None = None, say: Say = print
) -> Report:
    """
    Fill the disk until nothing is sold, see that nothing is, make room, and audit.
    """
    report = Report(scenario="disk", seed=seed)
    begun_s = time.monotonic()
    try:
        with (
            mounted_disk(DISK_MB) as disk,
            open_workshop(disk.folder / "hub", keep=keep) as workshop,
            workshop.calling(seed=seed, plan=plan or LoadPlan()) as load,
        ):
            fill_and_probe(workshop, load, disk, report, say)
            break_the_log(workshop, disk, report, say)
            disk.empty()
            roomy_s = time.monotonic()
            report.facts["came back"] = come_back(workshop, load, roomy_s)
            first_s = load.wait_for_answers(roomy_s, timeout_s=BACK_TIMEOUT_S)
            report.recovery_s.append(first_s - roomy_s)
            say(f"there is room: answers after {first_s - roomy_s:.1f} s")
            conclude(workshop, load, report)
    except NoDiskError as error:
        report.skipped = f"no small disk can be mounted here: {error}"
    report.seconds = time.monotonic() - begun_s
    return report


def fill_and_probe(
    workshop: Workshop, load: Load, disk: SmallDisk, report: Report, say: Say
) -> None:
    """
    Fill the disk, wait until calls are refused, and see that they stay so.
    """
    say(f"filling the disk: {disk.free_bytes // 1024} KiB are left")
    filled_s = time.monotonic()
    disk.fill()
    report.harm["disk filled"] += 1

    def is_refused() -> bool:
        # What was written in advance (the log, pages with room) takes a few more calls.
        disk.fill()
        load.look()
        last = [seen for seen in load.sightings if seen.begun_s > filled_s][-REFUSALS_IN_A_ROW:]
        return len(last) == REFUSALS_IN_A_ROW and not any(map(is_sold, last))

    wait_for("refusals", is_refused, timeout_s=FULL_TIMEOUT_S)
    refused_s = time.monotonic()
    say(f"nothing is sold any more {refused_s - filled_s:.1f} s after the disk was full")
    probes = probe_together(workshop, disk)
    report.facts["probes"] = named(probes)
    if set(probes) != {REFUSED}:
        report.findings.append(f"full: calls on a full disk got {named(probes)}")
    load.look()
    sold = [seen for seen in load.sightings if seen.begun_s > refused_s and is_sold(seen)]
    report.findings += [f"full: sold on a full disk: {seen}" for seen in sold]


def break_the_log(workshop: Workshop, disk: SmallDisk, report: Report, say: Say) -> None:
    """
    Make PostgreSQL need room for its log: it ends in a panic, and cannot start again.
    """

    def is_broken() -> bool:
        disk.fill()
        try:
            connection = psycopg.connect(
                workshop.owner_dsn, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S
            )
        except psycopg.OperationalError:
            return True
        with suppress(psycopg.Error), connection:
            connection.execute("SELECT pg_switch_wal()")
            connection.execute("SELECT pg_logical_emit_message(true, 'crash', 'test')")
        return False

    wait_for("PostgreSQL is down", is_broken, timeout_s=FULL_TIMEOUT_S)
    report.harm["log without room"] += 1
    say("PostgreSQL found no room for its log and is down")
    probes = probe_together(workshop, disk)
    report.facts["no database"] = named(probes)
    if set(probes) != {REFUSED}:
        report.findings.append(f"full: calls without a database got {named(probes)}")


def is_sold(seen: Sighting) -> bool:
    """
    Tell whether a try was acknowledged.
    """
    return seen.seen is Seen.ANSWERED


def probe_together(workshop: Workshop, disk: SmallDisk) -> Counter[str]:
    """
    Make some calls at once and count what came.
    """
    disk.fill()
    with ThreadPoolExecutor(PROBES) as pool:
        return Counter(pool.map(probe, [workshop] * PROBES))


def probe(workshop: Workshop) -> str:
    """
    Make one call and say what came.
    """
    body = {"model": "quick-model", "messages": [{"role": "user", "content": "probe"}]}
    url = f"{workshop.hub.base_url}/chat/completions"
    try:
        answer = httpx.post(url, timeout=ANSWER_TIMEOUT_S, **raw_call(workshop.buyer_key, body))
    except httpx.HTTPError as error:
        return type(error).__name__
    retry = " with Retry-After" if "retry-after" in answer.headers else ""
    return f"{answer.status_code}{retry}"


def come_back(workshop: Workshop, load: Load, roomy_s: float) -> str:
    """
    Wait for answers; where none come, start the hub again. Return which it was.
    """
    try:
        wait_for("answers", lambda: load.answers_since(roomy_s), timeout_s=BACK_TIMEOUT_S)
    except AssertionError:
        port = int(json.loads((workshop.hub.data_dir / "runtime.json").read_text())["port"])
        workshop.hub.stop()
        workshop.hub.start(port=port)
        keep_reading(workshop.hub)
        return "after a restart"
    return "by itself"
