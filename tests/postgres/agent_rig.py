"""
A family of agents on a fresh ledger, for tests of what agents may spend.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.simulation.books import LIMIT_USD_ID, USD_ID, Books, open_books
from tokenworks.agents.mandates.model import (
    Authority,
    Mandate,
    MoneyLimit,
    Purchase,
    Terms,
    Window,
)
from tokenworks.agents.mandates.service import Mandates
from tokenworks.agents.mandates.signing import address_of, sign_by_wallet
from tokenworks.agents.services import AgentServices, open_agent_services
from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.gateway.calls import CallStore
from tokenworks.identity.model import Level, Party, PartyKind
from tokenworks.identity.service import Identity
from tokenworks.ledger.model import ASSET_IDS, Outcome, Placement, Reservation
from tokenworks.receipts.service import ReceiptKeys
from tokenworks.supply.secrets import SecretBox

PAYMENTS_ID = ASSET_IDS["LIMIT.PAYMENTS"]
DOLLAR = 10**9
CENT = 10**7
NETWORK = "hub:test"


def per(window: Window, quanta: int) -> tuple[MoneyLimit, ...]:
    """
    Return one budget.
    """
    return (MoneyLimit(window=window, quanta=quanta),)


@dataclass(kw_only=True)
class AgentRig:
    """
    An organisation with money, a user, two of its agents with a wallet each, and a shop.
    """

    books: Books
    identity: Identity
    agents: AgentServices
    organisation: Party
    user: Party
    agent: Party
    helper: Party
    shop: Party
    key: Ed25519PrivateKey = field(repr=False)
    helper_key: Ed25519PrivateKey = field(repr=False)

    @property
    def mandates(self) -> Mandates:
        """
        Return the service under test.
        """
        return self.agents.mandates

    @property
    def wallet(self) -> str:
        """
        Return the address of the first agent's wallet.
        """
        return address_of(self.key)

    @property
    def helper_wallet(self) -> str:
        """
        Return the address of the second agent's wallet.
        """
        return address_of(self.helper_key)

    def purchase(self, quanta: int = CENT, *, payee: UUID | None = None) -> Purchase:
        """
        Return a purchase in the shop.
        """
        return Purchase(
            payee_id=payee or self.shop.party_id,
            quanta=quanta,
            currency="USD",
            instrument=NETWORK,
        )

    async def another_process(self) -> Mandates:
        """
        Return the service of another process, with caches of its own.
        """
        return (await open_services(self.books, self.identity)).mandates

    async def hold(self, authority: Authority, quanta: int = CENT) -> Outcome:
        """
        Hold a payment along a mandate's path, as payments do.
        """
        return await self.books.place(self.placement(authority, quanta))

    def placement(self, authority: Authority, quanta: int = CENT) -> Placement:
        """
        Return what a payment places.
        """
        return self.books.placement(
            Reservation(asset_id=USD_ID, quanta=quanta),
            Reservation(asset_id=LIMIT_USD_ID, quanta=quanta),
            Reservation(asset_id=PAYMENTS_ID, quanta=1),
            path_id=authority.path_id,
            path_version=authority.path_version,
            lives=timedelta(minutes=5),
        )

    async def pay(
        self,
        mandate: Mandate,
        quanta: int = CENT,
        *,
        payee: UUID | None = None,
        wallet: str | None = None,
        mandates: Mandates | None = None,
    ) -> str:
        """
        Authorise and hold a payment; return the ledger's code.
        """
        authority = await (mandates or self.mandates).authorise(
            wallet or self.wallet,
            mandate.mandate_id,
            self.purchase(quanta, payee=payee),
            now=self.books.clock.now(),
        )
        return (await self.hold(authority, quanta)).code

    def delegation(
        self,
        parent: Mandate,
        terms: Terms,
        *,
        key: Ed25519PrivateKey | None = None,
        agent: UUID | None = None,
        wallet: str | None = None,
    ) -> str:
        """
        Return a delegation to the helper, signed by the first agent.
        """
        now = self.books.clock.now()
        return sign_by_wallet(
            key or self.key,
            mandate_id=self.books.ids.mint(),
            agent_id=agent or self.helper.party_id,
            terms=terms,
            issued_at=now,
            expires_at=None,
            agent_address=wallet or self.helper_wallet,
            parent_id=parent.mandate_id,
            parent_jws=parent.jws,
        )

    async def chain_of(self, length: int, terms: Sequence[Terms]) -> list[Mandate]:
        """
        Issue a chain of mandates of the first agent, root first.
        """
        chain: list[Mandate] = []
        for level in range(length):
            parent = chain[-1].mandate_id if chain else None
            chain.append(
                await self.mandates.issue(
                    self.agent.party_id, terms[level], parent=parent, actor="test"
                )
            )
        return chain


async def open_services(books: Books, identity: Identity) -> AgentServices:
    """
    Open the services of agents, as each process does.
    """
    return await open_agent_services(
        pool=books.pool,
        ledger=books.ledger,
        identity=identity,
        keys=ReceiptKeys(books.pool, SecretBox(bytes(32)), books.clock),
        clock=books.clock,
        ids=books.ids,
        calls=CallStore(books.pool, books.clock),
        box=SecretBox(bytes(32)),
    )


async def add_party(
    books: Books, identity: Identity, name: str, level: Level, parent: Party | None
) -> Party:
    """
    Add a buyer with its scope, as the hub's doors do.
    """
    party = await identity.add_party(
        name,
        kind=PartyKind.BUYER,
        level=level,
        parent=None if parent is None else parent.party_id,
    )
    if parent is None:
        await books.ledger.open_party(party.party_id, "buyer")
    await books.ledger.open_scope(party.party_id)
    return party


@asynccontextmanager
async def open_agent_rig(
    dsn: str, clock: FakeClock, ids: IdentifierSource, *, money: int = 100 * DOLLAR
) -> AsyncGenerator[AgentRig]:
    """
    Open the books and the family; the books must be clean at the end.
    """
    async with open_books(dsn, clock, ids) as books:
        identity = Identity(books.pool, clock, ids)
        organisation = await add_party(books, identity, "acme", Level.ORGANISATION, None)
        user = await add_party(books, identity, "ann", Level.USER, organisation)
        agent = await add_party(books, identity, "buyer-bot", Level.AGENT, user)
        helper = await add_party(books, identity, "helper-bot", Level.AGENT, organisation)
        shop = await add_party(books, identity, "shop", Level.ORGANISATION, None)
        await books.deposit(organisation.party_id, money)
        rig = AgentRig(
            books=books,
            identity=identity,
            agents=await open_services(books, identity),
            organisation=organisation,
            user=user,
            agent=agent,
            helper=helper,
            shop=shop,
            key=Ed25519PrivateKey.generate(),
            helper_key=Ed25519PrivateKey.generate(),
        )
        await rig.mandates.add_wallet(agent.party_id, rig.wallet, label="first")
        await rig.mandates.add_wallet(helper.party_id, rig.helper_wallet)
        yield rig
        await books.assert_clean()
