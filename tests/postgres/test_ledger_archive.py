"""
Old months leave the database only as proven files, and the books stay verifiable.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import json
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import conninfo

from tests.simulation.books import USD_ID, Books, open_books
from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.errors import InvalidError
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.ledger.archive import ArchiveReport, archive_months
from tokenworks.ledger.check import check_books
from tokenworks.ledger.errors import (
    ArchiveDiffersError,
    ArchiveNeededError,
    ArchiveRefusedError,
    ArchiveToolMissingError,
    ArchiveUnreadableError,
)
from tokenworks.ledger.model import Fate, Placement, PostingKind, Reservation, Transfer

JANUARY = datetime(2026, 1, 20, 12, tzinfo=UTC)
FEBRUARY_BEGINS = datetime(2026, 2, 1, tzinfo=UTC)
MARCH_BEGINS = datetime(2026, 3, 1, tzinfo=UTC)
RETENTION = "tokenworks_retention"

parquet: Any = importlib.import_module("pyarrow.parquet")  # it ships no types


class Shop:
    """
    Books that were kept from January to March, with a call over each midnight.
    """

    def __init__(self, books: Books, folder: Path) -> None:
        self.books = books
        self.folder = folder
        self.january_hold: Placement
        self.january_post: UUID

    @property
    def retention_dsn(self) -> str:
        """
        The role that archives.
        """
        return conninfo.make_conninfo(self.books.dsn, user=RETENTION)

    async def trade(self, buyer: UUID, cash: int, revenue: int, times: int) -> None:
        """
        Hold and capture.
        """
        for _ in range(times):
            hold = await self.books.hold_cash(buyer, 10)
            await self.books.capture(hold, Transfer(debit=cash, credit=revenue, quanta=7))
            self.books.clock.advance(timedelta(seconds=1))

    async def live(self) -> None:
        """
        Go through three months.
        """
        books = self.books
        buyer = await books.buyer(100_000)
        cash, revenue = await books.cash(buyer), await books.platform("platform_revenue")
        self.january_hold = books.placement(
            Reservation(asset_id=USD_ID, quanta=10, account_id=cash),
            deadline=datetime(2027, 1, 1, tzinfo=UTC),
        )
        assert (await books.place(self.january_hold)).code == "ok"
        await books.end(self.january_hold.hold_id, PostingKind.VOID)
        self.january_post = books.ids.mint()
        await books.post(Transfer(debit=cash, credit=revenue, quanta=1), fact_id=self.january_post)
        for midnight in (FEBRUARY_BEGINS, MARCH_BEGINS):
            await self.trade(buyer, cash, revenue, 5)
            books.clock.advance(midnight - timedelta(seconds=1) - books.clock.now())
            await books.ledger.ensure_partitions()
            open_call = await books.hold_cash(buyer, 10)
            books.clock.advance(timedelta(seconds=2))
            await self.trade(buyer, cash, revenue, 1)
            await books.capture(open_call, Transfer(debit=cash, credit=revenue, quanta=3))
            await self.trade(buyer, cash, revenue, 5)
        books.clock.advance(timedelta(days=3))

    def archive(
        self,
        before: datetime = MARCH_BEGINS,
        on_progress: Callable[[str, int], None] | None = None,
    ) -> ArchiveReport:
        """
        Archive as the retention role.
        """
        return archive_months(
            self.retention_dsn,
            self.folder,
            before=before,
            clock=self.books.clock,
            on_progress=on_progress,
        )

    async def months(self) -> list[str]:
        """
        The months that are in the database.
        """
        rows = await self.books.rows("SELECT starts_at FROM ledger.partitions ORDER BY 1")
        return [f"{row[0]:%Y-%m}" for row in rows]


@pytest.fixture
async def shop(dsn: str, tmp_path: Path) -> AsyncIterator[Shop]:
    """
    Three months of history.
    """
    clock = FakeClock(JANUARY)
    async with open_books(dsn, clock, IdentifierSource(clock)) as books:
        shop = Shop(books, tmp_path / "archive")
        await shop.live()
        yield shop


async def test_archived_months_are_dropped_and_the_books_stay_verifiable(shop: Shop) -> None:
    """
    After the drop both checks are clean: from the cut, and from the first batch with the files.
    """
    before = await shop.books.check()
    assert before.is_clean, before.to_json()
    report = shop.archive()
    assert report.refusal is None
    assert [f"{month.starts_at:%Y-%m}" for month in report.months] == ["2026-01", "2026-02"]
    assert json.loads(json.dumps(report.to_json()))["months"][0]["files"]
    assert (await shop.months())[0] == "2026-03"

    from_cut = await shop.books.check(full=False)
    assert from_cut.is_clean, from_cut.to_json()
    assert from_cut.start["kind"] == "cut"
    full = await shop.books.check(archive=shop.folder)
    assert full.is_clean, full.to_json()
    for what in ("batches", "entries", "holds", "facts", "receipts"):
        assert full.counts.get(what) == before.counts.get(what), what

    buyer = await shop.books.buyer(50)
    await shop.books.hold_cash(buyer, 10)
    for wishes in ({"full": False}, {"archive": shop.folder}):
        later = await shop.books.check(**wishes)
        assert later.is_clean, later.to_json()


async def test_full_check_without_the_files_could_not_run(shop: Shop, tmp_path: Path) -> None:
    """
    It says what is needed instead of calling the books broken.
    """
    shop.archive()
    with pytest.raises(ArchiveNeededError, match="--archive"):
        await shop.books.check()
    with pytest.raises(ArchiveUnreadableError):
        await shop.books.check(archive=tmp_path / "elsewhere")


async def test_duplicate_of_an_archived_fact_is_refused(shop: Shop) -> None:
    """
    A fact whose month is gone is never posted twice: its id is outside the window.
    """
    books = shop.books
    buyer = await books.buyer(500)
    cash, revenue = await books.cash(buyer), await books.platform("platform_revenue")
    assert (await books.place(shop.january_hold)).code == "replayed"
    shop.archive()
    counters = await books.counters(cash)
    assert (await books.place(shop.january_hold)).code == "id_outside_window"
    again = await books.post(
        Transfer(debit=cash, credit=revenue, quanta=1), fact_id=shop.january_post
    )
    assert again.code == "id_outside_window"
    late = await books.capture(
        shop.january_hold.hold_id, Transfer(debit=cash, credit=revenue, quanta=1)
    )
    assert late.code == "id_outside_window"
    assert await books.counters(cash) == counters


async def test_month_with_an_open_hold_stays(shop: Shop) -> None:
    """
    Refused before any file is written, and by the database function itself.
    """
    books = shop.books
    await books.tamper(
        "UPDATE ledger.holds SET state = 'open', closed_at = NULL WHERE hold_id = %s",
        shop.january_hold.hold_id,
    )
    report = shop.archive()
    assert report.months == ()
    assert report.refusal is not None
    assert report.holds == (str(shop.january_hold.hold_id),)
    assert not shop.folder.exists()
    error = _drop_directly(shop, {})
    assert error.sqlstate == "TW011"
    assert (await shop.months())[0] == "2026-01"


def _drop_directly(
    shop: Shop, files: dict[str, Any], month: datetime | None = None
) -> psycopg.Error:
    starts_at = month or datetime(2026, 1, 1, tzinfo=UTC)
    with (
        psycopg.connect(shop.retention_dsn, autocommit=True) as connection,
        pytest.raises(psycopg.Error) as caught,
    ):
        connection.execute(
            "SELECT ledger.drop_month_v1(%s, %s, '/nowhere', %s::jsonb)",
            (starts_at, shop.books.clock.now(), json.dumps(files)),
        )
    return caught.value


async def test_database_refuses_to_drop_what_was_not_archived(shop: Shop) -> None:
    """
    Not the oldest month, not one that is not over, not one with other rows than were archived.
    """
    assert _drop_directly(shop, {}).sqlstate == "TW012"
    assert _drop_directly(shop, {}, FEBRUARY_BEGINS).sqlstate == "TW010"
    assert _drop_directly(shop, {}, datetime(2025, 1, 1, tzinfo=UTC)).sqlstate == "TW010"
    shop.archive()
    assert _drop_directly(shop, {}, MARCH_BEGINS).sqlstate == "TW010"
    posting = conninfo.make_conninfo(shop.books.dsn, user="tokenworks_posting")
    with (
        psycopg.connect(posting, autocommit=True) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute("SELECT ledger.drop_month_v1(now(), now(), '', '{}')")


async def test_record_of_the_drop_is_append_only(shop: Shop) -> None:
    """
    What, when, by whom, which files, which batches, heads and balances; never changed.
    """
    report = shop.archive(FEBRUARY_BEGINS)
    ((dropped_by, files, batches, lanes),) = await shop.books.rows(
        "SELECT dropped_by, files, batches, lanes FROM ledger.archives"
    )
    assert dropped_by == RETENTION
    assert files["ledger.entries"]["sha256"] == report.months[0].files["ledger.entries"].sha256
    assert batches[0][:2] == [1, 1]
    assert json.loads(lanes)[0][0] == 1
    balances = await shop.books.rows(
        "SELECT count(*) FROM ledger.archive_balances JOIN ledger.balances USING (account_id) "
        "WHERE archive_balances.credits_posted = balances.credits_posted"
    )
    assert balances[0][0] > 2
    for statement in (
        "UPDATE ledger.archives SET folder = ''",
        "DELETE FROM ledger.archives",
        "TRUNCATE ledger.archives CASCADE",
        "DELETE FROM ledger.archive_balances",
    ):
        with pytest.raises(psycopg.Error, match="append-only"):
            await shop.books.execute(statement)


async def test_archived_month_cannot_be_opened_again(shop: Shop) -> None:
    """
    A clock that jumps back does not make its partition anew.
    """
    shop.archive(FEBRUARY_BEGINS)
    with pytest.raises(psycopg.Error, match="stays closed"):
        await shop.books.rows("SELECT ledger.ensure_partitions_v1(%s, 1)", JANUARY)


class Killed(Exception):  # noqa: N818 - it is what happens, not an error of ours
    """
    The process died here.
    """


STEPS = (
    "write gateway.attempts",
    "write ledger.holds",
    "verify gateway.attempts",
    "verify ledger.holds",
    "rebuild the chain",
    "publish",
    "drop",
    "done",
)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("month", ["2026-01", "2026-02"])
async def test_archive_that_broke_off_is_run_again(shop: Shop, month: str, step: str) -> None:
    """
    Whatever the step between which it ended, nothing is lost and the next run completes it.
    """

    def die(told: str, _rows: int) -> None:
        if told == f"{month} {step}":
            raise Killed

    with pytest.raises(Killed):
        shop.archive(on_progress=die)
    for wishes in ({"full": False}, {"archive": shop.folder}):
        between = await shop.books.check(**wishes)
        assert between.is_clean, between.to_json()
    assert shop.archive().refusal is None
    assert (await shop.months())[0] == "2026-03"
    report = await shop.books.check(archive=shop.folder)
    assert report.is_clean, report.to_json()
    assert shop.archive().months == ()


_KILLED_RUN = """
import os, signal, sys
from datetime import datetime
from pathlib import Path
from tokenworks.foundation.clock import FakeClock
from tokenworks.ledger.archive import archive_months

dsn, folder, before, now, step = sys.argv[1:]

def die(told, rows):
    if told == step:
        os.kill(os.getpid(), signal.SIGKILL)

archive_months(
    dsn,
    Path(folder),
    before=datetime.fromisoformat(before),
    clock=FakeClock(datetime.fromisoformat(now)),
    on_progress=die,
)
"""


@pytest.mark.parametrize("step", ["verify ledger.entries", "drop", "done"])
async def test_killed_archiver_loses_nothing(shop: Shop, step: str) -> None:
    """
    A real process and kill -9: before the files are proven, before the drop, right after it.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _KILLED_RUN,
        shop.retention_dsn,
        str(shop.folder),
        MARCH_BEGINS.isoformat(),
        shop.books.clock.now().isoformat(),
        f"2026-01 {step}",
    )
    assert await process.wait() == -signal.SIGKILL
    months = await shop.months()
    assert months[0] == ("2026-02" if step == "done" else "2026-01")
    while True:
        try:
            shop.archive()
            break
        except ArchiveRefusedError:  # the server has not yet noticed that the other one is gone
            await asyncio.sleep(0)
    report = await shop.books.check(archive=shop.folder)
    assert report.is_clean, report.to_json()


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def _drop_row(path: Path) -> None:
    table = parquet.read_table(path)
    parquet.write_table(table.slice(1), path)


@pytest.mark.parametrize("table", ["ledger.entries", "ledger.batches", "ledger.holds"])
@pytest.mark.parametrize("change", [_flip, _drop_row], ids=["flipped byte", "dropped row"])
async def test_tampered_file_is_found(
    shop: Shop, table: str, change: Callable[[Path], None]
) -> None:
    """
    A changed byte or a missing row of any file is a finding.
    """
    shop.archive()
    change(shop.folder / "2026-01" / f"{table}.parquet")
    report = await shop.books.check(archive=shop.folder)
    assert "archive_differs" in {problem.code.value for problem in report.problems}


async def test_swapped_files_are_found(shop: Shop) -> None:
    """
    Months that changed places are two findings at least.
    """
    shop.archive()
    first, second = (
        shop.folder / month / "ledger.entries.parquet" for month in ("2026-01", "2026-02")
    )
    aside = shop.folder / "aside"
    shutil.move(first, aside)
    shutil.move(second, first)
    shutil.move(aside, second)
    report = await shop.books.check(archive=shop.folder)
    codes = [problem.code.value for problem in report.problems]
    assert codes.count("archive_differs") == 2


async def test_file_rewritten_together_with_its_hash_breaks_the_chain(shop: Shop) -> None:
    """
    An owner who changes the recorded hash too is found by the chain and the balances.
    """
    shop.archive()
    path = shop.folder / "2026-01" / "ledger.entries.parquet"
    _drop_row(path)
    await shop.books.tamper(
        "UPDATE ledger.archives SET files = jsonb_set(files, '{ledger.entries,sha256}', %s::jsonb)"
        " WHERE starts_at < '2026-02-01'",
        json.dumps(hashlib.sha256(path.read_bytes()).hexdigest()),
    )
    report = await shop.books.check(archive=shop.folder)
    codes = {problem.code.value for problem in report.problems}
    assert {"chain_broken", "balance_differs"} <= codes


async def test_cut_whose_balances_were_changed_is_found(shop: Shop) -> None:
    """
    The balances kept with the cut are rebuilt by the full check.
    """
    shop.archive()
    await shop.books.tamper(
        "UPDATE ledger.archive_balances SET credits_posted = credits_posted + 1 "
        "WHERE credits_posted = 100000"
    )
    report = await shop.books.check(archive=shop.folder)
    assert {problem.code.value for problem in report.problems} == {"balance_differs"}


async def test_broken_chain_is_never_archived(shop: Shop) -> None:
    """
    What does not prove itself stays in the database, for the check to look at.
    """
    await shop.books.tamper(
        "UPDATE ledger.entries SET record = replace(record, ',7]', ',8]') "
        "WHERE (fact_id, operation) = (SELECT fact_id, operation FROM ledger.entries "
        "WHERE record LIKE '%%,7]%%' ORDER BY fact_id LIMIT 1)"
    )
    with pytest.raises(ArchiveDiffersError, match="Nothing was dropped"):
        shop.archive()
    assert (await shop.months())[0] == "2026-01"


async def test_earlier_file_is_needed_for_calls_over_midnight(shop: Shop) -> None:
    """
    February's first batches hold records of January's ids: without them nothing is dropped.
    """
    shop.archive(FEBRUARY_BEGINS)
    shutil.move(shop.folder / "2026-01", shop.folder / "away")
    with pytest.raises(ArchiveRefusedError, match="2026-01"):
        shop.archive()
    assert (await shop.months())[0] == "2026-02"
    shutil.move(shop.folder / "away", shop.folder / "2026-01")
    assert len(shop.archive().months) == 1


async def test_archive_of_another_run_is_moved_aside(shop: Shop) -> None:
    """
    What stands in a month's place is not deleted.
    """
    (shop.folder / "2026-01").mkdir(parents=True)
    (shop.folder / "2026-01" / "note").write_text("mine")
    shop.archive(FEBRUARY_BEGINS)
    assert (shop.folder / "2026-01.superseded-1" / "note").read_text() == "mine"


async def test_what_cannot_be_done_is_said_before_anything_is_written(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A date to come, a folder that is a file, another archiver, no pyarrow.
    """
    with pytest.raises(InvalidError, match="past"):
        shop.archive(shop.books.clock.now() + timedelta(days=1))
    shop.folder.write_text("a file")
    with pytest.raises(ArchiveRefusedError, match="cannot be written"):
        shop.archive()
    shop.folder.unlink()
    with psycopg.connect(shop.books.dsn, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(7814)")
        with pytest.raises(ArchiveRefusedError, match="Another archiver"):
            shop.archive()
        other.execute("SELECT pg_advisory_unlock(7814)")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(ArchiveToolMissingError, match=r"tokenworks\[archive\]"):
            shop.archive()
    assert not shop.folder.exists()
    assert len(shop.archive().months) == 2


async def test_busy_hub_goes_first(shop: Shop) -> None:
    """
    While somebody reads the old month the drop waits for no lock, and comes again.
    """
    told: list[str] = []
    reader = psycopg.connect(shop.books.dsn)
    reader.execute("SELECT count(*) FROM ledger.entries")

    def listen(step: str, _rows: int) -> None:
        told.append(step)
        if step == "2026-01 drop waits":
            reader.close()

    shop.archive(FEBRUARY_BEGINS, on_progress=listen)
    assert "2026-01 drop waits" in told
    assert (await shop.months())[0] == "2026-02"


async def test_late_capture_after_a_hold_that_waits_keeps_the_month(shop: Shop) -> None:
    """
    A dispute of January keeps January; when it ends the month can go.
    """
    books = shop.books
    buyer = await books.buyer(10)
    hold = await books.hold_cash(buyer, 10, fate=Fate.WAIT)
    books.clock.advance(timedelta(days=60))
    await books.ledger.ensure_partitions()
    assert len(shop.archive(books.clock.now()).months) == 2
    await books.end(hold, PostingKind.VOID)
    assert len(shop.archive(books.clock.now()).months) == 1
    assert (await check_books(books.dsn, clock=books.clock, archive=shop.folder)).is_clean
