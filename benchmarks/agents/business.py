"""
Open a business of agents that pay, by the services of a hub, and sign their payments.

The set-up is a process of its own on the hub's database, with a writer's lane of its own, as a
gateway is; nothing is inserted past the services.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import UUID

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tokenworks.agents.mandates.model import MoneyLimit, Terms, Window
from tokenworks.bootstrap.database import posting_dsn
from tokenworks.bootstrap.hub import Hub, open_hub
from tokenworks.conformance.facilitator import Order
from tokenworks.conformance.ground import EARLY_S
from tokenworks.conformance.hub_rail import HubRail, hub_wallet
from tokenworks.conformance.rails import Sale, Times, Wallet, order_for
from tokenworks.foundation.clock import SystemClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.money import USD, Amount
from tokenworks.identity.model import Level, PartyKind
from tokenworks.settings import load_settings

PRICE: Final = 120_000
"""Quanta of 10^-9 USD: 0.00012 USD a payment."""
DEPOSIT: Final = Amount(quanta=10**6 * 10**9, asset=USD)
BUDGET: Final = 10**5 * 10**9
LIFETIME_S: Final = 3_600
RULES: Final = {
    "currency": USD.code,
    "rules": {
        "velocity": {"action": "hold", "payments_per_minute": 10**6, "payments_per_hour": 10**7},
        "new_payee": {"action": "hold", "above": "1000", "new_payees_per_hour": 10**6},
        "price_jump": {"action": "hold", "times": 10**6, "after_payments": 5},
        "loop": {"action": "hold", "times": 80, "within_s": 1},
        "score": {"action": "hold", "above_ppm": 10**9},
    },
}
"""Every rule is on and judges; the limits are those of an owner whose agents are this busy."""
AT_ONCE: Final = 4
"""How many agents are opened at a time: each takes up to two of the pool's connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """
    How many of whom.
    """

    organisations: int
    agents: int  # over all organisations
    payees: int
    payees_each: int  # that one agent's mandate allows

    @property
    def name(self) -> str:
        """
        What the tables call it.
        """
        return f"{self.agents:,} agents with {self.payees_each} payees each"


@dataclass(frozen=True, slots=True, kw_only=True)
class Payer:
    """
    An agent that can pay.
    """

    wallet: Wallet
    payees: tuple[UUID, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Business:
    """
    Everybody who pays and is paid.
    """

    network: str
    payers: tuple[Payer, ...]

    def sign(self, count: int, *, seed: int = 0) -> Iterator[Order]:
        """
        Sign so many payments of random agents to random ones of their payees.
        """
        choice = random.Random(seed)
        rail = HubRail(IdentifierSource(SystemClock()).mint)
        now_s = int(datetime.now(UTC).timestamp())
        times = Times(since_s=now_s - EARLY_S, until_s=now_s - EARLY_S + LIFETIME_S)
        for number in range(count):
            payer = choice.choice(self.payers)
            sale = Sale(
                scheme="exact",
                network=self.network,
                asset=USD.code,
                amount=str(PRICE),
                pay_to=str(choice.choice(payer.payees)),
                method="POST",
                url=f"http://seller.invalid/work/{number}",
                body=b'{"prompt": "How much water?"}',
                timeout_s=LIFETIME_S,
            )
            yield order_for(rail, sale, rail.sign(payer.wallet, sale, times))


def open_business(data_dir: Path, size: Size, *, name: str, console: Console) -> Business:
    """
    Open a business in the database of a running hub.

    Args:
        data_dir: The hub's data directory.
        size: How many of whom.
        name: Sets apart the names of several businesses.
        console: Where progress is shown.
    """
    return asyncio.run(_open(data_dir, size, name=name, console=console))


async def _open(data_dir: Path, size: Size, *, name: str, console: Console) -> Business:
    settings = load_settings({"data_dir": data_dir})
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        async with open_hub(settings, posting_dsn(settings), name="benchmark") as hub:
            organisations = await _organisations(hub, size, name)
            payees = [
                (
                    await hub.opening.add_party(f"{name}-payee-{number}", kind=PartyKind.SUPPLIER)
                ).party_id
                for number in progress.track(range(size.payees), description="payees")
            ]
            task = progress.add_task("agents, wallets and mandates", total=size.agents)
            numbers = itertools.count()
            payers: list[Payer] = []

            async def open_some() -> None:
                for number in iter(numbers):
                    if number >= size.agents:
                        return
                    payers.append(await _payer(hub, size, name, number, organisations, payees))
                    progress.advance(task)

            await asyncio.gather(*(open_some() for _ in range(AT_ONCE)))
            return Business(network=hub.agents.network, payers=tuple(payers))


async def _organisations(hub: Hub, size: Size, name: str) -> list[str]:
    names: list[str] = []
    for number in range(size.organisations):
        party = await hub.opening.add_party(f"{name}-{number}", kind=PartyKind.BUYER)
        await hub.ledger.deposit(
            party_id=party.party_id,
            amount=DEPOSIT,
            rail="benchmark",
            reference=party.name,
            actor="benchmark",
        )
        await hub.agents.brake.set_rules([party.party_id], RULES, actor="benchmark")
        names.append(party.name)
    return names


async def _payer(
    hub: Hub,
    size: Size,
    name: str,
    number: int,
    organisations: list[str],
    payees: list[UUID],
) -> Payer:
    agent = await hub.opening.add_party(
        f"{name}-agent-{number}",
        kind=PartyKind.BUYER,
        level=Level.AGENT,
        parent=organisations[number % len(organisations)],
    )
    secret = hashlib.sha256(f"{name} {number}".encode()).digest()
    wallet = hub_wallet(secret)
    await hub.agents.mandates.add_wallet(agent.party_id, wallet.address)
    allowed = _window(payees, start=number * 7, count=size.payees_each)
    mandate = await hub.agents.mandates.issue(
        agent.party_id,
        Terms(
            currency=USD.code,
            amount_max=BUDGET,
            budgets=(MoneyLimit(window=Window.DAY, quanta=BUDGET),),
            payees=frozenset(allowed),
        ),
        actor="benchmark",
    )
    return Payer(wallet=hub_wallet(secret, mandate=str(mandate.mandate_id)), payees=tuple(allowed))


def _window(payees: list[UUID], *, start: int, count: int) -> list[UUID]:
    return [payees[(start + offset) % len(payees)] for offset in range(count)]
