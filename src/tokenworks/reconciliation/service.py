"""
Import statements, report differences, post what a person accepted, say what may be paid.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import TooLargeError
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.limits import STATEMENT_ATTEMPTS_MAX
from tokenworks.foundation.money import Amount, Asset
from tokenworks.gateway.owed import OwedAttempt, OwedAttempts
from tokenworks.ledger.correcting import Correction, Corrections
from tokenworks.ledger.service import Ledger, Posted
from tokenworks.postgres.pool import Pool
from tokenworks.reconciliation.errors import NothingProposedError, PeriodInvalidError
from tokenworks.reconciliation.matching import match
from tokenworks.reconciliation.model import (
    Difference,
    Payable,
    Report,
    Statement,
    StatementLine,
    Tolerance,
    Verdict,
    VerdictTotal,
)
from tokenworks.reconciliation.statements import Reading, period_of, read_statement
from tokenworks.reconciliation.store import StatementStore
from tokenworks.supply.model import Supplier

PAYABLE: Final = "supplier_payable"
ACCEPTED_PATIENCE: Final = timedelta(minutes=1)
"""So old an acceptance is not being posted any more."""
ACCEPTED_LOOK_BACK: Final = timedelta(days=7)
CALL_LIFETIME: Final = timedelta(hours=1)
"""A call's id may be so much older than its last attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """
    A file, and how to read and to match it.
    """

    file_name: str
    content: bytes = field(repr=False)
    columns: Mapping[str, str] = field(default_factory=dict[str, str])
    has_currency: bool = False
    """Whether the caller vouches for the currency, so that no column needs to say it."""
    time_zone: str | None = None
    since: datetime | None = None
    """``None``: the first line's day (UTC)."""
    until: datetime | None = None
    """``None``: the end of the last line's day, or now."""
    tolerance: Tolerance = field(default_factory=Tolerance)


class Reconciliation:
    """
    Compare what suppliers say with what the hub believes it owes them.

    Args:
        pool: Connections to the database.
        ledger: Pays out.
        corrections: Posts what was accepted.
        clock: The time of imports, and how old a call is.
        ids: Mints the ids of statements and of their entries.
        asset: The money that suppliers are owed.
        hold_days: How many days a payable waits for a statement before it is paid anyway.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        ledger: Ledger,
        corrections: Corrections,
        clock: Clock,
        ids: IdentifierSource,
        asset: Asset,
        hold_days: int,
    ) -> None:
        self._store = StatementStore(pool)
        self._attempts = OwedAttempts(pool)
        self._ledger = ledger
        self._corrections = corrections
        self._clock = clock
        self._ids = ids
        self._asset = asset
        self._hold_days = hold_days

    @property
    def asset(self) -> Asset:
        """
        Return the money that suppliers are owed.
        """
        return self._asset

    # ------------------------------------------------------------------ statements

    async def import_statement(self, supplier: Supplier, wanted: Import, *, actor: str) -> Report:
        """
        Read, match and store a statement; all of it or nothing.

        The same file again is answered with what it was found to be the first time, however
        it is to be read now.

        Raises:
            StatementInvalidError: Some rows cannot be read.
            PeriodInvalidError: The period is not known, empty or not over.
            TooLargeError: Too many bytes, lines or attempts.
        """
        digest = hashlib.sha256(wanted.content).digest()
        known = await self._store.statement_of_file(supplier.supplier_id, digest)
        if known is not None:
            return replace(await self.report(known), replayed=True)
        reading = Reading(
            asset=self._asset,
            columns=wanted.columns,
            has_currency=wanted.has_currency,
            time_zone=wanted.time_zone,
        )
        # Long files are read and matched beside the loop, which serves calls.
        lines = await asyncio.to_thread(read_statement, wanted.content, reading)
        since, until = self._period(lines, wanted)
        statement = Statement(
            statement_id=self._ids.mint(),
            supplier_id=supplier.supplier_id,
            party_id=supplier.party_id,
            file_name=wanted.file_name,
            file_sha256=digest,
            columns=wanted.columns,
            asset=self._asset,
            since=since,
            until=until,
            tolerance=wanted.tolerance,
            line_count=len(lines),
            total_quanta=sum(line.quanta for line in lines),
            imported_at=self._clock.now(),
            actor=actor,
        )
        stored = await self._match_and_store(statement, lines, wanted.content)
        return replace(await self.report(stored), replayed=stored != statement.statement_id)

    def _period(self, lines: Sequence[StatementLine], wanted: Import) -> tuple[datetime, datetime]:
        now = self._clock.now()
        period = period_of(lines, since=wanted.since, until=wanted.until)
        if period is None:
            message = "No line has a time: say the statement's period, since and until."
            raise PeriodInvalidError(message, param="since")
        since, until = period
        if wanted.until is None:
            until = min(until, now)
        if until > now or since >= until:
            message = f"The period from {since.isoformat()} to {until.isoformat()} is not over."
            if until <= now:
                message = f"The period ends at {until.isoformat()}, before it begins."
            raise PeriodInvalidError(message, param="until")
        return since, until

    async def _match_and_store(
        self, statement: Statement, lines: Sequence[StatementLine], content: bytes
    ) -> UUID:
        attempts = await self._owed(statement, lines)
        async with self._store.importing(statement.supplier_id) as connection:
            # Whoever had the turn before may have imported this file, or billed some of it.
            known = await self._store.statement_of_file(
                statement.supplier_id, statement.file_sha256, connection
            )
            if known is not None:
                return known
            references = await self._store.known_references(
                statement.supplier_id, [line.reference for line in lines], connection
            )
            billed = await self._store.billed_keys(attempts, connection)
            matching = await asyncio.to_thread(
                match,
                lines,
                [replace(a, is_billed=True) if a.key in billed else a for a in attempts],
                since=statement.since,
                until=statement.until,
                tolerance=statement.tolerance,
                known_references=references,
            )
            await self._store.add(
                statement, content, matching, fact_id=self._ids.mint(), connection=connection
            )
        return statement.statement_id

    async def _owed(
        self, statement: Statement, lines: Sequence[StatementLine]
    ) -> list[OwedAttempt]:
        window = timedelta(seconds=statement.tolerance.window_s)
        found = await self._attempts.of_supplier(
            statement.supplier_id,
            since=statement.since - window - CALL_LIFETIME,
            until=statement.until + window,
            call_ids=[line.call_id for line in lines if line.call_id is not None],
            rows_max=STATEMENT_ATTEMPTS_MAX,
        )
        if len(found) > STATEMENT_ATTEMPTS_MAX:
            message = (
                f"There are more than {STATEMENT_ATTEMPTS_MAX} attempts in the period;"
                " cut the statement by date."
            )
            raise TooLargeError(message)
        return found

    async def statements(
        self, *, supplier_id: UUID | None, before: UUID | None, limit: int
    ) -> list[Statement]:
        """
        Return statements, newest first.
        """
        return await self._store.list(supplier_id=supplier_id, before=before, limit=limit)

    async def report(self, statement_id: UUID) -> Report:
        """
        Return a statement with its differences summed up.

        Raises:
            StatementNotFoundError: There is none.
        """
        statement = await self._store.get(statement_id)
        days = await self._store.totals(statement_id)
        return Report(
            statement=statement,
            totals=[total for verdict in Verdict for total in _summed(verdict, days)],
            days=days,
            proposal=await self._store.proposal(statement_id),
        )

    async def statement(self, statement_id: UUID) -> Statement:
        """
        Return one statement.

        Raises:
            StatementNotFoundError: There is none.
        """
        return await self._store.get(statement_id)

    def differences(self, statement_id: UUID, *, with_matched: bool) -> AsyncGenerator[Difference]:
        """
        Yield the lines and attempts of a statement with their verdicts.
        """
        return self._store.differences(statement_id, with_matched=with_matched)

    async def accept(self, statement_id: UUID, *, actor: str) -> Correction:
        """
        Post a statement's correcting entry; once, whoever accepts it how often.

        Raises:
            StatementNotFoundError: There is no such statement.
            NothingProposedError: Nothing differs.
        """
        statement = await self._store.get(statement_id)
        if await self._store.proposal(statement_id) is None:
            message = "The billed attempts are owed exactly as billed; nothing is to be corrected."
            raise NothingProposedError(message, param="statement_id")
        await self._store.accept(statement_id, actor=actor, now=self._clock.now())
        # From here on it is accepted; who dies now or comes second posts the same fact.
        proposal = await self._store.proposal(statement_id)
        assert proposal is not None, "a proposal is never taken back"
        return await self._corrections.adjust_payable(
            fact_id=proposal.fact_id,
            party_id=statement.party_id,
            difference=Amount(quanta=proposal.quanta, asset=statement.asset),
            meta={
                "kind": "statement",
                "statement": str(statement_id),
                "actor": proposal.accepted_by,
            },
        )

    async def finish_accepted(self) -> int:
        """
        Post what was accepted by a process that died before the entry; return how many.
        """
        now = self._clock.now()
        found = await self._store.accepted(
            after=now - ACCEPTED_LOOK_BACK, before=now - ACCEPTED_PATIENCE
        )
        for statement_id, actor in found:
            await self.accept(statement_id, actor=actor)
        return len(found)

    # ------------------------------------------------------------------ paying out

    async def payable(self, party_id: UUID) -> Payable:
        """
        Return what a supplier's party is owed and how much of it may be paid out.
        """
        balances = {
            balance.purpose: balance
            for balance in await self._ledger.balances(party_id)
            if balance.asset == self._asset.code
        }
        owed, owes = balances.get(PAYABLE), balances.get("receivable")
        return Payable(
            asset=self._asset,
            owed_quanta=0 if owed is None else owed.available,
            on_hold_quanta=await self._on_hold(party_id),
            receivable_quanta=0 if owes is None else max(0, owes.balance),
        )

    async def pay(
        self, party_id: UUID, amount: Amount, *, rail: str, reference: str, actor: str
    ) -> Posted:
        """
        Book what was paid to a supplier: matched, or ``hold_days`` old (LEDGER 22).

        Raises:
            FundsShortError: It is owed less.
            PayableOnHoldError: Part of what it is owed has to wait.
            FactConflictError: The reference was used for another payment.
        """
        return await self._ledger.payout(
            party_id=party_id,
            purpose=PAYABLE,
            amount=amount,
            rail=rail,
            reference=reference,
            actor=actor,
            on_hold_quanta=await self._on_hold(party_id),
        )

    async def _on_hold(self, party_id: UUID) -> int:
        return await self._store.on_hold_quanta(
            party_id,
            currency=self._asset.code,
            ended_after=self._clock.now() - timedelta(days=self._hold_days),
        )


def _summed(verdict: Verdict, days: Sequence[VerdictTotal]) -> list[VerdictTotal]:
    of_verdict = [total for total in days if total.verdict is verdict]
    if not of_verdict:
        return []
    return [
        VerdictTotal(
            verdict=verdict,
            day=None,
            lines=sum(total.lines for total in of_verdict),
            billed_quanta=sum(total.billed_quanta for total in of_verdict),
            attempts=sum(total.attempts for total in of_verdict),
            owed_quanta=sum(total.owed_quanta for total in of_verdict),
        )
    ]
