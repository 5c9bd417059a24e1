"""
The connection between a ledger writer and PostgreSQL is cut in the middle of commits.

PostgreSQL is one of its own (``TOKENWORKS_DATABASE_URL``), reached through a proxy. Whatever
the writer could not hear, it asks for again by the fact's id: booked once, or not at all.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from psycopg.conninfo import make_conninfo

from tests.acceptance.hub_process import data_directory, wait_for
from tests.crash.cutting_proxy import Cut, CuttingProxy, cutting
from tests.crash.load import LoadPlan
from tests.crash.report import Report
from tests.crash.workshop import (
    RECOVERY_TIMEOUT_S,
    Place,
    Say,
    Workshop,
    conclude,
    open_workshop,
)
from tokenworks.adapters.embedded_postgres import start

PAUSE_S_MAX: Final = 0.5


def run_cuts(
    *,
    cuts: int,
    seed: int,
    keep: Path,
    place: Place = data_directory,
    plan: LoadPlan | None = None,
    say: Say = print,
) -> Report:
    """
    Cut so many commits, each kind equally often, in an order and at moments from the seed.
    """
    report = Report(scenario="cuts", seed=seed)
    dice = random.Random(seed)
    kinds = [list(Cut)[index % len(Cut)] for index in range(cuts)]
    dice.shuffle(kinds)
    begun_s = time.monotonic()
    with (
        open_behind_proxy(keep, place) as (workshop, proxy),
        workshop.calling(seed=seed, plan=plan or LoadPlan()) as load,
    ):
        for number, cut in enumerate(kinds, start=1):
            time.sleep(dice.uniform(0.0, PAUSE_S_MAX))
            proxy.cut_next(cut)
            wait_for("a batch", lambda number=number: len(proxy.cuts) >= number)
            moment_s = time.monotonic()
            first_s = load.wait_for_answers(moment_s, timeout_s=RECOVERY_TIMEOUT_S)
            report.recovery_s.append(first_s - moment_s)
            say(f"cut {number}/{cuts} {cut}: answers after {first_s - moment_s:.2f} s")
        conclude(workshop, load, report)
        report.harm = Counter(f"cut {cut} commit" for cut in proxy.cuts)
        report.facts["batches"] = proxy.batches
    report.seconds = time.monotonic() - begun_s
    return report


@contextmanager
def open_behind_proxy(keep: Path, place: Place) -> Generator[tuple[Workshop, CuttingProxy]]:
    """
    Run a durable PostgreSQL, the proxy before it, and a hub that knows only the proxy.
    """
    with (
        place() as database_dir,
        data_directory() as data_dir,
        tempfile.TemporaryDirectory(prefix="tw-front-") as front,
    ):
        server = start(database_dir)
        try:
            environment = {
                "TOKENWORKS_DATABASE_URL": make_conninfo(server.dsn_owner, host=front),
                "TOKENWORKS_POSTING_DATABASE_URL": make_conninfo(server.dsn_posting, host=front),
            }
            with (
                cutting(Path(front), server.socket_directory) as proxy,
                open_workshop(data_dir, keep=keep, environment=environment) as workshop,
            ):
                yield workshop, proxy
        finally:
            server.stop()
