"""
What agents need of a hub, put together once by ``bootstrap``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from tokenworks.agents.brake.model import Action, Decision, Review, Subject
from tokenworks.agents.mandates.service import Mandates
from tokenworks.agents.payments.service import Payments
from tokenworks.foundation.clock import Clock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.identity.service import Identity
from tokenworks.ledger.service import Ledger
from tokenworks.postgres.pool import Pool
from tokenworks.receipts.issuing import ReceiptIssuer
from tokenworks.receipts.jws import thumbprint
from tokenworks.receipts.service import ReceiptKeys

NETWORK_REFERENCE_LENGTH: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentServices:
    """
    Every service of agents, open.
    """

    network: str
    """The hub's own network as CAIP-2 names it: a payment signed for one hub means nothing
    to another."""
    mandates: Mandates
    payments: Payments


async def open_agent_services(
    *,
    pool: Pool,
    ledger: Ledger,
    identity: Identity,
    keys: ReceiptKeys,
    clock: Clock,
    ids: IdentifierSource,
) -> AgentServices:
    """
    Return the services of agents on a hub's other services.
    """
    network = network_of(thumbprint(await keys.ensure_root()))
    mandates = Mandates(pool, ledger=ledger, identity=identity, keys=keys, clock=clock, ids=ids)
    payments = Payments(
        pool=pool,
        ledger=ledger,
        mandates=mandates,
        brake=_Unbraked(),
        parties=identity,
        receipts=ReceiptIssuer(keys, await keys.ensure_salt_key()),
        clock=clock,
        network=network,
    )
    return AgentServices(network=network, mandates=mandates, payments=payments)


class _Unbraked:
    """
    Lets every payment pass that its mandate allows, and says so on the receipt.
    """

    async def judge(self, subject: Subject) -> Decision:
        return Decision(action=Action.ALLOW, reasons=(), score_ppm=0, rules_version=0)

    async def record(self, subject: Subject, *, captured_quanta: int) -> None:
        return

    async def open_review(self, subject: Subject, decision: Decision) -> Review:
        raise AssertionError("nothing is stopped here")

    async def review(self, payment_id: UUID) -> Review | None:
        return None


def network_of(root_kid: str) -> str:
    """
    Return the network of the hub whose root key has this thumbprint.
    """
    return f"hub:{root_kid[:NETWORK_REFERENCE_LENGTH]}"
