"""
Reviews leave the database with the month of their payment: as proven files, and not before.
"""

from __future__ import annotations

import importlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from psycopg import conninfo

from tests.postgres.brake_rig import DOLLAR, open_rig
from tests.simulation.books import open_books
from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.ledger.archive import archive_months

JANUARY = datetime(2026, 1, 20, 12, tzinfo=UTC)
TABLES = ("judgements", "reviews", "review_decisions", "webhook_deliveries")

parquet: Any = importlib.import_module("pyarrow.parquet")  # it ships no types


async def test_reviews_are_archived_with_their_month(dsn: str, tmp_path: Path) -> None:
    """
    Every table of the brake that grows is written, proven and dropped; rules and profiles stay.
    """
    clock = FakeClock(JANUARY)
    ids = IdentifierSource(clock)
    async with open_books(dsn, clock, ids) as books:
        rig = await open_rig(books.pool, clock, ids)
        await rig.rules({"new_payee": {"action": "hold"}})
        await books.execute(
            "INSERT INTO agents.webhooks VALUES (%s, 'https://a.example', '', false, 'test', %s)",
            rig.organisation,
            clock.now(),
        )
        payment = rig.payment(quanta=DOLLAR)
        await rig.brake.open_review(payment, await rig.brake.judge(payment))
        await rig.brake.approve(
            payment.payment_id, digest=payment.digest, actor="ann", person=rig.user
        )
        clock.advance(timedelta(days=40))
        await books.ledger.ensure_partitions()
        await rig.brake.ensure_partitions()

        report = archive_months(
            conninfo.make_conninfo(dsn, user="tokenworks_retention"),
            tmp_path,
            before=datetime(2026, 2, 1, tzinfo=UTC),
            clock=clock,
        )

        assert [month.starts_at.month for month in report.months] == [1], report.refusal
        for table in TABLES:
            assert await books.rows(f"SELECT 1 FROM agents.{table}") == []
        assert len(await books.rows("SELECT 1 FROM agents.brake_rules")) == 1
        [row] = _archived(tmp_path, "agents.reviews")
        assert row["review_id"] == str(payment.payment_id)
        assert json.loads(row["subject"])["quanta"] == DOLLAR
        assert row["state"] == "approved"


def _archived(folder: Path, table: str) -> list[dict[str, Any]]:
    [file] = folder.rglob(f"{table}*.parquet")
    return parquet.read_table(file).to_pylist()
