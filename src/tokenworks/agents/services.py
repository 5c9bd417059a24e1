"""
What agents need of a hub, put together once by ``bootstrap``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from tokenworks.agents.brake.model import Action, Decision, Review, Subject
from tokenworks.agents.escrow.errors import EvaluatorUnavailableError
from tokenworks.agents.escrow.model import Evaluation
from tokenworks.agents.escrow.ports import Evaluator
from tokenworks.agents.escrow.service import Escrows
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
    escrows: Escrows


async def open_agent_services(
    *,
    pool: Pool,
    ledger: Ledger,
    identity: Identity,
    keys: ReceiptKeys,
    clock: Clock,
    ids: IdentifierSource,
    evaluator: Evaluator | None = None,
) -> AgentServices:
    """
    Return the services of agents on a hub's other services.

    Args:
        pool: The hub's.
        ledger: Likewise.
        identity: Likewise.
        keys: Likewise.
        clock: Likewise.
        ids: Likewise.
        evaluator: Evaluates conditions of escrows; without one they wait.
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
    escrows = Escrows(
        pool,
        purse=payments,
        mandates=mandates,
        parties=identity,
        evaluator=evaluator or _Unevaluated(),
        clock=clock,
    )
    return AgentServices(network=network, mandates=mandates, payments=payments, escrows=escrows)


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


class _Unevaluated:
    """
    Has no verdict on anything.
    """

    engine = "none"

    async def check(self, condition: str) -> str | None:
        raise EvaluatorUnavailableError("This process evaluates no conditions.")

    async def evaluate(self, condition: str, document: bytes) -> Evaluation:
        raise EvaluatorUnavailableError("This process evaluates no conditions.")


def network_of(root_kid: str) -> str:
    """
    Return the network of the hub whose root key has this thumbprint.
    """
    return f"hub:{root_kid[:NETWORK_REFERENCE_LENGTH]}"
