"""
What mutants of payments, escrows and corrections put in place of the hub's own functions.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from tokenworks.agents.escrow.advancing import Advancing
from tokenworks.agents.escrow.deciding import due
from tokenworks.agents.escrow.model import Decision, Escrow, EscrowEvent, Ground
from tokenworks.agents.escrow.receipt import receipt_details
from tokenworks.agents.escrow.store import StoredEscrow
from tokenworks.agents.mandates import paths
from tokenworks.agents.mandates.model import Mandate, MandateState
from tokenworks.agents.mandates.service import Mandates
from tokenworks.agents.payments.attesting import Attestation
from tokenworks.agents.payments.capturing import Capturing
from tokenworks.agents.payments.errors import PaymentClaimedError, PaymentSettledError
from tokenworks.agents.payments.held import HeldPayment
from tokenworks.agents.payments.model import PaymentState, Receipted, Requirements
from tokenworks.agents.payments.placing import NOTHING_ELSE, Placing, Sold
from tokenworks.agents.payments.service import Payments
from tokenworks.agents.payments.store import payment_of
from tokenworks.gateway.bill import Bill
from tokenworks.gateway.open_call import OpenCall
from tokenworks.gateway.refunding import returned_units
from tokenworks.gateway.settlement import SettlementLeg
from tokenworks.gateway.settling import Settling
from tokenworks.ledger.model import ASSET_IDS, EntryView, Posting, PostingKind, Transfer
from tokenworks.reconciliation.model import Proposal
from tokenworks.reconciliation.store import StatementStore

capture = Capturing.capture
release = Capturing.release
path_scopes = paths.path_scopes
transfers = Settling._transfers
proposal = StatementStore.proposal

numbers = itertools.count(1)


async def countless_capture(
    self: Capturing,
    held: HeldPayment,
    *,
    quanta: int,
    closes: bool = True,
    ordinal: int = 0,
    details: Mapping[str, Any] | None = None,
) -> Receipted:
    """
    Take each capture for a new part of a payment that goes on.
    """
    del closes, ordinal
    seen = vars(self).setdefault("_seen", Counter())
    number = seen[held.payment_id]
    seen[held.payment_id] += 1
    return await capture(self, held, quanta=quanta, closes=False, ordinal=number, details=details)


async def generous_release(self: Capturing, held: HeldPayment, *, reason: str) -> Receipted:
    """
    Give back what was paid already, too.
    """
    try:
        return await release(self, held, reason=reason)
    except PaymentSettledError:
        accounts = await self._payees.accounts(held.payee_id, held.currency)
        cash = next(p.account_id for p in held.parts if p.asset_id == ASSET_IDS[held.currency])
        transfers = [Transfer(debit=accounts.payee, credit=cash, quanta=1)]
        if not accounts.is_client_money:
            cover = Transfer(debit=accounts.safeguarded, credit=accounts.own_funds, quanta=1)
            transfers.append(cover)
        outcome = await self._ledger.post(
            Posting(
                kind=PostingKind.POST,
                fact_id=UUID(int=held.payment_id.int ^ next(numbers)),
                transfers=tuple(transfers),
            )
        )
        now = outcome.recorded_at or datetime.now().astimezone()
        payment = payment_of(held, state=PaymentState.RELEASED, recorded_at=now, captured_quanta=0)
        return Receipted(
            payment=payment, ordinal=0, captured_quanta=0, recorded_at=now, is_repeat=False
        )


def childish_scopes(
    parties: Sequence[UUID],
    chain: Sequence[Mandate],
    *,
    wallet: str | None,
    payee_id: UUID | None,
) -> tuple[UUID, ...]:
    """
    Leave the mandates above the last one out of the path.
    """
    return path_scopes(parties, chain[-1:], wallet=wallet, payee_id=payee_id)


async def idle_revoke(self: Mandates, mandate_id: UUID, *, actor: str) -> Mandate:
    """
    Say that a mandate is revoked, and do nothing.
    """
    del actor
    return replace(await self.get(mandate_id), state=MandateState.REVOKED)


async def credulous_admitted(self: Placing, held: HeldPayment) -> HeldPayment:
    """
    Let every payment that is held go on, whatever people say.
    """
    del self
    return held


async def greedy_move(self: Advancing, stored: StoredEscrow, decision: Decision) -> None:
    """
    Capture the whole escrow for each milestone.
    """
    if decision.capture is not None:
        await self._purse.capture(
            stored.escrow.escrow_id,
            quanta=stored.escrow.quanta,
            closes=decision.closes,
            ordinal=decision.capture,
            details=receipt_details(stored.escrow, decision),
        )
    elif decision.closes:
        await self._purse.release(stored.escrow.escrow_id, reason="escrow")


async def unchecked_left(self: object, held: HeldPayment, *, quanta: int, ordinal: int) -> None:
    """
    Do not look at what other parts have taken.
    """
    del self, held, quanta, ordinal


def impatient_due(escrow: Escrow, now: datetime) -> list[EscrowEvent]:
    """
    Give back, when time is over, what was delivered and nobody decided on.
    """
    return [
        replace(event, decision=replace(event.decision, quanta=0, capture=None))
        if event.decision is not None and event.decision.ground is Ground.SILENCE
        else event
        for event in due(escrow, now)
    ]


def countless_posting(**wishes: Any) -> Posting:  # noqa: ANN401 - handed on
    """
    Give each reversal a number of its own.
    """
    return replace(Posting(**wishes), ordinal=1 + next(numbers))


def no_reversal(entries: Sequence[EntryView]) -> EntryView | None:
    """
    Find no earlier reversal.
    """
    del entries


def boundless_units(
    entries: Sequence[EntryView], *, charge_quanta: int, before_quanta: int, quanta: int
) -> list[Transfer]:
    """
    Return no more units than were taken, however much is refunded.
    """
    left = charge_quanta - before_quanta
    if left <= 0:
        return []
    return returned_units(
        entries,
        charge_quanta=charge_quanta,
        before_quanta=before_quanta,
        quanta=min(quanta, left),
    )


async def forgetful_proposal(self: StatementStore, statement_id: UUID) -> Proposal | None:
    """
    Give a proposed correction a new id each time.
    """
    found = await proposal(self, statement_id)
    if found is None:
        return None
    return replace(found, fact_id=UUID(int=found.fact_id.int ^ next(numbers)))


async def free_claim(self: Placing, held: HeldPayment, timeout_s: int) -> HeldPayment:
    """
    Give what was held ahead to everybody who asks.
    """
    del self, timeout_s
    return held


async def generous_attest(
    self: Payments,
    jws: str,
    requirements: Requirements,
    resource: str,
    *,
    sold: Sold = NOTHING_ELSE,
) -> str:
    """
    Give the hub's word for what was paid or given back already, too.
    """
    authorisation = self._read(jws, requirements, is_settling=False)
    held, _ = await self._placing.open(authorisation, 60, sold, is_attested=True)
    view = await self._ledger.hold(held.payment_id)
    if not held.is_attested or view is None:
        raise PaymentClaimedError("This payment was used without an attestation before.")
    return self._attesting.issue(
        held, resource=resource, issued_at=view.placed_at, expires_at=view.expires_at
    )


def careless_attested(
    said: Attestation, requirements: Requirements, *, network: str, is_settling: bool
) -> None:
    """
    Take an attestation for whatever the seller asks.
    """
    del said, requirements, network, is_settling


async def uncounted_transfers(
    self: Settling, call: OpenCall, legs: Sequence[SettlementLeg], charge: int, bill: Bill
) -> tuple[Transfer, ...]:
    """
    Count what a wallet pays for a call in none of its limits.
    """
    made = await transfers(self, call, legs, charge, bill)
    if call.payment is None:
        return made
    limits = {part.account_id for part in call.parts if part.asset_id != call.money_asset}
    return tuple(transfer for transfer in made if transfer.debit not in limits)
