"""
Relay a stream: bytes on to the client, usage aside, the receipt before ``[DONE]``.

Policies, in the order in which they are looked at:

- The client hangs up: the supplier is read on within a cap, what was produced is charged.
- The supplier breaks off: an error event, the buyer pays nothing, the cost stays visible.
- The hold runs low (a stream without an output limit): it grows by another grant at 80 %;
  if it cannot, the stream ends cleanly at the grant and is charged.
- The books are lost: an error event instead of ``[DONE]``; the settle goes on in memory.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from tokenworks.foundation.errors import SupplierFaultError, TokenworksError
from tokenworks.foundation.limits import SUPPLIER_ATTEMPTS_MAX
from tokenworks.gateway.attempts import failed_everywhere
from tokenworks.gateway.bill import Bill, Delivered, estimate, free_bill, make_bill
from tokenworks.gateway.model import Attempt, CallOutcome, Settled
from tokenworks.gateway.open_call import OpenCall
from tokenworks.gateway.ports import BadAnswerError, UpstreamAnswer
from tokenworks.gateway.service import Gateway
from tokenworks.gateway.sse import DONE_EVENT, StreamMeter
from tokenworks.ledger.errors import LedgerUnavailableError
from tokenworks.metering.estimate import TokenCounter
from tokenworks.metering.model import Axis
from tokenworks.metering.timings import from_llama_cpp
from tokenworks.pricing.rating import ceiling, rate

RECEIPT_COMMENT: Final = b": tokenworks-receipt "
EXTEND_AT_PERCENT: Final = 80
CHARACTERS_PER_TOKEN_MIN: Final = 3
"""Pieces may carry several tokens: text this dense counts as at least one token."""

Send = Callable[[bytes], Awaitable[None]]
IsGone = Callable[[], bool]
Closing = Callable[[Settled], bytes]

_encode = msgspec.json.Encoder().encode


@dataclass(slots=True, kw_only=True)
class OpenStream:
    """
    A stream whose first bytes have arrived: headers may be sent now.
    """

    call: OpenCall
    attempt: Attempt
    answer: UpstreamAnswer
    chunks: AsyncIterator[bytes]
    meter: StreamMeter
    first: bytes = field(repr=False)
    granted_tokens: int
    """Output tokens of all choices that the hold covers; grows with extensions."""
    cannot_grow: bool = False


class Streamer:
    """
    Open and relay streams for one gateway.
    """

    def __init__(
        self,
        gateway: Gateway,
        *,
        counter: TokenCounter,
        monotonic_s: Callable[[], float],
        to_error_event: Callable[[TokenworksError], bytes],
    ) -> None:
        self._gateway = gateway
        self._counter = counter
        self._monotonic_s = monotonic_s
        self._to_error_event = to_error_event

    async def begin(self, call: OpenCall) -> OpenStream:
        """
        Find a supplier that begins to answer; until then another one may be tried.

        Raises:
            RequestRefusedError: The supplier refuses the request; nothing is charged.
            SuppliersFailedError: None delivered a first byte; nothing is charged.
        """
        with self._gateway.holding.heartbeat(call):
            try:
                return await self._first_stream(call)
            except Exception as error:
                await self._gateway.settling.give_back(call, error)
                raise

    async def _first_stream(self, call: OpenCall) -> OpenStream:
        faults: list[SupplierFaultError] = []
        for offer in call.offers[:SUPPLIER_ATTEMPTS_MAX]:
            attempt = await self._gateway.attempts.begin(call, offer)
            try:
                return await self._first_bytes(call, attempt)
            except SupplierFaultError as fault:
                self._gateway.attempts.end(attempt, fault)
                faults.append(fault)
        raise failed_everywhere(faults)

    async def _first_bytes(self, call: OpenCall, attempt: Attempt) -> OpenStream:
        answer = await self._gateway.attempts.send(call, attempt)
        meter = StreamMeter(
            public_model=call.request.model,
            wants_usage_chunk=call.request.wants_usage_chunk,
        )
        chunks = aiter(answer.chunks())
        try:
            first = b""
            # Comments and chunks without a choice are no answer yet: until one begins,
            # another supplier may do better, so nothing is passed on.
            async for chunk in chunks:
                first += meter.feed(chunk)
                if meter.choices or meter.fault or meter.is_done:
                    break
            else:
                first += meter.finish()
            if meter.fault is not None:
                raise meter.fault
            if not meter.choices:
                message = "The supplier's stream has no answer in it."
                raise BadAnswerError(message)
        except BaseException:
            await answer.close()
            raise
        call.first_token_s = self._monotonic_s()
        return OpenStream(
            call=call,
            attempt=attempt,
            answer=answer,
            chunks=chunks,
            meter=meter,
            first=first,
            granted_tokens=call.quote.output_tokens,
        )

    async def relay(
        self, stream: OpenStream, *, send: Send, is_gone: IsGone, closing: Closing | None = None
    ) -> Settled | None:
        """
        Pass the rest on and settle; ``None`` when it ended with an error event.

        Runs to its end whatever the client does: call it in a task that is not cancelled.

        Args:
            stream: As ``begin`` returned it.
            send: Takes bytes for the client.
            is_gone: Whether the client has left.
            closing: Makes a comment that stands after the receipt's; ``None``: there is none.
        """
        with self._gateway.holding.heartbeat(stream.call):
            try:
                outcome = await self._pump(stream, send=send, is_gone=is_gone)
            finally:
                await stream.answer.close()
            fault = stream.meter.fault if outcome is CallOutcome.CUT else None
            stream.attempt.timings = from_llama_cpp(stream.meter.timings)
            self._gateway.attempts.end(stream.attempt, fault)
            try:
                bill = await self._bill(stream, outcome)
                if outcome is CallOutcome.COMPLETED and stream.meter.is_empty:
                    outcome, bill = CallOutcome.EMPTY, free_bill(stream.call, bill.usage)
                settled = await self._gateway.settling.settle(
                    stream.call, stream.attempt, outcome=outcome, bill=bill
                )
            except TokenworksError as error:
                if not is_gone():
                    await send(self._to_error_event(error))
                return None
        if is_gone():
            return settled
        if fault is not None:
            await send(self._to_error_event(fault))
            return None
        last = b"" if outcome is not CallOutcome.HOLD_EXHAUSTED else _length_event(stream)
        comments = RECEIPT_COMMENT + _encode(settled.document) + b"\n\n"
        if closing is not None:
            comments += closing(settled)
        await send(last + comments + DONE_EVENT)
        return settled

    async def _pump(self, stream: OpenStream, *, send: Send, is_gone: IsGone) -> CallOutcome:
        meter = stream.meter
        deadline_s: float | None = None
        if stream.first:
            await send(stream.first)
        try:
            while not meter.is_done and meter.fault is None:
                if is_gone():
                    now_s = self._monotonic_s()
                    deadline_s = deadline_s or (
                        now_s + self._gateway.holding.rules.drain_after_disconnect_s
                    )
                    if now_s > deadline_s:
                        return CallOutcome.DISCONNECTED
                chunk = await anext(stream.chunks, None)
                passed = meter.finish() if chunk is None else meter.feed(chunk)
                if passed and deadline_s is None:
                    await send(passed)
                if chunk is None:
                    break
                is_open = stream.call.granted_output is None and not meter.is_finished
                if is_open and not await self._is_covered(stream):
                    return CallOutcome.HOLD_EXHAUSTED
        except SupplierFaultError as fault:
            meter.fault = fault
        if meter.fault is not None:
            return CallOutcome.DISCONNECTED if deadline_s is not None else CallOutcome.CUT
        return CallOutcome.COMPLETED if deadline_s is None else CallOutcome.DISCONNECTED

    async def _is_covered(self, stream: OpenStream) -> bool:
        """
        Extend the hold in time; return false when the stream has to end.
        """
        produced = self._produced(stream)
        if produced * 100 < stream.granted_tokens * EXTEND_AT_PERCENT:
            return True
        if not stream.cannot_grow:
            call = stream.call
            more = self._gateway.holding.rules.granted_output_tokens * call.request.choices_asked
            quanta = ceiling(call.card, 0, more)
            try:
                has_grown = await self._gateway.holding.extend(call, quanta=quanta, tokens=more)
            except LedgerUnavailableError:
                # What is held still covers the grant; what comes of the rest is not known.
                has_grown = False
            if has_grown:
                stream.granted_tokens += more
                call.quote.output_tokens += more
                return True
            stream.cannot_grow = True
        return produced < stream.granted_tokens

    def _produced(self, stream: OpenStream) -> int:
        meter = stream.meter
        return max(meter.pieces, meter.characters // CHARACTERS_PER_TOKEN_MIN)

    async def _bill(self, stream: OpenStream, outcome: CallOutcome) -> Bill:
        call, meter = stream.call, stream.meter
        texts = [meter.choices[index].text for index in sorted(meter.choices)]
        if outcome is CallOutcome.CUT:
            usage = await estimate(call, texts, counter=self._counter)
            return free_bill(call, usage)
        delivered = Delivered(reports=meter.usages, texts=texts)
        if meter.usages or outcome is CallOutcome.COMPLETED:
            return await make_bill(call, stream.attempt.offer, delivered, counter=self._counter)
        # Ended early by the client or by the hold: no report can have come, which is no
        # fault. Never more than what was held.
        usage = await estimate(call, texts, counter=self._counter)
        if outcome is CallOutcome.HOLD_EXHAUSTED and usage.total_output > stream.granted_tokens:
            usage = usage.with_count(Axis.OUTPUT, stream.granted_tokens)
        return Bill(usage=usage, rated=rate(usage, call.card))


def _length_event(stream: OpenStream) -> bytes:
    """
    Return the chunk that says the answer was ended for its length.
    """
    chunk: dict[str, object] = {
        "id": stream.meter.answer_id or f"chatcmpl-{stream.call.call_id}",
        "object": "chat.completion.chunk",
        "created": int(stream.call.started_at.timestamp()),
        "model": stream.call.request.model,
        "choices": [
            {"index": index, "delta": {}, "finish_reason": "length"}
            for index in sorted(stream.meter.choices)
        ],
    }
    return b"data: " + _encode(chunk) + b"\n\n"
