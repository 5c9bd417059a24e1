"""
What the routes of the hub API call, put together once by ``bootstrap``.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenworks.agents.services import AgentServices
from tokenworks.factory.live.proving import EnergyProofs
from tokenworks.factory.live.service import LiveFactory
from tokenworks.foundation.clock import Clock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.gateway.ports import Upstream
from tokenworks.gateway.refunding import Refunds
from tokenworks.identity.service import Identity
from tokenworks.ledger.closing import DateClosings
from tokenworks.ledger.correcting import Corrections
from tokenworks.postgres.pool import Pool
from tokenworks.pricing.service import PriceBook
from tokenworks.reconciliation.service import Reconciliation
from tokenworks.supply.service import Supply
from tokenworks.web.hub_api.directory import Directory
from tokenworks.web.hub_api.opening import Opening
from tokenworks.web.hub_api.ports import Calls, Ledger, Receipts


@dataclass(frozen=True, slots=True, kw_only=True)
class HubServices:
    """
    Every service behind the hub API.
    """

    pool: Pool
    clock: Clock
    ids: IdentifierSource
    identity: Identity
    supply: Supply
    prices: PriceBook
    ledger: Ledger
    corrections: Corrections
    closings: DateClosings
    refunds: Refunds
    reconciliation: Reconciliation
    calls: Calls
    receipts: Receipts
    upstream: Upstream  # for testing a supplier
    directory: Directory
    opening: Opening
    agents: AgentServices
    factory: LiveFactory
    energy_proofs: EnergyProofs


def make_services(
    *,
    pool: Pool,
    clock: Clock,
    ids: IdentifierSource,
    identity: Identity,
    supply: Supply,
    prices: PriceBook,
    ledger: Ledger,
    corrections: Corrections,
    closings: DateClosings,
    refunds: Refunds,
    reconciliation: Reconciliation,
    calls: Calls,
    receipts: Receipts,
    upstream: Upstream,
    agents: AgentServices,
    factory: LiveFactory,
    energy_proofs: EnergyProofs,
) -> HubServices:
    """
    Return the services with what this door makes of them.
    """
    return HubServices(
        pool=pool,
        clock=clock,
        ids=ids,
        identity=identity,
        supply=supply,
        prices=prices,
        ledger=ledger,
        corrections=corrections,
        closings=closings,
        refunds=refunds,
        reconciliation=reconciliation,
        calls=calls,
        receipts=receipts,
        upstream=upstream,
        directory=Directory(identity),
        opening=Opening(pool=pool, identity=identity, ledger=ledger),
        agents=agents,
        factory=factory,
        energy_proofs=energy_proofs,
    )
