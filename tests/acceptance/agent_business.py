"""
Agents, wallets and mandates for the tests of attacks, opened by the services of a running hub.

The set-up is one more process on the hub's database, with a lane of its own; what is attacked is
attacked through the doors.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.acceptance.hub_process import HubProcess
from tokenworks.agents.mandates.model import CountLimit, MoneyLimit, Terms, Window
from tokenworks.bootstrap.database import posting_dsn
from tokenworks.bootstrap.hub import Hub, open_hub
from tokenworks.conformance.facilitator import Facilitator, Order
from tokenworks.conformance.ground import GivenPurse, Ground
from tokenworks.conformance.hub_rail import HubRail, hub_wallet
from tokenworks.conformance.rails import Sale, Wallet
from tokenworks.foundation.clock import SystemClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.money import USD, Amount
from tokenworks.identity.model import Level, Party, PartyKind
from tokenworks.settings import load_settings

PRICE: Final = 120_000
"""Quanta: 0.00012 USD."""
IN_PARALLEL: Final = 50
UNBRAKED: Final = {
    "currency": USD.code,
    "rules": {
        rule: {"action": "off"}
        for rule in ("velocity", "new_payee", "price_jump", "loop", "night", "burn_rate", "score")
    },
}
"""Attacks come in bursts: what stops them here is the money and the mandate, not the brake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Payer:
    """
    An agent that can pay, with everything above it.
    """

    organisation: Party
    agent: Party
    wallet: Wallet
    mandate_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Money:
    """
    One account of a party's money, in quanta.
    """

    balance: int
    available: int


class AgentBusiness:
    """
    Open organisations and agents on a running hub, and pay through its door.
    """

    def __init__(self, process: HubProcess, services: Hub) -> None:
        self.process = process
        self.services = services

    # ------------------------------------------------------------------ who

    async def organisation(self, *, quanta: int) -> Party:
        """
        Open a buyer with so much money.
        """
        party = await self.services.opening.add_party(_name("org"), kind=PartyKind.BUYER)
        await self.services.agents.brake.set_rules([party.party_id], UNBRAKED, actor="test")
        if quanta:
            amount = Amount(quanta=quanta, asset=USD)
            await self.services.ledger.deposit(
                party_id=party.party_id,
                amount=amount,
                rail="test",
                reference=party.name,
                actor="test",
            )
        return party

    async def payee(self) -> Party:
        """
        Open an organisation that is paid.
        """
        return await self.organisation(quanta=0)

    async def agent(
        self,
        organisation: Party,
        *,
        budget: int | None = None,
        payments: int | None = None,
        parent: UUID | None = None,
        delegations: int = 0,
    ) -> Payer:
        """
        Open an agent with a wallet and a mandate.

        Args:
            organisation: Whose money it spends.
            budget: In all, in quanta.
            payments: At most so many, in all.
            parent: The mandate that is narrowed.
            delegations: How many levels may come below.
        """
        agent = await self.services.opening.add_party(
            _name("agent"), kind=PartyKind.BUYER, level=Level.AGENT, parent=organisation.name
        )
        secret = Ed25519PrivateKey.generate().private_bytes_raw()
        mandates = self.services.agents.mandates
        await mandates.add_wallet(agent.party_id, hub_wallet(secret).address)
        budgets = () if budget is None else (MoneyLimit(window=Window.EVER, quanta=budget),)
        counts = () if payments is None else (CountLimit(window=Window.EVER, payments=payments),)
        terms = Terms(
            currency=USD.code, budgets=budgets, counts=counts, delegations_max=delegations
        )
        mandate = await mandates.issue(agent.party_id, terms, parent=parent, actor="test")
        return Payer(
            organisation=organisation,
            agent=agent,
            wallet=hub_wallet(secret, mandate=str(mandate.mandate_id)),
            mandate_id=mandate.mandate_id,
        )

    async def payer(self, *, payments: int) -> Payer:
        """
        Open an organisation with the money of so many payments, and an agent of it.
        """
        return await self.agent(await self.organisation(quanta=payments * PRICE))

    # ------------------------------------------------------------------ paying

    def sale(self, payee: Party, *, scheme: str = "exact") -> Sale:
        """
        Return what a payee asks.
        """
        return Sale(
            scheme=scheme,
            network=self.services.agents.network,
            asset=USD.code,
            amount=str(PRICE),
            pay_to=str(payee.party_id),
            method="POST",
            url=f"http://seller.invalid/{uuid.uuid4()}",
            body=b'{"prompt":"How much water?"}',
        )

    @asynccontextmanager
    async def ground(
        self, payer: Payer, payee: Party, *, scheme: str = "exact"
    ) -> AsyncGenerator[Ground]:
        """
        Stand before the hub's facilitator with one payer.
        """
        async with self.facilitator() as facilitator:
            yield Ground(
                facilitator=facilitator,
                rail=HubRail(IdentifierSource(SystemClock()).mint),
                sale=self.sale(payee, scheme=scheme),
                purse=GivenPurse(rich=payer.wallet),
                clock=SystemClock(),
                in_parallel=IN_PARALLEL,
            )

    def facilitator(self) -> Facilitator:
        """
        Return a new client: its connections are spread over the gateways by the kernel.
        """
        return Facilitator(f"{self.process.url}/x402", connections=IN_PARALLEL)

    # ------------------------------------------------------------------ books

    async def cash(self, party: Party) -> Money:
        """
        Return a party's money as the books have it.
        """
        balances = await self.services.ledger.balances(party.party_id)
        account = next(b for b in balances if (b.purpose, b.asset) == ("cash", USD.code))
        return Money(balance=account.balance, available=account.available)

    async def assert_paid(self, payer: Payer, payee: Party, *, payments: int, of: int) -> None:
        """
        Check that exactly so many payments moved, of the money of ``of``, and nothing is held.
        """
        left = (of - payments) * PRICE
        assert await self.cash(payer.organisation) == Money(balance=left, available=left)
        paid = await self.cash(payee)
        assert paid.balance == payments * PRICE


@asynccontextmanager
async def open_agent_business(process: HubProcess) -> AsyncGenerator[AgentBusiness]:
    """
    Open the services beside a running hub.
    """
    settings = load_settings({"data_dir": process.data_dir})
    async with open_hub(settings, posting_dsn(settings), name="test") as services:
        yield AgentBusiness(process, services)


def orders_of(ground: Ground, wallets: Sequence[Wallet], count: int) -> list[Order]:
    """
    Return so many different payments, of each wallet in turn, each for an address of its own.
    """
    sales = (ground.sale_at(str(uuid.uuid4())) for _ in range(count))
    return [ground.order(wallets[number % len(wallets)], sale) for number, sale in enumerate(sales)]


def _name(kind: str) -> str:
    return f"{kind}-{uuid.uuid4().hex[:12]}"
