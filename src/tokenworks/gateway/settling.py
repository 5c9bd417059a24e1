"""
End a call: capture its hold into legs, or give it all back.

Exactly one of ``settle`` and ``give_back`` ends a call that was held. After its point of
no return a settle is never refused for funds: what the hold does not cover the platform
bears, visibly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

import msgspec
import psycopg
import structlog
from psycopg_pool import PoolTimeout

from tokenworks.agents.payments.payment_row import payment_row, with_call_row
from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import TokenworksError
from tokenworks.foundation.identifiers import identifier_text
from tokenworks.foundation.money import USD, quanta_to_text
from tokenworks.gateway.bill import Bill, free_bill
from tokenworks.gateway.holding import Holding
from tokenworks.gateway.model import Attempt, AttemptStatus, CallOutcome, Settled, to_iso
from tokenworks.gateway.open_call import LIMIT_PAYMENTS, LIMIT_TOKENS, OpenCall
from tokenworks.gateway.receipt import receipt_fields
from tokenworks.gateway.routing import HealthBook, misses_floor
from tokenworks.gateway.settlement import PURPOSES, SettlementLeg, payable_of, settlement_legs
from tokenworks.identity.model import PLATFORM_ID
from tokenworks.ledger.model import ASSET_IDS, Outcome, Posting, PostingKind, Transfer
from tokenworks.ledger.service import Ledger
from tokenworks.postgres.composite import composite_text
from tokenworks.receipts.issuing import ReceiptIssuer
from tokenworks.receipts.model import JsonValue
from tokenworks.supply.service import Supply

SPEED_TOKENS_MIN: Final = 16
"""Shorter answers say nothing about tokens per second."""

_log = structlog.get_logger("tokenworks.gateway")
_encode = msgspec.json.Encoder().encode


class _AccountUnknownError(Exception):
    """
    This process has not met an account yet; says which.
    """

    def __init__(self, party_id: UUID, purpose: str, asset: str) -> None:
        super().__init__(purpose)
        self.key = (party_id, purpose, asset)


class Settling:
    """
    Charge calls and return holds.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        supply: Supply,
        receipts: ReceiptIssuer,
        holding: Holding,
        clock: Clock,
        health: HealthBook,
    ) -> None:
        self._ledger = ledger
        self._supply = supply
        self._receipts = receipts
        self._holding = holding
        self._clock = clock
        self._health = health

    async def settle(
        self,
        call: OpenCall,
        served: Attempt,
        *,
        outcome: CallOutcome,
        bill: Bill,
        is_recallable: bool = False,
    ) -> Settled:
        """
        Capture the hold into legs and commit to the receipt; durable when it returns.

        Args:
            call: What was held.
            served: The attempt that answered.
            outcome: How it ended.
            bill: What it used.
            is_recallable: Whether nothing was given to the client yet: a settle that is not
                durable in time, and not under way, is dropped then.

        Raises:
            LedgerUnavailableError: Not durable in time; the posting goes on in memory
                until the hold expires, unless it was recalled.
        """
        self._note_faults(served, bill)
        rated_quanta = bill.rated.charge_quanta
        overrun = await self._cover(call, rated_quanta, bill.usage.total_tokens)
        legs = settlement_legs(
            served.offer,
            charge_quanta=rated_quanta,
            counts={axis.value: count for axis, count in bill.usage.counts.items()},
        )
        served.payable_quanta = payable_of(legs)
        fields = receipt_fields(
            call,
            outcome=outcome,
            usage=bill.usage,
            rated=bill.rated,
            legs=legs,
            charge_quanta=rated_quanta - overrun,
            overrun_quanta=overrun,
            served=served,
            floor=self._floor(call, served, bill),
        )
        prepared = self._receipts.draft(call.call_id, fields)
        posting = Posting(
            kind=PostingKind.CAPTURE,
            fact_id=call.call_id,
            transfers=await self._transfers(call, legs, rated_quanta - overrun, bill),
            receipt_root=prepared.root,
            meta='{"kind":"call"}',
            rider_row=self._row(
                call,
                status="settled",
                outcome=outcome,
                served=served,
                bill=bill,
                charge=rated_quanta - overrun,
                receipt=fields,
            ),
        )
        # After this point the call is charged, now or as soon as the books are back.
        posted = await self._post(call, posting, is_recallable=is_recallable)
        await self._block_unpriced(served, bill)
        return Settled(
            call_id=call.call_id,
            outcome=outcome,
            usage=bill.usage,
            charge=quanta_to_text(rated_quanta - overrun, scale=USD.scale),
            charge_quanta=rated_quanta - overrun,
            currency=bill.rated.currency,
            tier=served.offer.tier,
            balance=(
                None
                if posted.available is None
                else quanta_to_text(max(posted.available, 0), scale=USD.scale)
            ),
            # On a stream the document is all a buyer gets: it carries its key's certificate.
            document=(
                await self._receipts.document(prepared, posted, with_certificate=True)
                if call.request.is_stream
                else None
            ),
        )

    async def give_back(self, call: OpenCall, error: BaseException) -> None:
        """
        End a call that delivered nothing: the whole hold returns, the attempts stay visible.

        Never raises: if the books do not answer, the hold expires by itself.
        """
        try:
            await self._post(call, self._void(call, error))
        except TokenworksError as refused:
            _log.warning("hold_left_to_expire", call_id=str(call.call_id), code=refused.code)

    async def void(self, call: OpenCall, error: BaseException) -> bool:
        """
        End a call like ``give_back``, however long it takes; return false if it has ended before.

        Raises:
            LedgerUnavailableError: The queue is full.
        """
        return (await self._ledger.post(self._void(call, error))).is_done

    def _void(self, call: OpenCall, error: BaseException) -> Posting:
        code = getattr(error, "code", type(error).__name__)
        served = call.attempts[-1] if call.attempts else None
        return Posting(
            kind=PostingKind.VOID,
            fact_id=call.call_id,
            meta=_encode({"reason": str(code)}).decode(),
            rider_row=self._row(
                call,
                status="failed",
                outcome=CallOutcome.FAILED,
                served=served,
                bill=free_bill(call),
                charge=0,
                receipt=None,
                error_code=str(code),
            ),
        )

    async def _post(
        self, call: OpenCall, posting: Posting, *, is_recallable: bool = False
    ) -> Outcome:
        outcome = await self._ledger.post(posting, is_timed=True, is_recallable=is_recallable)
        if not outcome.is_done:
            _log.error("call_not_settled", call_id=str(call.call_id), code=outcome.code)
            raise await self._ledger.refusal(outcome)
        return outcome

    async def _cover(self, call: OpenCall, quanta: int, tokens: int) -> int:
        """
        Make the hold cover what was used; return the quanta that the platform bears.

        Money and tokens grow together or not at all.
        """
        short_quanta = max(0, quanta - call.quote.quanta)
        short_tokens = max(0, tokens - call.quote.tokens) if call.is_token_limited else 0
        if not short_quanta and not short_tokens:
            return 0
        # What a wallet signed is never exceeded: beyond it the platform bears.
        if call.payment is None and await self._holding.extend(
            call, quanta=short_quanta, tokens=short_tokens
        ):
            return 0
        _log.warning("overrun", call_id=str(call.call_id), quanta=short_quanta)
        return short_quanta

    async def _transfers(
        self, call: OpenCall, legs: Sequence[SettlementLeg], charge: int, bill: Bill
    ) -> tuple[Transfer, ...]:
        # Nearly always every account is known; one that is not is opened, then again.
        while True:
            try:
                return self._transfers_between_known(call, legs, charge, bill)
            except _AccountUnknownError as unknown:
                await self._ledger.account(*unknown.key)

    def _transfers_between_known(
        self, call: OpenCall, legs: Sequence[SettlementLeg], charge: int, bill: Bill
    ) -> tuple[Transfer, ...]:
        account = self._known_account
        currency = bill.rated.currency
        transfers: list[Transfer] = []
        cash = next((p.account_id for p in call.parts if p.asset_id == call.money_asset), None)
        overrun = account(PLATFORM_ID, "overrun", currency)
        purchases = account(PLATFORM_ID, "purchases", currency)
        # The receipt says what the buyer pays: money that came in since must not change it.
        unpaid = charge if cash is not None else 0
        for leg in legs:
            payee = account(leg.payee, PURPOSES[leg.kind], currency)
            if not leg.is_sale:
                transfers.append(Transfer(debit=purchases, credit=payee, quanta=leg.quanta))
                continue
            paid = min(leg.quanta, unpaid)
            unpaid -= paid
            if paid and cash is not None:
                transfers.append(Transfer(debit=cash, credit=payee, quanta=paid, fallback=overrun))
            if leg.quanta > paid:
                transfers.append(Transfer(debit=overrun, credit=payee, quanta=leg.quanta - paid))
        if charge and cash is not None:
            # What the buyer paid is the platform's own money now.
            own_funds = account(PLATFORM_ID, "own_funds", currency)
            bank = account(PLATFORM_ID, "safeguarded", currency)
            transfers.append(Transfer(debit=own_funds, credit=bank, quanta=charge))
        for part in call.parts:
            used = charge if part.asset_id == call.money_limit_asset else 0
            used = bill.usage.total_tokens if part.asset_id == LIMIT_TOKENS else used
            # One call is one payment, unless it cost nothing.
            used = min(charge, 1) if part.asset_id == LIMIT_PAYMENTS else used
            if used:
                asset = _CODES[part.asset_id]
                spent = account(PLATFORM_ID, "limit_spent", asset)
                beyond = account(PLATFORM_ID, "limit_overrun", asset)
                transfers.append(
                    Transfer(debit=part.account_id, credit=spent, quanta=used, fallback=beyond)
                )
        return tuple(transfers)

    def _known_account(self, party_id: UUID, purpose: str, asset: str) -> int:
        account_id = self._ledger.known_account(party_id, purpose, asset)
        if account_id is None:
            raise _AccountUnknownError(party_id, purpose, asset)
        return account_id

    def _note_faults(self, served: Attempt, bill: Bill) -> None:
        if not bill.faults:
            return
        served.error_code = bill.faults[0]
        offer = served.offer
        _log.warning(
            "supplier_fault",
            call_id=str(served.call_id),
            supplier=offer.supplier_name,
            offer_id=str(offer.offer_id),
            code=bill.faults[0],
            unpriced=list(bill.rated.unpriced),
        )

    async def _block_unpriced(self, served: Attempt, bill: Bill) -> None:
        if not bill.rated.unpriced:
            return
        offer = served.offer
        reason = f"reported an axis without a price: {', '.join(bill.rated.unpriced)}"
        try:
            await self._supply.block_offer(offer.offer_id, reason)
        except (TokenworksError, psycopg.Error, PoolTimeout, OSError) as error:
            # The call is charged, so its answer is given; the next one will block the offer.
            _log.warning(
                "offer_not_blocked", offer_id=str(offer.offer_id), reason=type(error).__name__
            )

    def _floor(self, call: OpenCall, served: Attempt, bill: Bill) -> Mapping[str, JsonValue]:
        first_ms = self._first_token_ms(call, served)
        speed: float | None = None
        output = bill.usage.total_output
        if served.duration_ms and output >= SPEED_TOKENS_MIN:
            speed = output / (served.duration_ms / 1000)
        if first_ms is not None and served.status is AttemptStatus.SERVED:
            self._health.note_success(
                served.offer.offer_id, first_token_ms=first_ms, tokens_per_s=speed
            )
        return {
            "tokens_per_s_min": call.tier.speed_floor_tokens_per_s,
            "first_token_ms_max": call.tier.first_token_p95_ms,
            "tokens_per_s": None if speed is None else int(speed),
            "first_token_ms": None if first_ms is None else int(first_ms),
            "is_missed": misses_floor(call.tier, first_token_ms=first_ms, tokens_per_s=speed),
        }

    def _first_token_ms(self, call: OpenCall, served: Attempt) -> float | None:
        if call.first_token_s is None:
            return None
        return (call.first_token_s - served.started_s) * 1000

    def _row(
        self,
        call: OpenCall,
        *,
        status: str,
        outcome: CallOutcome,
        served: Attempt | None,
        bill: Bill,
        charge: int,
        receipt: Mapping[str, JsonValue] | None,
        error_code: str | None = None,
    ) -> str:
        principal = call.principal
        chain = principal.chain
        usage = bill.usage
        attempts = [attempt.to_json() for attempt in call.attempts] if receipt is None else None
        call_row = composite_text(
            (
                call.call_id,
                status,
                outcome.value,
                identifier_text(principal.organisation_id),
                identifier_text(chain[1]) if len(chain) > 1 else None,
                identifier_text(principal.party_id),
                identifier_text(principal.key_id),
                call.request.model_name,
                call.tier.tier_id,
                call.request.is_stream,
                identifier_text(served.offer.supplier_id) if served else None,
                served.offer.supplier_name if served else None,
                _json(usage.to_json()["counts"]),
                usage.total_input,
                usage.total_output,
                usage.is_estimate,
                bill.rated.currency,
                call.quote.quanta,
                charge,
                served.payable_quanta if served else 0,
                to_iso(call.started_at),
                (self._clock.monotonic_s() - call.started_s) * 1000,
                self._first_token_ms(call, served) if served else None,
                len(call.attempts),
                None if attempts is None else _json(attempts),
                error_code or (served.error_code if served else None),
                None if receipt is None else _json(receipt),
            )
        )
        if call.payment is None:
            return call_row
        # Paid by a wallet: the payment's row rides with the call's.
        is_settled = receipt is not None
        paid = payment_row(
            call.payment,
            operation="capture" if is_settled else "void",
            quanta=charge,
            reason=None if is_settled else error_code,
        )
        return with_call_row(call_row, paid)


def _json(value: object) -> str:
    return _encode(value).decode()


_CODES: Final[Mapping[int, str]] = {number: code for code, number in ASSET_IDS.items()}
