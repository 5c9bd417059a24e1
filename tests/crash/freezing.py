"""
PostgreSQL, then the gateways, stand still for ten seconds (SIGSTOP), under load.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Final

from tests.acceptance.hub_process import data_directory
from tests.crash.load import LoadPlan
from tests.crash.report import Report
from tests.crash.sighting import Seen, Sighting
from tests.crash.victims import stopped
from tests.crash.workshop import RECOVERY_TIMEOUT_S, Place, Say, conclude, open_workshop

FROZEN_S: Final = 10.0
SETTLING_S: Final = 3.0
"""What was committed just before may still be on its way to its client, on a busy machine."""


def run_freeze(
    *,
    seed: int,
    keep: Path,
    place: Place = data_directory,
    plan: LoadPlan | None = None,
    say: Say = print,
) -> Report:
    """
    Freeze every process of PostgreSQL, let them go on, likewise the gateways, and audit.

    A call while the database stands still is refused with 503 and Retry-After, or answered
    after it: an answer that comes whole while nothing can be booked would be a free one.
    Gateways that stand still are not gone: none of their calls' holds is given back.
    """
    report = Report(scenario="freeze", seed=seed)
    begun_s = time.monotonic()
    with (
        place() as data_dir,
        open_workshop(data_dir, keep=keep) as workshop,
        workshop.calling(seed=seed, plan=plan or LoadPlan()) as load,
    ):
        say(f"PostgreSQL stands still for {FROZEN_S:.0f} s")
        with stopped(workshop.hub.children()["postgres"]):
            frozen_s = time.monotonic()
            time.sleep(FROZEN_S)
            thawed_s = time.monotonic()
        report.harm["freeze"] += 1
        first_s = load.wait_for_answers(thawed_s, timeout_s=RECOVERY_TIMEOUT_S)
        report.recovery_s.append(first_s - thawed_s)
        say(f"answers again after {first_s - thawed_s:.1f} s")
        say(f"the gateways stand still for {FROZEN_S:.0f} s")
        with contextlib.ExitStack() as gateways:
            for name in ("gateway-0", "gateway-1"):
                gateways.enter_context(stopped(workshop.hub.children()[name]))
            time.sleep(FROZEN_S)
            woken_s = time.monotonic()
        report.harm["gateways frozen"] += 1
        first_s = load.wait_for_answers(woken_s, timeout_s=RECOVERY_TIMEOUT_S)
        report.recovery_s.append(first_s - woken_s)
        say(f"answers again after {first_s - woken_s:.1f} s")
        conclude(workshop, load, report)
    if report.audit is not None and report.audit.holds_given_back:
        report.findings.append("freeze: what a process held that stood still was given back")
    report.findings += judge_freeze(load.sightings, frozen_s, thawed_s, report)
    report.seconds = time.monotonic() - begun_s
    return report


def judge_freeze(
    sightings: list[Sighting], frozen_s: float, thawed_s: float, report: Report
) -> list[str]:
    """
    Say what was wrong with the tries that ran while the database stood still.
    """
    during = [
        seen
        for seen in sightings
        if seen.begun_s < thawed_s
        and (seen.begun_s >= frozen_s or seen.ended_s > frozen_s + SETTLING_S)
    ]
    refused = [seen for seen in during if seen.status == 503]
    late = [seen for seen in during if seen.seen is Seen.ANSWERED and seen.ended_s >= thawed_s]
    free = [seen for seen in during if seen.seen is Seen.ANSWERED and seen.ended_s < thawed_s]
    report.facts |= {"refused": len(refused), "late": len(late), "longest wait": longest(refused)}
    findings = [f"free: answered while nothing could be booked: {seen}" for seen in free]
    findings += [
        f"retry: a 503 without Retry-After: {seen}" for seen in refused if not seen.has_retry_after
    ]
    if not refused and not late:
        findings.append("freeze: nobody called while the database stood still")
    return findings


def longest(sightings: list[Sighting]) -> str:
    """
    Return how long a client waited for its refusal at most.
    """
    seconds = max((seen.ended_s - seen.begun_s for seen in sightings), default=0.0)
    return f"{seconds:.1f} s for a refusal"
