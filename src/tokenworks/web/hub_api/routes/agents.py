"""
Agents, their wallets, the kill switch, and the tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Query

from tokenworks.agents.mandates.address import check_address
from tokenworks.agents.mandates.errors import NotAnAgentError, WalletUnknownError
from tokenworks.agents.mandates.model import Mandate, Wallet
from tokenworks.foundation.limits import PAGE_ROWS_MAX
from tokenworks.identity.model import Level, Party, PartyKind, PartyState, Principal, Role
from tokenworks.web.hub_api.access import Caller, Services, actor_of
from tokenworks.web.hub_api.agent_access import owned_chain, visible_chain
from tokenworks.web.hub_api.agent_bodies import AgentIn, AgentQuery, WalletIn
from tokenworks.web.hub_api.bodies import NameOrId
from tokenworks.web.hub_api.pagination import from_cursor_id, to_cursor
from tokenworks.web.hub_api.rendering.agents import to_agent, to_tree, to_wallet, with_agents
from tokenworks.web.hub_api.services import HubServices
from tokenworks.web.hub_api.shapes.agents import AgentShape, AgentTree, Frozen, WalletShape
from tokenworks.web.hub_api.shapes.parts import Page

router: Final = APIRouter(tags=["agents"])

SELF: Final = "self"
TREE_PARTIES_MAX: Final = 2_000
TREE_MANDATES_MAX: Final = 2_000


@router.post("/agents", status_code=201)
async def add_agent(body: AgentIn, services: Services, caller: Caller) -> AgentShape:
    """
    Add an agent below its owner, with its wallet when a public key comes along.
    """
    owner = (await owned_chain(services, caller, body.owner))[-1]
    if body.public_key is not None:
        # Before the party: a key that cannot be registered leaves no agent behind.
        check_address(body.public_key)
    party = await services.opening.add_party(
        body.name, kind=PartyKind.BUYER, level=Level.AGENT, parent=owner.party_id
    )
    if body.public_key is not None:
        await services.agents.mandates.add_wallet(party.party_id, body.public_key, label=body.label)
    return await _shape(services, await services.identity.get_chain(party.party_id))


@router.get("/agents")
async def list_agents(
    query: Annotated[AgentQuery, Query()], services: Services, caller: Caller
) -> Page[AgentShape]:
    """
    List agents, oldest first; who is no admin sees those at or below its party.
    """
    below = None
    if query.owner is not None:
        below = (await visible_chain(services, caller, query.owner))[-1].party_id
    elif caller.role is not Role.ADMIN:
        below = caller.party_id
    after = None if query.cursor is None else from_cursor_id(query.cursor)
    organisation_id = None if caller.role is Role.ADMIN else caller.organisation_id
    found: list[tuple[Party, ...]] = []
    while len(found) < query.limit:
        rows = await services.identity.list_parties(
            level=Level.AGENT, organisation_id=organisation_id, after=after, count=PAGE_ROWS_MAX
        )
        chains = await services.identity.get_chains(row.party_id for row in rows)
        found += [
            chain
            for chain in (chains[row.party_id] for row in rows)
            if below is None or below in {party.party_id for party in chain}
        ]
        if len(rows) < PAGE_ROWS_MAX:
            break
        after = rows[-1].party_id
    shown = found[: query.limit]
    is_full = len(shown) == query.limit
    return Page(
        items=await _shapes(services, shown),
        next_cursor=to_cursor(str(shown[-1][-1].party_id)) if is_full else None,
    )


@router.get("/agents/tree")
async def agent_tree(
    services: Services, caller: Caller, owner: NameOrId | None = None
) -> AgentTree:
    """
    Show agents below their owners with their mandates and what is left of each limit.
    """
    top = owner if owner is not None or caller.role is Role.ADMIN else str(caller.party_id)
    above = () if top is None else await visible_chain(services, caller, top)
    parties = await services.identity.list_tree(
        above[-1].party_id if above else None, count=TREE_PARTIES_MAX + 1
    )
    is_cut = len(parties) > TREE_PARTIES_MAX
    shown = with_agents(parties[:TREE_PARTIES_MAX])
    agents = [party.party_id for party in shown if party.level is Level.AGENT]
    mandates: list[Mandate] = []
    while agents:
        rows = await services.agents.mandates.list_mandates(
            agent_ids=agents,
            after=mandates[-1].mandate_id if mandates else None,
            count=PAGE_ROWS_MAX,
        )
        mandates.extend(rows)
        is_cut = is_cut or len(mandates) > TREE_MANDATES_MAX
        if len(rows) < PAGE_ROWS_MAX or is_cut:
            break
    # Who stands above a delegation may stand outside of the picture, and stops it all the same.
    beyond = await services.agents.mandates.those_above(mandates)
    stopped = await services.identity.stopped({m.agent_id for m in (*mandates, *beyond)})
    scopes = [party.party_id for party in shown] + [mandate.mandate_id for mandate in mandates]
    return to_tree(
        shown,
        mandates,
        await services.ledger.limits(scopes) if scopes else (),
        beyond=beyond,
        stopped=stopped,
        frozen_above=any(party.state is PartyState.FROZEN for party in above[:-1]),
        is_cut=is_cut,
        now=services.clock.now(),
    )


@router.get("/agents/{agent}")
async def get_agent(agent: NameOrId, services: Services, caller: Caller) -> AgentShape:
    """
    Show one agent; ``self`` is the caller's own.
    """
    agent = str(caller.party_id) if agent == SELF else agent
    return await _shape(services, await _agent_chain(services, caller, agent))


@router.post("/agents/{agent}/wallets", status_code=201)
async def add_wallet(
    agent: NameOrId, body: WalletIn, services: Services, caller: Caller
) -> WalletShape:
    """
    Let a public key speak for an agent; the private key never comes here.
    """
    chain = await owned_chain(services, caller, agent)
    return to_wallet(
        await services.agents.mandates.add_wallet(
            chain[-1].party_id, body.public_key, label=body.label
        )
    )


@router.delete("/agents/{agent}/wallets/{address}")
async def revoke_wallet(
    agent: NameOrId, address: str, services: Services, caller: Caller
) -> WalletShape:
    """
    Revoke a wallet for good: it holds nothing from now on, and its signatures mean nothing.
    """
    chain = await owned_chain(services, caller, agent)
    wallets = await services.agents.mandates.wallets([chain[-1].party_id])
    if address not in {wallet.address for wallet in wallets}:
        message = "The agent has no such wallet."
        raise WalletUnknownError(message, param="address")
    return to_wallet(await services.agents.mandates.revoke_wallet(address))


@router.post("/agents/{agent}/freeze")
async def freeze(agent: NameOrId, services: Services, caller: Caller) -> Frozen:
    """
    Stop an agent, or an owner with all agents below it, at once; open holds end as they began.
    """
    chain = await owned_chain(services, caller, agent)
    changed = await services.agents.mandates.freeze(
        chain[-1].party_id, actor=actor_of(caller, None)
    )
    return to_frozen(changed)


@router.post("/agents/{agent}/thaw")
async def thaw(agent: NameOrId, services: Services, caller: Caller) -> Frozen:
    """
    Let a frozen agent or owner go on; whoever is frozen above it stays so.
    """
    chain = await owned_chain(services, caller, agent)
    changed = await services.agents.mandates.thaw(chain[-1].party_id, actor=actor_of(caller, None))
    return to_frozen(changed)


def to_frozen(changed: Party | Mandate) -> Frozen:
    """
    Return what was frozen or thawed.
    """
    if isinstance(changed, Mandate):
        name = changed.label or str(changed.mandate_id)
        return Frozen(kind="mandate", id=changed.mandate_id, name=name, state=str(changed.state))
    return Frozen(kind="party", id=changed.party_id, name=changed.name, state=str(changed.state))


async def _agent_chain(
    services: HubServices, caller: Principal, reference: str
) -> tuple[Party, ...]:
    chain = await visible_chain(services, caller, reference)
    if chain[-1].level is not Level.AGENT:
        message = f"{chain[-1].name!r} is on the level {chain[-1].level}; it is no agent."
        raise NotAnAgentError(message, param="agent")
    return chain


async def _shape(services: HubServices, chain: tuple[Party, ...]) -> AgentShape:
    return (await _shapes(services, [chain]))[0]


async def _shapes(services: HubServices, chains: Sequence[tuple[Party, ...]]) -> list[AgentShape]:
    """
    Return agents with their wallets: one query, however many they are.
    """
    wallets: dict[UUID, list[Wallet]] = {chain[-1].party_id: [] for chain in chains}
    for wallet in await services.agents.mandates.wallets(list(wallets)):
        wallets[wallet.agent_id].append(wallet)
    network = services.agents.network
    return [to_agent(chain, wallets[chain[-1].party_id], network=network) for chain in chains]
