"""
The check finds and names what was changed behind the ledger's back.
"""
# ruff: noqa: E501, ISC004 - a statement is read best on one line.

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID

import pytest

from tests.simulation.books import LIMIT_USD_ID, USD_ID, Books, open_books
from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.money import LIMIT_USD
from tokenworks.ledger.check import check_books
from tokenworks.ledger.checkpoint import checkpoint_bytes, take_checkpoint
from tokenworks.ledger.errors import LedgerUnavailableError
from tokenworks.ledger.model import Fate, PostingKind, Reservation, Transfer


@pytest.fixture
async def books(dsn: str, clock: FakeClock, ids: IdentifierSource) -> AsyncIterator[Books]:
    """
    A ledger in which everything has happened once.
    """
    async with open_books(dsn, clock, ids) as books:
        buyer = await books.buyer(1_000)
        path = await books.path(buyer)
        await books.ledger.set_limit(
            scope_id=buyer, asset=LIMIT_USD, quanta=800, window="day", actor="test"
        )
        cash, revenue = await books.cash(buyer), await books.platform("platform_revenue")
        overrun = await books.platform("overrun")
        asked = (
            Reservation(asset_id=USD_ID, quanta=50),
            Reservation(asset_id=LIMIT_USD_ID, quanta=50),
        )
        holds = [books.placement(*asked, path_id=path) for _ in range(4)]
        for hold in holds:
            assert (await books.place(hold)).code == "ok"
        grow = books.placement(asked[0], hold_id=holds[0].hold_id, extension=1)
        assert (await books.place(grow)).code == "ok"
        sale = Transfer(debit=cash, credit=revenue, quanta=30, fallback=overrun)
        await books.capture(holds[0].hold_id, sale, closes=False, receipt_root=bytes(32))
        more = Transfer(debit=cash, credit=revenue, quanta=2_000, fallback=overrun)
        await books.capture(holds[0].hold_id, more, ordinal=1, receipt_root=bytes([1] * 32))
        await books.end(holds[1].hold_id, PostingKind.VOID)
        books.clock.advance(timedelta(minutes=11))
        await books.end(holds[2].hold_id, PostingKind.EXPIRE)
        yield books


async def test_books_that_nobody_touched_are_clean(books: Books) -> None:
    """
    The report says what was read; the fixture's last hold is overdue, which is a warning.
    """
    report = await books.check()
    assert report.is_clean, report.to_json()
    assert report.counts["entries"] == 10 + 1  # with the grant of the window
    assert report.counts["open_holds"] == 1
    assert report.counts["receipts"] == 2
    assert [warning.code for warning in report.warnings] == ["hold_overdue"]
    assert json.loads(json.dumps(report.to_json())) == report.to_json()


async def test_check_starts_from_the_last_checkpoint(books: Books) -> None:
    """
    Only what came after the checkpoint is read, and every hold that is open or moved since.
    """
    await take_checkpoint(books.pool, _sign, books.clock)
    buyer = await books.buyer(70)
    await books.hold_cash(buyer, 10)
    report = await books.check(full=False, verify_checkpoint=_is_good)
    assert report.is_clean, report.to_json()
    assert report.start["kind"] == "checkpoint"
    assert report.start["is_signed"]
    assert (report.counts["entries"], report.counts["holds"]) == (2, 2)
    assert not report.is_full


SINCE_TAMPERING = {
    "record since": (
        "UPDATE ledger.entries SET record = replace(record, ',70]', ',71]') WHERE operation = 'post'",
        {"chain_broken", "balance_differs"},
    ),
    "record since removed": (
        "DELETE FROM ledger.entries WHERE operation = 'post' AND batch = (SELECT max(batch) FROM ledger.batches)",
        {"chain_broken", "balance_differs"},
    ),
    "balance": (
        "UPDATE ledger.balances SET credits_posted = credits_posted + 1 WHERE money_role = 2",
        {"balance_differs", "unbalanced"},
    ),
    "pending": (
        "UPDATE ledger.balances SET debits_pending = debits_pending + 1",
        {"pending_differs", "balance_differs"},
    ),
    "head": ("UPDATE ledger.lanes SET head_hash = sha256('x')", {"head_differs"}),
    "open hold": (
        "UPDATE ledger.holds SET part_held[1] = part_held[1] + 1 WHERE state = 'open'",
        {"hold_differs", "pending_differs"},
    ),
}


@pytest.mark.parametrize("what", SINCE_TAMPERING)
async def test_tampering_since_the_checkpoint_is_found(books: Books, what: str) -> None:
    """
    What was changed after the checkpoint, or in today's balances, is seen without the history.
    """
    statement, expected = SINCE_TAMPERING[what]
    await take_checkpoint(books.pool, _sign, books.clock)
    await books.buyer(70)
    await books.tamper(statement)
    report = await books.check(full=False, verify_checkpoint=_is_good)
    assert {problem.code.value for problem in report.problems} == expected, report.to_json()


async def test_checkpoint_that_cannot_be_trusted_is_passed_over(books: Books) -> None:
    """
    A bad signature and a head that is not in the chain are findings; the check starts earlier.
    """
    first = await take_checkpoint(books.pool, _sign, books.clock)
    books.clock.advance(timedelta(minutes=1))
    await take_checkpoint(books.pool, lambda _: "forged", books.clock)
    report = await books.check(full=False, verify_checkpoint=_is_good)
    assert [problem.message for problem in report.problems] == ["Its signature is not good."]
    assert report.start["at"] == first.taken_at.isoformat().replace("+00:00", "Z")
    await books.tamper("UPDATE ledger.checkpoints SET lanes = replace(lanes, 'a', 'b')")
    report = await books.check(full=False)
    assert {problem.code.value for problem in report.problems} == {"checkpoint_differs"}
    assert report.start["kind"] == "first_batch"


async def test_checkpoints_of_the_first_version_are_compared_but_never_started_from(
    books: Books,
) -> None:
    """
    What an older hub signed stays good.
    """
    now = books.clock.now()
    ((lane, batch, head),) = await books.rows("SELECT lane, batch, head_hash FROM ledger.lanes")
    lanes = json.dumps([[lane, batch, head.hex()]], separators=(",", ":"))
    signature = _sign(checkpoint_bytes(now, lanes, bytes(32), version=1))
    await books.rows(
        "SELECT ledger.add_checkpoint_v1(%s, %s, %s, %s)", now, lanes, bytes(32), signature
    )
    report = await books.check(full=False, verify_checkpoint=_is_good)
    assert report.is_clean, report.to_json()
    assert report.start["kind"] == "first_batch"


TAMPERING = {
    "record": (
        "UPDATE ledger.entries SET record = replace(record, ',30]', ',31]') "
        "WHERE operation = 'capture'",
        {"chain_broken", "balance_differs", "hold_differs"},
    ),
    "record unreadable": (
        "UPDATE ledger.entries SET record = replace(record, '\"v\":1', '\"v\":2') WHERE operation = 'void'",
        {"chain_broken", "record_unreadable", "balance_differs"},
    ),
    "record removed": (
        "DELETE FROM ledger.entries WHERE operation = 'void'",
        {"chain_broken", "balance_differs", "hold_differs"},
    ),
    "record exchanged": (
        "UPDATE ledger.entries SET ordinal = 7 WHERE operation = 'post'",
        {"record_differs"},
    ),
    "record moved in time": (
        "UPDATE ledger.entries SET recorded_at = recorded_at + interval '1 s' WHERE operation = 'post'",
        {"record_differs"},
    ),
    "record moved to a batch of its own": (
        "UPDATE ledger.entries SET batch = 99 WHERE operation = 'void'",
        {"chain_broken", "batch_missing"},
    ),
    "balance": (
        "UPDATE ledger.balances SET credits_posted = credits_posted + 5000 WHERE money_role = 1",
        {"balance_differs", "unbalanced", "client_money_unsafeguarded"},
    ),
    "pending": (
        "UPDATE ledger.balances SET debits_pending = 0",
        {"balance_differs", "pending_differs"},
    ),
    "account added": (
        "INSERT INTO ledger.balances SELECT 1000000000, asset_id, false, 0, 'active', 0, 0, 7, 7, last_time "
        "FROM ledger.balances LIMIT 1",
        {"balance_differs"},
    ),
    "hold's state": (
        "UPDATE ledger.holds SET state = 'captured' WHERE state = 'voided'",
        {"hold_differs"},
    ),
    "hold opened again": (
        "UPDATE ledger.holds SET state = 'open', closed_at = NULL WHERE state = 'voided'",
        {"hold_differs", "pending_differs"},
    ),
    "hold's parts": (
        "UPDATE ledger.holds SET part_held[1] = part_held[1] + 1 WHERE state = 'open'",
        {"hold_differs", "pending_differs"},
    ),
    "hold's fate": (
        "UPDATE ledger.holds SET on_expiry = 'wait' WHERE state = 'open'",
        {"hold_differs"},
    ),
    "hold removed": (
        "DELETE FROM ledger.holds WHERE state = 'open'",
        {"hold_differs", "pending_differs"},
    ),
    "batch": ("UPDATE ledger.batches SET hash = sha256('x') WHERE batch = 3", {"chain_broken"}),
    "batch's time": (
        "UPDATE ledger.batches SET recorded_at = recorded_at + interval '1 s' WHERE batch = 3",
        {"chain_broken", "record_differs"},
    ),
    "batch removed": (
        "DELETE FROM ledger.batches WHERE batch = 3",
        {"batch_missing"},
    ),
    "head": ("UPDATE ledger.lanes SET head_hash = sha256('x')", {"head_differs"}),
    "receipt": (
        "UPDATE ledger.entries SET receipt_previous = sha256('x') WHERE receipt_sequence = 2",
        {"receipt_chain_broken", "head_differs"},
    ),
    "receipt dropped": (
        "UPDATE ledger.entries SET receipt_sequence = NULL, receipt_previous = NULL WHERE receipt_sequence = 2",
        {"receipt_chain_broken"},
    ),
    "receipt head": ("UPDATE ledger.lanes SET receipt_sequence = 9", {"head_differs"}),
}


@pytest.mark.parametrize("what", TAMPERING)
async def test_tampering_is_found_and_named(books: Books, what: str) -> None:
    """
    A superuser who turns the triggers off is seen, and it is said what was changed.
    """
    statement, expected = TAMPERING[what]
    await books.tamper(statement)
    report = await books.check()
    assert {problem.code.value for problem in report.problems} == expected, report.to_json()
    assert not report.is_clean


async def test_overdrawn_account_is_named(books: Books) -> None:
    """
    With the constraint gone as well, a bounded account below zero is a problem.
    """
    await books.execute("ALTER TABLE ledger.balances DROP CONSTRAINT available_not_negative")
    await books.tamper(
        "UPDATE ledger.balances SET debits_posted = credits_posted + 1 WHERE money_role = 1"
    )
    report = await books.check()
    overdrawn = [problem for problem in report.problems if problem.code == "overdrawn"]
    assert len(overdrawn) == 1
    assert "-" in overdrawn[0].message


async def test_limit_that_was_not_granted_as_it_says_is_a_warning(books: Books) -> None:
    """
    A change of a limit that broke off between its two steps is shown.
    """
    await books.tamper("UPDATE ledger.limits SET quanta = quanta + 100")
    report = await books.check()
    assert report.is_clean
    assert "window_differs" in {warning.code.value for warning in report.warnings}


async def test_hold_that_waits_for_a_person_is_never_overdue(books: Books) -> None:
    """
    Only holds that should have been expired are shown, and only after the grace.
    """
    report = await books.check(grace=timedelta(hours=1))
    assert report.warnings == ()
    buyer = await books.buyer(10)
    await books.hold_cash(buyer, 10, fate=Fate.WAIT)
    books.clock.advance(timedelta(days=1))
    assert len((await books.check()).warnings) == 1


async def _call(books: Books, call_id: UUID, charge: int) -> None:
    columns = {
        "call_id": call_id,
        "status": "settled",
        "outcome": "answered",
        "organisation_id": call_id,
        "party_id": call_id,
        "key_id": call_id,
        "model": "smol",
        "tier": "standard",
        "is_stream": False,
        "usage": "{}",
        "input_tokens": 1,
        "output_tokens": 1,
        "is_estimate": False,
        "currency": "USD",
        "quoted_quanta": 100,
        "charge_quanta": charge,
        "payable_quanta": 0,
        "started_at": books.clock.now(),
        "ended_at": books.clock.now(),
        "duration_ms": 1.0,
        "attempt_count": 1,
    }
    names = ", ".join(columns)
    marks = ", ".join(["%s"] * len(columns))
    await books.rows("SELECT gateway.ensure_partitions_v1()")
    await books.execute(f"INSERT INTO gateway.calls ({names}) VALUES ({marks})", *columns.values())


async def test_charge_of_a_call_is_what_its_capture_took(books: Books) -> None:
    """
    A call's charge is what left the buyer's cash; what the platform bore is not part of it.
    """
    buyer = await books.buyer(40)
    cash, revenue = await books.cash(buyer), await books.platform("platform_revenue")
    overrun = await books.platform("overrun")
    calls = [await books.hold_cash(buyer, 10) for _ in range(3)]
    for call_id, quanta in zip(calls, (9, 35, 5), strict=True):
        sale = Transfer(debit=cash, credit=revenue, quanta=quanta, fallback=overrun)
        assert (await books.capture(call_id, sale)).code == "ok"
    for call_id, charge in zip(calls, (9, 10, 6), strict=True):
        await _call(books, call_id, charge)
    report = await books.check()
    assert [(p.code.value, p.where) for p in report.problems] == [
        ("charge_differs", f"call {calls[2]}")
    ]


async def test_check_of_a_live_hub_sees_one_moment(books: Books) -> None:
    """
    While holds come and go, the check reads one snapshot and finds it clean.
    """
    buyer = await books.buyer(10_000)
    cash, revenue = await books.cash(buyer), await books.platform("platform_revenue")

    async def trade() -> None:
        for _ in range(40):
            holds = await asyncio.gather(*(books.hold_cash(buyer, 5) for _ in range(5)))
            await asyncio.gather(
                *(
                    books.capture(hold, Transfer(debit=cash, credit=revenue, quanta=3))
                    for hold in holds
                )
            )

    trading = asyncio.ensure_future(trade())
    checks = 0
    while not trading.done():
        report = await books.check()
        assert report.is_clean, report.to_json()
        checks += 1
    await trading
    assert checks


async def test_database_that_cannot_be_read_is_no_verdict(books: Books) -> None:
    """
    Not being able to check is an error, not a finding.
    """
    with pytest.raises(LedgerUnavailableError):
        await check_books("host=/nowhere dbname=none", clock=books.clock)


async def test_findings_are_bounded_and_progress_is_told(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A thousand broken rows do not fill the memory; what was left out is counted.
    """
    monkeypatch.setattr("tokenworks.ledger.findings.FINDINGS_MAX", 2)
    monkeypatch.setattr("tokenworks.ledger.check_rows.PROGRESS_ROWS", 5)
    told: list[tuple[str, int]] = []
    await books.tamper("UPDATE ledger.balances SET credits_posted = credits_posted + 1")
    report = await books.check(on_progress=lambda stage, rows: told.append((stage, rows)))
    assert len(report.problems) == 2
    assert report.omitted > 0
    assert not report.is_clean
    assert ("entries", 5) in told


def _sign(data: bytes) -> str:
    return hmac.new(b"key", data, hashlib.sha256).hexdigest()


def _is_good(data: bytes, signature: str) -> bool:
    return hmac.compare_digest(_sign(data), signature)


async def test_checkpoint_covers_every_lane_and_balance(books: Books) -> None:
    """
    A checkpoint of the same books is the same; any movement makes another.
    """
    first = await take_checkpoint(books.pool, _sign, books.clock)
    books.clock.advance(timedelta(minutes=1))
    second = await take_checkpoint(books.pool, _sign, books.clock)
    assert (first.lanes, first.balances_hash) == (second.lanes, second.balances_hash)
    assert first.signature != second.signature
    await books.buyer(1)
    books.clock.advance(timedelta(minutes=1))
    third = await take_checkpoint(books.pool, _sign, books.clock)
    assert third.lanes != second.lanes
    assert third.balances_hash != second.balances_hash
    report = await books.check(verify_checkpoint=_is_good)
    assert report.is_clean
    assert report.counts["checkpoints"] == 3


async def test_end_of_history_cut_off_with_its_head_is_seen_by_a_checkpoint(
    books: Books,
) -> None:
    """
    A chain that was shortened whole is consistent in itself; the checkpoint remembers more.
    """
    await books.buyer(77)
    await take_checkpoint(books.pool, _sign, books.clock)
    await books.tamper(
        "UPDATE ledger.balances SET credits_posted = credits_posted - 77 WHERE credits_posted = 77"
    )
    await books.tamper(
        "UPDATE ledger.balances SET debits_posted = debits_posted - 77 WHERE debits_posted = 1077"
    )
    await books.tamper(
        "DELETE FROM ledger.entries WHERE batch = (SELECT max(batch) FROM ledger.lanes)"
    )
    await books.tamper(
        "UPDATE ledger.lanes SET batch = batch - 1, head_hash = (SELECT previous_hash "
        "FROM ledger.batches WHERE batches.batch = lanes.batch)"
    )
    await books.tamper("DELETE FROM ledger.batches WHERE batch > (SELECT batch FROM ledger.lanes)")
    report = await books.check(verify_checkpoint=_is_good)
    assert [problem.code for problem in report.problems] == ["checkpoint_differs"]
    await books.tamper("UPDATE ledger.checkpoints SET lanes = '[]'")
    report = await books.check(verify_checkpoint=_is_good)
    assert [problem.message for problem in report.problems] == ["Its signature is not good."]
