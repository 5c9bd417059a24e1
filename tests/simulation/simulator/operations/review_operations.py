"""
People decide on payments that the brake has stopped: they approve, deny, or let the time pass.
"""

from __future__ import annotations

from random import Random
from uuid import UUID

from tests.simulation.simulator.laws import BrokenLawError, Law
from tests.simulation.simulator.operations.naive_payments import NaivePayment, NaivePayments
from tests.simulation.simulator.simulation import Simulation
from tokenworks.agents.brake.model import Scope
from tokenworks.ledger.service import PLATFORM_ID


async def decide(simulation: Simulation, random: Random) -> str:
    """
    Let somebody decide on a payment: an owner, a stranger, twice, too late, or on other content.
    """
    payments = simulation.model(NaivePayments)
    reviewed = [p for p in payments.by_id.values() if p.review is not None]
    if not reviewed:
        return "nobody is asked"
    waiting = [p for p in reviewed if p.review and p.review.state == "pending"]
    payment = random.choice(waiting if waiting and random.random() < 0.8 else reviewed)
    review = await simulation.hub.agents.brake.review(payment.payment_id)
    if review is None:
        raise BrokenLawError(Law.REVIEW, f"payment {payment.number} has no review")
    others = [PLATFORM_ID, *(party.party_id for party in simulation.world.organisations)]
    person = random.choice([*review.subject.party_chain, *others])
    is_other = random.random() < 0.1
    digest = bytes(32) if is_other else review.subject.digest
    says_yes = random.random() < 0.7
    scope = random.choice((Scope.ONCE, Scope.PAYEE))
    expected = _expected(simulation, payment, person, is_other=is_other, says_yes=says_yes)
    brake = simulation.hub.agents.brake
    if says_yes:
        work = brake.approve(
            payment.payment_id, digest=digest, actor="simulation", person=person, scope=scope
        )
    else:
        work = brake.deny(payment.payment_id, digest=digest, actor="simulation", person=person)
    found, code = await simulation.ask(work)
    _require(code == expected, payment, f"answered {code}, naively {expected}")
    if found is not None:
        _note(simulation, payment, person, says_yes=says_yes, scope=scope)
        assert payment.review is not None, "it is decided on"
        _require(
            found.state.value == payment.review.state,
            payment,
            f"it is {found.state}, naively {payment.review.state}",
        )
    word = "approves" if says_yes else "denies"
    return f"{simulation.world.label(person)} {word} payment {payment.number}: {code or 'done'}"


async def expire(simulation: Simulation, random: Random) -> str:
    """
    End what nobody decided in time, as the worker does.
    """
    del random
    now = simulation.clock.now()
    due = [
        payment
        for payment in simulation.model(NaivePayments).by_id.values()
        if payment.review is not None
        and payment.review.state == "pending"
        and payment.review.expires_at <= now
    ]
    ended = await simulation.hub.agents.brake.expire_due()
    if ended != len(due):
        raise BrokenLawError(Law.REVIEW, f"{ended} reviews expired, naively {len(due)}")
    for payment in due:
        assert payment.review is not None, "it was due"
        payment.review.state = "expired"
        _require_given_back(simulation, payment)
    return f"{ended} reviews expired"


def _expected(
    simulation: Simulation,
    payment: NaivePayment,
    person: UUID,
    *,
    is_other: bool,
    says_yes: bool,
) -> str | None:
    review = payment.review
    assert review is not None, "somebody is asked"
    above = payment.asked.agent.scopes[:-1]
    if person not in above and person != PLATFORM_ID:
        return "approver_not_allowed"
    if is_other:
        return "review_digest_mismatch"
    state = review.state_at(simulation.clock.now())
    if state == "expired":
        return "review_expired"
    if state != "pending":
        return "review_decided"
    if says_yes and person in review.approved_by:
        return "review_same_person"
    return None


def _note(
    simulation: Simulation, payment: NaivePayment, person: UUID, *, says_yes: bool, scope: Scope
) -> None:
    review = payment.review
    assert review is not None, "it was decided on"
    if not says_yes:
        review.state = "denied"
        _require_given_back(simulation, payment)
        return
    review.approved_by.append(person)
    review.scopes.append(scope.value)
    if len(review.approved_by) == review.needed:
        review.state = "approved"
        if set(review.scopes) == {Scope.PAYEE.value}:
            known = (payment.asked.agent.agent_id, payment.asked.payee.party)
            simulation.model(NaivePayments).known_payees.add(known)


def _require_given_back(simulation: Simulation, payment: NaivePayment) -> None:
    """
    What people did not allow is not held any more.
    """
    simulation.hear()
    hold = simulation.auditor.naive.holds.get(payment.payment_id)
    state = "nothing" if hold is None else hold.state
    _require(state != "open", payment, "it was denied and is still held")


def _require(is_lawful: bool, payment: NaivePayment, message: str) -> None:
    if not is_lawful:
        raise BrokenLawError(Law.REVIEW, f"payment {payment.number}: {message}")


OPERATIONS = {
    "decide_review": (8, decide),
    "expire_reviews": (3, expire),
}
