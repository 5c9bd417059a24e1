"""
Sellers show the hub's word that a payment is held: as it was given, altered, or for something else.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from uuid import UUID

import msgspec

from tests.simulation.simulator.laws import Law
from tests.simulation.simulator.operations.naive_payments import (
    NaivePayment,
    NaivePayments,
    claim_code,
    closed_code,
    require,
)
from tests.simulation.simulator.operations.payment_operations import (
    Wish,
    expect_end,
    hold_ahead,
    learn,
    settle_code,
)
from tests.simulation.simulator.simulation import Simulation
from tokenworks.agents.payments.model import Binding, Requirements, Scheme
from tokenworks.receipts.jws import from_base64url, to_base64url

ALIVE_MAX = 5
"""So many at once are enough to show."""
FIRST = {
    "network": "network_mismatch",
    "payee": "unauthorized_server",
    "scheme": "requirements_mismatch",
    "asset": "requirements_mismatch",
    "amount": "requirements_mismatch",
    "address": "request_binding_mismatch",
    "method": "request_binding_mismatch",
    "body": "request_binding_mismatch",
}
"""What each difference is answered with, in the order in which they are looked at."""
OTHERWISE = list(FIRST)


async def show(simulation: Simulation, random: Random) -> str:
    """
    Show an attestation to claim the payment, or to settle it.
    """
    payments = [p for p in simulation.model(NaivePayments).by_id.values() if p.attestations]
    holds = simulation.auditor.naive.holds
    alive = [p for p in payments if holds[p.payment_id].state == "open"]
    if not alive or (len(alive) < ALIVE_MAX and random.random() < 0.3):
        return await hold_ahead(simulation, random)
    payment = random.choice(alive if random.random() < 0.7 else payments[-15:])
    held = payment.held
    assert held is not None, "what was attested was held"
    attestation = random.choice(payment.attestations)
    wish = _wish(random, payment)
    differences = set(random.sample(OTHERWISE, random.choice((0, 0, 0, 0, 1, 1, 2))))
    asked = _asked(payment, wish, differences)
    is_forged = random.random() < 0.05
    # A seller that has no key of its own shows what it was told when it claimed the payment.
    claim = None
    if payment.is_claimed and random.random() < 0.5:
        claim = simulation.hub.agents.payments.claim_of(payment.payment_id)
    elif random.random() < 0.1:
        claim = simulation.hub.agents.payments.claim_of(UUID(int=payment.payment_id.int ^ 1))
    knows_claim = claim is not None and payment.is_claimed
    simulation.law = Law.PAYMENT
    expected = _code(simulation, payment, wish, differences, is_payee=wish.is_payee or knows_claim)
    if is_forged:
        attestation, expected = _forged(random, attestation), "attestation_invalid"
    service = simulation.hub.agents.payments
    if wish.verb == "claim":
        code = (await simulation.ask(service.claim_attested(attestation, asked)))[1]
    else:
        if expected is None:
            expect_end(simulation, payment, quanta=wish.quanta)
        work = service.settle_attested(attestation, asked, is_payee=wish.is_payee, claim=claim)
        code = (await simulation.ask(work))[1]
        await learn(simulation)
    said = f"{wish.verb} {wish.quanta} of {held.quanta}"
    require(code == expected, payment, f"attested, {said}: {code}, naively {expected}")
    shown = f"payment {payment.number} attested, {said}: {code or 'done'}"
    if wish.verb == "claim" and code is None:
        payment.is_claimed = True
        if random.random() < 0.5:
            again = (await simulation.ask(service.claim_attested(attestation, asked)))[1]
            is_known = again == "payment_already_claimed"
            require(is_known, payment, f"another seller was answered {again or 'yes'}, too")
    elif random.random() < 0.5:
        return f"{shown}; {await _ask_word(simulation, payment)}"
    return shown


async def judge_word(simulation: Simulation, random: Random) -> str:
    """
    Read what the hub gave its word for: payee, amount, address, and until when it is held.
    """
    payments = [
        p
        for p in simulation.model(NaivePayments).by_id.values()
        if p.held is not None and p.is_attested
    ]
    if not payments:
        return "nothing was attested"
    return await _ask_word(simulation, random.choice(payments[-15:]))


async def _ask_word(simulation: Simulation, payment: NaivePayment) -> str:
    held = payment.held
    assert held is not None, "only what is held"
    work = simulation.hub.agents.payments.attest(held.jws, held.requirements, held.url)
    word, code = await simulation.ask(work)
    hold = simulation.auditor.naive.holds[payment.payment_id]
    is_waiting = payment.review is not None and payment.review.state_at(simulation.clock.now())
    if is_waiting and is_waiting != "approved":
        expected: str | None = "payment_in_review" if is_waiting == "pending" else "payment_denied"
    else:
        expected = None if hold.state == "open" else closed_code(hold.state)
    require(code == expected, payment, f"its word was {code or 'given'}, naively {expected}")
    if word is None:
        return f"payment {payment.number}: {code}"
    said = msgspec.json.decode(from_base64url(word.split(".")[1]))
    meant = {
        "aud": str(held.payee.party),
        "sub": held.wallet.address,
        "jti": str(payment.payment_id),
        "amount": str(held.quanta),
        "resource": held.url,
        "exp": int(hold.expires_at.timestamp()),
        "holdExp": int(hold.expires_at.timestamp()),
    }
    found = {name: said[name] for name in meant}
    require(found == meant, payment, f"the hub's word is {found}, naively {meant}")
    if word not in payment.attestations:
        payment.attestations.append(word)
    return f"payment {payment.number} is attested"


def _wish(random: Random, payment: NaivePayment) -> Wish:
    held = payment.held
    assert held is not None, "only what is held"
    verb = random.choice(("claim", "settle", "settle"))
    quanta = held.quanta
    if verb == "settle" and random.random() < 0.35:
        quanta = 0 if held.scheme == "exact" else random.choice((0, 1, quanta // 2))
    return Wish(verb=verb, quanta=quanta, is_payee=random.random() < 0.4)


def _asked(payment: NaivePayment, wish: Wish, differences: set[str]) -> Requirements:
    held = payment.held
    assert held is not None, "only what is held"
    asked = replace(held.requirements, amount=wish.quanta)
    bound = asked.binding
    if "network" in differences:
        asked = replace(asked, network="hub:else")
    if "payee" in differences:
        asked = replace(asked, pay_to=UUID(int=asked.pay_to.int ^ 1))
    if "scheme" in differences:
        other = Scheme.EXACT if asked.scheme is Scheme.UPTO else Scheme.UPTO
        asked = replace(asked, scheme=other)
    if "asset" in differences:
        asked = replace(asked, asset="EUR")
    if "amount" in differences:
        asked = replace(asked, amount=held.quanta + 1)
    if "address" in differences:
        bound = replace(bound, url=bound.url + "?else")
    if "method" in differences:
        bound = replace(bound, method="PUT")
    if "body" in differences:
        bound = Binding(method=bound.method, url=bound.url, body_sha256="A" * 43)
    return replace(asked, binding=bound)


def _code(
    simulation: Simulation,
    payment: NaivePayment,
    wish: Wish,
    differences: set[str],
    *,
    is_payee: bool,
) -> str | None:
    for difference in OTHERWISE:
        if difference in differences:
            return FIRST[difference]
    if wish.verb == "claim":
        return claim_code(simulation, payment)
    return settle_code(simulation, payment, replace(wish, is_payee=is_payee))


def _forged(random: Random, attestation: str) -> str:
    """
    Alter one bit: of what is said, or of the signature.
    """
    parts = attestation.split(".")
    where = random.choice((1, 2))
    altered = bytearray(from_base64url(parts[where]))
    altered[random.randrange(len(altered))] ^= 1 << random.randrange(8)
    parts[where] = to_base64url(bytes(altered))
    return ".".join(parts)


OPERATIONS = {
    "show_attestation": (9, show),
    "judge_attestation": (3, judge_word),
}
