"""
The hub's network for the official x402 client, by its public interface.

``register`` teaches an ``x402Client`` (or ``x402ClientSync``) our schemes. The official client
does not tell a scheme which request it pays for, and a dishonest seller could ask for a signature
on another one; so the request is seen by a *witness*, a transport below the official one, and
nothing else is signed. Needs the extra ``x402``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any, Final
from uuid import UUID

import httpx
from x402.client import x402Client, x402ClientSync
from x402.mcp.types import PaymentRequiredContext, PaymentRequiredHookResult
from x402.schemas import PaymentRequirements

from tokenworks.sdk.errors import BindingMismatchError, MalformedOfferError, NothingPayableError
from tokenworks.sdk.model import DECIMALS, SCHEMES, Binding, from_requirements
from tokenworks.sdk.paying import binding_of
from tokenworks.sdk.tools import binding_of_tool, check_asked
from tokenworks.sdk.wallet import Wallet

DEFAULT_ASSET: Final = "USD"


class Witness:
    """
    Remember, for each task and thread by itself, which request was sent last.
    """

    def __init__(self) -> None:
        self._seen: ContextVar[Binding | None] = ContextVar("tokenworks_request", default=None)

    @property
    def binding(self) -> Binding | None:
        """
        Return the request that was sent last; ``None``: no transport of this witness sent one.
        """
        return self._seen.get()

    def see(self, request: httpx.Request) -> None:
        """
        Note a request that is about to be sent.
        """
        self._seen.set(binding_of(request))

    def sees_tools(self, url: str) -> Callable[[PaymentRequiredContext], PaymentRequiredHookResult]:
        """
        Return a hook that notes which tool of a hub's ``/mcp`` is called.

        For the official ``x402MCPClient``: ``client.on_payment_required(witness.sees_tools(url))``.
        """

        def see(context: PaymentRequiredContext) -> PaymentRequiredHookResult:
            self._seen.set(None)
            tool, arguments = context.tool_name, context.arguments
            for offer in context.payment_required.accepts:
                document = offer.model_dump(by_alias=True, exclude_none=True)
                check_asked(tool, arguments, from_requirements(document))
            self._seen.set(binding_of_tool(url, tool, arguments))
            return PaymentRequiredHookResult()

        return see

    def transport(self, inner: httpx.BaseTransport | None = None) -> httpx.BaseTransport:
        """
        Return a transport that notes what it sends.
        """
        return _WitnessTransport(self, inner or httpx.HTTPTransport())

    def async_transport(
        self, inner: httpx.AsyncBaseTransport | None = None
    ) -> httpx.AsyncBaseTransport:
        """
        Return an asynchronous transport that notes what it sends.
        """
        return _AsyncWitnessTransport(self, inner or httpx.AsyncHTTPTransport())


class ForX402:
    """
    The official MCP client (2.x) in the shape that the official ``x402MCPClient`` asks for.

    Args:
        client: ``mcp.Client``, connected.
    """

    def __init__(self, client: Any) -> None:  # noqa: ANN401 - of a package that is not needed here
        self._client = client

    async def call_tool(self, params: Mapping[str, Any], **options: object) -> SimpleNamespace:
        """
        Call a tool; a time limit is the client's own matter.
        """
        del options
        answer = await self._client.call_tool(
            params["name"], params["arguments"], meta=params.get("_meta")
        )
        return SimpleNamespace(
            content=[part.model_dump(by_alias=True) for part in answer.content],
            isError=answer.is_error,
            structuredContent=answer.structured_content,
            _meta=answer.meta,
        )


class HubScheme:
    """
    One scheme of the hub's network for the official client.

    Args:
        scheme: ``exact`` or ``upto``.
        wallet: Signs.
        network: The hub's network.
        witness: Saw the request.
        mandate: Which mandate pays; the wallet's only one when omitted.
        reference: For mandates that ask for it.
    """

    def __init__(
        self,
        scheme: str,
        wallet: Wallet,
        *,
        network: str,
        witness: Witness,
        mandate: str | UUID | None = None,
        reference: str | None = None,
    ) -> None:
        self.scheme = scheme
        self._wallet = wallet
        self._network = network
        self._witness = witness
        self._mandate = mandate
        self._reference = reference

    def create_payment_payload(self, requirements: PaymentRequirements) -> dict[str, Any]:
        """
        Return the scheme's part of the payload: a signed authorisation.

        Raises:
            NothingPayableError: Meant for another network.
            BindingMismatchError: Not the request that was sent, or nobody saw one.
        """
        asked = from_requirements(requirements.model_dump(by_alias=True, exclude_none=True))
        if asked.network != self._network:
            message = f"This wallet pays on {self._network}, not on {asked.network}."
            raise NothingPayableError(message)
        if asked.binding is None:
            raise MalformedOfferError("The seller does not say which request is to be paid for.")
        if asked.binding != self._witness.binding:
            message = (
                f"The seller asks to sign for {asked.binding}, but {self._witness.binding} was "
                "seen; nothing was signed. Send through the witness's transport."
            )
            raise BindingMismatchError(message)
        authorisation = self._wallet.authorise(
            asked, asked.binding, mandate=self._mandate, reference=self._reference
        )
        return {"authorization": authorisation}

    def find_default_asset(self, asset: str, network: str) -> dict[str, Any] | None:
        """
        Return the asset that the official client's caps in dollars are meant for.

        Other currencies of the hub are paid when the client's spend controls list them.
        """
        if asset != DEFAULT_ASSET or network != self._network:
            return None
        return {"asset": asset, "symbol": asset, "name": asset, "decimals": DECIMALS}


def register(
    client: x402Client | x402ClientSync,
    wallet: Wallet,
    *,
    network: str,
    mandate: str | UUID | None = None,
    reference: str | None = None,
) -> Witness:
    """
    Teach the official client to pay on a hub's network; return the witness of its requests.

    Set the client's own caps with ``set_spend_controls``: one payment is at most a dollar
    otherwise.
    """
    witness = Witness()
    for name in SCHEMES:
        scheme = HubScheme(
            name,
            wallet,
            network=network,
            witness=witness,
            mandate=mandate,
            reference=reference,
        )
        client.register(network, scheme)
    return witness


class _WitnessTransport(httpx.BaseTransport):
    def __init__(self, witness: Witness, inner: httpx.BaseTransport) -> None:
        self._witness = witness
        self._inner = inner

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self._witness.see(request)
        return self._inner.handle_request(request)

    def close(self) -> None:
        self._inner.close()


class _AsyncWitnessTransport(httpx.AsyncBaseTransport):
    def __init__(self, witness: Witness, inner: httpx.AsyncBaseTransport) -> None:
        self._witness = witness
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        self._witness.see(request)
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()
