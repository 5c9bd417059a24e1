"""
The ledger's benchmark measures what it says: short runs on a server without fsync.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import msgspec
import psycopg
import pytest

from benchmarks.ledger import calls, posting
from benchmarks.ledger.business import Business, open_business
from benchmarks.ledger.calls import CallScenario, Span
from benchmarks.ledger.fill import Filler
from benchmarks.ledger.posting import PostScenario, Slices
from benchmarks.ledger.server import EMPTY, Database, Server
from benchmarks.ledger.statements import Source
from tests.databases import throwaway_folder
from tokenworks.adapters.embedded_postgres import start_throwaway
from tokenworks.foundation.clock import SystemClock
from tokenworks.postgres.migrate import migrate

pytestmark = pytest.mark.slow

WAITERS = 4
AN_INSTANT = Span(warm_up_s=0.0, duration_s=0.05)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """
    A server that is not durable, migrated.
    """
    with throwaway_folder("tw-benchmark-") as folder:
        running = start_throwaway(folder / "server")
        try:
            asyncio.run(migrate(running.dsn_owner, clock=SystemClock()))
            yield Server(running=running, folder=folder)
        finally:
            running.stop()


@pytest.fixture(scope="module")
def business_file(server: Server) -> str:
    """
    A small business in a database called ``business``; what callers must know of it.
    """
    server.create("business", template=EMPTY)
    database = server.database("business")
    business: Business = asyncio.run(
        open_business(
            database.dsn_posting, server.data_dir, lambda _: None, suppliers=2, organisations=1
        )
    )
    path = server.data_dir / "business.json"
    path.write_bytes(msgspec.json.encode(business))
    return str(path)


@pytest.fixture
def database(server: Server, business_file: str) -> Iterator[Database]:
    """
    A copy of the business.
    """
    with server.copy("business") as database:
        yield database


def test_bare_side_writes_the_rows_of_posting_byte_for_byte(server: Server) -> None:
    """
    Fair play: as many entries and batches, and each of them one that posting wrote.
    """
    scenario = PostScenario(name="post", batch_size=10, transfers=2)
    with server.copy(EMPTY) as database:
        figures = asyncio.run(
            posting.measure(scenario, server, database, Slices(count=1, duration_s=0.01))
        )
        with psycopg.connect(database.dsn_owner) as connection:
            for table in ("entries", "batches"):
                for schema in ("bare", "updating"):
                    rows = connection.execute(
                        f"SELECT count(*), count(*) FILTER (WHERE b = l) FROM {schema}.{table} "  # pyright: ignore[reportArgumentType] - names of this file
                        f"AS b LEFT JOIN ledger.{table} AS l USING (lane, batch"
                        f"{', position' if table == 'entries' else ''})"
                    ).fetchone()
                    assert rows is not None
                    assert rows[0] == rows[1] > 0
            entries = connection.execute(
                "SELECT (SELECT count(*) FROM bare.entries), count(*) FROM ledger.entries"
            ).fetchone()
            assert entries is not None
            assert entries[0] == entries[1] - posting.ACCOUNTS  # which were funded before
            balances = connection.execute(
                "SELECT count(*) FROM updating.balances AS b JOIN ledger.balances AS l "
                "USING (account_id) WHERE b.debits_posted <> l.debits_posted"
            ).fetchone()
        assert balances == (0,)
        assert database.check_books()["is_clean"] is True
    assert figures["entries"] % scenario.batch_size == 0


@pytest.mark.parametrize(("kind", "processes"), [("full", 2), ("bare", 1), ("single", 1)])
def test_each_call_is_held_and_settled_once(
    server: Server, database: Database, business_file: str, kind: str, processes: int
) -> None:
    """
    A hold, its end and two entries for each call that is counted, whatever the way.
    """
    scenario = CallScenario(name=kind, kind=kind, waiters=WAITERS, processes=processes)
    figures = calls.run_scenario(
        scenario, server, database, AN_INSTANT, business_file=business_file
    )
    assert figures["calls_total"] >= WAITERS
    with psycopg.connect(database.dsn_owner) as connection:
        counts = connection.execute(
            "SELECT count(*) FILTER (WHERE operation = 'capture'), "
            "(SELECT count(*) FROM ledger.holds WHERE state = 'captured'), "
            "(SELECT count(*) FROM ledger.holds WHERE state = 'open') FROM ledger.entries"
        ).fetchone()
    assert counts == (figures["calls_total"], figures["calls_total"], 0)
    assert database.check_books()["is_clean"] is True


def test_empty_account_is_refused_and_disturbs_no_other(
    server: Server, database: Database, business_file: str
) -> None:
    """
    With half of the waiters on an empty account the other half's calls are settled.
    """
    scenario = CallScenario(
        name="empty", waiters=WAITERS, empty_share=0.5, has_refusals=True, suppliers=2
    )
    figures = calls.run_scenario(
        scenario, server, database, AN_INSTANT, business_file=business_file
    )
    assert figures["calls_total"] >= 1
    assert database.check_books()["is_clean"] is True


def test_filled_books_can_be_sold_on(
    server: Server, database: Database, business_file: str
) -> None:
    """
    A filled buyer's call is held on all of its accounts and settled.
    """
    first = CallScenario(name="first", waiters=1)
    calls.run_scenario(first, server, database, AN_INSTANT, business_file=business_file)
    filler = Filler(database, lambda _: None)
    filler.raise_to(accounts=50, entries=2_000)
    filler.raise_to(accounts=100, entries=4_000)
    grown = CallScenario(name="grown", waiters=WAITERS, grown_buyers=20)
    figures = calls.run_scenario(grown, server, database, AN_INSTANT, business_file=business_file)
    with psycopg.connect(database.dsn_owner) as connection:
        filled = connection.execute(
            "SELECT (SELECT count(*) FROM ledger.entries WHERE lane = 1000), "
            "(SELECT count(*) FROM ledger.balances AS b JOIN ledger.accounts AS a "
            "USING (account_id) WHERE a.party_id = ANY (SELECT scope_id FROM ledger.scopes "
            "WHERE scope_id IN (SELECT unnest(scope_ids) FROM ledger.spend_paths "
            "WHERE path_id = md5('key7')::uuid)))"
        ).fetchone()
        parts = connection.execute(
            "SELECT DISTINCT cardinality(part_accounts) FROM ledger.holds AS h JOIN "
            "ledger.entries AS e ON e.fact_id = h.hold_id WHERE e.lane <> 1000"
        ).fetchall()
    assert filled == (4_000, 5)
    assert parts == [(5,)]
    assert figures["calls_total"] >= WAITERS


def test_statement_is_found_by_its_last_words() -> None:
    """
    Constants look alike, and comments and the target of INTO do not matter.
    """
    body = "BEGIN\n  -- why\n  SELECT a, 'x'\n  INTO b\n  FROM t WHERE c = 12;\nEND"
    source = Source.read("f", body)
    assert source.line_of(("from", "t", "where", "c", "=", "?")) == 5
    assert source.line_of(("from", "u")) is None
