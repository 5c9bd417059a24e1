"""
A client of a foreign facilitator that believes nothing: every answer is kept as it came.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, cast

import httpx

from tokenworks.conformance.errors import AuditImpossibleError
from tokenworks.conformance.model import JsonObject

X402_VERSION: Final = 2
_OK: Final = 200
_FAULT: Final = 500

ANSWER_TIMEOUT_S: Final = 60.0
"""For a whole answer: one that comes in drops is none."""
SUPPORTED_TIMEOUT_S: Final = 10.0
UNFINISHED: Final = frozenset({"settlement_pending", "idempotency_in_flight"})
IMPATIENT_S: Final = 0.001
"""How long a client waits that hangs up while its payment is settled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """
    What a seller sends to a facilitator.
    """

    payment: JsonObject  # PaymentPayload, from the payer
    requirements: JsonObject  # PaymentRequirements, the seller's own

    def to_document(self) -> JsonObject:
        """
        Return the body of verify and settle.
        """
        return {
            "x402Version": X402_VERSION,
            "paymentPayload": self.payment,
            "paymentRequirements": self.requirements,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """
    What came back, or that nothing did.
    """

    status: int  # 0: no answer
    document: JsonObject
    error: str = ""  # of the transport

    @property
    def is_valid(self) -> bool:
        """
        Whether a verify said that the payment is good.
        """
        return self.status == _OK and self.document.get("isValid") is True

    @property
    def is_settled(self) -> bool:
        """
        Whether a settle said that the payment was made.
        """
        return self.status == _OK and self.document.get("success") is True

    @property
    def transaction(self) -> str:
        """
        The settlement's id.
        """
        return str(self.document.get("transaction") or "")

    @property
    def reason(self) -> str:
        """
        Why not, in the facilitator's words.
        """
        for name in ("errorReason", "invalidReason", "code", "error", "detail"):
            if value := self.document.get(name):
                return str(value)[:120]
        return self.error or f"status {self.status}"

    @property
    def is_unfinished(self) -> bool:
        """
        Whether the same call is to be sent again later.
        """
        return self.reason in UNFINISHED

    @property
    def is_fault(self) -> bool:
        """
        Whether the facilitator broke instead of refusing.
        """
        return self.status == 0 or self.status >= _FAULT


class Facilitator:
    """
    Talk to ``/supported``, ``/verify`` and ``/settle`` below an address.

    Args:
        url: The facilitator's address, such as ``http://127.0.0.1:9000/x402``.
        connections: At most so many requests at once.
        headers: Sent with each request, for facilitators that ask for a key.
        transport: Replaces the network.
    """

    def __init__(
        self,
        url: str,
        *,
        connections: int,
        headers: Mapping[str, str] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url: Final = url.rstrip("/")
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._client = httpx.AsyncClient(
            timeout=ANSWER_TIMEOUT_S, limits=limits, headers=headers, transport=transport
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.aclose()

    async def read_kinds(self) -> list[JsonObject]:
        """
        Return what the facilitator settles.

        Raises:
            AuditImpossibleError: The address is no facilitator's.
        """
        where = f"{self.url}/supported"
        if not self.url.startswith(("http://", "https://")):
            message = f"{self.url!r} is no address: it begins with http:// or https://."
            raise AuditImpossibleError(message)
        try:
            async with asyncio.timeout(SUPPORTED_TIMEOUT_S):
                response = await self._client.get(where)
        except httpx.InvalidURL as error:
            raise AuditImpossibleError(f"{self.url} is no address: {error}.") from error
        except (TimeoutError, httpx.TimeoutException) as error:
            message = f"{where} does not answer within {SUPPORTED_TIMEOUT_S:.0f} s."
            raise AuditImpossibleError(message) from error
        except httpx.HTTPError as error:
            message = f"{where} cannot be reached: {str(error) or type(error).__name__}."
            raise AuditImpossibleError(message) from error
        kinds = _decode(response).get("kinds")
        if response.is_redirect:
            message = f"{where} sends on to {response.headers.get('location')}: audit that address."
            raise AuditImpossibleError(message)
        if response.status_code != _OK or not isinstance(kinds, list):
            kind = response.headers.get("content-type", "nothing").partition(";")[0]
            message = (
                f"{where} does not answer as an x402 facilitator: status {response.status_code},"
                f" {kind}, where x402 has 200 and JSON with 'kinds'. A hub's address ends in /x402."
            )
            raise AuditImpossibleError(message)
        found = cast("list[object]", kinds)
        return [cast("JsonObject", kind) for kind in found if isinstance(kind, dict)]

    async def verify(self, order: Order) -> Answer:
        """
        Ask whether a payment is good.
        """
        return await self.send("/verify", _encode(order.to_document()))

    async def settle(self, order: Order) -> Answer:
        """
        Ask to make a payment.
        """
        return await self.send("/settle", _encode(order.to_document()))

    async def settle_as(self, order: Order, key: str) -> Answer:
        """
        Ask to make a payment, with the payee's API key.
        """
        content = _encode(order.to_document())
        return await self.send("/settle", content, headers={"authorization": f"Bearer {key}"})

    async def settle_and_hang_up(self, order: Order) -> Answer:
        """
        Ask to make a payment and close the connection before the answer.
        """
        content = _encode(order.to_document())
        impatient = httpx.Timeout(ANSWER_TIMEOUT_S, read=IMPATIENT_S)
        return await self.send("/settle", content, waits=impatient)

    async def send(
        self,
        path: str,
        content: bytes,
        *,
        waits: httpx.Timeout | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """
        Send any bytes.
        """
        named = {"content-type": "application/json", **(headers or {})}
        return await self._ask("POST", path, content=content, waits=waits, headers=named)

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        waits: httpx.Timeout | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                response = await self._client.request(
                    method,
                    f"{self.url}{path}",
                    content=content,
                    headers=headers,
                    timeout=waits or ANSWER_TIMEOUT_S,
                )
        except httpx.InvalidURL as error:
            message = f"{self.url} is no address: {error}."
            raise AuditImpossibleError(message) from error
        except (TimeoutError, httpx.HTTPError) as error:
            return Answer(status=0, document={}, error=type(error).__name__)
        return Answer(status=response.status_code, document=_decode(response))


def _encode(document: JsonObject) -> bytes:
    return json.dumps(document).encode()


def _decode(response: httpx.Response) -> JsonObject:
    try:
        document = response.json()
    except (ValueError, RecursionError):
        return {}
    return cast("JsonObject", document) if isinstance(document, dict) else {}
