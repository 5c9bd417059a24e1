"""
The life of a call.

``open`` (quote, route, hold) -> attempts until one answers -> meter, rate, settle,
receipt. From the hold on, exactly one of ``settle`` and ``give_back`` ends the call.
Everything before the hold may refuse; nothing after it is refused for funds.

The parts: ``holding`` places and keeps holds, ``attempts`` asks suppliers, ``settling``
charges; ``streaming`` is ``complete`` for answers that come as events.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import structlog

from tokenworks.agents.payments.held import HeldPayment
from tokenworks.agents.payments.placing import CLAIM_EXTENSION
from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import (
    ForbiddenError,
    InvalidError,
    SupplierFaultError,
    TokenworksError,
)
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.limits import SUPPLIER_ANSWER_BYTES_MAX, SUPPLIER_ATTEMPTS_MAX
from tokenworks.gateway.answer import PlainAnswer, read_answer
from tokenworks.gateway.attempts import Attempts, failed_everywhere
from tokenworks.gateway.bill import Delivered, free_bill, make_bill
from tokenworks.gateway.calls import CallStore
from tokenworks.gateway.errors import (
    CallAlreadySettledError,
    CallInFlightError,
    IdempotencyConflictError,
    ModelNotFoundError,
    NoSupplierError,
)
from tokenworks.gateway.holding import CallRules, Holding
from tokenworks.gateway.model import Attempt, CallOutcome, PlainResult, to_iso
from tokenworks.gateway.open_call import OpenCall, Quote, Quoted
from tokenworks.gateway.ports import Upstream
from tokenworks.gateway.refunding import Refunds
from tokenworks.gateway.request import ChatRequest, parse_chat_request
from tokenworks.gateway.routing import HealthBook, rank_offers
from tokenworks.gateway.settling import Settling
from tokenworks.gateway.taking_back import TakingBack
from tokenworks.identity.model import DEFAULT_TIER, Principal, Role
from tokenworks.ledger.errors import LedgerUnavailableError
from tokenworks.ledger.model import HoldView, Posting, PostingKind
from tokenworks.ledger.service import Ledger
from tokenworks.metering.ceiling import prompt_ceiling_tokens
from tokenworks.metering.estimate import TokenCounter
from tokenworks.metering.timings import from_llama_cpp
from tokenworks.pricing.errors import PriceMissingError
from tokenworks.pricing.model import RateCard
from tokenworks.pricing.rating import ceiling
from tokenworks.pricing.service import PriceBook
from tokenworks.receipts.issuing import ReceiptIssuer
from tokenworks.supply.model import Offer, SupplySnapshot
from tokenworks.supply.service import Supply

IDEMPOTENCY_KEY_CHARACTERS_MAX: Final = 255
IDEMPOTENCY_TRIES_MAX: Final = 100
"""How often calls with one key may fail before it is refused."""

_SUCCESSOR: Final = "\x01after:"
"""Begins a name that no client can send: a header has no control characters."""

_log = structlog.get_logger("tokenworks.gateway")


class Gateway:
    """
    Sell calls.

    Args:
        ledger: The books.
        prices: The price book.
        supply: Suppliers and offers.
        receipts: Drafts and signs.
        upstream: The way to suppliers.
        counter: Counts tokens when a supplier reports none.
        calls: The gateway's own records.
        clock: Ledger time and durations.
        ids: Mints call ids.
        rules: The operator's settings.
        refunds: Gives back what was charged and not acknowledged.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        prices: PriceBook,
        supply: Supply,
        receipts: ReceiptIssuer,
        upstream: Upstream,
        counter: TokenCounter,
        calls: CallStore,
        clock: Clock,
        ids: IdentifierSource,
        rules: CallRules,
        refunds: Refunds,
    ) -> None:
        self._ledger = ledger
        self._prices = prices
        self._supply = supply
        self._counter = counter
        self._calls = calls
        self._clock = clock
        self._ids = ids
        self.health = HealthBook()
        self.holding = Holding(ledger=ledger, clock=clock, rules=rules)
        self.attempts = Attempts(
            ledger=ledger,
            supply=supply,
            upstream=upstream,
            calls=calls,
            clock=clock,
            health=self.health,
        )
        self.settling = Settling(
            ledger=ledger,
            supply=supply,
            receipts=receipts,
            holding=self.holding,
            clock=clock,
            health=self.health,
        )
        self.taking_back = TakingBack(settling=self.settling, refunds=refunds, calls=calls)

    # ------------------------------------------------------------------ models

    async def models(self, principal: Principal) -> list[str]:
        """
        Return what the key may call: ``model@tier`` names, then bare names.
        """
        now = self._clock.now()
        prices = await self._prices.snapshot()
        full: list[str] = []
        bare: list[str] = []
        for model, tier in sorted(self._supply.snapshot().offers):
            if tier not in prices.tiers(model, now) or not principal.allows_model(model, tier):
                continue
            full.append(f"{model}@{tier}")
            if tier == principal.default_tier:
                bare.append(model)
        return full + bare

    async def for_sale(self) -> list[RateCard]:
        """
        Return the card of every model at every tier that somebody may buy now.
        """
        now = self._clock.now()
        prices = await self._prices.snapshot()
        return [
            prices.card(model, tier, now)
            for model, tier in sorted(self._supply.snapshot().offers)
            if tier in prices.tiers(model, now)
        ]

    # ------------------------------------------------------------------ plain answers

    async def complete(self, call: OpenCall) -> PlainResult:
        """
        Answer an opened call in one piece, charged before it is returned.

        Raises:
            RequestRefusedError: The supplier refuses the request; nothing is charged.
            SuppliersFailedError: None delivered; nothing is charged.
            LedgerUnavailableError: Delivered but not durable in time; what was charged all the
                same is refunded.
        """
        with self.holding.heartbeat(call):
            try:
                attempt, answer = await self._first_answer(call)
                reports = () if answer.usage is None else (answer.usage,)
                delivered = Delivered(reports=reports, texts=answer.texts)
                bill = await make_bill(call, attempt.offer, delivered, counter=self._counter)
            except Exception as error:
                await self.settling.give_back(call, error)
                raise
            outcome = CallOutcome.COMPLETED
            if answer.is_empty:
                outcome, bill = CallOutcome.EMPTY, free_bill(call, bill.usage)
            try:
                settled = await self.settling.settle(
                    call, attempt, outcome=outcome, bill=bill, is_recallable=True
                )
            except (LedgerUnavailableError, asyncio.CancelledError) as error:
                # Refused, or cut off by a door that had to close: nobody gets the answer.
                self.taking_back.begin(call, error)
                raise
        capped = call.granted_output if call.request.output_tokens_asked is None else None
        return PlainResult(body=answer.body, settled=settled, granted_output=capped)

    async def _first_answer(self, call: OpenCall) -> tuple[Attempt, PlainAnswer]:
        faults: list[SupplierFaultError] = []
        for offer in call.offers[:SUPPLIER_ATTEMPTS_MAX]:
            attempt = await self.attempts.begin(call, offer)
            try:
                answer = await self.attempts.send(call, attempt)
                try:
                    body = await answer.read(SUPPLIER_ANSWER_BYTES_MAX)
                finally:
                    await answer.close()
                plain = read_answer(body, public_model=call.request.model)
            except SupplierFaultError as fault:
                self.attempts.end(attempt, fault)
                faults.append(fault)
                continue
            call.first_token_s = self._clock.monotonic_s()
            attempt.timings = from_llama_cpp(plain.timings)
            self.attempts.end(attempt, None)
            return attempt, plain
        raise failed_everywhere(faults)

    # ------------------------------------------------------------------ opening

    async def open(
        self, principal: Principal, body: bytes, *, idempotency_key: str | None = None
    ) -> OpenCall:
        """
        Check, quote, route and hold; no supplier has been asked when this returns.

        The order of the checks: the body, the key's role and models, the model and tier,
        the price, the idempotency key, then the ledger (freeze, money and every limit).

        Raises:
            InvalidError, TooLargeError: The body.
            ForbiddenError: The key.
            ModelNotFoundError: Nobody serves the model at the tier.
            PriceMissingError: It has no price.
            InsufficientFundsError, LimitExceededError: Money or a limit is short.
        """
        request = parse_chat_request(body)
        if principal.role is not Role.BUYER:
            message = "Calls are made with a buyer's key; this one administers or supplies."
            raise ForbiddenError(message)
        tier_name = request.tier or principal.default_tier
        principal.require_model(request.model_name, tier_name)
        quoted = await self._quoted(request, body, tier_name, is_capped=False)
        call = self._call(quoted, principal, call_id=self._ids.mint())
        if idempotency_key is None:
            await self.holding.hold(call)
        else:
            await self._hold_once(call, idempotency_key)
        return call

    async def quote(self, body: bytes) -> Quoted:
        """
        Return what a body asks for, priced, for a caller without a key; nothing is held.

        Its output is capped on streams too, so that the quote is the most it can cost.

        Raises:
            InvalidError, TooLargeError: The body.
            ModelNotFoundError: Nobody serves the model at the tier.
            PriceMissingError: It has no price.
        """
        request = parse_chat_request(body)
        return await self._quoted(request, body, request.tier or DEFAULT_TIER, is_capped=True)

    def open_held(self, quoted: Quoted, principal: Principal, held: HeldPayment) -> OpenCall:
        """
        Return the call of a signed payment, whose hold is the call's and never grows.

        Args:
            quoted: What is sold.
            principal: The payment's agent.
            held: The payment; its id becomes the call's.
        """
        assert held.authorised_quanta >= quoted.quote.quanta, "what is held covers the quote"
        call = self._call(quoted, principal, call_id=held.payment_id)
        call.quote.quanta = held.authorised_quanta
        call.payment = held
        call.parts = held.parts
        call.extensions = CLAIM_EXTENSION
        return call

    async def _quoted(
        self, request: ChatRequest, body: bytes, tier_name: str, *, is_capped: bool
    ) -> Quoted:
        now = self._clock.now()
        offers = await self._offers(request.model_name, tier_name)
        card = await self._card(request.model_name, tier_name, now)
        granted = request.output_tokens_asked
        if granted is None and (is_capped or not request.is_stream):
            granted = self.holding.rules.granted_output_tokens
        output = (granted or self.holding.rules.granted_output_tokens) * request.choices_asked
        return Quoted(
            request=request,
            raw_body=body,
            tier=self._prices.tiers[tier_name],
            card=card,
            offers=offers,
            quote=_quote(card_input=prompt_ceiling_tokens(body), output=output, card=card),
            granted_output=granted,
            quoted_at=now,
        )

    def _call(self, quoted: Quoted, principal: Principal, *, call_id: UUID) -> OpenCall:
        now_s = self._clock.monotonic_s()
        return OpenCall(
            call_id=call_id,
            principal=principal,
            request=quoted.request,
            raw_body=quoted.raw_body,
            tier=quoted.tier,
            card=quoted.card,
            offers=rank_offers(quoted.offers, health=self.health, tier=quoted.tier, now_s=now_s),
            quote=quoted.quote,
            granted_output=quoted.granted_output,
            started_at=quoted.quoted_at,
            started_s=now_s,
            expires_at=quoted.quoted_at + timedelta(seconds=self.holding.rules.hold_lifetime_s),
            path_version=principal.spend_path_version,
        )

    async def _offers(self, model: str, tier: str) -> Sequence[Offer]:
        snapshot = self._supply.snapshot()
        offers = snapshot.offers_of(model, tier)
        if not offers:
            # Another process may have added it a moment ago: look before refusing.
            snapshot = await self._supply.reload()
            self._prices.invalidate()
            offers = snapshot.offers_of(model, tier)
        if offers:
            return offers
        raise _not_served(model, tier, snapshot)

    async def _card(self, model: str, tier: str, now: datetime) -> RateCard:
        try:
            return (await self._prices.snapshot()).card(model, tier, now)
        except PriceMissingError:
            # Another process may have set it a moment ago: look before refusing.
            self._prices.invalidate()
            return (await self._prices.snapshot()).card(model, tier, now)

    async def _hold_once(self, call: OpenCall, idempotency_key: str) -> None:
        """
        Hold for the one call that an idempotency key stands for.

        The key is taken after the hold: a refusal leaves no trace of it, and whoever has it
        is in the books as open, charged, or ended without a charge.
        """
        if not (0 < len(idempotency_key) <= IDEMPOTENCY_KEY_CHARACTERS_MAX):
            message = f"An Idempotency-Key has 1 to {IDEMPOTENCY_KEY_CHARACTERS_MAX} characters."
            raise InvalidError(message, code="invalid_idempotency_key")
        if not idempotency_key.isprintable():
            message = "An Idempotency-Key has printable characters only."
            raise InvalidError(message, code="invalid_idempotency_key")
        digest = hashlib.sha256(call.raw_body).digest()
        name = await self._free_name(call, idempotency_key, digest)
        await self.holding.hold(call)
        try:
            holder = await self._calls.claim_key(
                organisation_id=call.principal.organisation_id,
                idempotency_key=name,
                call_id=call.call_id,
                body_sha256=digest,
                now=self._clock.now(),
            )
        except Exception:
            await self._return_unused(call)
            raise
        if holder != call.call_id:
            await self._return_unused(call)
            raise _in_flight(holder)

    async def _free_name(self, call: OpenCall, idempotency_key: str, digest: bytes) -> str:
        """
        Return the name to take: the key, or its successor where a call ended unpaid.

        History is not rewritten: a call that failed or expired keeps its key, and the next
        try takes a name that follows from it, which only one can have.

        Raises:
            IdempotencyConflictError: The key was used with another body.
            CallInFlightError: Its call has not ended.
            CallAlreadySettledError: Its call is charged.
        """
        name = idempotency_key
        for _ in range(IDEMPOTENCY_TRIES_MAX):
            found = await self._calls.find_key(call.principal.organisation_id, name)
            if found is None:
                return name
            holder, other_digest = found
            if other_digest != digest:
                message = "This Idempotency-Key was used with another body."
                raise IdempotencyConflictError(message)
            # A call ends together with its hold: looked at in this order, none is missed.
            hold = await self._ledger.hold(holder)
            if hold is not None and hold.state == "open":
                raise _in_flight(holder, hold)
            ended = await self._calls.get_call(holder)
            is_sold = ended is not None and ended.status == "settled"
            if is_sold and not await self._calls.is_taken_back(holder):
                message = "The call with this Idempotency-Key has ended; see its receipt."
                raise CallAlreadySettledError(message, details=_whereabouts(holder))
            name = f"{_SUCCESSOR}{holder}"
        message = "This Idempotency-Key was tried too often; use another one."
        raise IdempotencyConflictError(message)

    async def _return_unused(self, call: OpenCall) -> None:
        posting = Posting(
            kind=PostingKind.VOID, fact_id=call.call_id, meta='{"reason":"idempotency_key"}'
        )
        try:
            await self._ledger.post(posting, is_timed=True)
        except TokenworksError as refused:
            _log.warning("hold_left_to_expire", call_id=str(call.call_id), code=refused.code)


def _quote(*, card_input: int, output: int, card: RateCard) -> Quote:
    return Quote(
        input_tokens=card_input,
        output_tokens=output,
        quanta=ceiling(card, card_input, output),
    )


def _not_served(
    model: str, tier: str, snapshot: SupplySnapshot
) -> ModelNotFoundError | NoSupplierError:
    tiers = snapshot.tiers_of(model)
    if tiers:
        message = f"The model {model!r} is not served at tier {tier!r}; try {', '.join(tiers)}."
        return ModelNotFoundError(message, param="model", details={"tiers": list(tiers)})
    if any(o.model == model and o.tier == tier for o in snapshot.all_offers.values()):
        message = f"The model {model!r} is not available at the moment."
        return NoSupplierError(message, param="model", retry_after_s=30)
    models = sorted({name for name, _ in snapshot.offers})
    known = ", ".join(models[:20]) or "none yet"
    message = f"The model {model!r} does not exist here. Models: {known}."
    return ModelNotFoundError(message, param="model", details={"models": models[:100]})


def _in_flight(holder: UUID, hold: HoldView | None = None) -> CallInFlightError:
    message = "A call with this Idempotency-Key is still running; try again in a second."
    details = _whereabouts(holder)
    if hold is not None:
        message += (
            " Should it have been cut off, the key is free soon, at `held_until` at the latest."
        )
        details["held_until"] = to_iso(hold.expires_at)
    return CallInFlightError(message, details=details, retry_after_s=1)


def _whereabouts(holder: UUID) -> dict[str, object]:
    return {"call_id": str(holder), "receipt": f"/hub/v1/receipts/{holder}"}
