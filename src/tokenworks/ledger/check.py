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

from collections import Counter
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Final

import psycopg
from psycopg import IsolationLevel

from tokenworks.foundation.clock import Clock
from tokenworks.ledger.accounts import CLIENT_MONEY, SAFEGUARDED
from tokenworks.ledger.archive_files import earlier_months, microseconds
from tokenworks.ledger.check_archive import ArchivedRows
from tokenworks.ledger.check_chain import ChainCheck
from tokenworks.ledger.check_energy import check_energy
from tokenworks.ledger.check_holds import HoldCheck
from tokenworks.ledger.check_rows import BookRows, Progress
from tokenworks.ledger.check_start import (
    Head,
    Start,
    Verify,
    find_start,
    read_heads,
    since_parameters,
)
from tokenworks.ledger.checkpoint import checkpoint_bytes, hash_balances
from tokenworks.ledger.closing_statement import chain_problems
from tokenworks.ledger.errors import ArchiveNeededError, LedgerUnavailableError
from tokenworks.ledger.findings import CheckReport, Findings, ProblemCode
from tokenworks.ledger.hold_history import CheckedAccount
from tokenworks.postgres.pool import connect

Moved = Mapping[int, list[int]]
"""By account: debits pending, debits posted, credits posted."""

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
        self._cut_heads: Mapping[int, Head] = {}

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
        chain = ChainCheck(
            self._rows,
            self._findings,
            accounts=self._accounts,
            start=self._start,
            cut_heads=self._cut_heads,
        )
        await chain.run()
        if self._start.at is not None:
            self._compare_with_start(chain.rebuilt)
        else:
            self._compare_counters(chain.rebuilt)
            await self._compare_with_cut(chain.at_cut)
            await self._check_windows(chain.granted)
            await self._check_checkpoints(verify)
        holds = HoldCheck(
            self._rows,
            self._findings,
            accounts=self._accounts,
            overdue_before=self._overdue_before,
        )
        await holds.run()
        await check_energy(self._rows, self._findings)
        await self._check_closings(verify)
        self._compare_pending(holds.pending)
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

    async def _read_accounts(self) -> None:
        async for row in self._rows.stream("accounts"):
            self._accounts[row[0]] = CheckedAccount(
                asset=row[1],
                purpose=row[2],
                is_bounded=row[3],
                money_role=row[4],
                counters=(int(row[5]), int(row[6]), int(row[7]), int(row[8])),
            )

    def _compare_counters(self, rebuilt: Moved) -> None:
        for account_id in sorted(rebuilt.keys() | self._accounts.keys()):
            pending, debits, credits = rebuilt.get(account_id, [0, 0, 0])
            account = self._accounts.get(account_id)
            found = None if account is None else account.counters
            if found != (pending, 0, debits, credits):
                message = (
                    f"Its counters are {found}, its records make {(pending, 0, debits, credits)}."
                )
                self._findings.problem(
                    ProblemCode.BALANCE_DIFFERS, f"account {account_id}", message
                )

    def _compare_with_start(self, moved: Moved) -> None:
        """
        Take what moved since off today's balances and compare with what the start fixed.
        """
        before: list[tuple[int, int, int, int, int]] = []
        for account_id in sorted(moved.keys() | self._accounts.keys()):
            account = self._accounts.get(account_id)
            now = (0, 0, 0, 0) if account is None else account.counters
            pending, debits, credits = moved.get(account_id, [0, 0, 0])
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

    async def _compare_with_cut(self, moved: Moved) -> None:
        if not self._cut_heads:
            return
        ((starts_at, _, fixed),) = await self._rows.fetch("last_cut")
        rebuilt = [
            (account_id, pending, 0, debits, credits)
            for account_id, (pending, debits, credits) in sorted(moved.items())
            if pending or debits or credits
        ]
        kept = [tuple(map(int, row)) for row in await self._rows.fetch("cut_balances")]
        if rebuilt != kept or hash_balances(rebuilt) != fixed:
            differing = sorted({row[0] for row in set(rebuilt) ^ set(kept)})
            message = f"Its balances are not what the records make; accounts: {differing[:10]}."
            where = f"cut of {starts_at:%Y-%m}"
            self._findings.problem(ProblemCode.BALANCE_DIFFERS, where, message)

    async def _check_windows(self, granted_to: Counter[int]) -> None:
        for limit_id, account_id, quanta, owed in await self._rows.fetch("windows"):
            granted = granted_to[account_id]
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

    async def _check_closings(self, verify: Verify | None) -> None:
        closings: list[tuple[date, str, str]] = await self._rows.fetch("closings")
        self._counts["closings"] = len(closings)
        signed = {signature: content.encode() for _, content, signature in closings}

        def taken_for_granted(signature: str, _certificate: str, _made_at_s: int) -> bytes:
            return signed[signature]  # signatures have their turn below

        chain = [(content, signature) for _, content, signature in closings]
        for message in chain_problems(chain, taken_for_granted):
            self._findings.problem(ProblemCode.CLOSING_DIFFERS, "closings", message)
        for day, content, signature in closings:
            if verify and not verify(content.encode(), signature):
                message = "Its signature is not good."
                self._findings.problem(ProblemCode.CLOSING_DIFFERS, f"close of {day}", message)

    def _compare_pending(self, left: Counter[int]) -> None:
        for account_id in sorted(left.keys() | self._accounts.keys()):
            account = self._accounts.get(account_id)
            found = None if account is None else account.counters[0]
            if found != left[account_id]:
                message = f"Its pending debits are {found}, open holds have {left[account_id]}."
                self._findings.problem(
                    ProblemCode.PENDING_DIFFERS, f"account {account_id}", message
                )

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


__all__ = ["CheckReport", "ProblemCode", "check_books"]
