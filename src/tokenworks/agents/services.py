"""
What agents need of a hub, put together once by ``bootstrap``.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Final

from tokenworks.agents.brake.notifying import Webhooks
from tokenworks.agents.brake.ports import WebhookSender
from tokenworks.agents.brake.service import Brake
from tokenworks.agents.escrow.errors import EvaluatorUnavailableError
from tokenworks.agents.escrow.model import Evaluation
from tokenworks.agents.escrow.ports import Evaluator, MeteredCalls
from tokenworks.agents.escrow.service import Escrows
from tokenworks.agents.mandates.service import Mandates
from tokenworks.agents.payments.attesting import Attesting
from tokenworks.agents.payments.service import Payments
from tokenworks.foundation.clock import Clock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.limits import REVIEW_LIFETIME_S
from tokenworks.identity.service import Identity
from tokenworks.ledger.service import Ledger
from tokenworks.postgres.pool import Pool
from tokenworks.receipts.issuing import ReceiptIssuer
from tokenworks.receipts.jws import thumbprint
from tokenworks.receipts.service import ReceiptKeys
from tokenworks.supply.secrets import SecretBox

NETWORK_REFERENCE_LENGTH: Final = 16
BRAKE_PURPOSE: Final = b"tokenworks-brake-mark-1"
CLAIM_PURPOSE: Final = b"tokenworks-payment-claim-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentServices:
    """
    Every service of agents, open.
    """

    network: str
    """The hub's own network as CAIP-2 names it: a payment signed for one hub means nothing
    to another."""
    mandates: Mandates
    brake: Brake
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
    calls: MeteredCalls,
    evaluator: Evaluator | None = None,
    box: SecretBox,
    sender: WebhookSender | None = None,
    review_lifetime_s: int = REVIEW_LIFETIME_S,
) -> AgentServices:
    """
    Return the services of agents on a hub's other services.

    Args:
        pool: Connections to the database.
        ledger: Holds money and limits.
        identity: Knows parties.
        keys: Sign what the hub says.
        clock: The time.
        ids: Mints ids.
        calls: Knows what calls of models used.
        box: Encrypts secrets of webhooks.
        sender: Posts to webhooks; ``None``: another process does.
        review_lifetime_s: After so long without a decision a payment is not made.
        evaluator: Evaluates conditions of escrows; without one they wait.
    """
    network = network_of(thumbprint(await keys.ensure_root()))
    salt_key = await keys.ensure_salt_key()
    mandates = Mandates(pool, ledger=ledger, identity=identity, keys=keys, clock=clock, ids=ids)
    brake = Brake(
        pool,
        ledger=ledger,
        clock=clock,
        mark_key=hmac.digest(salt_key, BRAKE_PURPOSE, "sha256"),
        raiser=mandates,
        webhooks=Webhooks(
            pool, clock=clock, box=box, sender=sender, source=f"urn:tokenworks:{network}"
        ),
        review_lifetime_s=review_lifetime_s,
    )
    await brake.ensure_partitions()
    payments = Payments(
        pool=pool,
        ledger=ledger,
        mandates=mandates,
        brake=brake,
        parties=identity,
        receipts=ReceiptIssuer(keys, salt_key),
        clock=clock,
        ids=ids,
        network=network,
        attesting=Attesting(
            await keys.ensure_lane_key(ledger.lane), keys.jwks, network=network, clock=clock
        ),
        claim_key=hmac.digest(salt_key, CLAIM_PURPOSE, "sha256"),
    )
    brake.release_with(payments.release)
    escrows = Escrows(
        pool,
        purse=payments,
        mandates=mandates,
        parties=identity,
        evaluator=evaluator or _Unevaluated(),
        calls=calls,
        clock=clock,
    )
    return AgentServices(
        network=network, mandates=mandates, brake=brake, payments=payments, escrows=escrows
    )


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
