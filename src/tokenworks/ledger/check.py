"""
Rebuild the books from their records and compare; on a live hub, on one snapshot.

Order: every lane's chain (and with it every account's counters, added up from the same
records), every hold from its own records, then the sums. A finding never stops the check,
so one broken row does not hide another.

Known limits: reads the whole history; starting from a checkpoint is not built yet. Rows are
streamed, so memory grows with accounts and not with entries; the server sorts on disk. What
was cut off the end of a lane together with its head shows only against a checkpoint.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, LiteralString
from uuid import UUID

import psycopg
from psycopg import IsolationLevel

from tokenworks.foundation.clock import Clock
from tokenworks.ledger.checkpoint import checkpoint_bytes
from tokenworks.ledger.errors import LedgerUnavailableError
from tokenworks.ledger.findings import CheckReport, Findings, ProblemCode
from tokenworks.ledger.hold_history import CheckedAccount, HoldHistory
from tokenworks.ledger.record import (
    ENDINGS,
    Record,
    RecordUnreadableError,
    counter_changes,
    read_record,
)
from tokenworks.ledger.service import CLIENT_MONEY, SAFEGUARDED
from tokenworks.postgres.pool import Connection, connect
from tokenworks.postgres.queries import load

FETCH_ROWS: Final = 2_000
PROGRESS_ROWS: Final = 10_000
OVERDUE_GRACE: Final = timedelta(minutes=5)
"""Holds are expired by a periodic job; later than this it is worth a look."""

NO_HASH: Final = bytes(32)

_QUERIES: Final = load("tokenworks.ledger", "check_queries.sql")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Progress = Callable[[str, int], None]
"""Is told a stage of the check and how many rows of it were read."""


async def check_books(
    dsn: str,
    *,
    clock: Clock,
    full: bool = True,
    grace: timedelta = OVERDUE_GRACE,
    on_progress: Progress | None = None,
    verify_checkpoint: Callable[[bytes, str], bool] | None = None,
) -> CheckReport:
    """
    Check every book on one snapshot; the hub may go on selling.

    Args:
        dsn: A role that may read the schema ``ledger``; with ``gateway`` readable too,
            calls are compared with their captures.
        clock: Says which holds are overdue.
        full: ``False`` reads no history: only sums, bounds, client money and what open
            holds have left.
        grace: How long after its expiry an open hold is still normal.
        on_progress: Told every ``PROGRESS_ROWS`` rows.
        verify_checkpoint: Tells whether a signature is good for a checkpoint's bytes;
            ``None`` leaves signatures unchecked.

    Raises:
        LedgerUnavailableError: The database could not be read to the end.
    """
    try:
        connection = await connect(dsn, name="ledger check")
        async with connection:
            await connection.set_isolation_level(IsolationLevel.REPEATABLE_READ)
            await connection.set_read_only(True)
            async with connection.transaction():
                check = _Check(connection, clock.now(), grace, on_progress)
                await check.run(full=full, verify_checkpoint=verify_checkpoint)
                return check.report(full=full)
    except psycopg.Error as error:
        message = f"The books could not be read: {error}"
        raise LedgerUnavailableError(message) from error


class _Check:
    def __init__(
        self,
        connection: Connection,
        now: datetime,
        grace: timedelta,
        on_progress: Progress | None,
    ) -> None:
        self._connection = connection
        self._now = now
        self._grace = grace
        self._on_progress = on_progress
        self._findings = Findings()
        self._counts: Counter[str] = Counter()
        self._accounts: dict[int, CheckedAccount] = {}
        self._rebuilt: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0, 0])
        self._granted: Counter[int] = Counter()
        self._pending: Counter[int] = Counter()

    def report(self, *, full: bool) -> CheckReport:
        return CheckReport(
            checked_at=self._now,
            is_full=full,
            problems=tuple(self._findings.problems),
            warnings=tuple(self._findings.warnings),
            counts=dict(sorted(self._counts.items())),
            omitted=self._findings.omitted,
        )

    async def run(
        self, *, full: bool, verify_checkpoint: Callable[[bytes, str], bool] | None
    ) -> None:
        await self._read_accounts()
        if full:
            await self._check_chains()
            self._compare_counters()
            await self._check_windows()
            await self._check_checkpoints(verify_checkpoint)
        await self._check_holds(full=full)
        self._compare_pending()
        self._check_sums()

    # ------------------------------------------------------------------ chain and counters

    async def _read_accounts(self) -> None:
        async for row in self._stream("accounts"):
            self._accounts[row[0]] = CheckedAccount(
                asset=row[1],
                purpose=row[2],
                is_bounded=row[3],
                money_role=row[4],
                counters=(int(row[5]), int(row[6]), int(row[7]), int(row[8])),
            )

    async def _check_chains(self) -> None:
        lanes = {row[0]: row for row in await self._fetch("lanes")}
        entries = _Groups(self._stream("entries"), lambda row: (row[0], row[1]))
        await entries.start()
        heads: dict[int, _Head] = {}
        async for row in self._stream("batches"):
            lane, batch = row[0], row[1]
            head = heads.setdefault(lane, _Head())
            await self._note_orphans(entries, before=(lane, batch))
            self._check_batch(head, row, await entries.take((lane, batch)))
        await self._note_orphans(entries, before=None)
        for lane, row in lanes.items():
            self._check_head(lane, row, heads.get(lane, _Head()))
        for lane in heads.keys() - lanes.keys():
            self._findings.problem(
                ProblemCode.HEAD_DIFFERS, f"lane {lane}", "The lane is not known."
            )

    async def _note_orphans(self, entries: _Groups, *, before: tuple[int, int] | None) -> None:
        while entries.key is not None and (before is None or entries.key < before):
            lane, batch = entries.key
            where = f"lane {lane} batch {batch}"
            self._findings.problem(ProblemCode.BATCH_MISSING, where, "Records without batch.")
            for row in await entries.take(entries.key):
                with contextlib.suppress(RecordUnreadableError):
                    self._apply(read_record(row[7]), where)

    def _check_batch(self, head: _Head, row: Sequence[Any], rows: list[Sequence[Any]]) -> None:
        lane, batch, epoch, recorded_at, operations, previous, stored = row
        where = f"lane {lane} batch {batch}"
        if batch != head.batch + 1:
            message = f"It follows batch {head.batch}."
            self._findings.problem(ProblemCode.BATCH_MISSING, where, message)
        elif previous != head.hash:
            message = "It does not name the batch before."
            self._findings.problem(ProblemCode.CHAIN_BROKEN, where, message)
        time = _microseconds(recorded_at)
        preimage = f"tokenworks-batch-v1 {lane} {batch} {epoch} {time}\n" + "\n".join(
            entry[7] for entry in rows
        )
        if hashlib.sha256(previous + preimage.encode()).digest() != stored:
            message = "Its records do not hash to what was recorded."
            self._findings.problem(ProblemCode.CHAIN_BROKEN, where, message)
        if len(rows) != operations:
            message = f"It recorded {operations} operations and has {len(rows)}."
            self._findings.problem(ProblemCode.CHAIN_BROKEN, where, message)
        for entry in rows:
            self._check_entry(head, entry, time)
        head.batch, head.hash = batch, stored

    def _check_entry(self, head: _Head, row: Sequence[Any], batch_time: int) -> None:
        _, _, _, fact_id, operation, ordinal, recorded_at, text, sequence, previous = row
        where = f"entry {fact_id} {operation} {ordinal}"
        try:
            record = read_record(text)
        except RecordUnreadableError as error:
            self._findings.problem(ProblemCode.RECORD_UNREADABLE, where, str(error))
            return
        # A window's grant is formed before the batch's accounts are locked, so a moment earlier.
        is_timed = record.time == batch_time or (operation == "grant" and record.time <= batch_time)
        if (
            (record.fact, record.operation, record.ordinal) != (fact_id, operation, ordinal)
            or not is_timed
            or _microseconds(recorded_at) != batch_time
        ):
            self._findings.problem(ProblemCode.RECORD_DIFFERS, where, "Row and record differ.")
        self._check_receipt(head, where, record.receipt, sequence, previous)
        self._apply(record, where)

    def _check_receipt(
        self,
        head: _Head,
        where: str,
        root: str | None,
        sequence: int | None,
        previous: bytes | None,
    ) -> None:
        if root is None and sequence is None:
            return
        if root is None or sequence != head.receipts + 1 or previous != head.receipt_hash:
            message = "The receipt does not follow the lane's last one."
            self._findings.problem(ProblemCode.RECEIPT_CHAIN_BROKEN, where, message)
        if root is not None:
            link = (previous or head.receipt_hash) + bytes.fromhex(root)
            head.receipt_hash = hashlib.sha256(link).digest()
        head.receipts = sequence or head.receipts + 1
        self._counts["receipts"] += 1

    def _check_head(self, lane: int, row: Sequence[Any], head: _Head) -> None:
        if (row[1], row[2]) != (head.batch, head.hash):
            message = f"The head is batch {row[1]}, the last batch is {head.batch}."
            self._findings.problem(ProblemCode.HEAD_DIFFERS, f"lane {lane}", message)
        if (row[3], row[4]) != (head.receipts, head.receipt_hash):
            message = f"The head is receipt {row[3]}, the last receipt is {head.receipts}."
            self._findings.problem(ProblemCode.HEAD_DIFFERS, f"lane {lane} receipts", message)

    def _apply(self, record: Record, where: str) -> None:
        for account_id, pending, debits, credits in counter_changes(record):
            counters = self._rebuilt[account_id]
            counters[0] += pending
            counters[1] += debits
            counters[2] += credits
        for debit, credit, quanta in record.transfers:
            source, target = self._accounts.get(debit), self._accounts.get(credit)
            if source is None or target is None:
                continue  # found when the counters are compared
            if source.asset != target.asset:
                message = f"It moves {source.asset} into {target.asset}."
                self._findings.problem(ProblemCode.RECORD_DIFFERS, where, message)
            if source.purpose == "limit_source":
                self._granted[credit] += quanta
            if target.purpose == "limit_source":
                self._granted[debit] -= quanta

    def _compare_counters(self) -> None:
        for account_id in sorted(self._rebuilt.keys() | self._accounts.keys()):
            pending, debits, credits = self._rebuilt.get(account_id, [0, 0, 0])
            account = self._accounts.get(account_id)
            found = None if account is None else account.counters
            if found != (pending, 0, debits, credits):
                message = (
                    f"Its counters are {found}, its records make {(pending, 0, debits, credits)}."
                )
                self._findings.problem(
                    ProblemCode.BALANCE_DIFFERS, f"account {account_id}", message
                )

    async def _check_windows(self) -> None:
        for limit_id, account_id, quanta, owed in await self._fetch("windows"):
            granted = self._granted[account_id]
            if granted - owed != quanta:
                message = f"The limit is {quanta}; granted are {granted}, of which {owed} are owed."
                where = f"limit {limit_id} account {account_id}"
                self._findings.warning(ProblemCode.WINDOW_DIFFERS, where, message)

    async def _check_checkpoints(self, verify: Callable[[bytes, str], bool] | None) -> None:
        for taken_at, lane, batch in await self._fetch("checkpoint_heads"):
            message = f"It saw another batch {batch} of lane {lane}."
            self._findings.problem(
                ProblemCode.CHECKPOINT_DIFFERS, f"checkpoint {taken_at.isoformat()}", message
            )
        async for taken_at, lanes, balances_hash, signature in self._stream("checkpoints"):
            if verify and not verify(checkpoint_bytes(taken_at, lanes, balances_hash), signature):
                where = f"checkpoint {taken_at.isoformat()}"
                message = "Its signature is not good."
                self._findings.problem(ProblemCode.CHECKPOINT_DIFFERS, where, message)

    # ------------------------------------------------------------------ holds and calls

    async def _check_holds(self, *, full: bool) -> None:
        holds = _Groups(self._stream("holds"), lambda row: row[0])
        facts = _Groups(self._stream("facts") if full else _nothing(), lambda row: row[0])
        has_calls = full and (await self._fetch("has_calls"))[0][0]
        calls = _Groups(self._stream("calls") if has_calls else _nothing(), lambda row: row[0])
        for groups in (holds, facts, calls):
            await groups.start()
        while keys := [groups.key for groups in (holds, facts, calls) if groups.key is not None]:
            key = min(keys)
            hold_rows = await holds.take(key)
            records = await facts.take(key)
            call_rows = await calls.take(key)
            for row in hold_rows:
                self._note_open(row)
            if full:
                self._check_fact(key, hold_rows, records, call_rows)

    def _note_open(self, row: Sequence[Any]) -> None:
        hold_id, state, _, expires_at, _, fate, accounts, held, captured = row
        if state != "open":
            return
        self._counts["open_holds"] += 1
        for account_id, quanta, taken in zip(accounts, held, captured, strict=True):
            self._pending[account_id] += quanta - taken
        if expires_at + self._grace < self._now and fate != "wait":
            message = f"Open although it expired at {expires_at.isoformat()}."
            self._findings.warning(ProblemCode.HOLD_OVERDUE, f"hold {hold_id}", message)

    def _check_fact(
        self,
        fact_id: UUID,
        holds: list[Sequence[Any]],
        records: list[Sequence[Any]],
        calls: list[Sequence[Any]],
    ) -> None:
        rebuilt = HoldHistory()
        try:
            lives = [read_record(row[1]) for row in records]
        except RecordUnreadableError:
            return  # reported with its entry
        for record in sorted(lives, key=lambda record: record.operation in ENDINGS):
            rebuilt.add(record, self._accounts)
        if records or holds:
            self._compare_hold(fact_id, holds, rebuilt)
        for _, charge in calls:
            if charge != rebuilt.paid:
                message = f"It was charged {charge}; its entries took {rebuilt.paid}."
                self._findings.problem(ProblemCode.CHARGE_DIFFERS, f"call {fact_id}", message)

    def _compare_hold(self, hold_id: UUID, rows: list[Sequence[Any]], rebuilt: HoldHistory) -> None:
        where = f"hold {hold_id}"
        if not rows or rebuilt.placed_at is None:
            message = "Records without hold." if not rows else "No record of its placement."
            self._findings.problem(ProblemCode.HOLD_DIFFERS, where, message)
            return
        _, state, placed_at, expires_at, closed_at, fate, accounts, held, captured = rows[0]
        found = {
            "state": state,
            "placed_at": _microseconds(placed_at),
            "expires_at": _microseconds(expires_at),
            "closed_at": closed_at and _microseconds(closed_at),
            "on_expiry": fate,
            "held": dict(zip(accounts, held, strict=True)),
            "captured": dict(zip(accounts, captured, strict=True)),
        }
        expected = {
            "state": rebuilt.state,
            "placed_at": rebuilt.placed_at,
            "expires_at": rebuilt.expires_at,
            "closed_at": rebuilt.closed_at,
            "on_expiry": rebuilt.fate,
            "held": rebuilt.held,
            "captured": rebuilt.captured,
        }
        for name, value in found.items():
            if value != expected[name]:
                message = f"Its {name} is {value}, its records make {expected[name]}."
                self._findings.problem(ProblemCode.HOLD_DIFFERS, where, message)
        left = {account_id: quanta for account_id, quanta in rebuilt.left().items() if quanta}
        if rebuilt.endings > 1 or (rebuilt.endings and left != rebuilt.released):
            message = f"It ended {rebuilt.endings} times, gave back {rebuilt.released} of {left}."
            self._findings.problem(ProblemCode.HOLD_DIFFERS, where, message)

    def _compare_pending(self) -> None:
        for account_id in sorted(self._pending.keys() | self._accounts.keys()):
            account = self._accounts.get(account_id)
            found = None if account is None else account.counters[0]
            if found != self._pending[account_id]:
                message = (
                    f"Its pending debits are {found}, open holds have {self._pending[account_id]}."
                )
                self._findings.problem(
                    ProblemCode.PENDING_DIFFERS, f"account {account_id}", message
                )

    # ------------------------------------------------------------------ sums

    def _check_sums(self) -> None:
        debits: Counter[str] = Counter()
        credits: Counter[str] = Counter()
        client_money: Counter[str] = Counter()
        safeguarded: Counter[str] = Counter()
        for account_id, account in self._accounts.items():
            _, _, debit, credit = account.counters
            debits[account.asset] += debit
            credits[account.asset] += credit
            if account.money_role == CLIENT_MONEY:
                client_money[account.asset] += credit - debit
            elif account.money_role == SAFEGUARDED:
                safeguarded[account.asset] += debit - credit
            if account.is_bounded and account.available < 0:
                message = f"A bounded account has {account.available} available."
                self._findings.problem(ProblemCode.OVERDRAWN, f"account {account_id}", message)
        for asset in sorted(debits):
            if debits[asset] != credits[asset]:
                message = f"Debits are {debits[asset]}, credits {credits[asset]}."
                self._findings.problem(ProblemCode.UNBALANCED, f"asset {asset}", message)
            if client_money[asset] > safeguarded[asset]:
                message = f"Clients own {client_money[asset]}, safe are {safeguarded[asset]}."
                self._findings.problem(
                    ProblemCode.CLIENT_MONEY_UNSAFEGUARDED, f"asset {asset}", message
                )

    # ------------------------------------------------------------------ plumbing

    async def _fetch(self, query: str) -> list[Any]:
        cursor = await self._connection.execute(_QUERIES[query])
        return await cursor.fetchall()

    async def _stream(self, query: str) -> AsyncIterator[Sequence[Any]]:
        text: LiteralString = _QUERIES[query]
        async with self._connection.cursor(name=f"check_{query}", binary=True) as cursor:
            cursor.itersize = FETCH_ROWS
            await cursor.execute(text)
            async for row in cursor:
                self._counts[query] += 1
                if self._on_progress and self._counts[query] % PROGRESS_ROWS == 0:
                    self._on_progress(query, self._counts[query])
                yield row


@dataclass(slots=True)
class _Head:
    """
    How far a lane's two chains were followed.
    """

    batch: int = 0
    hash: bytes = NO_HASH
    receipts: int = 0
    receipt_hash: bytes = NO_HASH


class _Groups:
    """
    Rows of a sorted stream, taken key by key; one group in memory at a time.
    """

    def __init__(
        self, rows: AsyncIterator[Sequence[Any]], key: Callable[[Sequence[Any]], Any]
    ) -> None:
        self._rows = rows
        self._key = key
        self._next: Sequence[Any] | None = None
        self._is_started = False

    @property
    def key(self) -> Any:  # noqa: ANN401 - a column or several
        """
        Return the key of the next group, or ``None`` at the end.
        """
        return None if self._next is None else self._key(self._next)

    async def start(self) -> None:
        if not self._is_started:
            self._is_started = True
            self._next = await anext(self._rows, None)

    async def take(self, key: object) -> list[Sequence[Any]]:
        """
        Return the rows of the next group when that is its key, else none.
        """
        await self.start()
        group: list[Sequence[Any]] = []
        while self._next is not None and self._key(self._next) == key:
            group.append(self._next)
            self._next = await anext(self._rows, None)
        return group


async def _nothing() -> AsyncIterator[Sequence[Any]]:
    for row in ():
        yield row


def _microseconds(moment: datetime) -> int:
    elapsed = moment - _EPOCH
    return (elapsed.days * 86_400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds


__all__ = ["CheckReport", "ProblemCode", "check_books"]
