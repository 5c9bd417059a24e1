"""
Rebuild every hold from its own records and compare; calls and payments with their captures too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from operator import itemgetter
from typing import Any
from uuid import UUID

from tokenworks.ledger.archive_files import EPOCH
from tokenworks.ledger.check_rows import BookRows, Groups, nothing
from tokenworks.ledger.findings import Findings, ProblemCode
from tokenworks.ledger.hold_history import CheckedAccount, HoldHistory
from tokenworks.ledger.record import ENDINGS, RecordUnreadableError, read_record


class HoldCheck:
    """
    Holds against their records.

    Args:
        rows: What to read.
        findings: Told what is wrong.
        accounts: By number, to tell the buyer's cash.
        overdue_before: Microseconds; an open hold that expired earlier is worth a warning.
    """

    def __init__(
        self,
        rows: BookRows,
        findings: Findings,
        *,
        accounts: Mapping[int, CheckedAccount],
        overdue_before: int,
    ) -> None:
        self._rows = rows
        self._findings = findings
        self._counts = rows.counts
        self._accounts = accounts
        self._overdue_before = overdue_before
        self.pending: Counter[int] = Counter()
        """By account what open holds have left."""
        self._has_payments = False

    async def run(self) -> None:
        """
        Check every hold, call and payment that the start leaves to be read.
        """
        has_calls = (await self._rows.fetch("has_calls"))[0][0]
        self._has_payments = bool((await self._rows.fetch("has_payments"))[0][0])
        holds = Groups(self._rows.history("holds"), itemgetter(0))
        facts = Groups(self._rows.history("facts"), itemgetter(0))
        calls = Groups(self._rows.history("calls") if has_calls else nothing(), itemgetter(0))
        payments = Groups(
            self._rows.history("payments") if self._has_payments else nothing(), itemgetter(0)
        )
        streams = (holds, facts, calls, payments)
        for groups in streams:
            await groups.start()
        while keys := [groups.key for groups in streams if groups.key is not None]:
            key = min(keys)
            hold_rows = await holds.take(key)
            records = await facts.take(key)
            call_rows = await calls.take(key)
            payment_rows = await payments.take(key)
            for row in hold_rows:
                self._note_open(row)
            self._check_fact(key, hold_rows, records, call_rows, payment_rows)

    def _note_open(self, row: Sequence[Any]) -> None:
        hold_id, state, _, expires_at, _, fate, accounts, held, captured = row
        if state != "open":
            return
        self._counts["open_holds"] += 1
        for account_id, quanta, taken in zip(accounts, held, captured, strict=True):
            self.pending[account_id] += quanta - taken
        if expires_at < self._overdue_before and fate != "wait":
            message = f"Open although it expired at {_moment(expires_at)}."
            self._findings.warning(ProblemCode.HOLD_OVERDUE, f"hold {hold_id}", message)

    def _check_fact(
        self,
        fact_id: UUID,
        holds: list[Sequence[Any]],
        records: list[Sequence[Any]],
        calls: list[Sequence[Any]],
        payments: list[Sequence[Any]],
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
        if self._has_payments:
            self._compare_payments(fact_id, payments, rebuilt)

    def _compare_payments(
        self, payment_id: UUID, rows: list[Sequence[Any]], rebuilt: HoldHistory
    ) -> None:
        where = f"payment {payment_id}"
        unseen = set(rebuilt.payments)
        for _, operation, ordinal, captured in rows:
            paid = rebuilt.paid_by.get((operation, ordinal))
            unseen.discard((operation, ordinal))
            if captured != paid:
                message = f"Its {operation} {ordinal} says {captured}; its entry took {paid}."
                self._findings.problem(ProblemCode.PAYMENT_DIFFERS, where, message)
        for operation, ordinal in sorted(unseen):
            message = f"Its {operation} {ordinal} is an entry without a row."
            self._findings.problem(ProblemCode.PAYMENT_DIFFERS, where, message)

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


def _moment(time: int) -> str:
    return (EPOCH + timedelta(microseconds=time)).isoformat()
