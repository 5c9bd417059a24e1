"""
What an attack stands on: a facilitator, a rail, a sale, and wallets with known money.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from tokenworks.conformance.facilitator import Answer, Facilitator, Order
from tokenworks.conformance.hub_business import HubBusiness
from tokenworks.conformance.model import JsonObject
from tokenworks.conformance.rails import Rail, Sale, Times, Wallet, order_for
from tokenworks.foundation.clock import Clock

LIFETIME_S: Final = 300
"""How long an honest authorisation is good."""
EARLY_S: Final = 5
"""How far back an honest authorisation begins: a chain's last block may be that old."""


class Purse(Protocol):
    """
    Where wallets with money come from.
    """

    async def funded(self) -> Wallet:
        """
        Return a wallet with enough for many payments.
        """
        ...

    async def for_one(self, amount: str) -> Wallet | None:
        """
        Return a wallet with exactly one payment's money; ``None`` where none can be had.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenPurse:
    """
    Wallets that the caller brought along.
    """

    rich: Wallet
    poor: Wallet | None = None

    async def funded(self) -> Wallet:
        """
        Return the one that was given.
        """
        return self.rich

    async def for_one(self, amount: str) -> Wallet | None:
        """
        Return the one that was given for it.
        """
        del amount
        return self.poor


@dataclass(frozen=True, slots=True, kw_only=True)
class Sold:
    """
    What a seller that verifies, works and settles got for many orders at once.
    """

    works: int  # how often the handler ran: verified as valid
    settled: tuple[Answer, ...]  # that said the payment was made
    refused: tuple[Answer, ...]  # verified or settled, and not

    @property
    def transactions(self) -> int:
        """
        How many different payments were made.
        """
        return len({answer.transaction for answer in self.settled})

    def evidence(self, sent: int) -> JsonObject:
        """
        Return the figures.
        """
        return {
            "sent": sent,
            "handlers_ran": self.works,
            "settled": len(self.settled),
            "payments_made": self.transactions,
            "refusals": count_reasons(self.refused),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """
    Everything that an attack may use.
    """

    facilitator: Facilitator
    rail: Rail
    sale: Sale
    purse: Purse
    clock: Clock
    in_parallel: int
    hub: HubBusiness | None = None  # who may revoke and delegate; ``None``: no admin key

    def now_s(self) -> int:
        """
        Return the time as authorisations have it.
        """
        return int(self.clock.now().timestamp())

    def times(self, *, since_s: int = -EARLY_S, lasts_s: int = LIFETIME_S) -> Times:
        """
        Return when an authorisation is good, counted from now.
        """
        since = self.now_s() + since_s
        return Times(since_s=since, until_s=since + lasts_s)

    def order(self, wallet: Wallet, sale: Sale | None = None) -> Order:
        """
        Return an honest payment.
        """
        wanted = sale or self.sale
        return order_for(self.rail, wanted, self.rail.sign(wallet, wanted, self.times()))

    def orders(self, wallets: Sequence[Wallet], name: str) -> list[Order]:
        """
        Return as many different honest payments as are sent at once, of each wallet in turn.

        Each is for an address of its own: equal requests would look like a loop to a brake.
        """
        return [
            self.order(wallets[number % len(wallets)], self.sale_at(f"{name}/{number}"))
            for number in range(self.in_parallel)
        ]

    def sale_at(self, path: str) -> Sale:
        """
        Return the sale of another address at the same price.
        """
        return replace(self.sale, url=f"{self.sale.url.rstrip('/')}/{path}")

    async def sell_at_once(self, orders: Sequence[Order]) -> Sold:
        """
        Do what the usual seller does, with everything at once: verify, work, settle.

        All verifications are answered before the first settlement: the order of a handler
        that takes longer than a verification, and the worst one for a facilitator.
        """
        verified = await at_once(self.facilitator.verify, orders)
        good = [order for order, answer in zip(orders, verified, strict=True) if answer.is_valid]
        settled = await at_once(self.facilitator.settle, good)
        return Sold(
            works=len(good),
            settled=tuple(answer for answer in settled if answer.is_settled),
            refused=(
                *(answer for answer in verified if not answer.is_valid),
                *(answer for answer in settled if not answer.is_settled),
            ),
        )


async def at_once(
    send: Callable[[Order], Awaitable[Answer]], orders: Iterable[Order]
) -> list[Answer]:
    """
    Send everything together and return the answers in the same order.
    """
    return list(await asyncio.gather(*(send(order) for order in orders)))


def count_reasons(answers: Iterable[Answer]) -> dict[str, int]:
    """
    Return how often each reason was given.
    """
    counts: dict[str, int] = {}
    for answer in answers:
        counts[answer.reason] = counts.get(answer.reason, 0) + 1
    return counts
