"""
A standby that is waited for: what a writer makes of one that does not confirm, and two of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import stat
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import psycopg
import pytest
import structlog
from psycopg.conninfo import conninfo_to_dict

from tests.databases import copy_cluster, throwaway_folder
from tests.patience import PATIENCE_S, until
from tests.simulation.books import USD_ID, Books, open_books
from tokenworks.adapters.embedded_postgres import RunningPostgres, launch, start
from tokenworks.adapters.embedded_postgres.errors import StandbyError
from tokenworks.adapters.embedded_postgres.server import Listen
from tokenworks.adapters.embedded_postgres.server_settings import THROWAWAY_SETTINGS
from tokenworks.adapters.embedded_postgres.session import open_session
from tokenworks.adapters.embedded_postgres.standby import (
    create_standby,
    follow,
    forget_primary,
    join,
    read_facts,
    remove_standby,
    stand_alone,
    write_facts,
)
from tokenworks.adapters.embedded_postgres.standing import read_status
from tokenworks.foundation.clock import FakeClock, SystemClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.ledger.model import Placement, Reservation
from tokenworks.postgres.migrate import migrate
from tokenworks.postgres.promotion import record_promotion

SETTINGS = {**THROWAWAY_SETTINGS, "synchronous_commit": "on"}


@dataclass(kw_only=True)
class Servers:
    """
    A primary and what follows it, each in a directory of its own.
    """

    directory: Path
    primary: RunningPostgres
    stack: ExitStack

    def add(self, name: str, primary: str | None = None) -> RunningPostgres:
        """
        Make a standby, run it, and have commits wait for it.
        """
        primary = primary or self.primary.dsn_owner
        data_dir = self.directory / name
        data_dir.mkdir(mode=0o700)
        create_standby(primary, data_dir, name=name, on_step=lambda _: None)
        running = launch(data_dir, settings=SETTINGS)
        self.stack.callback(running.stop)
        running.wait_until_ready()
        join(primary, name)
        return running


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    """
    A migrated cluster whose server was stopped.
    """
    with throwaway_folder("tw-standby-") as directory:
        running = start(directory, settings=SETTINGS)
        try:
            asyncio.run(migrate(running.dsn_owner, clock=SystemClock()))
        finally:
            running.stop()
        yield running.cluster


@pytest.fixture
def servers(cluster: Path) -> Iterator[Servers]:
    """
    A primary of the test's own.
    """
    with throwaway_folder("tw-standby-") as directory, ExitStack() as stack:
        copy_cluster(cluster, directory / "primary")
        primary = start(directory / "primary", settings=SETTINGS)
        stack.callback(primary.stop)
        yield Servers(directory=directory, primary=primary, stack=stack)


@pytest.fixture
async def books(servers: Servers, clock: FakeClock, ids: IdentifierSource) -> AsyncIterator[Books]:
    """
    Books on the primary.
    """
    with structlog.testing.capture_logs():
        async with open_books(servers.primary.dsn_owner, clock, ids) as books:
            yield books
            await books.assert_clean()


def _freeze(running: RunningPostgres) -> list[psutil.Process]:
    tree = psutil.Process(running.pid)
    frozen = [tree, *tree.children(recursive=True)]
    for process in frozen:
        process.suspend()
    return frozen


def _thaw(frozen: list[psutil.Process]) -> None:
    for process in frozen:
        process.resume()


async def _waiting_backend(books: Books) -> int:
    found: list[int] = []

    async def is_waiting() -> bool:
        rows = await books.rows(
            "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' "
            "AND application_name = 'tokenworks ledger writer'"
        )
        found.extend(int(str(row[0])) for row in rows)
        return bool(rows)

    await until(is_waiting, otherwise="no commit waits for the standby")
    return found[0]


async def _ended(books: Books, pid: int) -> None:
    async def has_ended() -> bool:
        return (pid,) not in await books.rows("SELECT pid FROM pg_stat_activity")

    await until(has_ended, otherwise="the cancelled backend stays")


def _hold(books: Books, cash: int, quanta: int) -> Placement:
    return books.placement(Reservation(asset_id=USD_ID, quanta=quanta, account_id=cash))


async def test_commit_cancelled_while_its_standby_is_stopped_is_not_acknowledged(
    servers: Servers, books: Books
) -> None:
    """
    PostgreSQL then reports success with only a warning. Twice cancelled, once as the batch and
    once as the lease that asks what became of it, the caller still waits; with the standby back
    the hold is there once.
    """
    standby = servers.add("b")
    cash = await books.cash(await books.buyer(100))
    frozen = _freeze(standby)
    try:
        placing = asyncio.ensure_future(books.place(_hold(books, cash, 7)))
        cancelled: list[int] = []
        for _ in range(2):
            pid = await _waiting_backend(books)
            with open_session(servers.primary.dsn_owner) as session:
                session.execute("SELECT pg_cancel_backend(%s)", (pid,))
            cancelled.append(pid)
            await _ended(books, pid)
        await _waiting_backend(books)
        assert len(set(cancelled)) == 2
        assert await books.counters(cash) == (7, 0, 100), "on the primary it is booked"
        assert not placing.done(), "and nobody was told so"
    finally:
        _thaw(frozen)
    assert (await placing).code == "replayed"
    assert await books.counters(cash) == (7, 0, 100)


async def test_nothing_is_acknowledged_until_the_standby_has_it(
    servers: Servers, books: Books
) -> None:
    """
    While it stands still an answer waits, and the status says that sales do; then all goes on.
    """
    standby = servers.add("b")
    cash = await books.cash(await books.buyer(100))
    frozen = _freeze(standby)
    try:
        placing = asyncio.ensure_future(books.place(_hold(books, cash, 5)))
        await _waiting_backend(books)
        assert not placing.done()
    finally:
        _thaw(frozen)
    assert (await placing).code == "ok"
    standby.stop()
    with open_session(servers.primary.dsn_owner) as session:
        status = read_status(session)
        while status["standbys"]:
            await asyncio.sleep(0.01)
            status = read_status(session)
    assert status["waits_for"] == ["b"], "never emptied by itself"
    assert (status["can_acknowledge"], status["is_healthy"]) == (False, False)
    remove_standby(servers.primary.dsn_owner, "b", even_if_last=True)
    assert (await books.place(_hold(books, cash, 6))).code == "ok"


async def test_of_two_standbys_one_suffices_and_the_other_follows_the_promoted(
    servers: Servers, books: Books, clock: FakeClock
) -> None:
    """
    ``ANY 1``: one may stand still. When the primary is gone, one is promoted, waits for the
    other, and that one follows; every book is there.
    """
    first, second = servers.add("b"), servers.add("c")
    cash = await books.cash(await books.buyer(100))
    frozen = _freeze(second)
    assert (await books.place(_hold(books, cash, 5))).code == "ok"
    _thaw(frozen)
    with open_session(servers.primary.dsn_owner) as session:
        status = read_status(session)
    assert status["waits_for"] == ["b", "c"]
    assert {row["name"]: row["sync_state"] for row in status["standbys"]} == {
        "b": "quorum",
        "c": "quorum",
    }
    await books.assert_clean()
    servers.primary.stop()
    with open_session(first.dsn_owner) as session:
        stand_alone(session, wait_for=["c"])
        session.execute("SELECT pg_promote(true, 60)")
    standing = await record_promotion(first.dsn_owner, cause="failover", clock=clock)
    assert (standing.promotion, standing.timeline) == (1, 2)
    with open_session(first.dsn_owner) as session:
        forget_primary(session, servers.directory / "b")
    assert read_facts(servers.directory / "b") is None
    facts = read_facts(servers.directory / "c")
    assert facts is not None
    booking = _Booking(first.dsn_owner)
    booking.start()
    facts = follow(first.dsn_owner, second.dsn_owner, facts, servers.directory / "c")
    join(first.dsn_owner, "c")
    booking.join(PATIENCE_S)
    assert booking.is_done, "its commit waited for the one that follows"
    assert conninfo_to_dict(facts.primary) == conninfo_to_dict(first.dsn_owner)
    with open_session(second.dsn_owner) as session:
        status = read_status(session)
        assert (status["role"], status["is_healthy"], status["promotion"]) == ("standby", True, 1)
    # The fixture's last check of the books is made on the server that has them now.
    books.dsn = first.dsn_owner


class _Booking(threading.Thread):
    def __init__(self, dsn: str) -> None:
        super().__init__(daemon=True)
        self._dsn = dsn
        self.is_done = False

    def run(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute("CREATE TABLE public.after_failover (n int)")
        self.is_done = True


def test_standby_over_a_network_needs_its_password_and_keeps_it_private(servers: Servers) -> None:
    """
    With a network address every connection is asked for a password; the standby's is in one
    file of its own, and in no setting, argument or log.
    """
    port = _free_port()
    servers.primary.stop()
    primary = launch(
        servers.directory / "primary",
        settings=SETTINGS,
        listen=Listen(address="127.0.0.1", port=port),
    )
    servers.stack.callback(primary.stop)
    primary.wait_until_ready()
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"host=127.0.0.1 port={port} user=postgres dbname=postgres")
    with open_session(primary.dsn_owner) as session:
        session.execute("ALTER ROLE postgres PASSWORD 'hunter2'")
    dsn = f"host=127.0.0.1 port={port} user=postgres dbname=tokenworks password=hunter2"
    standby = replace(servers, primary=primary).add("far", dsn)
    cluster = servers.directory / "far" / "postgres"
    secret = (cluster / "tokenworks_standby.pgpass").read_text().strip().rsplit(":", 1)[1]
    assert stat.S_IMODE((cluster / "tokenworks_standby.pgpass").stat().st_mode) == 0o600
    facts = (servers.directory / "far" / "standby.json").read_text()
    assert "hunter2" not in facts
    for place in (
        facts,
        (cluster / "postgresql.auto.conf").read_text(),
        standby.log_path.read_text(),
        primary.log_path.read_text(),
        " ".join(psutil.Process(standby.pid).cmdline()),
    ):
        assert secret not in place
    with open_session(standby.dsn_owner) as session:
        assert read_status(session)["upstream"] == f"127.0.0.1:{port}"


def _free_port() -> int:
    # Below the ports that outgoing connections are given: nobody takes it meanwhile by chance.
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as trial, contextlib.suppress(OSError):
            trial.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


async def test_standby_is_refused_where_it_makes_no_sense(servers: Servers) -> None:
    """
    A bad name, a directory in use, a standby as primary, a list that was written by hand.
    """
    standby = servers.add("b")
    elsewhere = servers.directory / "d"
    elsewhere.mkdir()

    def create(dsn: str, data_dir: Path, name: str) -> None:
        create_standby(dsn, data_dir, name=name, on_step=lambda _: None)

    with pytest.raises(StandbyError, match="cannot name"):
        create(servers.primary.dsn_owner, elsewhere, "B; DROP")
    with pytest.raises(StandbyError, match="already"):
        create(servers.primary.dsn_owner, servers.directory / "b", "e")
    with pytest.raises(StandbyError, match="standby itself"):
        create(standby.dsn_owner, elsewhere, "d")
    assert list(elsewhere.iterdir()) == []
    facts = read_facts(servers.directory / "b")
    assert facts is not None
    write_facts(servers.directory / "b", facts)
    with open_session(servers.primary.dsn_owner) as session:
        session.execute("ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (b)'")
        session.execute("SELECT pg_reload_conf()")

        async def is_read() -> bool:
            return read_status(session)["waits_for"] == ["FIRST 1 (b)"]

        await until(is_read, otherwise="the server does not read its settings again")
    with pytest.raises(StandbyError, match="written by hand"):
        remove_standby(servers.primary.dsn_owner, "b", even_if_last=True)
