"""
The gateway's rig with an agent that pays: a wallet of the SDK, a mandate, the x402 door.

The hub's whole application listens on a socket of its own, so that any client can call it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn

from tests.patience import PATIENCE_S
from tests.postgres.gateway_rig import HELLO, Plant, Rig, open_business
from tokenworks.agents.mandates.model import Mandate, Terms
from tokenworks.bootstrap.doors import make_app
from tokenworks.bootstrap.hub import Hub
from tokenworks.gateway.ended_calls import CallRow
from tokenworks.identity.model import Level, Party, PartyKind
from tokenworks.sdk import SpendCap, Wallet
from tokenworks.sdk.paying import PaymentDesk
from tokenworks.sdk.transport import AsyncPayingTransport
from tokenworks.testing.agent_fakes import FakeBrake

CHAT_PATH = "/x402/v1/chat/completions"


@dataclass(kw_only=True)
class SellingRig:
    """
    What a test of selling by x402 needs.
    """

    gateway: Rig
    url: str
    agent: Party
    wallet: Wallet
    mandate: Mandate
    network: str

    @property
    def chat_url(self) -> str:
        """
        Where answers are sold.
        """
        return self.url + CHAT_PATH

    def body(self, **members: object) -> bytes:
        """
        Return a chat request for the rig's model; ``...`` leaves a member out.
        """
        request: dict[str, Any] = {
            "model": self.gateway.model,
            "messages": list(HELLO),
            "max_tokens": 40,
        }
        request |= members
        given = {name: value for name, value in request.items() if value is not ...}
        return json.dumps(given).encode()

    def desk(self, wallet: Wallet | None = None, **options: str) -> PaymentDesk:
        """
        Return a desk with a dollar to spend.
        """
        cap = SpendCap(per_payment="1", total="1")
        return PaymentDesk(wallet or self.wallet, network=self.network, cap=cap, **options)

    def client(self, desk: PaymentDesk | None = None) -> httpx.AsyncClient:
        """
        Return a client that pays.
        """
        return httpx.AsyncClient(
            transport=AsyncPayingTransport(desk or self.desk()), timeout=PATIENCE_S
        )

    async def sign(self, body: bytes, desk: PaymentDesk | None = None) -> httpx.Request:
        """
        Return a signed request that has not been sent yet.
        """
        async with httpx.AsyncClient(timeout=PATIENCE_S) as plain:
            request = plain.build_request("POST", self.chat_url, content=body)
            answer = await plain.send(request)
        assert answer.status_code == 402, answer.text
        return (desk or self.desk()).sign(request, answer).request

    async def issue(self, terms: Terms) -> Mandate:
        """
        Give the agent another mandate.
        """
        return await self.gateway.hub.agents.mandates.issue(self.agent.party_id, terms, actor="rig")

    async def calls(self) -> list[CallRow]:
        """
        Return the agent's ended calls, newest first.
        """
        return [row for row in await self.gateway.calls() if row.party_id == self.agent.party_id]


@contextlib.asynccontextmanager
async def open_selling_business(plant: Plant, url: str) -> AsyncGenerator[SellingRig]:
    """
    Open a business with an agent, a wallet and a mandate, on a plant that listens at ``url``.
    """
    async with open_business(plant) as rig:
        hub = rig.hub
        agent = await hub.opening.add_party(
            f"bot-{plant.businesses}",
            kind=PartyKind.BUYER,
            level=Level.AGENT,
            parent=rig.organisation.party_id,
        )
        wallet = Wallet.generate()
        await hub.agents.mandates.add_wallet(agent.party_id, wallet.address)
        mandate = await hub.agents.mandates.issue(agent.party_id, Terms(), actor="rig")
        yield SellingRig(
            gateway=rig,
            url=url,
            agent=agent,
            wallet=wallet,
            mandate=mandate,
            network=hub.agents.network,
        )


@contextlib.contextmanager
def braked(rig: SellingRig) -> Generator[FakeBrake]:
    """
    Put a brake that says what the test wants into the hub's payments.
    """
    payments = rig.gateway.hub.agents.payments
    places = (payments._placing, payments._holding, payments._capturing, payments._standing)
    before = payments._placing._brake
    brake = FakeBrake(rig.gateway.hub.clock)
    for place in places:
        place._brake = brake
    try:
        yield brake
    finally:
        for place in places:
            place._brake = before


@contextlib.asynccontextmanager
async def listening(hub: Hub) -> AsyncGenerator[str]:
    """
    Serve all doors of a hub on a port of its own; yield its address.
    """
    application, *doors = make_app(hub)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        application,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    # The test's own signal handlers stay.
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        for door in doors:
            await door.close()
        listener.close()
