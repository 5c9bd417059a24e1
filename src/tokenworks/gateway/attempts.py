"""
Ask suppliers: one physical request at a time, each on record before it is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

import structlog

from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import SupplierFaultError
from tokenworks.foundation.limits import SUPPLIER_ANSWER_BYTES_MAX
from tokenworks.gateway.answer import read_error
from tokenworks.gateway.calls import CallStore
from tokenworks.gateway.errors import RequestRefusedError, SuppliersFailedError
from tokenworks.gateway.model import Attempt, AttemptStatus
from tokenworks.gateway.open_call import OpenCall
from tokenworks.gateway.ports import BadAnswerError, Upstream, UpstreamAnswer, UpstreamRequest
from tokenworks.gateway.request import to_upstream_body
from tokenworks.gateway.routing import HealthBook
from tokenworks.gateway.settlement import PURPOSES
from tokenworks.identity.model import PLATFORM_ID, TAX_ID
from tokenworks.ledger.service import Ledger
from tokenworks.supply.model import Offer
from tokenworks.supply.service import Supply

CALL_ID_HEADER: Final = "x-client-request-id"
"""OpenAI's name for the caller's own id of a request; others pass over what they do not know."""

_HTTP_OK: Final = 200
_REFUSALS_OF_REQUEST: Final = frozenset({400, 413, 415, 422})
"""Statuses by which a supplier says that the request itself is wrong: no other is asked."""

_log = structlog.get_logger("tokenworks.gateway")


class Attempts:
    """
    Send calls to suppliers and learn from how they answer.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        supply: Supply,
        upstream: Upstream,
        calls: CallStore,
        clock: Clock,
        health: HealthBook,
    ) -> None:
        self._ledger = ledger
        self._supply = supply
        self._upstream = upstream
        self._calls = calls
        self._clock = clock
        self._health = health
        self._met: set[tuple[UUID, int]] = set()

    async def begin(self, call: OpenCall, offer: Offer) -> Attempt:
        """
        Note an attempt before it is sent; the first one stands in the hold already.
        """
        attempt = Attempt(
            call_id=call.call_id,
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
        if supplier.sends_call_id:
            headers[CALL_ID_HEADER] = str(call.call_id)
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

    def end(self, attempt: Attempt, fault: SupplierFaultError | None) -> None:
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
        self._health.note_fault(
            offer.offer_id, now_s=now_s, retry_after_s=fault.retry_after_s or 0.0
        )
        _log.warning(
            "supplier_fault",
            call_id=str(attempt.call_id),
            supplier=offer.supplier_name,
            offer_id=str(offer.offer_id),
            code=fault.code,
            http_status=attempt.http_status,
        )


def failed_everywhere(faults: Sequence[SupplierFaultError]) -> SuppliersFailedError:
    """
    Return the error of a call that no supplier answered.
    """
    codes = [fault.code for fault in faults]
    message = "No supplier could answer; nothing was charged."
    return SuppliersFailedError(message, details={"attempts": codes})
