"""
A brake on a real database, with payments of one agent below a user, a team and an organisation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from tokenworks.agents.brake.model import Subject
from tokenworks.agents.brake.service import Brake
from tokenworks.agents.mandates.model import Window
from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.identity.model import Level, PartyKind
from tokenworks.identity.service import Identity
from tokenworks.ledger.model import LimitView
from tokenworks.postgres.pool import Pool

DOLLAR = 10**9
MARK_KEY = b"key of the test's hub"


@dataclass(slots=True)
class FakeLimits:
    """
    Limits as the test says.
    """

    views: list[LimitView] = field(default_factory=list[LimitView])
    asked: int = 0

    async def limits(self, scope_ids: Sequence[UUID], /) -> Sequence[LimitView]:
        """
        Return those of the scopes.
        """
        self.asked += 1
        return [view for view in self.views if view.scope_id in scope_ids]


@dataclass(slots=True)
class FakeRaiser:
    """
    Remembers which limits were raised.
    """

    raised: list[tuple[UUID, Window, int, str]] = field(
        default_factory=list[tuple[UUID, Window, int, str]]
    )

    async def raise_limit(
        self, mandate_id: UUID, window: Window, quanta: int, /, *, actor: str
    ) -> None:
        """
        Remember it.
        """
        self.raised.append((mandate_id, window, quanta, actor))


@dataclass(slots=True, kw_only=True)
class Rig:
    """
    A brake and the parties of its payments.
    """

    brake: Brake
    pool: Pool
    clock: FakeClock
    ids: IdentifierSource
    limits: FakeLimits
    raiser: FakeRaiser
    organisation: UUID
    team: UUID
    user: UUID
    agent: UUID
    shop: UUID
    mandate: UUID

    def payment(
        self,
        *,
        path: str | None = None,
        payment_id: UUID | None = None,
        quanta: int = DOLLAR // 1000,
        payee_id: UUID | None = None,
        agent_id: UUID | None = None,
        currency: str = "USD",
    ) -> Subject:
        """
        A payment of a tenth of a cent; each a request of its own unless ``path`` says which.
        """
        path = path or str(self.ids.mint())
        payment_id = payment_id or self.ids.mint()
        agent_id = agent_id or self.agent
        return Subject(
            payment_id=payment_id,
            digest=hashlib.sha256(payment_id.bytes).digest(),
            agent_id=agent_id,
            mandate_id=self.mandate,
            organisation_id=self.organisation,
            party_chain=(self.organisation, self.team, self.user, agent_id),
            payee_id=payee_id or self.shop,
            quanta=quanta,
            currency=currency,
            resource=f"GET https://shop.example/{path}",
            request_digest=hashlib.sha256(path.encode()).digest(),
        )

    async def rules(self, rules: Mapping[str, Any], *, party: UUID | None = None) -> None:
        """
        Set an organisation's rules: those named, and all others off.
        """
        names = ("velocity", "new_payee", "price_jump", "loop", "night", "burn_rate", "score")
        off = {name: {"action": "off"} for name in names}
        document = {"rules": {**off, **rules}}
        chain = (self.organisation, self.team, self.user, self.agent)
        place = chain.index(party or self.organisation)
        if place:
            document = {"rules": dict(rules)}
        await self.brake.set_rules(chain[: place + 1], document, actor="test")

    def second_brake(self) -> Brake:
        """
        A brake of another process: nothing shared but the database.
        """
        return Brake(
            self.pool,
            ledger=self.limits,
            clock=self.clock,
            mark_key=MARK_KEY,
            raiser=self.raiser,
        )


async def open_rig(pool: Pool, clock: FakeClock, ids: IdentifierSource) -> Rig:
    """
    Make the parties and the months.
    """
    identity = Identity(pool, clock, ids)
    organisation = await identity.add_party("acme", kind=PartyKind.BUYER)
    chain = [organisation]
    for name, level in (("lab", Level.TEAM), ("ann", Level.USER), ("bot", Level.AGENT)):
        chain.append(
            await identity.add_party(
                name, kind=PartyKind.BUYER, level=level, parent=chain[-1].party_id
            )
        )
    shop = await identity.add_party("shop", kind=PartyKind.SUPPLIER)
    async with pool.connection() as connection:
        await connection.execute("SELECT ledger.ensure_partitions_v1(%s, 2)", [clock.now()])
    limits, raiser = FakeLimits(), FakeRaiser()
    brake = Brake(pool, ledger=limits, clock=clock, mark_key=MARK_KEY, raiser=raiser)
    await brake.ensure_partitions()
    _, team, user, agent = (party.party_id for party in chain)
    return Rig(
        brake=brake,
        pool=pool,
        clock=clock,
        ids=ids,
        limits=limits,
        raiser=raiser,
        organisation=organisation.party_id,
        team=team,
        user=user,
        agent=agent,
        shop=shop.party_id,
        mandate=ids.mint(),
    )
