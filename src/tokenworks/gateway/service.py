"""
The life of a call.

``open`` (quote, route, hold) -> attempts until one answers -> meter, rate, settle,
receipt. From the hold on, exactly one of ``_settle`` and ``_give_back`` ends the call.
Everything before the hold may refuse; nothing after it is refused for funds.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

import msgspec
import structlog

from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import (
    ForbiddenError,
    InvalidError,
    SupplierFaultError,
    TokenworksError,
)
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.limits import (
    DRAIN_AFTER_DISCONNECT_S,
    GRANTED_OUTPUT_TOKENS_DEFAULT,
    HOLD_LIFETIME_S,
    LEDGER_ANSWER_TIMEOUT_S,
    SUPPLIER_ANSWER_BYTES_MAX,
    SUPPLIER_ATTEMPTS_MAX,
)
from tokenworks.foundation.money import USD, quanta_to_text
from tokenworks.gateway.answer import PlainAnswer, read_answer, read_error
from tokenworks.gateway.bill import Bill, Delivered, free_bill, make_bill
from tokenworks.gateway.calls import CallStore
from tokenworks.gateway.errors import (
    CallAlreadySettledError,
    CallInFlightError,
    IdempotencyConflictError,
    ModelNotFoundError,
    NoSupplierError,
    RequestRefusedError,
    SuppliersFailedError,
)
from tokenworks.gateway.model import (
    Attempt,
    AttemptStatus,
    CallOutcome,
    PlainResult,
    Settled,
    to_iso,
)
from tokenworks.gateway.open_call import LIMIT_TOKENS, OpenCall, Quote
from tokenworks.gateway.ports import BadAnswerError, Upstream, UpstreamAnswer, UpstreamRequest
from tokenworks.gateway.receipt import ReceiptIssuer, receipt_fields
from tokenworks.gateway.request import parse_chat_request, to_upstream_body
from tokenworks.gateway.routing import HealthBook, misses_floor, rank_offers
from tokenworks.gateway.settlement import PURPOSES, SettlementLeg, payable_of, settlement_legs
from tokenworks.identity.model import PLATFORM_ID, TAX_ID, Principal, Role
from tokenworks.ledger.errors import LedgerUnavailableError
from tokenworks.ledger.model import (
    ASSET_IDS,
    Outcome,
    Placement,
    Posting,
    PostingKind,
    Refusal,
    Reservation,
    Transfer,
)
from tokenworks.ledger.service import Ledger
from tokenworks.metering.ceiling import prompt_ceiling_tokens
from tokenworks.metering.estimate import TokenCounter
from tokenworks.pricing.model import RateCard
from tokenworks.pricing.rating import ceiling
from tokenworks.pricing.service import PriceBook
from tokenworks.receipts.model import JsonValue
from tokenworks.supply.model import Offer, SupplySnapshot
from tokenworks.supply.service import Supply

HEARTBEATS_PER_LIFETIME: Final = 3
SPEED_TOKENS_MIN: Final = 16
"""Shorter answers say nothing about tokens per second."""

IDEMPOTENCY_KEY_CHARACTERS_MAX: Final = 255
IDEMPOTENCY_TRIES_MAX: Final = 100
"""How often calls with one key may fail before it is refused."""

_SUCCESSOR: Final = "\x01after:"
"""Begins a name that no client can send: a header has no control characters."""

_HTTP_OK: Final = 200
_REFUSALS_OF_REQUEST: Final = frozenset({400, 413, 415, 422})
"""Statuses by which a supplier says that the request itself is wrong: no other is asked."""

_log = structlog.get_logger("tokenworks.gateway")
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRules:
    """
    What the operator may set about calls.
    """

    granted_output_tokens: int = GRANTED_OUTPUT_TOKENS_DEFAULT
    hold_lifetime_s: int = HOLD_LIFETIME_S
    drain_after_disconnect_s: float = DRAIN_AFTER_DISCONNECT_S


class _AccountUnknownError(Exception):
    """
    This process has not met an account yet; says which.
    """

    def __init__(self, party_id: UUID, purpose: str, asset: str) -> None:
        super().__init__(purpose)
        self.key = (party_id, purpose, asset)


class Heartbeat:
    """
    Repeat ``beat`` while a block runs; a beat that fails is tried again at the next.
    """

    __slots__ = ("_beat", "_interval_s", "_task", "_timer")

    def __init__(self, beat: Callable[[], Awaitable[object]], interval_s: float) -> None:
        self._beat = beat
        self._interval_s = interval_s
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._interval_s, self._start)

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._run())
        self._timer = loop.call_later(self._interval_s, self._start)

    async def _run(self) -> None:
        with contextlib.suppress(LedgerUnavailableError):
            await self._beat()


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
    ) -> None:
        self._ledger = ledger
        self._prices = prices
        self._supply = supply
        self._receipts = receipts
        self._upstream = upstream
        self._counter = counter
        self._calls = calls
        self._clock = clock
        self._ids = ids
        self.rules = rules
        self.health = HealthBook()
        # Terms of offers whose payees' accounts this process knows.
        self._met: set[tuple[UUID, int]] = set()

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

    # ------------------------------------------------------------------ plain answers

    async def complete(self, call: OpenCall) -> PlainResult:
        """
        Answer an opened call in one piece, charged before it is returned.

        Raises:
            RequestRefusedError: The supplier refuses the request; nothing is charged.
            SuppliersFailedError: None delivered; nothing is charged.
            LedgerUnavailableError: Delivered but not durable; not charged unless the books
                come back before the hold expires.
        """
        with self.heartbeat(call):
            try:
                attempt, answer = await self._first_answer(call)
            except Exception as error:
                await self.give_back(call, error)
                raise
            reports = () if answer.usage is None else (answer.usage,)
            delivered = Delivered(reports=reports, texts=answer.texts)
            bill = await make_bill(call, attempt.offer, delivered, counter=self._counter)
            outcome = CallOutcome.COMPLETED
            if answer.is_empty:
                outcome, bill = CallOutcome.EMPTY, free_bill(call, bill.usage)
            settled = await self.settle(call, attempt, outcome=outcome, bill=bill)
        capped = call.granted_output if call.request.output_tokens_asked is None else None
        return PlainResult(body=answer.body, settled=settled, granted_output=capped)

    async def _first_answer(self, call: OpenCall) -> tuple[Attempt, PlainAnswer]:
        faults: list[SupplierFaultError] = []
        for offer in call.offers[:SUPPLIER_ATTEMPTS_MAX]:
            attempt = await self.begin_attempt(call, offer)
            try:
                answer = await self.send(call, attempt)
                try:
                    body = await answer.read(SUPPLIER_ANSWER_BYTES_MAX)
                finally:
                    await answer.close()
                plain = read_answer(body, public_model=call.request.model)
            except SupplierFaultError as fault:
                self.end_attempt(attempt, fault)
                faults.append(fault)
                continue
            call.first_token_s = self._clock.monotonic_s()
            self.end_attempt(attempt, None)
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
        now = self._clock.now()
        offers = await self._offers(request.model_name, tier_name)
        card = (await self._prices.snapshot()).card(request.model_name, tier_name, now)
        tier = self._prices.tiers[tier_name]
        granted = request.output_tokens_asked
        if granted is None and not request.is_stream:
            granted = self.rules.granted_output_tokens
        output = (granted or self.rules.granted_output_tokens) * request.choices_asked
        quote = _quote(card_input=prompt_ceiling_tokens(body), output=output, card=card)
        call = OpenCall(
            call_id=self._ids.mint(),
            principal=principal,
            request=request,
            raw_body=body,
            tier=tier,
            card=card,
            offers=rank_offers(
                offers, health=self.health, tier=tier, now_s=self._clock.monotonic_s()
            ),
            quote=quote,
            granted_output=granted,
            started_at=now,
            started_s=self._clock.monotonic_s(),
            expires_at=now + timedelta(seconds=self.rules.hold_lifetime_s),
            path_version=principal.spend_path_version,
        )
        if idempotency_key is None:
            await self._hold(call)
        else:
            await self._hold_once(call, idempotency_key)
        return call

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
        await self._hold(call)
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
                raise _in_flight(holder)
            ended = await self._calls.get_call(holder)
            if ended is not None and ended.status == "settled":
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
            await self._post(call, posting)
        except TokenworksError as refused:
            _log.warning("hold_left_to_expire", call_id=str(call.call_id), code=refused.code)

    async def _hold(self, call: OpenCall) -> None:
        outcome = await self._place(call)
        if outcome.code == Refusal.SPEND_PATH_STALE:
            version = await self._ledger.path_version(call.principal.spend_path_id)
            call.path_version = version or call.path_version
            outcome = await self._place(call)
        if outcome.code == Refusal.SCOPE_CLOSED:
            # The key, or someone above it, was closed a moment ago elsewhere.
            message = "This API key, or the party it belongs to, is closed."
            raise ForbiddenError(message, code="scope_closed")
        if not outcome.is_done:
            raise await self._ledger.refusal(outcome)
        call.parts = outcome.parts

    async def _place(self, call: OpenCall) -> Outcome:
        principal = call.principal
        offer = call.offers[0]
        return await self._ledger.place(
            Placement(
                hold_id=call.call_id,
                path_id=principal.spend_path_id,
                path_version=call.path_version,
                reservations=_reservations(call, call.quote.quanta, call.quote.tokens),
                expires_at=call.expires_at,
                deadline=self._clock.now() + timedelta(seconds=LEDGER_ANSWER_TIMEOUT_S),
                meta=(
                    f'{{"key":"{principal.key_id}","offer":"{offer.offer_id}",'
                    f'"quoted":"{call.quote.quanta}"}}'
                ),
            )
        )

    async def extend(self, call: OpenCall, *, quanta: int, tokens: int) -> bool:
        """
        Grow a call's hold on every part, all or none; return whether it grew.
        """
        call.extensions += 1
        call.expires_at = self._clock.now() + timedelta(seconds=self.rules.hold_lifetime_s)
        outcome = await self._ledger.place(
            Placement(
                hold_id=call.call_id,
                extension=call.extensions,
                reservations=_reservations(call, quanta, tokens),
                expires_at=call.expires_at,
                deadline=self._clock.now() + timedelta(seconds=LEDGER_ANSWER_TIMEOUT_S),
            )
        )
        if outcome.is_done:
            call.quote.quanta += quanta
        return outcome.is_done

    def heartbeat(self, call: OpenCall) -> Heartbeat:
        """
        Keep a call's hold from expiring for as long as the block runs.
        """
        interval_s = self.rules.hold_lifetime_s / HEARTBEATS_PER_LIFETIME
        return Heartbeat(lambda: self.extend(call, quanta=0, tokens=0), interval_s)

    # ------------------------------------------------------------------ attempts

    async def begin_attempt(self, call: OpenCall, offer: Offer) -> Attempt:
        """
        Note an attempt before it is sent; the first one stands in the hold already.
        """
        attempt = Attempt(
            ordinal=len(call.attempts) + 1,
            offer=offer,
            started_at=self._clock.now(),
            started_s=self._clock.monotonic_s(),
        )
        call.attempts.append(attempt)
        if (offer.offer_id, offer.terms_version) not in self._met:
            await self._meet_payees(offer, call.card.currency)
        if attempt.ordinal > 1:
            await self._calls.record_attempt(call.call_id, attempt)
        return attempt

    async def _meet_payees(self, offer: Offer, currency: str) -> None:
        # Before the supplier is asked: a settle must not need more of the database than the
        # posting itself, which is repeated until it is durable.
        split = offer.split
        payees = {
            "tax": TAX_ID,
            "reseller": split.reseller_id,
            "rights": split.rights_id,
            "platform": PLATFORM_ID,
            "supplier": offer.supplier_party_id,
            "power": split.power_id,
        }
        for kind, payee in payees.items():
            if payee is not None:
                await self._ledger.account(payee, PURPOSES[kind], currency)
        self._met.add((offer.offer_id, offer.terms_version))

    async def send(self, call: OpenCall, attempt: Attempt) -> UpstreamAnswer:
        """
        Send one attempt and return its answer, certainly with status 200.

        Raises:
            SupplierFaultError: Anything another supplier may do better.
            RequestRefusedError: The request itself is at fault.
        """
        offer = attempt.offer
        access = self._supply.snapshot().suppliers.get(offer.supplier_id)
        if access is None:
            message = "The supplier is not usable any more."
            raise BadAnswerError(message, code="supplier_removed")
        supplier = access.supplier
        headers = {"content-type": "application/json"}
        if access.api_key is not None:
            headers["authorization"] = f"Bearer {access.api_key}"
        answer = await self._upstream.send(
            UpstreamRequest(
                url=f"{supplier.base_url}/chat/completions",
                headers=headers,
                body=to_upstream_body(
                    call.raw_body,
                    call.request,
                    upstream_model=offer.upstream_model,
                    granted_output=call.granted_output,
                    force_usage=True,
                ),
                allow_private=supplier.allow_private,
                connect_timeout_s=supplier.timeouts.connect_timeout_ms / 1000,
                first_byte_timeout_s=supplier.timeouts.first_byte_timeout_ms / 1000,
                idle_timeout_s=supplier.timeouts.idle_timeout_ms / 1000,
            )
        )
        attempt.http_status = answer.status
        if answer.status == _HTTP_OK:
            return answer
        await self._refused(attempt, answer, secret=access.api_key)
        raise AssertionError("a refusal always raises")

    async def _refused(
        self, attempt: Attempt, answer: UpstreamAnswer, *, secret: str | None
    ) -> None:
        try:
            said = read_error(await answer.read(SUPPLIER_ANSWER_BYTES_MAX))
        finally:
            await answer.close()
        if answer.status in _REFUSALS_OF_REQUEST:
            attempt.status = AttemptStatus.REFUSED
            attempt.error_code = f"http_{answer.status}"
            message = said.message or "The supplier refused the request."
            if secret is not None:
                # Some quote the credential they were sent; the client must not read it.
                message = message.replace(secret, "[redacted]")
            raise RequestRefusedError(message, param=said.param)
        retry_after = answer.headers.get("retry-after", "")
        message = f"The supplier answered with status {answer.status}."
        raise BadAnswerError(
            message,
            code=f"http_{answer.status}",
            retry_after_s=float(retry_after) if retry_after.isdigit() else None,
        )

    def end_attempt(self, attempt: Attempt, fault: SupplierFaultError | None) -> None:
        """
        Note how an attempt ended, and what it teaches about its offer.
        """
        now_s = self._clock.monotonic_s()
        attempt.duration_ms = (now_s - attempt.started_s) * 1000
        if fault is None:
            attempt.status = AttemptStatus.SERVED
            return
        attempt.status = AttemptStatus.FAULT
        attempt.error_code = fault.code
        offer = attempt.offer
        self.health.note_fault(
            offer.offer_id, now_s=now_s, retry_after_s=fault.retry_after_s or 0.0
        )
        _log.warning(
            "supplier_fault",
            supplier=offer.supplier_name,
            offer_id=str(offer.offer_id),
            code=fault.code,
            http_status=attempt.http_status,
        )

    # ------------------------------------------------------------------ ending

    async def settle(
        self, call: OpenCall, served: Attempt, *, outcome: CallOutcome, bill: Bill
    ) -> Settled:
        """
        Capture the hold into legs and sign the receipt; durable when it returns.

        Raises:
            LedgerUnavailableError: Not durable in time; the posting goes on in memory
                until the hold expires.
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
        posted = await self._post(call, posting)
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
            document=await self._receipts.document(prepared, posted),
        )

    async def give_back(self, call: OpenCall, error: BaseException) -> None:
        """
        End a call that delivered nothing: the whole hold returns, the attempts stay visible.

        Never raises: if the books do not answer, the hold expires by itself.
        """
        code = getattr(error, "code", type(error).__name__)
        served = call.attempts[-1] if call.attempts else None
        posting = Posting(
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
        try:
            await self._post(call, posting)
        except TokenworksError as refused:
            _log.warning("hold_left_to_expire", call_id=str(call.call_id), code=refused.code)

    async def _post(self, call: OpenCall, posting: Posting) -> Outcome:
        outcome = await self._ledger.post(posting, is_timed=True)
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
        if await self.extend(call, quanta=short_quanta, tokens=short_tokens):
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
        except TokenworksError as error:
            # The call is charged and stays so; the next one will block the offer.
            _log.warning("offer_not_blocked", offer_id=str(offer.offer_id), code=error.code)

    def _floor(self, call: OpenCall, served: Attempt, bill: Bill) -> Mapping[str, JsonValue]:
        first_ms = self._first_token_ms(call, served)
        speed: float | None = None
        output = bill.usage.total_output
        if served.duration_ms and output >= SPEED_TOKENS_MIN:
            speed = output / (served.duration_ms / 1000)
        if first_ms is not None and served.status is AttemptStatus.SERVED:
            self.health.note_success(
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
        return _encode(
            {
                "call_id": call.call_id,
                "status": status,
                "outcome": outcome.value,
                "organisation_id": principal.organisation_id,
                "team_id": chain[1] if len(chain) > 1 else None,
                "party_id": principal.party_id,
                "key_id": principal.key_id,
                "model": call.request.model_name,
                "tier": call.tier.tier_id,
                "is_stream": call.request.is_stream,
                "supplier_id": served.offer.supplier_id if served else None,
                "supplier_name": served.offer.supplier_name if served else None,
                "usage": {axis.value: count for axis, count in usage.counts.items()},
                "input_tokens": usage.total_input,
                "output_tokens": usage.total_output,
                "is_estimate": usage.is_estimate,
                "currency": bill.rated.currency,
                "quoted_quanta": call.quote.quanta,
                "charge_quanta": charge,
                "payable_quanta": served.payable_quanta if served else 0,
                "started_at": to_iso(call.started_at),
                "duration_ms": (self._clock.monotonic_s() - call.started_s) * 1000,
                "first_token_ms": self._first_token_ms(call, served) if served else None,
                "attempt_count": len(call.attempts),
                "error_code": error_code or (served.error_code if served else None),
                "receipt": receipt,
            }
        ).decode()


_CODES: Final[Mapping[int, str]] = {number: code for code, number in ASSET_IDS.items()}


def _quote(*, card_input: int, output: int, card: RateCard) -> Quote:
    return Quote(
        input_tokens=card_input,
        output_tokens=output,
        quanta=ceiling(card, card_input, output),
    )


def _reservations(call: OpenCall, quanta: int, tokens: int) -> tuple[Reservation, ...]:
    return tuple(
        Reservation(asset_id=asset_id, quanta=amount)
        for asset_id, amount in (
            (call.money_asset, quanta),
            (call.money_limit_asset, quanta),
            (LIMIT_TOKENS, tokens),
        )
        if amount
    )


def failed_everywhere(faults: Sequence[SupplierFaultError]) -> SuppliersFailedError:
    """
    Return the error of a call that no supplier answered.
    """
    codes = [fault.code for fault in faults]
    message = "No supplier could answer; nothing was charged."
    return SuppliersFailedError(message, details={"attempts": codes})


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


def _in_flight(holder: UUID) -> CallInFlightError:
    message = "A call with this Idempotency-Key is still running."
    return CallInFlightError(message, details=_whereabouts(holder), retry_after_s=1)


def _whereabouts(holder: UUID) -> dict[str, object]:
    return {"call_id": str(holder), "receipt": f"/hub/v1/receipts/{holder}"}


def call_id_text(call_id: UUID) -> str:
    """
    Return a call id as clients see it.
    """
    return str(call_id)
