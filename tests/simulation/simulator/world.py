"""
The business that a simulation runs: drawn from the seed, opened through the hub's own services.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import Final
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.simulation.simulator.auditor import PLATFORM, Auditor, Name
from tokenworks.bootstrap.hub import Hub
from tokenworks.foundation.money import USD, Amount
from tokenworks.identity.model import ApiKey, Level, Party, PartyKind, Role
from tokenworks.metering.model import Axis
from tokenworks.pricing.tiers import load_tiers
from tokenworks.sdk.wallet import Wallet
from tokenworks.supply.costing import axis_card, share_card
from tokenworks.supply.model import CostCard, Offer, OfferTerms, Split, Supplier

USD_ID: Final = 1
DOLLAR: Final = 10**9
CONTEXT_TOKENS: Final = 8_192
MODELS: Final = ("tiny", "vast")
TIERS: Final = ("free", "standard", "elite")
SUPPLIERS: Final = ("north", "south", "west")
NEW_PAYEE_ABOVE: Final = DOLLAR // 2
NIGHT_ABOVE: Final = DOLLAR // 5
NIGHT_HOURS: Final = range(2, 5)
TWO_PERSONS_ABOVE: Final = DOLLAR
BRAKE_RULES: Final = {
    "currency": "USD",
    "rules": {
        "new_payee": {"action": "hold", "above": "0.5"},
        "night": {
            "action": "deny",
            "from": "02:00",
            "until": "05:00",
            "time_zone": "UTC",
            "above": "0.2",
        },
        "velocity": {"action": "off"},
        "price_jump": {"action": "off"},
        "loop": {"action": "off"},
        "burn_rate": {"action": "off"},
        "score": {"action": "off"},
    },
    "two_persons_above": "1",
}
"""What each organisation says of its agents' payments: so little that one can foretell it."""
PAYABLE_OF: Final = {
    PartyKind.POWER_PRODUCER: "power_payable",
    PartyKind.RIGHTS_HOLDER: "rights_payable",
    PartyKind.RESELLER: "reseller_payable",
}


@dataclass
class SimulatedKey:
    """
    A key, what is above it, and since when it was how.
    """

    key: ApiKey
    secret: str
    scopes: list[UUID]
    """Organisation first, the key itself last."""
    label: str
    path_scopes: list[UUID]
    """What its spend path names now."""
    version: int = 1
    revoked_at: datetime | None = None

    @property
    def key_id(self) -> UUID:
        """
        Return the key's id, which is its spend path's too.
        """
        return self.key.key_id


@dataclass
class SimulatedWallet:
    """
    A key that speaks for an agent.
    """

    key: Ed25519PrivateKey = field(repr=False)
    wallet: Wallet
    revoked_at: datetime | None = None

    @property
    def address(self) -> str:
        """
        Return the public key's text.
        """
        return self.wallet.address


@dataclass
class SimulatedAgent:
    """
    An agent, what is above it, and its wallets, the newest last.
    """

    party: Party
    scopes: list[UUID]
    """Organisation first, the agent itself last."""
    wallets: list[SimulatedWallet] = field(default_factory=list[SimulatedWallet])

    @property
    def agent_id(self) -> UUID:
        """
        Return the agent's party.
        """
        return self.party.party_id


@dataclass(frozen=True)
class Payee:
    """
    Who is paid, and on which account.
    """

    party: UUID
    organisation: UUID
    account: Name

    @property
    def is_client(self) -> bool:
        """
        Return whether it is client money that it gets.
        """
        return self.account[1] == "cash"


@dataclass
class World:
    """
    Everything that was opened, by whom it belongs to.
    """

    organisations: list[Party] = field(default_factory=list[Party])
    parties: list[Party] = field(default_factory=list[Party])
    """Organisations, teams, users and agents of buyers."""
    keys: list[SimulatedKey] = field(default_factory=list[SimulatedKey])
    agents: list[SimulatedAgent] = field(default_factory=list[SimulatedAgent])
    suppliers: dict[str, Supplier] = field(default_factory=dict[str, Supplier])
    offers: dict[UUID, Offer] = field(default_factory=dict[UUID, Offer])
    paused: set[UUID] = field(default_factory=set[UUID])
    """Offers that take no calls now."""
    owners: dict[str, Party] = field(default_factory=dict[str, Party])
    """Power producer, rights holder and reseller."""
    prices: dict[tuple[str, str], list[tuple[datetime, Mapping[str, int]]]] = field(
        default_factory=dict[tuple[str, str], list[tuple[datetime, Mapping[str, int]]]]
    )
    """By model and tier: what was set, with the moment from which it counts."""
    states: dict[UUID, list[tuple[datetime, str]]] = field(
        default_factory=dict[UUID, list[tuple[datetime, str]]]
    )
    """A party's or key's states with the moment each began."""
    labels: dict[UUID, str] = field(default_factory=dict[UUID, str])

    def prices_at(self, model: str, tier: str, now: datetime) -> Mapping[str, int]:
        """
        Return the prices in effect; none before the first ones.
        """
        begun = [dated for dated in self.prices[model, tier] if dated[0] <= now]
        return max(begun, key=lambda dated: dated[0])[1] if begun else {}

    def label(self, identifier: UUID) -> str:
        """
        Return a stable word for an id.
        """
        return self.labels.get(identifier, str(identifier)[-6:])

    def above(self, party: UUID) -> list[UUID]:
        """
        Return a party and, where it is a buyer's, those above it.
        """
        is_buyer = any(known.party_id == party for known in self.parties)
        return self.chain(party) if is_buyer else [party]

    def chain(self, party: UUID) -> list[UUID]:
        """
        Return a buyer's party and what is above it, the organisation first.
        """
        by_id = {known.party_id: known for known in self.parties}
        scopes: list[UUID] = []
        above: UUID | None = party
        while above is not None:
            scopes.insert(0, above)
            above = by_id[above].parent_id
        return scopes

    def payees(self) -> list[Payee]:
        """
        Return everybody who can be paid by an agent.
        """
        found: list[Payee] = []
        for party in self.parties:
            organisation = self.chain(party.party_id)[0]
            found.append(Payee(party.party_id, organisation, (organisation, "cash", USD_ID)))
        others = [(supplier.party_id, "supplier_payable") for supplier in self.suppliers.values()]
        others += [(party.party_id, PAYABLE_OF[party.kind]) for party in self.owners.values()]
        found += [Payee(party, party, (party, purpose, USD_ID)) for party, purpose in others]
        return found


async def open_world(hub: Hub, auditor: Auditor, random: Random) -> World:
    """
    Open organisations with their trees and keys, suppliers, offers, prices.
    """
    world = World(labels={PLATFORM: "platform"})
    await _open_owners(hub, world)
    await _open_suppliers(hub, world, random)
    for number in range(random.randint(2, 3)):
        await _open_organisation(hub, auditor, world, random, number)
    await auditor.learn_accounts()
    for key in world.keys:
        funding = await auditor.number((key.scopes[0], "cash", USD_ID))
        auditor.publish(key.key_id, 1, key.scopes, funding)
    for organisation in world.organisations:
        await hub.ledger.deposit(
            party_id=organisation.party_id,
            amount=Amount(quanta=random.choice((DOLLAR // 50, DOLLAR, 200 * DOLLAR)), asset=USD),
            rail="bank",
            reference=f"opening {organisation.name}",
            actor="simulation",
        )
    auditor.take_moves()
    auditor.take_answers()
    return world


async def _open_owners(hub: Hub, world: World) -> None:
    kinds = {
        "river": PartyKind.POWER_PRODUCER,
        "library": PartyKind.RIGHTS_HOLDER,
        "shop": PartyKind.RESELLER,
    }
    for name, kind in kinds.items():
        world.owners[name] = await hub.opening.add_party(name, kind=kind)
        world.labels[world.owners[name].party_id] = name


async def _open_suppliers(hub: Hub, world: World, random: Random) -> None:
    for name in SUPPLIERS:
        party = await hub.opening.add_party(name, kind=PartyKind.SUPPLIER)
        world.labels[party.party_id] = name
        world.suppliers[name] = await hub.supply.add_supplier(
            name,
            party_id=party.party_id,
            base_url=f"http://127.0.0.1/{name}/v1",
            api_key=f"sk-simulated-{name}-0123456789",
            allow_private=True,
        )
    tiers = load_tiers()
    for model in MODELS:
        for tier in TIERS:
            given = dict(tiers[tier].prices)
            if tier != "free" and model == "vast":
                given = {axis: nano * 7 + random.randrange(1_000) for axis, nano in given.items()}
            card = await hub.prices.set_prices(model, tier, given)
            prices = {axis.value: price.nano_per_million for axis, price in card.prices.items()}
            world.prices[model, tier] = [(hub.clock.now(), prices)]
            for name in random.sample(SUPPLIERS, random.randint(1, 3)):
                await _open_offer(hub, world, random, (model, tier, name))


async def _open_offer(hub: Hub, world: World, random: Random, where: tuple[str, str, str]) -> None:
    model, tier, name = where
    terms = OfferTerms(
        upstream_model=f"vendor/{model}",
        cost_card=_cost_card(random),
        split=_split(world, random),
        context_tokens_max=CONTEXT_TOKENS,
        priority=random.randint(1, 2),
    )
    offer = await hub.supply.add_offer(
        world.suppliers[name].supplier_id, model=model, tier=tier, terms=terms
    )
    world.offers[offer.offer_id] = offer


def _cost_card(random: Random) -> CostCard:
    if random.random() < 0.6:
        return share_card(random.choice((0, 600_000, 333_333, 1_000_000)))
    return axis_card({Axis.INPUT: random.randrange(10**9), Axis.OUTPUT: random.randrange(10**10)})


def _split(world: World, random: Random) -> Split:
    if random.random() < 0.2:
        return Split()
    return Split(
        tax_ppm=random.choice((0, 80_000, 190_000)),
        reseller_ppm=random.choice((30_000, 1, 333_333)),
        reseller_id=world.owners["shop"].party_id,
        rights_ppm=random.choice((20_000, 7)),
        rights_id=world.owners["library"].party_id,
        power_ppm=random.choice((250_000, 1)),
        power_id=world.owners["river"].party_id,
    )


async def _open_organisation(
    hub: Hub, auditor: Auditor, world: World, random: Random, number: int
) -> None:
    organisation = await hub.opening.add_party(f"org{number}", kind=PartyKind.BUYER)
    world.organisations.append(organisation)
    await hub.agents.brake.set_rules([organisation.party_id], BRAKE_RULES, actor="simulation")
    parties = [organisation]
    for index in range(random.randint(1, 2)):
        team = await hub.opening.add_party(
            f"team{number}.{index}", kind=PartyKind.BUYER, parent=organisation.party_id
        )
        parties.append(team)
        if random.random() < 0.7:
            parties.append(
                await hub.opening.add_party(
                    f"user{number}.{index}", kind=PartyKind.BUYER, parent=team.party_id
                )
            )
    for party in parties:
        world.parties.append(party)
        world.labels[party.party_id] = party.name
        auditor.scope_states[party.party_id] = "active"
    for party in parties[1:]:
        for _ in range(random.randint(1, 2)):
            await add_key(hub, auditor, world, party)
    for index in range(random.randint(1, 2)):
        name = f"agent{number}.{index}"
        await _open_agent(hub, auditor, world, random, name, random.choice(parties))


async def _open_agent(
    hub: Hub, auditor: Auditor, world: World, random: Random, name: str, owner: Party
) -> None:
    party = await hub.opening.add_party(
        name, kind=PartyKind.BUYER, level=Level.AGENT, parent=owner.party_id
    )
    world.parties.append(party)
    world.labels[party.party_id] = name
    auditor.scope_states[party.party_id] = "active"
    agent = SimulatedAgent(party=party, scopes=world.chain(party.party_id))
    world.agents.append(agent)
    await add_wallet(hub, agent, random)


async def add_wallet(hub: Hub, agent: SimulatedAgent, random: Random) -> SimulatedWallet:
    """
    Add a wallet of an agent and remember it.
    """
    key = Ed25519PrivateKey.from_private_bytes(random.randbytes(32))
    wallet = SimulatedWallet(key=key, wallet=Wallet(key, now_s=lambda: hub.clock.now().timestamp()))
    await hub.agents.mandates.add_wallet(agent.agent_id, wallet.address)
    agent.wallets.append(wallet)
    return wallet


async def add_key(
    hub: Hub,
    auditor: Auditor,
    world: World,
    party: Party,
    *,
    expires_at: datetime | None = None,
) -> SimulatedKey:
    """
    Add a key of a party and remember it.
    """
    label = f"key{len(world.keys)}"
    key, secret = await hub.opening.add_key(
        party.party_id, role=Role.BUYER, label=label, expires_at=expires_at
    )
    if expires_at is not None:
        auditor.scope_expiries[key.key_id] = expires_at
    scopes = [*world.chain(party.party_id), key.key_id]
    known = SimulatedKey(key=key, secret=secret, scopes=scopes, label=label, path_scopes=scopes)
    world.keys.append(known)
    world.labels[key.key_id] = label
    auditor.scope_states[key.key_id] = "active"
    return known
