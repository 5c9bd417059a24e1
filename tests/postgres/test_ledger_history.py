"""
History is append-only, for the owner too; the posting role only calls functions.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import psycopg
import pytest
from psycopg import conninfo

from tests.simulation.books import USD_ID, Books, open_books
from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.ledger.checkpoint import take_checkpoint
from tokenworks.ledger.model import Posting, PostingKind, Reservation, Transfer
from tokenworks.ledger.writer import Writer

HISTORY = ("entries", "batches", "limit_changes", "checkpoints", "closings")


@pytest.fixture
async def books(dsn: str, clock: FakeClock, ids: IdentifierSource) -> AsyncIterator[Books]:
    """
    A ledger with something of everything in it.
    """
    async with open_books(dsn, clock, ids) as books:
        buyer = await books.buyer(100)
        await books.hold_cash(buyer, 10)
        await books.execute(
            "INSERT INTO ledger.scopes VALUES (%s, 'active', NULL, %s)", buyer, clock.now()
        )
        await books.rows(
            "SELECT * FROM ledger.set_limit_v1(%s, 'LIMIT.USD', 5, 'day', 'UTC', 'test', %s)",
            buyer,
            clock.now(),
        )
        await take_checkpoint(books.pool, lambda _: "signature", clock)
        await books.execute(
            "INSERT INTO ledger.closings VALUES ('2020-01-01', %s, 'test', '{}', '')", clock.now()
        )
        yield books


@pytest.mark.parametrize("verb", ["UPDATE", "DELETE", "TRUNCATE"])
async def test_history_cannot_be_changed_by_its_owner(books: Books, verb: str) -> None:
    """
    Update, delete and truncate are refused by triggers.
    """
    tables = HISTORY[:2] if verb == "TRUNCATE" else HISTORY
    for table in tables:
        statement = {
            "UPDATE": f"UPDATE ledger.{table} SET tableoid = tableoid",
            "DELETE": f"DELETE FROM ledger.{table}",
            "TRUNCATE": f"TRUNCATE ledger.{table}",
        }[verb]
        if verb == "UPDATE":
            column = {
                "limit_changes": "actor",
                "checkpoints": "lanes",
                "closings": "actor",
            }.get(table, "lane")
            statement = f"UPDATE ledger.{table} SET {column} = {column}"
        with pytest.raises(psycopg.DatabaseError) as caught:
            await books.execute(statement)
        assert caught.value.sqlstate == "TW001"


async def test_hold_cannot_be_deleted(books: Books) -> None:
    """
    A hold ends; it does not disappear.
    """
    with pytest.raises(psycopg.DatabaseError) as caught:
        await books.execute("DELETE FROM ledger.holds")
    assert caught.value.sqlstate == "TW001"


async def test_posting_role_writes_no_table(books: Books) -> None:
    """
    The running hub may read and call functions; every direct write is refused.
    """
    rows = await books.rows(
        "SELECT table_schema || '.' || table_name, privilege_type "
        "FROM information_schema.table_privileges "
        "WHERE grantee = 'tokenworks_posting' AND table_schema = 'ledger'"
    )
    assert {privilege for _, privilege in rows} == {"SELECT"}
    dsn = conninfo.make_conninfo(books.dsn, user="tokenworks_posting")
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        for statement in (
            b"UPDATE ledger.balances SET credits_posted = credits_posted + 1",
            b"UPDATE ledger.holds SET state = 'voided'",
            b"DELETE FROM ledger.entries",
            b"TRUNCATE ledger.batches",
            b"INSERT INTO ledger.settings VALUES (true, NULL)",
            b"UPDATE ledger.lanes SET head_hash = ''",
            b"ALTER TABLE ledger.entries DISABLE TRIGGER ALL",
            b"SET session_replication_role = replica",
            b"SELECT ledger.append_batch(" + b", ".join([b"NULL"] * 12) + b")",
            b"SELECT ledger.open_window(NULL, NULL, NULL, NULL)",
        ):
            with pytest.raises(psycopg.ProgrammingError) as caught:
                await connection.execute(statement)
            assert caught.value.sqlstate == "42501"


async def test_writer_works_as_the_posting_role(books: Books) -> None:
    """
    Functions are enough to lease a lane, place, post and check.
    """
    dsn = conninfo.make_conninfo(books.dsn, user="tokenworks_posting")
    writer = Writer(dsn, clock=books.clock, holder="posting")
    await writer.start()
    buyer = await books.buyer(50)
    cash, revenue = await books.cash(buyer), await books.platform("platform_revenue")
    placement = books.placement(Reservation(asset_id=USD_ID, quanta=20, account_id=cash))
    assert (await writer.place(placement)).code == "ok"
    posting = Posting(
        kind=PostingKind.CAPTURE,
        fact_id=placement.hold_id,
        transfers=(Transfer(debit=cash, credit=revenue, quanta=15),),
    )
    assert (await writer.post(posting)).code == "ok"
    await writer.close()
    assert writer.lane != books.writer.lane
    await books.tamper("DELETE FROM ledger.closings")  # the fixture's says nothing
    await books.assert_clean()
    assert (await books.check()).to_json()["counts"]


async def test_database_refuses_what_no_function_may_do(books: Books) -> None:
    """
    The constraints are the last line of defence: also the owner overdraws nothing.
    """
    for statement in (
        "UPDATE ledger.balances SET debits_posted = credits_posted + 1 WHERE no_overdraft",
        "UPDATE ledger.balances SET debits_pending = -1",
        "UPDATE ledger.holds SET state = 'captured'",
        "UPDATE ledger.holds SET closed_at = placed_at",
    ):
        with pytest.raises(psycopg.errors.CheckViolation):
            await books.execute(statement)
