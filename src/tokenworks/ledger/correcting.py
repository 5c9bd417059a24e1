"""
Correct what was booked: by an entry that names what it corrects, never by a change.

Invariants: an entry is reversed at most once, because the reversal's fact is the reversed
one's id with ordinal 1; each transfer of a reversal turns round one of the reversed entry.
What the world already did is never refused (LEDGER 5): what a party's cash or payable does
not cover becomes its receivable, and the buyer whose debt is above the threshold places no
new holds.

Known limits: captures of calls are refunded, not reversed; a reversal is not reversed again,
what it undid is booked anew.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import date, datetime
from typing import Final
from uuid import UUID

import msgspec

from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import InvalidError
from tokenworks.foundation.money import Amount
from tokenworks.ledger.accounts import PLATFORM_ID
from tokenworks.ledger.entries import canonical
from tokenworks.ledger.errors import (
    AlreadyReversedError,
    DateNotOverError,
    FactConflictError,
    FactMissingError,
    NotReversibleError,
)
from tokenworks.ledger.model import (
    NO_ACCOUNT,
    REPLAYED,
    EntryView,
    Leg,
    Outcome,
    Posting,
    PostingKind,
    Transfer,
)
from tokenworks.ledger.service import Ledger
from tokenworks.postgres.pool import Connection

REVERSIBLE_KINDS: Final = frozenset(
    {"deposit", "chargeback", "payout", "fee", "correction", "statement"}
)
"""Entries of an operator; what the ledger books by itself is undone by its own operations."""

REASON_CHARACTERS_MAX: Final = 500
REVERSAL_ORDINAL: Final = 1
PAYABLES: Final = frozenset(
    {"supplier_payable", "power_payable", "rights_payable", "reseller_payable", "tax_payable"}
)


class Correction(msgspec.Struct, frozen=True, kw_only=True):
    """
    A booked correction.
    """

    fact_id: UUID
    recorded_at: datetime
    replayed: bool
    asset: str
    owed_quanta: int = 0
    """What the party could not give, and owes now."""


class Debtor(msgspec.Struct, frozen=True, kw_only=True):
    """
    A party's receivable, and its cash where it has any.
    """

    receivable: int
    owed_quanta: int
    cash: int = NO_ACCOUNT


class OwnAccounts(msgspec.Struct, frozen=True, kw_only=True):
    """
    The platform's accounts by which clients' money is freed or covered.
    """

    own_funds: int
    safeguarded: int


class Corrections:
    """
    Reverse entries and correct what suppliers are owed.
    """

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock

    async def reverse(
        self, fact_id: UUID, *, reason: str, actor: str, accounting_date: date | None = None
    ) -> Correction:
        """
        Book an operator's entry again with its transfers turned round; once.

        A repeat with the same reason returns what was booked the first time.

        Args:
            fact_id: Of the entry to reverse.
            reason: Why; kept with the reversal.
            actor: Who decided it; kept too.
            accounting_date: The open date (UTC) it counts in; ``None``: today's.

        Raises:
            FactMissingError: Nothing is booked under the id.
            NotReversibleError: It is a call, or nothing that an operator booked.
            AlreadyReversedError: It was reversed for another reason.
            DateNotOverError: The accounting date lies in the future.
            DateClosedError: It takes no more entries.
        """
        reason = checked_reason(reason)
        self._require_begun(accounting_date)
        entries = await self._ledger.entries_of(fact_id)
        original = _reversible(fact_id, entries)
        if (done := _reversal_among(entries)) is not None:
            return _repeated(done, reason)
        assets = {leg.asset for leg in original.legs}
        assert len(assets) == 1, "an operator's entry moves one asset"
        asset = assets.pop()
        own = await self._own(asset)
        owed_accounts = {
            await self._ledger.account(party_id, "receivable", asset): party_id
            for party_id in _debtors_of(original.legs)
        }
        async with contextlib.AsyncExitStack() as stack:
            # In one order, or two reversals could wait for each other; on one connection, or
            # they could use up the pool while they wait.
            connection: Connection | None = None
            debtors: dict[UUID, Debtor] = {}
            for account, party_id in sorted(owed_accounts.items()):
                connection = await stack.enter_async_context(
                    self._ledger.locked(account, connection)
                )
                debtors[party_id] = await stack.enter_async_context(
                    self._debtor(party_id, asset, connection)
                )
            for payable in sorted(_payables_debited(original.legs)):
                connection = await stack.enter_async_context(
                    self._ledger.swept(payable, connection)
                )
            outcome = await self._ledger.post(
                Posting(
                    kind=PostingKind.POST,
                    fact_id=fact_id,
                    ordinal=REVERSAL_ORDINAL,
                    transfers=turned(original.legs, debtors, own),
                    is_exact=True,
                    accounting_date=accounting_date,
                    meta=canonical(
                        {
                            "kind": "reversal",
                            "reverses": str(fact_id),
                            "reason": reason,
                            "actor": actor,
                        }
                    ),
                )
            )
        return await self._answer(fact_id, asset, outcome, reason)

    async def adjust_payable(
        self, *, fact_id: UUID, party_id: UUID, difference: Amount, meta: Mapping[str, object]
    ) -> Correction:
        """
        Change what a supplier is owed, at the platform's cost; once per fact.

        No charge and no other leg is touched (LEDGER 22). What is taken back and was paid
        out already becomes the supplier's receivable.

        Args:
            fact_id: Names the correction.
            party_id: The supplier's party.
            difference: Above zero the supplier gets more; never zero.
            meta: Why; kept with the entry.
        """
        assert difference.quanta != 0, "a correction of nothing is none"
        code = difference.asset.code
        payable = await self._ledger.account(party_id, "supplier_payable", code)
        variance = await self._ledger.account(PLATFORM_ID, "supplier_variance", code)
        text = canonical(meta)
        if difference.quanta > 0:
            raised = Transfer(debit=variance, credit=payable, quanta=difference.quanta)
            outcome = await self._ledger.post(
                Posting(kind=PostingKind.POST, fact_id=fact_id, transfers=(raised,), meta=text)
            )
        else:
            owed = await self._ledger.account(party_id, "receivable", code)
            lowered = Transfer(
                debit=payable, credit=variance, quanta=-difference.quanta, fallback=owed
            )
            async with self._ledger.swept(payable):
                outcome = await self._ledger.post(
                    Posting(
                        kind=PostingKind.POST,
                        fact_id=fact_id,
                        transfers=(lowered,),
                        is_exact=True,
                        meta=text,
                    )
                )
        if not outcome.is_done:
            raise await self._ledger.refusal(outcome)
        return _from_outcome(fact_id, code, outcome)

    @contextlib.asynccontextmanager
    async def _debtor(
        self, party_id: UUID, asset: str, connection: Connection
    ) -> AsyncGenerator[Debtor]:
        """
        Keep a party's cash open while something is booked.
        """
        balances = await self._ledger.balances(party_id, connection)
        by_purpose = {row.purpose: row for row in balances if row.asset == asset}
        owed, cash = by_purpose["receivable"], by_purpose.get("cash")
        debtor = Debtor(
            receivable=owed.account_id,
            owed_quanta=owed.balance,
            cash=NO_ACCOUNT if cash is None else cash.account_id,
        )
        if cash is None:
            yield debtor
            return
        async with self._ledger.thawed(party_id, cash.account_id, asset, connection):
            yield debtor

    def _require_begun(self, accounting_date: date | None) -> None:
        if accounting_date is not None and accounting_date > self._clock.now().date():
            message = f"{accounting_date} (UTC) has not begun."
            raise DateNotOverError(message, param="accounting_date")

    async def _own(self, asset: str) -> OwnAccounts:
        return OwnAccounts(
            own_funds=await self._ledger.account(PLATFORM_ID, "own_funds", asset),
            safeguarded=await self._ledger.account(PLATFORM_ID, "safeguarded", asset),
        )

    async def _answer(self, fact_id: UUID, asset: str, outcome: Outcome, reason: str) -> Correction:
        if outcome.is_done:
            return _from_outcome(fact_id, asset, outcome)
        error = await self._ledger.refusal(outcome)
        if not isinstance(error, FactConflictError):
            raise error
        # Another operator was first, while this one waited.
        done = _reversal_among(await self._ledger.entries_of(fact_id))
        assert done is not None, "a conflict has its entry"
        return _repeated(done, reason)


def checked_reason(reason: str) -> str:
    """
    Return a reason without surrounding space.

    Raises:
        InvalidError: It is empty or longer than ``REASON_CHARACTERS_MAX``.
    """
    text = reason.strip()
    if not 1 <= len(text) <= REASON_CHARACTERS_MAX:
        message = f"A correction has a reason of 1 to {REASON_CHARACTERS_MAX} characters."
        raise InvalidError(message, code="reason_required", param="reason")
    return text


def turned(
    legs: Sequence[Leg], debtors: Mapping[UUID, Debtor], own: OwnAccounts
) -> tuple[Transfer, ...]:
    """
    Return the transfers that undo an entry; pure.

    What a client cannot give is borne by its receivable, so only what it gave is taken from
    what safeguards clients' money. A debt that was paid meanwhile is given back as cash.
    """
    first: list[Transfer] = []
    then: list[Transfer] = []
    last: list[Transfer] = []
    for leg in legs:
        debit, credit, quanta = leg.credit_account, leg.debit_account, leg.quanta
        if leg.credit_purpose == "cash" and leg.debit_purpose == "safeguarded":
            owed = debtors[leg.credit_party].receivable
            first.append(Transfer(debit=debit, credit=own.own_funds, quanta=quanta, fallback=owed))
            last.append(Transfer(debit=own.own_funds, credit=credit, quanta=quanta))
        elif leg.credit_purpose == "cash" or leg.credit_purpose in PAYABLES:
            owed = debtors[leg.credit_party].receivable
            first.append(Transfer(debit=debit, credit=credit, quanta=quanta, fallback=owed))
        elif leg.debit_purpose == "receivable":
            then.extend(_forgiven(leg, debtors[leg.debit_party], own))
        elif leg.debit_purpose == "safeguarded":
            last.append(Transfer(debit=debit, credit=credit, quanta=quanta))
        else:
            then.append(Transfer(debit=debit, credit=credit, quanta=quanta))
    return (*first, *then, *last)


def _forgiven(leg: Leg, debtor: Debtor, own: OwnAccounts) -> list[Transfer]:
    forgiven = leg.quanta
    if debtor.cash != NO_ACCOUNT:
        forgiven = min(leg.quanta, max(0, debtor.owed_quanta))
    paid = leg.quanta - forgiven
    transfers: list[Transfer] = []
    if forgiven:
        transfers.append(
            Transfer(debit=leg.credit_account, credit=leg.debit_account, quanta=forgiven)
        )
    if paid:
        transfers += [
            Transfer(debit=leg.credit_account, credit=debtor.cash, quanta=paid),
            Transfer(debit=own.safeguarded, credit=own.own_funds, quanta=paid),
        ]
    return transfers


def _reversible(fact_id: UUID, entries: Sequence[EntryView]) -> EntryView:
    if not entries:
        message = f"Nothing is booked under {fact_id}."
        raise FactMissingError(message, param="fact_id")
    original = next((e for e in entries if (e.operation, e.ordinal) == ("post", 0)), None)
    if original is None:
        message = f"{fact_id} is a hold or a call; a call is refunded, not reversed."
        raise NotReversibleError(message, param="fact_id")
    kind = original.meta.get("kind")
    if kind not in REVERSIBLE_KINDS:
        known = ", ".join(sorted(REVERSIBLE_KINDS))
        message = f"{fact_id} is booked as {kind or 'nothing named'}; reversible are: {known}."
        raise NotReversibleError(message, param="fact_id")
    return original


def _reversal_among(entries: Sequence[EntryView]) -> EntryView | None:
    wanted = ("post", REVERSAL_ORDINAL)
    return next((e for e in entries if (e.operation, e.ordinal) == wanted), None)


def _repeated(done: EntryView, reason: str) -> Correction:
    if done.meta.get("reason") != reason:
        message = (
            f"It was reversed at {done.recorded_at.isoformat()} already, by"
            f" {done.meta.get('actor')}: {done.meta.get('reason')}"
        )
        raise AlreadyReversedError(message, param="fact_id")
    owed = sum(leg.quanta for leg in done.legs if leg.debit_purpose == "receivable")
    return Correction(
        fact_id=done.fact_id,
        recorded_at=done.recorded_at,
        replayed=True,
        asset=done.legs[0].asset,
        owed_quanta=owed,
    )


def _debtors_of(legs: Sequence[Leg]) -> set[UUID]:
    debited = {
        leg.credit_party
        for leg in legs
        if leg.credit_purpose == "cash" or leg.credit_purpose in PAYABLES
    }
    return debited | {leg.debit_party for leg in legs if leg.debit_purpose == "receivable"}


def _payables_debited(legs: Sequence[Leg]) -> set[int]:
    return {leg.credit_account for leg in legs if leg.credit_purpose in PAYABLES}


def _from_outcome(fact_id: UUID, asset: str, outcome: Outcome) -> Correction:
    assert outcome.recorded_at is not None, "a done operation has its ledger time"
    return Correction(
        fact_id=fact_id,
        recorded_at=outcome.recorded_at,
        replayed=outcome.code == REPLAYED,
        asset=asset,
        owed_quanta=outcome.overrun,
    )
