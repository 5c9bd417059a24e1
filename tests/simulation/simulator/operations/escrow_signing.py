"""
What payer and payee of an escrow agree to, and what the payer's wallet signs.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.simulation.simulator.operations.naive_escrows import NaiveEscrow
from tests.simulation.simulator.operations.naive_mandates import NaiveMandate
from tests.simulation.simulator.operations.naive_payments import Signed
from tests.simulation.simulator.operations.payment_signing import NOTHING, empty_requirements
from tests.simulation.simulator.simulation import Simulation
from tests.simulation.simulator.world import DOLLAR, Payee
from tokenworks.agents.escrow.terms import terms_sha256, terms_url
from tokenworks.receipts.jws import to_base64url
from tokenworks.sdk import model as sdk
from tokenworks.sdk.signing import payment_id_of

CONDITIONS = {
    "status": "result.status == 200",
    "share": "[result.done, result.total]",
    "verifier": "result.attested.tests.passed >= 3",
}
SCHEMA = {
    "type": "object",
    "properties": {name: {"type": "integer"} for name in ("status", "done", "total")},
    "required": ["status", "done", "total"],
}
PARTS = (1, DOLLAR // 1_000, DOLLAR // 100, DOLLAR // 20)
"""So small that the brake of ``world.py`` has nothing against it."""
LIFETIME_S = 900
VERIFIER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def unsigned(simulation: Simulation, mandate: NaiveMandate, payee: Payee) -> Signed:
    """
    Return what is to be signed, by the newest wallet of the mandate's agent.
    """
    now = simulation.clock.now().replace(microsecond=0)
    return Signed(
        agent=mandate.agent,
        wallet=mandate.agent.wallets[-1],
        mandate=mandate,
        payee=payee,
        quanta=0,
        scheme="upto",
        url="",
        nonce=simulation.hub.ids.mint(),
        jws="",
        requirements=empty_requirements(),
        issued_at=now,
        expires_at=now + timedelta(seconds=LIFETIME_S),
    )


def sign_terms(simulation: Simulation, escrow: NaiveEscrow) -> None:
    """
    Write an escrow's terms down and let the payer's wallet sign them.
    """
    signed = escrow.signed
    quanta = sum(milestone.quanta for milestone in escrow.milestones)
    escrow.terms = {
        "milestones": [
            {
                "name": milestone.name,
                "amount": f"0.{milestone.quanta:09d}",
                "condition": CONDITIONS[milestone.condition],
            }
            for milestone in escrow.milestones
        ],
        "result_schema": SCHEMA,
        "submit_by": escrow.submit_by.isoformat(),
        "review_window_s": int(escrow.review_window.total_seconds()),
        "decide_by_s": int(escrow.decide_by.total_seconds()),
        "verifiers": {"tests": to_base64url(VERIFIER.public_key().public_bytes_raw())},
        "arbiter": None if escrow.arbiter is None else str(escrow.arbiter),
    }
    binding = sdk.Binding(
        method="ESCROW", url=terms_url(terms_sha256(escrow.terms)), body_sha256=NOTHING
    )
    jws = signed.wallet.wallet.authorise(
        sdk.Requirements(
            scheme="upto",
            network=simulation.hub.agents.network,
            amount=quanta,
            asset="USD",
            pay_to=str(signed.payee.party),
            max_timeout_s=LIFETIME_S,
            binding=binding,
            document={},
        ),
        binding,
        nonce=signed.nonce,
        mandate=signed.mandate.mandate_id,
    )
    escrow.signed = replace(signed, quanta=quanta, url=binding.url, jws=jws)
    escrow.escrow_id = payment_id_of(signed.wallet.address, signed.nonce)
