"""
Agents pay: sellers verify and settle what wallets signed, once, again, and with other content.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from random import Random
from typing import Any
from uuid import UUID

from tests.simulation.simulator.auditor import Answered
from tests.simulation.simulator.judging import short_code
from tests.simulation.simulator.laws import Law
from tests.simulation.simulator.operations.mandate_operations import choose, issue, publish
from tests.simulation.simulator.operations.naive_payments import (
    REVIEW_LIFETIME,
    Content,
    Doubts,
    NaivePayment,
    NaivePayments,
    NaiveReview,
    Signed,
    attest_code,
    claim_code,
    closed_code,
    doubts,
    expect_capture,
    know_payee,
    persons_needed,
    require,
    review_code,
)
from tests.simulation.simulator.operations.payment_signing import (
    empty_requirements,
    sign_payment,
)
from tests.simulation.simulator.simulation import Simulation
from tests.simulation.simulator.world import DOLLAR
from tokenworks.ledger.model import Placement
from tokenworks.sdk.signing import payment_id_of

CENT = DOLLAR // 100
AMOUNTS = (1, 999, CENT // 2, CENT, 3 * CENT, 25 * CENT, 60 * CENT, 3 * DOLLAR)
TURNS = 6
LEARNED_AFTER = timedelta(milliseconds=20)
"""So long after a capture the brake has learned from it."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """
    What a seller asks of the hub about a payment.
    """

    verb: str
    """``claim``: x402's verify; ``authorise``; ``attest``; ``settle``."""
    quanta: int
    """With ``settle``: the actual amount."""
    is_payee: bool
    """With ``settle``: whether the payee itself asks."""
    tokens: int = 0
    """With ``claim``: the most that the call may use which the hub sells for it."""
    ask: Callable[[], Awaitable[str | None]] | None = field(default=None, repr=False)
    """Asks another door than the facilitator's; returns the code of a refusal."""


async def pay(simulation: Simulation, random: Random) -> str:
    """
    Sign a payment and show it to a seller, who verifies it or settles at once.
    """
    signed = _sign(simulation, random)
    if signed is None:
        return "no mandates"
    return await show(simulation, signed, _wish(random, signed))


async def hold_ahead(simulation: Simulation, random: Random) -> str:
    """
    Sign a small payment and let the hub give its word that it is held.
    """
    signed = _sign(simulation, random, amounts=AMOUNTS[:3])
    if signed is None:
        return await issue(simulation, random)
    wish = Wish(verb="attest", quanta=signed.quanta, is_payee=False)
    return await show(simulation, signed, wish)


def _sign(
    simulation: Simulation, random: Random, *, amounts: Sequence[int] = AMOUNTS
) -> Signed | None:
    chosen = choose(simulation, random)
    if chosen is None:
        return None
    mandate, wallet, payee = chosen
    agent = mandate.agent
    if random.random() < 0.02:
        agent = random.choice(simulation.world.agents)
        wallet = agent.wallets[-1]
    return sign_payment(
        simulation,
        Signed(
            agent=agent,
            wallet=wallet,
            mandate=mandate,
            payee=payee,
            quanta=random.choice(amounts),
            scheme=random.choice(("exact", "upto")),
            url=f"https://seller.example/{random.randrange(5)}",
            nonce=simulation.hub.ids.mint(),
            jws="",
            requirements=empty_requirements(),
            issued_at=simulation.clock.now(),
            expires_at=simulation.clock.now(),
        ),
        lifetime_s=random.choice((5, 60, 900)),
    )


async def pay_again(simulation: Simulation, random: Random) -> str:
    """
    Show a payment again: as it was, signed anew, or with other content under the same nonce.
    """
    payments = list(simulation.model(NaivePayments).by_id.values())
    if not payments:
        return "nothing was signed"
    held = [payment for payment in payments if payment.held is not None]
    payment = random.choice(held[-12:] if held and random.random() < 0.7 else payments[-25:])
    signed = payment.held or random.choice(payment.signed)
    way = random.choice(("as it was", "as it was", "signed anew", "otherwise"))
    if way == "otherwise":
        change: dict[str, Any] = random.choice(
            ({"quanta": signed.quanta + 1}, {"quanta": 4 * DOLLAR}, {"url": "https://else.example"})
        )
        signed = replace(signed, **change)
    if way != "as it was":
        signed = sign_payment(simulation, signed, lifetime_s=60)
    return f"{way}: {await show(simulation, signed, _wish(random, signed))}"


async def finish(simulation: Simulation, random: Random) -> str:
    """
    Capture a payment that is held, in part or whole, or give it back; held or not any more.
    """
    payments = list(simulation.model(NaivePayments).by_id.values())
    if not payments:
        return "nothing was signed"
    # How a call's payment ends is the gateway's business alone.
    held = [p for p in payments if p.held is not None and not p.is_call]
    holds = simulation.auditor.naive.holds
    alive = [p for p in held if holds[p.payment_id].state == "open"]
    if alive and random.random() < 0.6:
        held = alive
    unheld = [p for p in payments if p.held is None]
    known = held[-12:] if held and (not unheld or random.random() < 0.95) else unheld
    if not known:
        return "nothing is held"
    payment = random.choice(known)
    if random.random() < 0.3:
        return await _release(simulation, payment)
    authorised = payment.held.quanta if payment.held else 5
    quanta = max(1, random.choice((authorised, authorised, authorised // 3, authorised + 1)))
    ordinal = random.choice((0, 0, 0, len(payment.captures), 1))
    return await _capture(
        simulation, payment, quanta=quanta, ordinal=ordinal, closes=random.random() < 0.6
    )


def _wish(random: Random, signed: Signed) -> Wish:
    verb = random.choice(("claim", "claim", "authorise", "attest", "settle", "settle"))
    quanta = signed.quanta
    if verb == "settle" and random.random() < 0.35:
        quanta = 0 if signed.scheme == "exact" else random.choice((0, 1, quanta // 2))
    return Wish(verb=verb, quanta=quanta, is_payee=random.random() < 0.5)


# ---------------------------------------------------------------------- asking


async def show(simulation: Simulation, signed: Signed, wish: Wish) -> str:
    """
    Ask the hub about a payment and require the answer that the model gives.
    """
    simulation.law = Law.PAYMENT
    payments = simulation.model(NaivePayments)
    payment_id = payment_id_of(signed.wallet.address, signed.nonce)
    payment = payments.by_id.setdefault(
        payment_id, NaivePayment(payment_id, len(payments.by_id) + 1)
    )
    payment.signed.append(signed)
    await publish(simulation, signed.mandate, signed.wallet, signed.payee)
    if payment.held is not None:
        code = await _show_known(simulation, payment, signed, wish)
    else:
        code = await show_new(simulation, payment, signed, wish)
    await learn(simulation)
    said = code or "done"
    return f"payment {payment.number} {wish.verb} {wish.quanta} of {signed.quanta}: {said}"


async def learn(simulation: Simulation) -> None:
    """
    Let the brake learn from what was captured in this step.
    """
    for _ in range(TURNS):
        await asyncio.sleep(0)  # what is to be learned begins to wait for its time
    simulation.clock.advance(LEARNED_AFTER)
    await simulation.hub.agents.payments.quiet()


async def _ask(simulation: Simulation, signed: Signed, wish: Wish) -> str | None:
    if wish.ask is not None:
        return await wish.ask()
    payments = simulation.hub.agents.payments
    if wish.verb == "claim":
        return (await simulation.ask(payments.claim(signed.jws, signed.requirements)))[1]
    if wish.verb == "authorise":
        return (await simulation.ask(payments.authorise(signed.jws, signed.requirements)))[1]
    if wish.verb == "attest":
        work = payments.attest(signed.jws, signed.requirements, signed.url)
        attestation, code = await simulation.ask(work)
        payment_id = payment_id_of(signed.wallet.address, signed.nonce)
        if attestation is not None:
            known = simulation.model(NaivePayments).by_id[payment_id].attestations
            known += [attestation] if attestation not in known else []
        return code
    requirements = replace(signed.requirements, amount=wish.quanta)
    return (
        await simulation.ask(payments.settle(signed.jws, requirements, is_payee=wish.is_payee))
    )[1]


async def show_new(
    simulation: Simulation, payment: NaivePayment, signed: Signed, wish: Wish
) -> str | None:
    """
    Show a payment that nothing is held for: it is judged, and held when all allow it.
    """
    payments, now = simulation.model(NaivePayments), simulation.clock.now()
    against = doubts(simulation, signed)
    brake = payment.said(signed, now) or payments.brake(signed, now)
    is_remembered = signed.content in payment.allowed
    stopped_otherwise = payment.stopped - {signed.content}
    code = await _ask(simulation, signed, wish)
    placed = placements_of(simulation, payment.payment_id)
    if not placed:
        simulation.expected.clear()
        allowed = Doubts(against.certain, against.possible | _stops(brake, stopped_otherwise))
        require(allowed.allow(code), payment, f"{code}; reasons: {sorted(allowed.certain)}")
        if code == "payment_denied":
            payment.stopped.add(signed.content)
        return code
    # Who is stopped higher up may be found out by the ledger alone.
    certain = against.certain if placed[0].expected.code == "ok" else None
    require(not certain, payment, f"held in spite of {sorted(certain or ())}", Law.MANDATE)
    if is_remembered and brake != "deny":
        # It was allowed before under the same signature, when the rules had nothing against it.
        brake = "hold" if code == "payment_in_review" else brake
    require(brake != "deny" or is_remembered, payment, "held in spite of the brake", Law.REVIEW)
    require(not stopped_otherwise, payment, "held although its id was stopped before", Law.REVIEW)
    if brake == "allow":
        payment.allowed.add(signed.content)
    else:
        # People are asked before the hold is placed, and whether or not it can be.
        payment.stopped.add(signed.content)
        if payment.review is None:
            needed = persons_needed(signed.quanta)
            payment.review = NaiveReview(expires_at=now + REVIEW_LIFETIME, needed=needed)
            payment.about = signed
    return _judge_placed(simulation, payment, signed, wish, placed, code, is_held=brake == "hold")


def _stops(brake: str, stopped_otherwise: set[Content]) -> set[str]:
    codes = {"payment_denied"} if brake == "deny" else set[str]()
    return codes | ({"review_digest_mismatch"} if stopped_otherwise else set())


def _judge_placed(
    simulation: Simulation,
    payment: NaivePayment,
    signed: Signed,
    wish: Wish,
    placed: Sequence[Answered],
    code: str | None,
    *,
    is_held: bool,
) -> str | None:
    first = placed[0].expected
    for answered in placed:
        _judge_reservations(payment, signed, answered.wish, tokens=wish.tokens)
    if first.code != "ok":
        expected = {short_code(simulation, placed[0])}
        if first.code in {"scope_frozen", "scope_closed"}:
            against = doubts(simulation, signed)
            expected = against.certain | against.possible
        require(code in expected, payment, f"refused as {code}, not {sorted(expected)}")
        return code
    payment.held = signed
    payment.is_call = bool(wish.tokens)
    payment.is_attested = wish.verb == "attest"
    payment.is_claimed = not is_held and not payment.is_attested
    if is_held:
        require(code == "payment_in_review", payment, f"{code}, but people decide", Law.REVIEW)
        return code
    if wish.verb != "settle":
        require(code is None, payment, f"refused as {code} and held")
        return code
    if wish.quanta:
        expect_capture(simulation, payment.payment_id, signed.payee, wish.quanta, is_first=True)
        payment.captures[0] = (wish.quanta, True)
        know_payee(simulation, signed)
    require(code is None, payment, f"settled as {code}")
    return code


def _judge_reservations(
    payment: NaivePayment, signed: Signed, wish: object, *, tokens: int
) -> None:
    assert isinstance(wish, Placement), "only placements were kept"
    asked = {item.asset_id: item.quanta for item in wish.reservations}
    meant = {1: signed.quanta, 11: signed.quanta, 14: 1}
    if tokens:
        meant[13] = tokens
    path_id, _ = signed.mandate.path(signed.wallet.address, signed.payee)
    require(asked == meant, payment, f"held {asked}, naively {meant}", Law.MANDATE)
    require(wish.path_id == path_id, payment, "held along another path", Law.MANDATE)


def placements_of(simulation: Simulation, payment_id: UUID) -> list[Answered]:
    """
    Return how the ledger answered, in this step, who wanted to hold a payment.
    """
    simulation.hear()
    return [
        a
        for a in simulation.answers
        if isinstance(a.wish, Placement) and a.wish.hold_id == payment_id and not a.wish.extension
    ]


# ---------------------------------------------------------------------- what is held already


async def _show_known(
    simulation: Simulation, payment: NaivePayment, signed: Signed, wish: Wish
) -> str | None:
    assert payment.held is not None, "something is held"
    expected = known_code(simulation, payment, signed, wish)
    if expected is None and wish.verb == "settle":
        expect_end(simulation, payment, quanta=wish.quanta)
    code = await _ask(simulation, signed, wish)
    require(code == expected, payment, f"{wish.verb} was answered {code}, naively {expected}")
    if code is None and wish.verb == "claim":
        payment.is_claimed = True
    return code


def known_code(
    simulation: Simulation, payment: NaivePayment, signed: Signed, wish: Wish
) -> str | None:
    """
    Return the refusal of a payment that is in the books already; ``None``: it goes on.
    """
    assert payment.held is not None, "something is held"
    state = simulation.auditor.naive.holds[payment.payment_id].state
    if signed.content != payment.held.content:
        return "payment_conflict"
    waits = review_code(payment, simulation.clock.now())
    if waits is not None:
        return waits
    if wish.verb == "authorise":
        return None
    if wish.verb == "attest":
        return attest_code(payment, state)
    if wish.verb == "claim":
        return claim_code(simulation, payment)
    if payment.is_call:
        return "payment_already_claimed"
    return settle_code(simulation, payment, wish)


def settle_code(simulation: Simulation, payment: NaivePayment, wish: Wish) -> str | None:
    """
    Return the refusal of a settlement of what is held, was paid, or was given back.
    """
    assert payment.held is not None, "something is held"
    state = simulation.auditor.naive.holds[payment.payment_id].state
    is_over = state == "captured" or _is_released(simulation, payment)
    if wish.quanta != payment.held.quanta and not wish.is_payee and not is_over:
        return "unauthorized_server"
    if wish.quanta == 0:
        return _release_code(simulation, payment)
    return _capture_code(simulation, payment, quanta=wish.quanta, ordinal=0, closes=True)


def _is_released(simulation: Simulation, payment: NaivePayment) -> bool:
    return simulation.auditor.naive.holds[payment.payment_id].state == "voided"


def _release_code(simulation: Simulation, payment: NaivePayment) -> str | None:
    state = simulation.auditor.naive.holds[payment.payment_id].state
    return None if state in {"open", "voided"} else closed_code(state)


def _capture_code(
    simulation: Simulation, payment: NaivePayment, *, quanta: int, ordinal: int, closes: bool
) -> str | None:
    known = payment.captures.get(ordinal)
    if known is not None:
        return None if known == (quanta, closes) else "payment_conflict"
    state = simulation.auditor.naive.holds[payment.payment_id].state
    return None if state == "open" else closed_code(state)


def expect_end(simulation: Simulation, payment: NaivePayment, *, quanta: int) -> None:
    """
    Expect what settling what is held moves: nothing, when it is a repeat.
    """
    assert payment.held is not None, "something is held"
    if quanta and 0 not in payment.captures:
        expect_capture(simulation, payment.payment_id, payment.held.payee, quanta, is_first=True)
        payment.captures[0] = (quanta, True)
        know_payee(simulation, payment.held)


async def _capture(
    simulation: Simulation, payment: NaivePayment, *, quanta: int, ordinal: int, closes: bool
) -> str:
    simulation.law = Law.PAYMENT
    expected: str | None = "payment_not_found"
    if payment.held is not None:
        others = sum(q for o, (q, _) in payment.captures.items() if o != ordinal)
        expected = review_code(payment, simulation.clock.now())
        if expected is None and (ordinal or not closes) and others + quanta > payment.held.quanta:
            expected = "payment_conflict"
        if expected is None and quanta > payment.held.quanta:
            expected = "requirements_mismatch"
        if expected is None:
            expected = _capture_code(
                simulation, payment, quanta=quanta, ordinal=ordinal, closes=closes
            )
    is_repeat = ordinal in payment.captures
    if expected is None and not is_repeat and payment.held is not None:
        expect_capture(
            simulation,
            payment.payment_id,
            payment.held.payee,
            quanta,
            is_first=ordinal == 0,
        )
        payment.captures[ordinal] = (quanta, closes)
        know_payee(simulation, payment.held)
    _, code = await simulation.ask(
        simulation.hub.agents.payments.capture(
            payment.payment_id, quanta=quanta, ordinal=ordinal, closes=closes
        )
    )
    await learn(simulation)
    require(code == expected, payment, f"captured {quanta}: {code}, naively {expected}")
    return f"payment {payment.number} part {ordinal} of {quanta}: {code or 'captured'}"


async def _release(simulation: Simulation, payment: NaivePayment) -> str:
    simulation.law = Law.PAYMENT
    expected = "payment_not_found"
    if payment.held is not None:
        expected = _release_code(simulation, payment)
    _, code = await simulation.ask(
        simulation.hub.agents.payments.release(payment.payment_id, reason="simulated")
    )
    require(code == expected, payment, f"released: {code}, naively {expected}")
    return f"payment {payment.number} {code or 'given back'}"


OPERATIONS = {
    "pay": (24, pay),
    "pay_again": (12, pay_again),
    "finish_payment": (12, finish),
}
