"""
Follow every lane's chain, and add up what its records moved.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from tokenworks.ledger.chain import batch_hash
from tokenworks.ledger.check_rows import BookRows, Groups, nothing
from tokenworks.ledger.check_start import Head, Start
from tokenworks.ledger.findings import Findings, ProblemCode
from tokenworks.ledger.hold_history import CheckedAccount
from tokenworks.ledger.record import Record, RecordUnreadableError, counter_changes, read_record


class ChainCheck:
    """
    The chains from a start on, and the counters that their records make.

    Args:
        rows: What to read.
        findings: Told what is wrong.
        accounts: By number, to see that assets do not mix.
        start: Where each lane begins.
        cut_heads: By lane, how far the last cut reached.
    """

    def __init__(
        self,
        rows: BookRows,
        findings: Findings,
        *,
        accounts: Mapping[int, CheckedAccount],
        start: Start,
        cut_heads: Mapping[int, Head],
    ) -> None:
        self._rows = rows
        self._findings = findings
        self._counts = rows.counts
        self._accounts = accounts
        self._start = start
        self._cut_heads = cut_heads
        self.rebuilt: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0, 0])
        """By account what was moved: debits pending, debits posted, credits posted."""
        self.at_cut: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0, 0])
        """The same up to the last cut."""
        self.granted: Counter[int] = Counter()
        """By a window's account what limits granted it."""

    async def run(self) -> None:
        """
        Follow every lane from its head of the start to its last batch.
        """
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
        sums = [self.rebuilt]
        if cut is not None and batch <= cut.batch:
            sums.append(self.at_cut)
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
                self.granted[credit] += quanta
            if target.purpose == "limit_source":
                self.granted[debit] -= quanta
