"""
Sell on the hub's network with the official x402 server middleware, by its public interface.

The hub is the facilitator: its verify holds the money, its settle captures it, so the usual
flow (verify, handler, settle) sells nothing twice and nothing unpaid. ``BindRequests`` stands
around the application and hashes each request, ``HubServerScheme`` writes that hash into the
402, and the hub accepts a signature for that request only. Needs the extra ``x402``.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextvars import ContextVar
from decimal import Decimal
from typing import Any, Final, cast

from x402.http import AuthHeaders, FacilitatorConfig, HTTPFacilitatorClient
from x402.interfaces import PaymentFlowConfig
from x402.schemas import (
    AssetAmount,
    PaymentRequirements,
    Price,
    SupportedKind,
    VerifiedPaymentCanceledContext,
)
from x402.schemas.helpers import parse_money
from x402.server import x402ResourceServer

from tokenworks.sdk.model import DECIMALS, SCHEMES, Binding, to_atomic
from tokenworks.sdk.signing import body_sha256

BODY_BYTES_MAX: Final = 1_048_576
"""The largest request that is read to be hashed, unless told otherwise."""

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_FLOWS: Final[Mapping[str, PaymentFlowConfig]] = {
    "default": {"supported": ("authorization",), "default": "authorization"}
}
_binding: ContextVar[Binding | None] = ContextVar("tokenworks_bound_request", default=None)
_log = logging.getLogger("tokenworks.sdk")


def facilitator_of(hub_url: str, *, api_key: str | None = None) -> HTTPFacilitatorClient:
    """
    Return the official client of a hub's facilitator.

    Args:
        hub_url: The hub's address without a path.
        api_key: The payee's. Paying the payee all that is held needs none; taking less, or giving
            a hold back when a handler fails, is for the payee alone.
    """
    auth = None if api_key is None else _PayeesKey(api_key)
    url = f"{hub_url.rstrip('/')}/x402"
    return HTTPFacilitatorClient(FacilitatorConfig(url=url, auth_provider=auth))


def sell(
    facilitator: HTTPFacilitatorClient, *, asset: str = "USD"
) -> tuple[x402ResourceServer, str]:
    """
    Return an official resource server that sells on a hub's network, and that network.

    Asks the hub for its network, so it blocks for one request.
    """
    networks = {kind.network for kind in facilitator.get_supported().kinds}
    network = next(name for name in sorted(networks) if name.startswith("hub:"))
    server = x402ResourceServer(facilitator)
    for name in SCHEMES:
        server.register(network, HubServerScheme(name, facilitator=facilitator, asset=asset))
    return server, network


class _PayeesKey:
    def __init__(self, api_key: str) -> None:
        self._headers = {"Authorization": f"Bearer {api_key}"}

    def get_auth_headers(self) -> AuthHeaders:
        return AuthHeaders(settle=self._headers)


class HubServerScheme:
    """
    One scheme of the hub's network for the official server.

    Args:
        scheme: ``exact`` or ``upto``.
        facilitator: The hub; told when a handler fails, so that the money returns at once.
        asset: The currency of prices that name none.
    """

    default_asset_transfer_method = "default"
    payment_flows = _FLOWS

    def __init__(
        self, scheme: str, *, facilitator: HTTPFacilitatorClient, asset: str = "USD"
    ) -> None:
        self.scheme = scheme
        self._facilitator = facilitator
        self._asset = asset

    def parse_price(self, price: Price, network: str) -> AssetAmount:
        """
        Return a price in atomic units: ``"$0.0002"``, ``"0.0002 CNY"`` or atomic already.

        Raises:
            ValueError: No price, or finer than an atomic unit.
        """
        if not isinstance(price, str | int | float):
            return AssetAmount.model_validate(price)
        parsed = parse_money(price)
        amount = to_atomic(Decimal(parsed.get("amount", "")))
        return AssetAmount(amount=str(amount), asset=parsed.get("symbol", self._asset))

    def get_asset_decimals(self, asset: str, network: str) -> int:
        """
        Return the decimals of every currency of a hub.
        """
        return DECIMALS

    def enhance_payment_requirements(
        self,
        requirements: PaymentRequirements,
        supported_kind: SupportedKind,
        extensions: list[str],
    ) -> PaymentRequirements:
        """
        Bind a way to pay to the request that is being answered.

        Raises:
            RuntimeError: The application is not inside ``BindRequests``: nothing is sold.
        """
        binding = _binding.get()
        if binding is None:
            message = "Put the application into tokenworks.sdk.x402_selling.BindRequests."
            raise RuntimeError(message)
        requirements.extra = {
            **requirements.extra,
            "name": requirements.asset,
            "decimals": DECIMALS,
            "binding": {
                "method": binding.method,
                "url": binding.url,
                "bodySha256": binding.body_sha256,
            },
        }
        return requirements

    async def on_verified_payment_canceled(self, context: VerifiedPaymentCanceledContext) -> None:
        """
        Give the money back when the handler failed; without the payee's key the hold expires.
        """
        asked = cast("PaymentRequirements", context.requirements)
        nothing = asked.model_copy(update={"amount": "0"})
        try:
            done = await self._facilitator.settle(context.payment_payload, nothing)
        except Exception as error:  # noqa: BLE001 - the seller's answer must not depend on it
            _log.warning("hold left to expire: %s", type(error).__name__)
        else:
            if not done.success:
                _log.warning("hold left to expire: %s", done.error_reason)


class BindRequests:
    """
    Read and hash every request before the application sees it; the outermost ASGI layer.

    Args:
        application: The official middleware with the handlers inside.
        public_url: Scheme and host as clients call it, e.g. behind a proxy; what the request
            says when omitted.
        body_bytes_max: Larger requests are refused with 413.
    """

    def __init__(
        self,
        application: Application,
        *,
        public_url: str | None = None,
        body_bytes_max: int = BODY_BYTES_MAX,
    ) -> None:
        self._application = application
        self._public_url = public_url
        self._body_bytes_max = body_bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Answer one request.
        """
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        body = await self._read(receive)
        if body is None:
            await _too_large(send)
            return
        token = _binding.set(
            Binding(
                method=str(scope["method"]).upper(),
                url=url_of(scope, public_url=self._public_url),
                body_sha256=body_sha256(body),
            )
        )
        is_given = False

        async def give() -> Message:
            nonlocal is_given
            if is_given:
                return await receive()
            is_given = True
            return {"type": "http.request", "body": body, "more_body": False}

        try:
            await self._application(scope, give, send)
        finally:
            _binding.reset(token)

    async def _read(self, receive: Receive) -> bytes | None:
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > self._body_bytes_max:
                return None
            if message["type"] == "http.disconnect" or not message.get("more_body"):
                return bytes(body)


def url_of(scope: Scope, *, public_url: str | None) -> str:
    """
    Return the address of a request as its client wrote it.
    """
    path = cast("bytes", scope.get("raw_path") or str(scope["path"]).encode())
    target = path.partition(b"?")[0]
    if scope.get("query_string"):
        target += b"?" + cast("bytes", scope["query_string"])
    if public_url is None:
        headers = dict(cast("list[tuple[bytes, bytes]]", scope["headers"]))
        public_url = f"{scope['scheme']}://{headers.get(b'host', b'').decode('latin-1')}"
    return public_url.rstrip("/") + target.decode("latin-1")


async def _too_large(send: Send) -> None:
    body = b'{"error":"request_too_large"}'
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": body})
