"""
Refund calls: one entry, part by part (LEDGER 25).

Money goes back to the cash it came from, with its cover; units go back to the windows of limits
that they were taken from, never to a later one: of each window's units the same part as of the
charge, cumulatively rounded down, so that a whole refund returns them all. The platform bears it,
or the supplier that answered; other legs of the sale stay.

Order: the refund is claimed under the call's row lock, where a constraint keeps the sum of
refunds within the charge; then its entry is posted under the claim's id. Whoever dies between the
two is finished by a repeat with the same reference, or by the worker: the entry is the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import msgspec
from psycopg.errors import CheckViolation

from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import InvalidError
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.money import Amount, quanta_to_text
from tokenworks.gateway.calls import CallStore
from tokenworks.gateway.ended_calls import CallRow
from tokenworks.gateway.errors import (
    CallNotFoundError,
    RefundConflictError,
    RefundTooLargeError,
)
from tokenworks.ledger.correcting import checked_reason
from tokenworks.ledger.model import (
    REPLAYED,
    EntryView,
    Outcome,
    Posting,
    PostingKind,
    Transfer,
)
from tokenworks.ledger.service import PLATFORM_ID, Ledger
from tokenworks.postgres.pool import Pool
from tokenworks.postgres.queries import load

REFERENCE_CHARACTERS_MAX: Final = 255
CLAIM_PATIENCE: Final = timedelta(minutes=1)
"""So old a claim is not being posted any more."""
CLAIM_LOOK_BACK: Final = timedelta(days=7)
CLAIMS_MAX: Final = 100

_QUERIES: Final = load("tokenworks.gateway", "refund_queries.sql")


class Bearer(StrEnum):
    """
    Who bears a refund.
    """

    PLATFORM = "platform"
    SUPPLIER = "supplier"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refund:
    """
    A booked refund.
    """

    refund_id: UUID
    call_id: UUID
    amount: Amount
    borne_by: Bearer
    recorded_at: datetime
    replayed: bool
    refunded: Amount
    """Of the call, up to and with this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Claim:
    refund_id: UUID
    quanta: int
    before_quanta: int
    borne_by: Bearer
    reason: str
    actor: str


class Refunds:
    """
    Give money of settled calls back.
    """

    def __init__(
        self, pool: Pool, *, calls: CallStore, ledger: Ledger, clock: Clock, ids: IdentifierSource
    ) -> None:
        self._pool = pool
        self._calls = calls
        self._ledger = ledger
        self._clock = clock
        self._ids = ids

    async def refund(
        self,
        call_id: UUID,
        amount: Amount,
        *,
        reason: str,
        borne_by: Bearer,
        reference: str,
        actor: str,
    ) -> Refund:
        """
        Refund a part of a call's charge; once per reference.

        Raises:
            CallNotFoundError: There is no such settled call.
            RefundTooLargeError: More than is left of the charge.
            RefundConflictError: The reference names another refund of the call.
        """
        reason = checked_reason(reason)
        if amount.quanta <= 0:
            message = "A refund is more than zero."
            raise InvalidError(message, code="invalid_amount", param="amount")
        if not 1 <= len(reference) <= REFERENCE_CHARACTERS_MAX:
            message = f"A reference has 1 to {REFERENCE_CHARACTERS_MAX} characters."
            raise InvalidError(message, param="reference")
        call = await self._calls.get_call(call_id)
        if call is None or call.status != "settled":
            message = f"There is no settled call {call_id}."
            raise CallNotFoundError(message, param="call_id")
        if amount.asset != call.asset:
            message = f"The call was charged in {call.asset.code}."
            raise InvalidError(message, param="currency")
        claim = await self._claim(call, amount, reason, borne_by, reference, actor)
        outcome = await self._post(call, claim)
        assert outcome.recorded_at is not None, "a done operation has its ledger time"
        return Refund(
            refund_id=claim.refund_id,
            call_id=call_id,
            amount=amount,
            borne_by=borne_by,
            recorded_at=outcome.recorded_at,
            replayed=outcome.code == REPLAYED,
            refunded=Amount(quanta=claim.before_quanta + claim.quanta, asset=call.asset),
        )

    async def finish_claimed(self) -> int:
        """
        Post claims whose process died before their entry; return how many.
        """
        now = self._clock.now()
        parameters = {
            "after": now - CLAIM_LOOK_BACK,
            "before": now - CLAIM_PATIENCE,
            "limit": CLAIMS_MAX,
        }
        async with self._pool.connection() as connection:
            cursor = await connection.execute(_QUERIES["claimed"], parameters)
            rows = await cursor.fetchall()
        for row in rows:
            call = await self._calls.get_call(row[1])
            assert call is not None, "what is claimed is a call"
            await self._post(call, _to_claim(row))
        return len(rows)

    async def _claim(
        self,
        call: CallRow,
        amount: Amount,
        reason: str,
        borne_by: Bearer,
        reference: str,
        actor: str,
    ) -> _Claim:
        parameters = {
            "refund_id": self._ids.mint(),
            "call_id": call.call_id,
            "reference": reference,
            "quanta": amount.quanta,
            "borne_by": borne_by.value,
            "reason": reason,
            "actor": actor,
            "now": self._clock.now(),
        }
        try:
            async with self._pool.connection() as connection:
                cursor = await connection.execute(_QUERIES["claim_refund"], parameters)
                row = await cursor.fetchone()
        except CheckViolation as error:
            raise await self._too_large(call, amount) from error
        assert row is not None, "a settled call has its row"
        claim = _to_claim(row)
        if (claim.quanta, claim.borne_by, claim.reason) != (amount.quanta, borne_by, reason):
            message = f"{reference!r} names another refund of this call."
            raise RefundConflictError(message, param="reference")
        return claim

    async def _too_large(self, call: CallRow, amount: Amount) -> RefundTooLargeError:
        async with self._pool.connection() as connection:
            cursor = await connection.execute(_QUERIES["refunded"], {"call_id": call.call_id})
            row = await cursor.fetchone()
        assert row is not None, "a settled call has its row"
        left = quanta_to_text(row[0] - row[1], scale=call.asset.scale)
        message = f"{amount.to_text()} is more than the {left} that are left of the charge."
        return RefundTooLargeError(message, param="amount", details={"left": left})

    async def _post(self, call: CallRow, claim: _Claim) -> Outcome:
        code = call.asset.code
        cash = await self._ledger.account(call.organisation_id, "cash", code)
        own_funds = await self._ledger.account(PLATFORM_ID, "own_funds", code)
        bank = await self._ledger.account(PLATFORM_ID, "safeguarded", code)
        entries = await self._ledger.entries_of(call.call_id)
        async with contextlib.AsyncExitStack() as stack:
            if claim.borne_by is Bearer.SUPPLIER:
                supplier = served_by(call)
                bearer = await self._ledger.account(supplier, "supplier_payable", code)
                owed = await self._ledger.account(supplier, "receivable", code)
                await stack.enter_async_context(self._ledger.swept(bearer))
                back = Transfer(debit=bearer, credit=cash, quanta=claim.quanta, fallback=owed)
            else:
                bearer = await self._ledger.account(PLATFORM_ID, "platform_revenue", code)
                back = Transfer(debit=bearer, credit=cash, quanta=claim.quanta)
            cover = Transfer(debit=bank, credit=own_funds, quanta=claim.quanta)
            units = returned_units(
                entries,
                charge_quanta=call.charge_quanta,
                before_quanta=claim.before_quanta,
                quanta=claim.quanta,
            )
            outcome = await self._ledger.post(
                Posting(
                    kind=PostingKind.POST,
                    fact_id=claim.refund_id,
                    transfers=(back, cover, *units),
                    is_exact=True,
                    meta=_meta(call, claim),
                )
            )
        if not outcome.is_done:
            raise await self._ledger.refusal(outcome)
        return outcome


def returned_units(
    entries: Sequence[EntryView], *, charge_quanta: int, before_quanta: int, quanta: int
) -> list[Transfer]:
    """
    Return what goes back to the windows of limits that a call took from; pure.
    """
    assert 0 < quanta <= charge_quanta - before_quanta, "refunds are within the charge"
    transfers: list[Transfer] = []
    for entry in entries:
        if entry.operation != "capture":
            continue
        for leg in entry.legs:
            if leg.debit_purpose != "limit_available":
                continue
            returned = leg.quanta * before_quanta // charge_quanta
            units = leg.quanta * (before_quanta + quanta) // charge_quanta - returned
            if units:
                transfers.append(
                    Transfer(debit=leg.credit_account, credit=leg.debit_account, quanta=units)
                )
    return transfers


def served_by(call: CallRow) -> UUID:
    """
    Return the party of the supplier that answered a settled call.
    """
    assert call.receipt is not None, "a settled call has its receipt"
    attempt = call.receipt[f"attempt.{call.attempt_count}"]
    return UUID(attempt["supplier"])


def _to_claim(row: Sequence[Any]) -> _Claim:
    return _Claim(
        refund_id=row[0],
        quanta=row[3],
        before_quanta=row[4],
        borne_by=Bearer(row[5]),
        reason=row[6],
        actor=row[7],
    )


def _meta(call: CallRow, claim: _Claim) -> str:
    return msgspec.json.encode(
        {
            "kind": "refund",
            "call": str(call.call_id),
            "borne_by": claim.borne_by.value,
            "reason": claim.reason,
            "actor": claim.actor,
        },
        order="sorted",
    ).decode()
