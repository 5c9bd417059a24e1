"""
Escrows of a running hub whose processes are killed with -9 at the worst moments.

Where a process stands is no luck: a lock on one table holds it exactly there, until it is dead.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import uuid
from collections.abc import Generator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx
import psycopg
import pytest
from psycopg import sql

from tests.acceptance.conftest import Shop
from tests.acceptance.hub_process import Document, HubProcess, run_command, wait_for
from tests.crash.victims import living, stopped
from tokenworks.sdk import HubClient, PaymentUncertainError, SpendCap, Wallet

CONDITION: Final = "result.words >= 3"
RESULT: Final[Document] = {"words": 3}
FACTS: Final = "agents.escrow_events"
BOOKS: Final = "ledger.entries"
PART: Final = "0.10"


@pytest.fixture
def hub(fragile: Shop) -> Iterator[HubProcess]:
    """
    A hub of gateways and a worker that this module kills; its books are checked at the end.
    """
    yield fragile
    fragile.check_books()


class Sides:
    """
    Who pays and who is paid.
    """

    def __init__(self, hub: HubProcess) -> None:
        self.hub = hub
        name = uuid.uuid4().hex[:8]
        self.payer_organisation, self.payee_name = f"payer-{name}", f"payee-{name}"
        hub.add_buyer(self.payer_organisation, "10")
        payee = hub.post("parties", name=self.payee_name, kind="buyer")
        self.payee_id = str(payee["party_id"])
        self.payee_key = str(hub.post("keys", party=self.payee_name, role="buyer")["secret"])
        wallet = Wallet.generate()
        hub.post(
            "agents", name=f"agent-{name}", owner=self.payer_organisation, public_key=wallet.address
        )
        hub.post("mandates", agent=f"agent-{name}", terms={})
        self.payer = HubClient(hub.url, wallet, cap=SpendCap(per_payment="1"))

    def open(self, *milestones: str) -> str:
        """
        Open an escrow with a part for each milestone; return its id.
        """
        until = datetime.now(UTC) + timedelta(minutes=10)
        terms = {
            "milestones": [
                {"name": name, "amount": PART, "condition": CONDITION} for name in milestones
            ],
            "result_schema": {"type": "object", "required": ["words"]},
            "submit_by": until.isoformat(timespec="seconds"),
            "decide_by_s": 600,
        }
        return str(self.payer.open_escrow(self.payee_id, terms)["escrow_id"])

    def submit(self, escrow_id: str, milestone: str) -> Document:
        """
        Hand in what meets the condition.
        """
        headers = {"idempotency-key": uuid.uuid4().hex}
        answer = self.hub.ask(
            "POST",
            f"escrows/{escrow_id}/submit",
            key=self.payee_key,
            json={"milestone": milestone, "result": RESULT},
            headers=headers,
        )
        assert answer.is_success, answer.text
        return answer.json()

    def paid(self) -> str:
        """
        Return what the payee has.
        """
        rows = self.hub.get("balance", party=self.payee_name)["accounts"]
        (cash,) = (one for one in rows if (one["purpose"], one["asset"]) == ("cash", "USD"))
        return str(cash["balance"])


class Barrier:
    """
    A lock on a table: who writes into it stands still until it is let go.
    """

    def __init__(self, connection: psycopg.Connection[Any], table: str) -> None:
        self._connection = connection
        self._table = table
        self._before = self._waiting()

    def wait_for_somebody(self) -> None:
        """
        Return when somebody waits to write into the table who did not before.
        """
        wait_for(f"a writer of {self._table}", lambda: self._waiting() - self._before)

    def let_go(self) -> None:
        """
        Let those that wait go on.
        """
        self._connection.commit()

    def _waiting(self) -> set[int]:
        cursor = self._connection.execute(
            "SELECT pid FROM pg_locks WHERE relation = %s::regclass AND NOT granted", [self._table]
        )
        return {row[0] for row in cursor}


@contextlib.contextmanager
def held_back(hub: HubProcess, table: str) -> Generator[Barrier]:
    """
    Let nobody write into a table, and the worker do nothing: it writes there too, by itself.
    """
    record = json.loads((hub.data_dir / "runtime.json").read_text(encoding="utf-8"))
    with psycopg.connect(record["dsn_owner"]) as connection:
        name = sql.Identifier(*table.split("."))
        connection.execute(sql.SQL("LOCK TABLE {} IN SHARE MODE").format(name))
        pids = wait_for("the worker runs", lambda: living(hub, ("worker",)))
        with stopped(pids["worker"]):
            yield Barrier(connection, table)


def time_passes(hub: HubProcess) -> None:
    """
    Bring forward when the worker looks again: what was begun rests for ten seconds else.
    """
    record = json.loads((hub.data_dir / "runtime.json").read_text(encoding="utf-8"))
    with psycopg.connect(record["dsn_owner"], autocommit=True) as connection:
        connection.execute("UPDATE agents.escrows SET due_at = due_at - interval '10 seconds'")


@contextlib.contextmanager
def asked(what: Any, *arguments: str) -> Generator[list[str]]:  # noqa: ANN401 - a method of the sides
    """
    Ask in a thread, which is not answered when the gateway dies; yields what came of it.
    """
    outcome: list[str] = []

    def ask() -> None:
        try:
            what(*arguments)
            outcome.append("answered")
        except (httpx.TransportError, PaymentUncertainError):
            outcome.append("no answer")

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield outcome
    finally:
        thread.join()


def kill_all(hub: HubProcess) -> None:
    """
    Kill gateways and worker with -9; the supervisor starts them again.
    """
    for name, pid in hub.children().items():
        if name.startswith(("gateway", "worker")):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def answers(hub: HubProcess) -> bool:
    """
    Return whether a gateway answers again.
    """
    try:
        return hub.http.get(f"{hub.url}/healthz").is_success
    except httpx.TransportError:
        return False


def test_every_milestone_is_paid_once_whoever_dies(hub: HubProcess, tmp_path: Path) -> None:
    """
    Killed after the hold and before its fact; after the decision and before the capture; after
    the capture and before its record. The worker finishes each, once, without being asked.
    """
    sides = Sides(hub)
    others = {one["escrow_id"] for one in hub.get("escrows", limit=500)["items"]}
    decided, captured = sides.open("all"), sides.open("first", "second")

    # Decided, and nothing moved yet.
    with held_back(hub, BOOKS) as lock, asked(sides.submit, decided, "all") as outcome:
        lock.wait_for_somebody()
        kill_all(hub)
        lock.let_go()
    assert outcome == ["no answer"]
    wait_for("a gateway", lambda: answers(hub))

    # The money moved, or is held, and nobody has written that down.
    with (
        held_back(hub, BOOKS) as books,
        asked(sides.submit, captured, "first") as outcome,
    ):
        books.wait_for_somebody()
        with held_back(hub, FACTS) as facts:
            books.let_go()
            facts.wait_for_somebody()
            kill_all(hub)
            facts.let_go()
    assert outcome == ["no answer"]
    wait_for("a gateway", lambda: answers(hub))
    with held_back(hub, FACTS) as facts, asked(sides.open, "late") as outcome:
        facts.wait_for_somebody()
        kill_all(hub)
        facts.let_go()
    assert outcome == ["no answer"]
    wait_for("a gateway", lambda: answers(hub))

    def settled(escrow_id: str) -> Document | None:
        escrow = hub.get(f"escrows/{escrow_id}")
        return escrow if escrow["state"] == "settled" else None

    def funded() -> Document | None:
        found = hub.get("escrows", state="funded", limit=500)["items"]
        known = {*others, captured}
        return next((one for one in found if one["escrow_id"] not in known), None)

    time_passes(hub)
    wait_for("the worker pays what was decided", lambda: settled(decided))
    late = wait_for("the worker finds the hold", funded)["escrow_id"]
    wait_for(
        "the worker writes down what was paid",
        lambda: hub.get(f"escrows/{captured}")["captured"] == PART.rstrip("0"),
    )
    sides.submit(captured, "second")
    sides.submit(late, "late")
    assert {settled(escrow_id) is not None for escrow_id in (captured, late)} == {True}
    assert hub.get("ledger/trial-balance")["is_balanced"] is True
    assert sides.paid() == "0.4"
    for escrow_id in (decided, captured, late):
        _verify(hub, escrow_id, tmp_path)


def _verify(hub: HubProcess, escrow_id: str, folder: Path) -> None:
    """
    Run the conditions again from the receipts, without the hub.
    """
    keys, result = folder / "jwks.json", folder / "result.json"
    keys.write_text(hub.http.get(f"{hub.url}/.well-known/jwks.json").text, encoding="utf-8")
    result.write_text(json.dumps(RESULT), encoding="utf-8")
    receipt = folder / f"{escrow_id}.json"
    receipt.write_text(json.dumps(hub.get(f"payments/{escrow_id}/receipt")), encoding="utf-8")
    words = ["escrow", "verify", str(receipt), "--result", str(result), "--keys", str(keys)]
    done = run_command(*words)
    assert done.returncode == 0, done.stdout + done.stderr
