"""
A hub to be harmed, and the way back from harm to an audit.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import httpx
import psycopg

from tests.acceptance.hub_process import HubProcess, data_directory, wait_for
from tests.crash.auditor import OPEN_HOLDS, audit, read_books
from tests.crash.client import MODELS
from tests.crash.load import Load, LoadPlan, calling
from tests.crash.report import Report
from tokenworks.testing.supplier_behaviour import Behaviour
from tokenworks.testing.supplier_process import SupplierProcess, running_supplier

HOLD_LIFETIME_S: Final = 10
HOLD_SLACK: Final = timedelta(seconds=120)
"""The worker's grace (10 s), its pause after a restart (15 s), its tick, a busy machine."""
RECOVERY_TIMEOUT_S: Final = 240.0
HOLDS_TIMEOUT_S: Final = 180.0
STEADY_ANSWERS: Final = 10
DEPOSIT_USD: Final = "1000"

MEMORY: Final = Path("/dev/shm")
MEMORY_BYTES_MIN: Final = 512 * 1024 * 1024

Say = Callable[[str], None]
"""Takes a line about the progress."""
Place = Callable[[], AbstractContextManager[Path]]
"""Makes a folder for a database, and takes it away."""

SUPPLIER: Final[Mapping[str, Behaviour]] = {
    "quick-model": Behaviour(first_byte_delay_ms=10),
    "slow-model": Behaviour(first_byte_delay_ms=50, chunk_pace_ms=8),
}
"""Calls take 10 to 300 ms, so that many are in flight at any moment."""


@contextmanager
def memory_directory() -> Generator[Path]:
    """
    Give a data directory in memory where there is room, for short tests on busy machines.

    A killed process loses nothing of it, as it loses nothing that it wrote to a disk.
    """
    if not MEMORY.is_dir() or shutil.disk_usage(MEMORY).free < MEMORY_BYTES_MIN:
        with data_directory() as directory:
            yield directory
        return
    with tempfile.TemporaryDirectory(
        prefix="tw-crash-", dir=MEMORY, ignore_cleanup_errors=True
    ) as directory:
        yield Path(directory) / "hub"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """
    A running hub with a buyer and a supplier of stubs.
    """

    hub: HubProcess
    stub: SupplierProcess
    buyer_key: str
    folder: Path  # for the clients' logs

    def calling(self, *, seed: int, plan: LoadPlan) -> AbstractContextManager[Load]:
        """
        Keep clients calling while the block runs.
        """
        return calling(self.hub, api_key=self.buyer_key, seed=seed, folder=self.folder, plan=plan)

    @property
    def dsn(self) -> str:
        """
        Return the connection string of the books.
        """
        return self._runtime("dsn_posting")

    @property
    def owner_dsn(self) -> str:
        """
        Return the connection string of the database's owner.
        """
        return self._runtime("dsn_owner")

    def _runtime(self, name: str) -> str:
        record = json.loads((self.hub.data_dir / "runtime.json").read_text(encoding="utf-8"))
        return str(record[name])


@contextmanager
def open_workshop(
    data_dir: Path, *, keep: Path, environment: Mapping[str, str] | None = None
) -> Generator[Workshop]:
    """
    Open a business on a new hub of two gateway processes.

    Args:
        data_dir: The hub's.
        keep: Where the logs of the hub and of its clients are found afterwards.
        environment: More settings.
    """
    keep.mkdir(parents=True, exist_ok=True)
    settings = {"TOKENWORKS_HOLD_LIFETIME_S": str(HOLD_LIFETIME_S), **(environment or {})}
    hub = HubProcess(data_dir, "--no-console", "--workers", "2", environment=settings)
    with running_supplier(by_model=SUPPLIER, models=MODELS) as stub, hub, keeping_logs(hub, keep):
        keep_reading(hub)
        hub.add_admin()
        address = ("--kind", "openai", "--base-url", stub.base_url, "--allow-private")
        hub.tell("supplier", "add", "factory", *address)
        for model in MODELS:
            hub.sell("factory", model)
        key = hub.add_buyer("buyer", DEPOSIT_USD)
        yield Workshop(hub=hub, stub=stub, buyer_key=key, folder=keep)


def keep_reading(hub: HubProcess) -> None:
    """
    Read what the supervisor says, or it would wait for ever when the pipe is full.
    """
    assert hub.process is not None, "it runs"
    output = hub.process.stdout
    assert output is not None, "it is a pipe"

    def read() -> None:
        with suppress(OSError, ValueError):
            while os.read(output.fileno(), 65_536):
                continue

    threading.Thread(target=read, name="supervisor-output", daemon=True).start()


@contextmanager
def keeping_logs(hub: HubProcess, keep: Path) -> Generator[None]:
    """
    Copy a hub's logs when the block ends, however it ends.
    """
    try:
        yield
    finally:
        shutil.copytree(hub.data_dir / "logs", keep / "logs", dirs_exist_ok=True)


def conclude(workshop: Workshop, load: Load, report: Report) -> None:
    """
    End the load, let holds expire, and write into the report what the books say.
    """
    load.finish()
    wait_until_steady(workshop.hub)
    wait_until_holds_are_closed(workshop.dsn)
    done = audit(read_books(workshop.dsn), load.sightings, slack=HOLD_SLACK)
    report.audit = done
    report.tries = load.counts()
    report.findings += done.findings
    try:
        workshop.hub.check_books()
    except AssertionError as error:
        report.findings.append(f"ledger check: {error}")


def wait_until_steady(hub: HubProcess) -> None:
    """
    Return when the hub API has answered several times in a row.
    """

    def is_steady() -> bool:
        with suppress(httpx.HTTPError):
            return all(
                hub.ask("GET", "balance", params={"party": "buyer"}).status_code == 200
                for _ in range(STEADY_ANSWERS)
            )
        return False

    wait_for("the hub API answers again", is_steady, timeout_s=RECOVERY_TIMEOUT_S)


def wait_until_holds_are_closed(dsn: str) -> None:
    """
    Return when no hold is open, or in silence after a while: the audit names what still is.
    """
    deadline_s = time.monotonic() + HOLDS_TIMEOUT_S
    with psycopg.connect(dsn, autocommit=True) as connection:
        while time.monotonic() < deadline_s:
            if not connection.execute(OPEN_HOLDS.encode()).fetchall():
                return
            time.sleep(0.2)
