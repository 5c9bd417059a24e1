"""
``kill -9`` under load: the gateways, the worker, PostgreSQL, each alone and together.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psycopg

from tests.acceptance.hub_process import data_directory, wait_for
from tests.crash.load import Load, LoadPlan
from tests.crash.report import Report
from tests.crash.victims import BACKEND, is_back, kill_dead
from tests.crash.workshop import (
    RECOVERY_TIMEOUT_S,
    Place,
    Say,
    Workshop,
    conclude,
    open_workshop,
)

PAUSE_S_MAX: Final = 1.0
"""Between an answer after one kill and the next kill."""

Round = tuple[str, ...]
"""The processes that die at the same moment."""

FIRST_DECK: Final[tuple[Round, ...]] = (
    ("gateway-0",),
    ("worker",),
    ("postgres",),
    (BACKEND,),
    ("gateway-1", "postgres"),
    ("gateway-0", "gateway-1", "worker", "postgres"),
)
"""Ten kills that show every kind."""
LATER_DECK: Final[tuple[Round, ...]] = (
    *FIRST_DECK,
    ("gateway-1",),
    ("gateway-0", "gateway-1"),
    ("worker", "postgres"),
    ("gateway-0", BACKEND),
)


def plan_rounds(kills: int, dice: random.Random) -> Iterator[Round]:
    """
    Yield who dies together: decks in a random order, until there are so many kills.
    """
    deck, left = list(FIRST_DECK), kills
    while left > 0:
        dice.shuffle(deck)
        for names in deck:
            if left <= 0:
                return
            yield names[:left]
            left -= len(names[:left])
        deck = list(LATER_DECK)


def run_kills(
    *,
    kills: int,
    seed: int,
    keep: Path,
    place: Place = data_directory,
    plan: LoadPlan | None = None,
    say: Say = print,
    is_durable: bool = True,
) -> Report:
    """
    Open a hub, kill its processes under load, and audit the books.

    Args:
        kills: How many processes die.
        seed: Decides who dies when.
        keep: Where logs are found afterwards.
        place: Where the books are.
        plan: How much load.
        say: Takes the progress.
        is_durable: ``False`` lets PostgreSQL answer before a commit is on the disk, so that
            the audit must find answers that are not in the books.
    """
    report = Report(scenario="kills", seed=seed)
    dice = random.Random(seed)
    begun_s = time.monotonic()
    with (
        place() as data_dir,
        open_workshop(data_dir, keep=keep) as workshop,
        workshop.calling(seed=seed, plan=plan or LoadPlan()) as load,
    ):
        if not is_durable:
            weaken(workshop)
        for names in plan_rounds(kills, dice):
            time.sleep(dice.uniform(0.0, PAUSE_S_MAX))
            recovery_s = kill_and_recover(workshop, load, names, dice, report)
            done = report.harm.total()
            say(
                f"kill {done}/{kills} after {time.monotonic() - begun_s:.0f} s: "
                f"{' + '.join(names)}; answers again after {recovery_s:.1f} s; "
                f"{load.counts()['answered']} answered"
            )
        conclude(workshop, load, report)
    report.seconds = time.monotonic() - begun_s
    return report


def weaken(workshop: Workshop) -> None:
    """
    Make the commit of every batch asynchronous, by a trigger that only the owner can add.
    """
    with psycopg.connect(workshop.owner_dsn, autocommit=True) as connection:
        connection.execute("""
            CREATE FUNCTION ledger.answer_too_early() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                PERFORM set_config('synchronous_commit', 'off', true);
                RETURN NULL;
            END
            $$
        """)
        connection.execute("""
            CREATE TRIGGER answer_too_early AFTER INSERT ON ledger.batches
            FOR EACH STATEMENT EXECUTE FUNCTION ledger.answer_too_early()
        """)


def kill_and_recover(
    workshop: Workshop, load: Load, names: Round, dice: random.Random, report: Report
) -> float:
    """
    Kill one round's processes; return the seconds until a call that began later was answered.
    """
    moment_s = time.monotonic()
    killed = kill_dead(workshop.hub, names, dice)
    report.harm.update(killed.keys())
    first_s = load.wait_for_answers(moment_s, timeout_s=RECOVERY_TIMEOUT_S)
    for name, pid in killed.items():
        if name != BACKEND:
            wait_for(
                f"{name} is started again",
                lambda name=name, pid=pid: is_back(workshop.hub, name, pid),
                timeout_s=RECOVERY_TIMEOUT_S,
            )
    report.recovery_s.append(first_s - moment_s)
    return first_s - moment_s
