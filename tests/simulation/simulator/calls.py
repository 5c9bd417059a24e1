"""
One call as a client makes it, and what it has to come to.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import UUID

from tests.simulation.simulator.auditor import Answered, Move, Name
from tests.simulation.simulator.naive_prices import input_ceiling
from tests.simulation.simulator.scripts import Performance, Told, perform
from tests.simulation.simulator.world import SimulatedKey
from tokenworks.foundation.errors import TokenworksError
from tokenworks.gateway.model import Settled
from tokenworks.gateway.open_call import OpenCall
from tokenworks.gateway.ports import UpstreamRequest
from tokenworks.ledger.model import Placement
from tokenworks.testing.simulated_upstream import Script

if TYPE_CHECKING:
    from tests.simulation.simulator.simulation import Simulation

ATTEMPTS_MAX = 4


@dataclass(kw_only=True)
class Sale:
    """
    A settled call, for what is made of it later.
    """

    paid: int
    owed: int
    """To the supplier that answered, its power producer's part included."""
    supplier: UUID
    units: list[tuple[Name, int]]
    """What was taken of each limit's window."""
    refunds: dict[str, tuple[int, str]] = field(default_factory=dict[str, tuple[int, str]])
    """By reference: how much, and who bears it."""
    is_billed: bool = False

    @property
    def refunded(self) -> int:
        """
        Return how much was given back.
        """
        return sum(quanta for quanta, _ in self.refunds.values())


@dataclass
class Call:
    """
    A call: what was asked, by whom, how suppliers will behave, what came of it.
    """

    number: int
    key: SimulatedKey
    model: str
    tier: str
    body: bytes
    is_stream: bool
    max_tokens: int | None
    performances: list[Performance]
    prices: Mapping[str, int]
    """Of the model at the tier, when the call was made."""
    offers: int
    """How many offers could be asked then."""
    idempotency_key: str | None = None
    hangs_up: bool = False
    """Whether the client has gone, or goes at its next chance."""
    task: asyncio.Task[None] | None = None
    requests: list[UpstreamRequest] = field(default_factory=list[UpstreamRequest])
    """What suppliers were asked for it."""
    open: OpenCall | None = None
    told: list[tuple[Performance, Told]] = field(default_factory=list[tuple[Performance, Told]])
    """Of each attempt."""
    heard: bytes = b""
    settled: Settled | None = None
    error: TokenworksError | None = None
    moves: list[Move] = field(default_factory=list[Move])
    answers: list[Answered] = field(default_factory=list[Answered])
    opening: list[Answered] = field(default_factory=list[Answered])
    """What the ledger answered while the call was being opened."""
    is_judged: bool = False
    sale: Sale | None = None
    """What it came to, once it is judged."""
    authorised: int | None = None
    """What a wallet signed for it at most; ``None``: an organisation's account pays."""

    @property
    def call_id(self) -> UUID | None:
        """
        Return the call's id once it is open.
        """
        return self.open.call_id if self.open else None

    @property
    def is_over(self) -> bool:
        """
        Return whether the client has its answer.
        """
        return self.task is not None and self.task.done()

    @property
    def is_running(self) -> bool:
        """
        Return whether a hold is open for it and its client waits.
        """
        return self.open is not None and not self.is_over and not self.is_judged

    @property
    def output_cap(self) -> int:
        """
        Return the output tokens that were granted at first.
        """
        return self.max_tokens if self.max_tokens is not None else 48

    @property
    def input_tokens(self) -> int:
        """
        Return the most input tokens the body can be.
        """
        return input_ceiling(self.body)

    @property
    def scopes(self) -> list[UUID]:
        """
        Return who is above whoever calls, the organisation first.
        """
        return self.key.scopes

    @property
    def payer_id(self) -> UUID:
        """
        Return whose name stands for the call in the trace.
        """
        return self.key.key_id

    def tasks(self) -> set[asyncio.Task[Any]]:
        """
        Return everything that runs for it.
        """
        return set() if self.task is None else {self.task}

    def is_its_hold(self, wish: Placement) -> bool:
        """
        Tell whether a hold that was asked for is this call's.
        """
        return wish.path_id == self.key.key_id

    def hang_up(self) -> None:
        """
        Let the client leave, or be gone at its next chance.
        """
        self.hangs_up = True

    async def judged(self, simulation: Simulation) -> None:
        """
        Note elsewhere what came of it.
        """

    def answer(self, request: UpstreamRequest, simulation: Simulation) -> Script:
        """
        Say how the supplier of the next attempt behaves.
        """
        performance = self.performances[len(self.told) % len(self.performances)]
        script, told = perform(
            performance,
            input_bytes=len(self.body),
            output_cap=self.output_cap,
            is_stream=self.is_stream,
        )
        self.told.append((performance, told))
        return script

    async def run(self, simulation: Simulation) -> None:
        """
        Authenticate, open, and take the answer.
        """
        hub = simulation.hub
        try:
            principal = await hub.identity.authenticate(self.key.secret)
            self.open = await hub.gateway.open(
                principal, self.body, idempotency_key=self.idempotency_key
            )
            if not self.is_stream:
                self.settled = (await hub.gateway.complete(self.open)).settled
                return
            stream = await hub.streamer.begin(self.open)
            self.settled = await hub.streamer.relay(
                stream, send=self._receive, is_gone=lambda: self.hangs_up
            )
        except TokenworksError as error:
            self.error = error

    async def _receive(self, data: bytes) -> None:
        self.heard += data


def count_offers(simulation: Simulation, model: str, tier: str) -> int:
    """
    Return how many suppliers can be asked for a model at a tier now.
    """
    world = simulation.world
    return sum(
        (offer.model, offer.tier) == (model, tier) and offer.offer_id not in world.paused
        for offer in world.offers.values()
    )


def draw_call(simulation: Simulation, random: Random, key: SimulatedKey) -> Call:
    """
    Draw a request and how suppliers will behave.
    """
    model, tier = random.choice(sorted(simulation.world.prices))
    is_stream = random.random() < 0.5
    max_tokens = random.choice((None, None, 5, 40, 200))
    words = " ".join(random.choice(("how", "much", "is", "a", "token", "水")) for _ in range(9))
    request: dict[str, Any] = {
        "model": f"{model}@{tier}",
        "messages": [{"role": "user", "content": words}],
    }
    if max_tokens is not None:
        request["max_tokens"] = max_tokens
    if is_stream:
        request["stream"] = True
    return Call(
        number=len(simulation.calls),
        key=key,
        model=model,
        tier=tier,
        body=json.dumps(request).encode(),
        is_stream=is_stream,
        max_tokens=max_tokens,
        prices=simulation.world.prices_at(model, tier, simulation.clock.now()),
        offers=count_offers(simulation, model, tier),
        performances=[Performance.draw(random) for _ in range(ATTEMPTS_MAX)],
    )
