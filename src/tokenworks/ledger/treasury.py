"""
Money that comes in and goes out over a rail: deposits, chargebacks, payouts.

Owns: the (rail, reference) of each outside payment, recorded once for ever.
Does not own: what a call costs (``gateway/``), what may be paid out (``reconciliation/``).
Invariants: a payment that is told again has one effect and the first answer, and one with other
content is a conflict; a chargeback is never refused; clients' money stays covered, so payouts
leave own funds only.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from tokenworks.foundation.errors import InvalidError
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.money import Amount, quanta_to_text
from tokenworks.ledger.accounts import PLATFORM_ID, Accounts
from tokenworks.ledger.balances import Balances
from tokenworks.ledger.entries import Entries, canonical
from tokenworks.ledger.errors import PayableOnHoldError
from tokenworks.ledger.model import (
    REPLAYED,
    AccountBalance,
    Outcome,
    Posting,
    PostingKind,
    Transfer,
)
from tokenworks.ledger.receivables import Receivables
from tokenworks.ledger.store import Store
from tokenworks.ledger.sweeping import Sweeping


class Posted(msgspec.Struct, frozen=True, kw_only=True):
    """
    A posted entry: its fact, when it was recorded, whether an earlier one was returned.
    """

    fact_id: UUID
    recorded_at: datetime
    replayed: bool

    @classmethod
    def from_outcome(cls, fact_id: UUID, outcome: Outcome) -> Posted:
        """
        Read a successful outcome.
        """
        assert outcome.recorded_at is not None, "a done operation has its ledger time"
        return cls(
            fact_id=fact_id,
            recorded_at=outcome.recorded_at,
            replayed=outcome.code == REPLAYED,
        )


class Treasury:
    """
    Book what moved outside.
    """

    def __init__(
        self,
        store: Store,
        *,
        accounts: Accounts,
        balances: Balances,
        entries: Entries,
        receivables: Receivables,
        sweeping: Sweeping,
        ids: IdentifierSource,
    ) -> None:
        self._store = store
        self._accounts = accounts
        self._balances = balances
        self._entries = entries
        self._receivables = receivables
        self._sweeping = sweeping
        self._ids = ids

    async def deposit(
        self, *, party_id: UUID, amount: Amount, rail: str, reference: str, actor: str
    ) -> Posted:
        """
        Credit a buyer's cash with money that arrived outside.

        The (rail, reference) pair is recorded once for ever: a repeat with the same
        content returns the first result, one with other content is a conflict. What the
        party owes (see ``chargeback``) is set off first.

        Raises:
            InvalidError: The amount is not above zero.
            AccountMissingError: The party has no cash account.
            FactConflictError: The reference was used for another payment.
        """
        if amount.quanta <= 0:
            message = "A deposit is more than zero."
            raise InvalidError(message, code="invalid_amount", param="amount")
        cash = await self._accounts.existing(party_id, "cash", amount.asset.code)
        bank = await self._accounts.account(PLATFORM_ID, "safeguarded", amount.asset.code)
        fact_id = await self._claim(rail, reference)
        outcome = await self._entries.post(
            Posting(
                kind=PostingKind.POST,
                fact_id=fact_id,
                transfers=(Transfer(debit=bank, credit=cash, quanta=amount.quanta),),
                meta=_note("deposit", rail, reference, actor),
            )
        )
        await self._receivables.set_off(party_id, amount.asset.code)
        return Posted.from_outcome(fact_id, outcome)

    async def chargeback(
        self, *, party_id: UUID, amount: Amount, rail: str, reference: str, actor: str
    ) -> Posted:
        """
        Take back money that the world already took: never refused for funds.

        What the party's cash does not cover becomes a receivable, and is set off from its
        next deposits.

        Raises:
            AccountMissingError: The party has no cash account.
            FactConflictError: The reference was used for another payment.
        """
        cash = await self._accounts.existing(party_id, "cash", amount.asset.code)
        bank = await self._accounts.account(PLATFORM_ID, "safeguarded", amount.asset.code)
        own_funds = await self._accounts.account(PLATFORM_ID, "own_funds", amount.asset.code)
        owed = await self._accounts.account(party_id, "receivable", amount.asset.code)
        fact_id = await self._claim(rail, reference)
        posting = Posting(
            kind=PostingKind.POST,
            fact_id=fact_id,
            # The money has left the bank. What cash gave is freed from safeguarding; what it
            # could not give is the platform's loss until the receivable is paid, so that
            # other clients' money stays covered.
            transfers=(
                Transfer(debit=cash, credit=own_funds, quanta=amount.quanta, fallback=owed),
                Transfer(debit=own_funds, credit=bank, quanta=amount.quanta),
            ),
            meta=_note("chargeback", rail, reference, actor),
        )
        async with (
            self._accounts.locked(owed) as connection,
            self._receivables.thawed(party_id, cash, amount.asset.code, connection),
        ):
            outcome = await self._entries.post(posting)
        return Posted.from_outcome(fact_id, outcome)

    async def payout(
        self,
        *,
        party_id: UUID,
        purpose: str,
        amount: Amount,
        rail: str,
        reference: str,
        actor: str,
        on_hold_quanta: int = 0,
    ) -> Posted:
        """
        Book what was paid to a supplier or another leg owner, out of own funds.

        The shares of all writers are swept into the main account first, and only that one
        is checked: nobody is paid more than they are owed. Payouts of one account take turns,
        so what must stay there (``on_hold_quanta``) and what the party owes is looked up once.

        Raises:
            AccountMissingError: The party has no account of this purpose.
            FundsShortError: The party is owed less.
            PayableOnHoldError: It is owed enough, but not all of it may be paid out yet.
            FactConflictError: The reference was used for another payment.
        """
        payable = await self._accounts.existing(party_id, purpose, amount.asset.code)
        own_funds = await self._accounts.account(PLATFORM_ID, "own_funds", amount.asset.code)
        fact_id = await self._claim(rail, reference)
        async with self._sweeping.swept(payable) as connection:
            stored = await self._entries.stored_entry(fact_id, "post", connection=connection)
            if stored is None:
                balances = await self._balances.balances(party_id, connection)
                _require_off_hold(balances, payable, amount, on_hold_quanta)
            outcome = await self._entries.post(
                Posting(
                    kind=PostingKind.POST,
                    fact_id=fact_id,
                    transfers=(Transfer(debit=payable, credit=own_funds, quanta=amount.quanta),),
                    is_exact=True,
                    meta=_note("payout", rail, reference, actor),
                )
            )
        return Posted.from_outcome(fact_id, outcome)

    async def _claim(self, rail: str, reference: str) -> UUID:
        """
        Return the fact that an outside payment is booked under, now and ever after.
        """
        row = await self._store.fetch_one(
            "claim_reference",
            {"rail": rail, "reference": reference, "fact_id": self._ids.mint()},
        )
        return row[0]


def _note(kind: str, rail: str, reference: str, actor: str) -> str:
    return canonical({"kind": kind, "rail": rail, "reference": reference, "actor": actor})


def _require_off_hold(
    balances: Sequence[AccountBalance], payable: int, amount: Amount, on_hold_quanta: int
) -> None:
    asset = amount.asset
    owes = sum(b.balance for b in balances if (b.purpose, b.asset) == ("receivable", asset.code))
    available = next(b.available for b in balances if b.account_id == payable)
    free = max(0, available - on_hold_quanta - max(0, owes))
    if amount.quanta <= free or amount.quanta > available:
        return  # beyond what is owed the ledger itself refuses
    left = quanta_to_text(free, scale=asset.scale)
    held = quanta_to_text(on_hold_quanta, scale=asset.scale)
    message = (
        f"{left} {asset.code} may be paid out now: {held} are neither matched with a statement"
        " of the supplier nor old enough."
    )
    raise PayableOnHoldError(
        message,
        param="amount",
        details={"payable": left, "on_hold": held, "currency": asset.code},
    )
