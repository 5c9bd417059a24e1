"""
What a wallet signs for a seller, with the times of now.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from tests.simulation.simulator.operations.naive_payments import Signed
from tests.simulation.simulator.simulation import Simulation
from tokenworks.agents.payments.model import Binding, Requirements, Scheme
from tokenworks.sdk import model as sdk
from tokenworks.sdk.signing import body_sha256

NOTHING = body_sha256(b"")


def empty_requirements() -> Requirements:
    """
    Return requirements that nothing was signed for yet.
    """
    return Requirements(
        scheme=Scheme.EXACT,
        network="",
        amount=0,
        asset="USD",
        pay_to=UUID(int=0),
        binding=Binding(method="GET", url="", body_sha256=NOTHING),
        timeout_s=0,
    )


def sign_payment(simulation: Simulation, signed: Signed, *, lifetime_s: int) -> Signed:
    """
    Sign a payment with the times of now; the id is the nonce's, whatever is signed.
    """
    network, now = simulation.hub.agents.network, simulation.clock.now()
    digest = body_sha256(signed.body)
    binding = sdk.Binding(method=signed.method, url=signed.url, body_sha256=digest)
    jws = signed.wallet.wallet.authorise(
        sdk.Requirements(
            scheme=signed.scheme,
            network=network,
            amount=signed.quanta,
            asset="USD",
            pay_to=str(signed.payee.party),
            max_timeout_s=lifetime_s,
            binding=binding,
            document={},
        ),
        binding,
        nonce=signed.nonce,
        mandate=signed.mandate.mandate_id,
    )
    requirements = Requirements(
        scheme=Scheme(signed.scheme),
        network=network,
        amount=signed.quanta,
        asset="USD",
        pay_to=signed.payee.party,
        binding=Binding(method=signed.method, url=signed.url, body_sha256=digest),
        timeout_s=lifetime_s,
    )
    whole = now.replace(microsecond=0)
    return replace(
        signed,
        jws=jws,
        requirements=requirements,
        issued_at=whole,
        expires_at=whole + timedelta(seconds=lifetime_s),
    )
