"""
Rebuild the books from their records and compare; on a live hub, on one snapshot.

Order: every lane's chain (and with it every account's counters, added up from the same
records), every hold from its own records, then the sums. A finding never stops the check,
so one broken row does not hide another.

A full check reads the whole history, archived months included. Otherwise it starts from the
last signed checkpoint or cut (``check_start.py``): the chain since then, every hold that is
open or moved since, and the balances of that moment, rebuilt from those of today.

Known limits: rows are streamed, so memory grows with accounts and not with entries; the server
sorts on disk. What was cut off the end of a lane together with its head shows only against a
checkpoint. A check that starts from a checkpoint trusts what came before it, and cannot say
which account differs.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from operator import itemgetter
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import psycopg
from psycopg import IsolationLevel

from tokenworks.foundation.clock import Clock
from tokenworks.ledger.archive_files import EPOCH, earlier_months, microseconds
from tokenworks.ledger.chain import batch_hash
from tokenworks.ledger.check_archive import ArchivedRows
from tokenworks.ledger.check_rows import BookRows, Groups, Progress, nothing
from tokenworks.ledger.check_start import (
    Head,
    Start,
    Verify,
    find_start,
    read_heads,
    since_parameters,
)
from tokenworks.ledger.checkpoint import checkpoint_bytes, hash_balances
from tokenworks.ledger.errors import ArchiveNeededError, LedgerUnavailableError
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
from tokenworks.postgres.pool import connect

OVERDUE_GRACE: Final = timedelta(minutes=5)
"""Holds are expired by a periodic job; later than this it is worth a look."""


async def check_books(
    dsn: str,
    *,
    clock: Clock,
    full: bool = True,
    archive: Path | None = None,
    grace: timedelta = OVERDUE_GRACE,
    on_progress: Progress | None = None,
    verify_checkpoint: Verify | None = None,
) -> CheckReport:
    """
    Check the books on one snapshot; the hub may go on selling.

    Args:
        dsn: A role that may read the schema ``ledger``; with ``gateway`` readable too,
            calls are compared with their captures.
        clock: Says which holds are overdue.
        full: From the first batch; otherwise from the last checkpoint or cut.
        archive: The folder of the archived months, for a full check.
        grace: How long after its expiry an open hold is still normal.
        on_progress: Told every ``PROGRESS_ROWS`` rows.
        verify_checkpoint: Tells whether a signature is good for a checkpoint's bytes;
            ``None`` leaves signatures unchecked.

    Raises:
        ArchiveNeededError: A full check of a hub with archived months, without ``archive``.
        ArchiveUnreadableError: A file of the archive is missing.
        LedgerUnavailableError: The database could not be read to the end.
    """
    try:
        connection = await connect(dsn, name="ledger check")
        async with connection:
            await connection.set_isolation_level(IsolationLevel.REPEATABLE_READ)
            await connection.set_read_only(True)
            async with connection.transaction():
                rows = BookRows(connection, on_progress)
                check = _Check(rows, clock.now(), grace)
                await check.run(full=full, archive=archive, verify=verify_checkpoint)
                return check.report(full=full)
    except psycopg.Error as error:
        message = f"The books could not be read: {error}"
        raise LedgerUnavailableError(message) from error


class _Check:
    def __init__(self, rows: BookRows, now: datetime, grace: timedelta) -> None:
        self._rows = rows
        self._now = now
        self._overdue_before = microseconds(now - grace)
        self._findings = Findings()
        self._counts = rows.counts
        self._start = Start()
        self._accounts: dict[int, CheckedAccount] = {}
        self._rebuilt: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0, 0])
        self._cut_heads: Mapping[int, Head] = {}
        self._at_cut: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0, 0])
        self._granted: Counter[int] = Counter()
        self._pending: Counter[int] = Counter()

    def report(self, *, full: bool) -> CheckReport:
        return CheckReport(
            checked_at=self._now,
            is_full=full,
            start=self._start.to_json(),
            problems=tuple(self._findings.problems),
            warnings=tuple(self._findings.warnings),
            counts=dict(sorted(self._counts.items())),
            omitted=self._findings.omitted,
        )

    async def run(self, *, full: bool, archive: Path | None, verify: Verify | None) -> None:
        if full:
            await self._open_archive(archive)
        else:
            self._start = await find_start(self._rows, self._findings, verify)
        if self._start.at is not None:
            self._rows.since = await since_parameters(self._rows, self._start)
        await self._read_accounts()
        await self._check_chains()
        if self._start.at is not None:
            self._compare_with_start()
        else:
            self._compare_counters()
            await self._compare_with_cut()
            await self._check_windows()
            await self._check_checkpoints(verify)
        await self._check_holds()
        self._compare_pending()
        self._check_sums()

    async def _open_archive(self, folder: Path | None) -> None:
        months = earlier_months(await self._rows.fetch("archives"))
        if not months:
            return
        if folder is None:
            raise ArchiveNeededError(
                f"The history before {months[-1].ends_at:%Y-%m-%d} is archived (it was written to "
                f"{Path(months[-1].folder).parent}): say where it is with --archive, or leave "
                "--full out to start from the last checkpoint.",
                param="archive",
            )
        self._rows.archived = ArchivedRows(folder, months, self._findings)
        self._counts["archived_files"] = self._rows.archived.verify()
        ((_, lanes, _),) = await self._rows.fetch("last_cut")
        self._cut_heads = read_heads(lanes) or {}

    # ------------------------------------------------------------------ chain and counters

    async def _read_accounts(self) -> None:
        async for row in self._rows.stream("accounts"):
            self._accounts[row[0]] = CheckedAccount(
                asset=row[1],
                purpose=row[2],
                is_bounded=row[3],
                money_role=row[4],
                counters=(int(row[5]), int(row[6]), int(row[7]), int(row[8])),
            )

    async def _check_chains(self) -> None:
        is_since = self._start.at is not None
        lanes = {row[0]: row for row in await self._rows.fetch("lanes")}
        entries = Groups(self._rows.history("entries"), itemgetter(0, 1))
        seen = Groups(
            nothing() if is_since else self._rows.stream("checkpoint_heads"), itemgetter(0, 1)
        )
        await entries.start()
        await seen.start()
        heads = dict(self._start.heads)
        async for row in self._rows.history("batches"):
            lane, batch = row[0], row[1]
            head = heads.setdefault(lane, Head())
            await self._note_orphans(entries, before=(lane, batch))
            await self._compare_seen(seen, (lane, batch), row[6])
            self._check_batch(head, row, await entries.take((lane, batch)))
        await self._note_orphans(entries, before=None)
        await self._compare_seen(seen, None, None)
        del self._counts["checkpoint_heads"]
        for lane, row in lanes.items():
            self._check_head(lane, row, heads.get(lane, Head()))
        for lane in heads.keys() - lanes.keys():
            self._findings.problem(
                ProblemCode.HEAD_DIFFERS, f"lane {lane}", "The lane is not known."
            )

    async def _compare_seen(
        self, seen: Groups, key: tuple[int, int] | None, stored: bytes | None
    ) -> None:
        """
        Compare what checkpoints and cuts saw up to a batch; ``None``: to the end.
        """
        while seen.key is not None and (key is None or seen.key <= key):
            is_there = seen.key == key and stored is not None
            for lane, batch, head, at in await seen.take(seen.key):
                if not is_there or head != (stored or b"").hex():
                    message = f"It saw another batch {batch} of lane {lane}."
                    where = f"checkpoint {at.isoformat()}"
                    self._findings.problem(ProblemCode.CHECKPOINT_DIFFERS, where, message)

    async def _note_orphans(self, entries: Groups, *, before: tuple[int, int] | None) -> None:
        while entries.key is not None and (before is None or entries.key < before):
            lane, batch = entries.key
            where = f"lane {lane} batch {batch}"
            self._findings.problem(ProblemCode.BATCH_MISSING, where, "Records without batch.")
            for row in await entries.take(entries.key):
                with contextlib.suppress(RecordUnreadableError):
                    self._apply(read_record(row[7]), where, lane=lane, batch=batch)

    def _check_batch(self, head: Head, row: Sequence[Any], rows: list[Sequence[Any]]) -> None:
        lane, batch, epoch, time, operations, previous, stored = row
        where = f"lane {lane} batch {batch}"
        if batch != head.batch + 1:
            message = f"It follows batch {head.batch}."
            self._findings.problem(ProblemCode.BATCH_MISSING, where, message)
        elif previous != head.hash:
            message = "It does not name the batch before."
            self._findings.problem(ProblemCode.CHAIN_BROKEN, where, message)
        records = (entry[7] for entry in rows)
        if stored != batch_hash(
            previous, lane=lane, batch=batch, epoch=epoch, time=time, records=records
        ):
            message = "Its records do not hash to what was recorded."
            self._findings.problem(ProblemCode.CHAIN_BROKEN, where, message)
        if len(rows) != operations:
            message = f"It recorded {operations} operations and has {len(rows)}."
            self._findings.problem(ProblemCode.CHAIN_BROKEN, where, message)
        for entry in rows:
            self._check_entry(head, entry, time)
        head.batch, head.hash = batch, stored

    def _check_entry(self, head: Head, row: Sequence[Any], batch_time: int) -> None:
        lane, batch, _, fact_id, operation, ordinal, time, text, sequence, previous = row
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
            or time != batch_time
        ):
            self._findings.problem(ProblemCode.RECORD_DIFFERS, where, "Row and record differ.")
        self._check_receipt(head, where, record.receipt, sequence, previous)
        self._apply(record, where, lane=lane, batch=batch)

    def _check_receipt(
        self,
        head: Head,
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

    def _check_head(self, lane: int, row: Sequence[Any], head: Head) -> None:
        if (row[1], row[2]) != (head.batch, head.hash):
            message = f"The head is batch {row[1]}, the last batch is {head.batch}."
            self._findings.problem(ProblemCode.HEAD_DIFFERS, f"lane {lane}", message)
        if (row[3], row[4]) != (head.receipts, head.receipt_hash):
            message = f"The head is receipt {row[3]}, the last receipt is {head.receipts}."
            self._findings.problem(ProblemCode.HEAD_DIFFERS, f"lane {lane} receipts", message)

    def _apply(self, record: Record, where: str, *, lane: int, batch: int) -> None:
        cut = self._cut_heads.get(lane)
        sums = [self._rebuilt]
        if cut is not None and batch <= cut.batch:
            sums.append(self._at_cut)
        for account_id, pending, debits, credits in counter_changes(record):
            for rebuilt in sums:
                counters = rebuilt[account_id]
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

    def _compare_with_start(self) -> None:
        """
        Take what moved since off today's balances and compare with what the start fixed.
        """
        before: list[tuple[int, int, int, int, int]] = []
        for account_id in sorted(self._rebuilt.keys() | self._accounts.keys()):
            account = self._accounts.get(account_id)
            now = (0, 0, 0, 0) if account is None else account.counters
            pending, debits, credits = self._rebuilt.get(account_id, [0, 0, 0])
            then = (now[0] - pending, now[1], now[2] - debits, now[3] - credits)
            if any(then):
                before.append((account_id, *then))
        if hash_balances(before) != self._start.balances_hash:
            message = (
                "Today's balances less the movements since are not those it fixed: "
                "run the check with --full to see which."
            )
            where = f"{self._start.kind} {self._start.at}"
            self._findings.problem(ProblemCode.BALANCE_DIFFERS, where, message)

    async def _compare_with_cut(self) -> None:
        if not self._cut_heads:
            return
        ((starts_at, _, fixed),) = await self._rows.fetch("last_cut")
        rebuilt = [
            (account_id, pending, 0, debits, credits)
            for account_id, (pending, debits, credits) in sorted(self._at_cut.items())
            if pending or debits or credits
        ]
        kept = [tuple(map(int, row)) for row in await self._rows.fetch("cut_balances")]
        if rebuilt != kept or hash_balances(rebuilt) != fixed:
            differing = sorted({row[0] for row in set(rebuilt) ^ set(kept)})
            message = f"Its balances are not what the records make; accounts: {differing[:10]}."
            where = f"cut of {starts_at:%Y-%m}"
            self._findings.problem(ProblemCode.BALANCE_DIFFERS, where, message)

    async def _check_windows(self) -> None:
        for limit_id, account_id, quanta, owed in await self._rows.fetch("windows"):
            granted = self._granted[account_id]
            if granted - owed != quanta:
                message = f"The limit is {quanta}; granted are {granted}, of which {owed} are owed."
                where = f"limit {limit_id} account {account_id}"
                self._findings.warning(ProblemCode.WINDOW_DIFFERS, where, message)

    async def _check_checkpoints(self, verify: Verify | None) -> None:
        async for taken_at, lanes, balances_hash, signature, version in self._rows.stream(
            "checkpoints"
        ):
            content = checkpoint_bytes(taken_at, lanes, balances_hash, version=version)
            if verify and not verify(content, signature):
                where = f"checkpoint {taken_at.isoformat()}"
                message = "Its signature is not good."
                self._findings.problem(ProblemCode.CHECKPOINT_DIFFERS, where, message)

    # ------------------------------------------------------------------ holds and calls

    async def _check_holds(self) -> None:
        has_calls = (await self._rows.fetch("has_calls"))[0][0]
        holds = Groups(self._rows.history("holds"), itemgetter(0))
        facts = Groups(self._rows.history("facts"), itemgetter(0))
        calls = Groups(self._rows.history("calls") if has_calls else nothing(), itemgetter(0))
        for groups in (holds, facts, calls):
            await groups.start()
        while keys := [groups.key for groups in (holds, facts, calls) if groups.key is not None]:
            key = min(keys)
            hold_rows = await holds.take(key)
            records = await facts.take(key)
            call_rows = await calls.take(key)
            for row in hold_rows:
                self._note_open(row)
            self._check_fact(key, hold_rows, records, call_rows)

    def _note_open(self, row: Sequence[Any]) -> None:
        hold_id, state, _, expires_at, _, fate, accounts, held, captured = row
        if state != "open":
            return
        self._counts["open_holds"] += 1
        for account_id, quanta, taken in zip(accounts, held, captured, strict=True):
            self._pending[account_id] += quanta - taken
        if expires_at < self._overdue_before and fate != "wait":
            message = f"Open although it expired at {_moment(expires_at)}."
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
            "placed_at": placed_at,
            "expires_at": expires_at,
            "closed_at": closed_at,
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


def _moment(time: int) -> str:
    return (EPOCH + timedelta(microseconds=time)).isoformat()


__all__ = ["CheckReport", "ProblemCode", "check_books"]
