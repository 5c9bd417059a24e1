"""
Payments that are due when it worked: opened, delivered, disputed, arbitrated, let go, timed out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from random import Random
from typing import Any
from uuid import UUID

from tests.simulation.simulator.judging import short_code
from tests.simulation.simulator.laws import BrokenLawError, Law
from tests.simulation.simulator.operations.escrow_signing import (
    CONDITIONS,
    PARTS,
    VERIFIER,
    sign_terms,
    unsigned,
)
from tests.simulation.simulator.operations.mandate_operations import choose, publish
from tests.simulation.simulator.operations.naive_escrows import (
    LAPSES_AFTER,
    LOOKED_AT_AGAIN,
    WAITING,
    NaiveEscrow,
    NaiveEscrows,
    NaiveMilestone,
)
from tests.simulation.simulator.operations.naive_payments import (
    NaivePayments,
    doubts,
    expect_capture,
)
from tests.simulation.simulator.operations.payment_operations import learn, placements_of
from tests.simulation.simulator.simulation import Simulation
from tokenworks.agents.escrow.attestation import sign_attestation
from tokenworks.agents.escrow.model import Actor, Escrow
from tokenworks.agents.escrow.result import canonical, sha256_hex
from tokenworks.ledger.service import PLATFORM_ID


async def open_one(simulation: Simulation, random: Random) -> str:
    """
    Agree on terms and let the payer's wallet sign them.
    """
    chosen = choose(simulation, random)
    if chosen is None:
        return "no mandates"
    mandate, _, payee = chosen
    agent = mandate.agent
    escrows = simulation.model(NaiveEscrows)
    milestones = [
        NaiveMilestone(f"m{place}", random.choice(PARTS), random.choice(sorted(CONDITIONS)))
        for place in range(random.randint(1, 3))
    ]
    sides = {agent.scopes[0], payee.organisation}
    outsiders = [p for p in simulation.world.payees() if p.organisation not in sides]
    arbiter = random.choice([None, random.choice(outsiders).party])
    # Not whole seconds, or a deadline and a fact could fall on one moment.
    submit_by = simulation.clock.now() + timedelta(minutes=random.choice((10, 120, 2_000)))
    escrow = NaiveEscrow(
        number=len(escrows.known) + 1,
        escrow_id=UUID(int=0),
        signed=unsigned(simulation, mandate, payee),
        terms={},
        milestones=milestones,
        submit_by=submit_by,
        review_window=timedelta(seconds=random.choice((0, 0, 600))),
        decide_by=timedelta(seconds=random.choice((60, 3_600))),
        arbiter=arbiter,
    )
    sign_terms(simulation, escrow)
    escrows.known.append(escrow)
    return await _open(simulation, escrow)


async def open_again(simulation: Simulation, random: Random) -> str:
    """
    Open an escrow again, as it was signed: what was not held may be held now.
    """
    known = simulation.model(NaiveEscrows).known
    if not known:
        return "no escrows"
    return f"again: {await _open(simulation, random.choice(known[-10:]))}"


async def submit(simulation: Simulation, random: Random) -> str:
    """
    Deliver a milestone: good or bad work, again, too late.
    """
    escrow = _some(simulation, random)
    if escrow is None:
        return "no escrows"
    milestone = random.choice(escrow.milestones)
    good = random.random() < 0.7
    part = random.choice((0, 3, 7)) if milestone.condition == "share" else (200 if good else 500)
    result = (part, 7)
    if milestone.result is not None and random.random() < 0.2:
        result = milestone.result
    now = escrow.now(simulation.clock.now())
    expected = _submit_code(escrow, milestone, result)
    if expected is None and milestone.result != result:
        milestone.result, milestone.submitted_at, milestone.state = result, now, "undecided"
        if milestone.condition != "verifier":
            _judge(milestone, now)
    if expected is None:
        _expect_advance(simulation, escrow)
    found, code = await simulation.ask(
        simulation.hub.agents.escrows.submit(
            escrow.escrow_id, milestone.name, _document(milestone, result), by=_payee(escrow)
        )
    )
    return await _judged(simulation, escrow, f"{milestone.name} delivered", found, code, expected)


async def attest(simulation: Simulation, random: Random) -> str:
    """
    Let the verifier speak about what was delivered.
    """
    waiting = [
        (escrow, milestone)
        for escrow in simulation.model(NaiveEscrows).funded()
        for milestone in escrow.milestones
        if milestone.condition == "verifier" and milestone.state == "undecided"
    ]
    if not waiting:
        return "nobody waits for the verifier"
    escrow, milestone = random.choice(waiting)
    assert milestone.result is not None, "it was submitted"
    passed = random.choice((1, 3))
    jws = sign_attestation(
        VERIFIER,
        escrow_id=escrow.escrow_id,
        milestone=milestone.name,
        result_sha256=sha256_hex(canonical(_document(milestone, milestone.result))),
        claims={"passed": passed},
        now=simulation.clock.now(),
    )
    now = escrow.now(simulation.clock.now())
    milestone.judge((1, 1) if passed == 3 else (0, 1), now)
    _expect_advance(simulation, escrow)
    found, code = await simulation.ask(
        simulation.hub.agents.escrows.attest(
            escrow.escrow_id, milestone.name, [jws], by=_payer(escrow)
        )
    )
    return await _judged(simulation, escrow, f"{milestone.name} attested", found, code, None)


async def dispute(simulation: Simulation, random: Random) -> str:
    """
    Let a side stop a milestone until somebody decides.
    """
    escrow = _some(simulation, random)
    if escrow is None:
        return "no escrows"
    is_payer = random.random() < 0.6
    milestone = random.choice(escrow.milestones)
    allowed = {*WAITING, "disputed"} | (set() if is_payer else {"not_met"})
    expected = None if milestone.state in allowed else "escrow_state"
    now = escrow.now(simulation.clock.now())
    if expected is None and milestone.state != "disputed":
        milestone.state, milestone.disputed_at = "disputed", now
    found, code = await simulation.ask(
        simulation.hub.agents.escrows.dispute(
            escrow.escrow_id,
            [milestone.name],
            reason="SIMULATED",
            by=_payer(escrow) if is_payer else _payee(escrow),
        )
    )
    return await _judged(simulation, escrow, f"{milestone.name} disputed", found, code, expected)


async def arbitrate(simulation: Simulation, random: Random) -> str:
    """
    Let the arbiter, the hub's operator or somebody else decide what is disputed.
    """
    funded = simulation.model(NaiveEscrows).funded()
    disputed = [e for e in funded if any(m.state == "disputed" for m in e.milestones)]
    if not disputed:
        return "nothing is disputed"
    escrow = random.choice(disputed)
    milestone = random.choice(escrow.milestones)
    quanta = random.choice((0, milestone.quanta // 2, milestone.quanta))
    operator = Actor(party_id=PLATFORM_ID, name="operator", is_admin=True)
    named = Actor(party_id=escrow.arbiter or PLATFORM_ID, name="arbiter")
    by = random.choice((operator, operator, named, _payer(escrow)))
    expected = _arbitrate_code(simulation, escrow, milestone, by)
    if expected is None:
        _expect_decisions(simulation, escrow, [escrow.decide(milestone, quanta)])
        escrow.now(simulation.clock.now())
        _expect_advance(simulation, escrow)
    found, code = await simulation.ask(
        simulation.hub.agents.escrows.arbitrate(
            escrow.escrow_id, {milestone.name: quanta}, reason="SIMULATED", by=by
        )
    )
    title = f"{milestone.name} arbitrated at {quanta}"
    return await _judged(simulation, escrow, title, found, code, expected)


async def cancel(simulation: Simulation, random: Random) -> str:
    """
    Let the payee let go, or the payer ask for it.
    """
    escrow = _some(simulation, random)
    if escrow is None:
        return "no escrows"
    is_payee = random.random() < 0.4
    undecided = [m for m in escrow.milestones if m.state != "decided"]
    expected = "escrow_state" if escrow.is_over else None
    if expected is None and not is_payee and any(m.state != "open" for m in undecided):
        expected = "escrow_state"
    if expected is None:
        escrow.now(simulation.clock.now())
        if is_payee:
            _expect_decisions(simulation, escrow, [escrow.decide(m, 0) for m in undecided])
        _expect_advance(simulation, escrow)
    found, code = await simulation.ask(
        simulation.hub.agents.escrows.cancel(
            escrow.escrow_id, by=_payee(escrow) if is_payee else _payer(escrow)
        )
    )
    title = "let go" if is_payee else "asked to let go"
    return await _judged(simulation, escrow, title, found, code, expected)


async def settle(simulation: Simulation, random: Random) -> str:
    """
    Do what time brings about, as the worker does.
    """
    del random
    simulation.law = Law.ESCROW
    now = simulation.clock.now()
    for escrow in simulation.model(NaiveEscrows).known:
        looked_at = escrow.looked_at or now
        if escrow.state == "opening" and now >= looked_at + LOOKED_AT_AGAIN:
            escrow.looked_at = now
            if now > escrow.signed.expires_at + LAPSES_AFTER:
                escrow.state = "lapsed"
        dues = [escrow.due_at(milestone) for milestone in escrow.milestones]
        if escrow.state == "funded" and any(due is not None and due <= now for due in dues):
            escrow.now(now)
            _expect_advance(simulation, escrow)
    count = await simulation.hub.agents.escrows.settle_due()
    await learn(simulation)
    return f"looked at {count} escrows"


# ---------------------------------------------------------------------- opening


async def _open(simulation: Simulation, escrow: NaiveEscrow) -> str:
    simulation.law = Law.ESCROW
    signed = escrow.signed
    await publish(simulation, signed.mandate, signed.wallet, signed.payee)
    against, before = doubts(simulation, signed), escrow.state
    found, code = await simulation.ask(simulation.hub.agents.escrows.open(signed.jws, escrow.terms))
    if before in {"funded", "lapsed"}:
        _require(code is None, escrow, f"opened again: {code}")
        return await _judged(simulation, escrow, "opened", found, code, None)
    placed = placements_of(simulation, escrow.escrow_id)
    if not placed:
        _require(against.allow(code), escrow, f"{code}; reasons: {sorted(against.certain)}")
    else:
        # Who is stopped higher up may be found out by the ledger alone.
        first = placed[0].expected
        if first.code == "ok":
            _require(not against.certain, escrow, f"held in spite of {sorted(against.certain)}")
            escrow.state = "funded"
            _require(code is None, escrow, f"held, and answered {code}")
        elif first.code in {"scope_frozen", "scope_closed"}:
            _require(against.allow(code), escrow, f"{code}; reasons: {sorted(against.certain)}")
        else:
            refusal = short_code(simulation, placed[0])
            _require(code == refusal, escrow, f"refused as {code}, not {refusal}")
    if escrow.state == "funded":
        escrow.now(simulation.clock.now())
        return await _judged(simulation, escrow, "opened", found, code, None)
    row = await simulation.auditor.connection.execute(
        "SELECT state FROM agents.escrows WHERE escrow_id = %s", (escrow.escrow_id,)
    )
    if await row.fetchone() is not None:
        escrow.state = "opening"
        escrow.looked_at = escrow.looked_at or simulation.clock.now()
    return f"escrow {escrow.number} refused {code}"


# ---------------------------------------------------------------------- judging


def _some(simulation: Simulation, random: Random) -> NaiveEscrow | None:
    funded = simulation.model(NaiveEscrows).funded()
    alive = [escrow for escrow in funded if not escrow.is_over]
    if not funded:
        return None
    return random.choice(alive if alive and random.random() < 0.9 else funded)


def _payer(escrow: NaiveEscrow) -> Actor:
    return Actor(party_id=escrow.signed.agent.agent_id, name="payer")


def _payee(escrow: NaiveEscrow) -> Actor:
    return Actor(party_id=escrow.signed.payee.party, name="payee")


def _document(milestone: NaiveMilestone, result: tuple[int, int]) -> dict[str, int]:
    part, whole = result
    if milestone.condition == "share":
        return {"status": 200, "done": part, "total": whole}
    return {"status": part, "done": 0, "total": whole}


def _judge(milestone: NaiveMilestone, now: Any) -> None:  # noqa: ANN401 - a datetime
    assert milestone.result is not None, "it was submitted"
    part, whole = milestone.result
    is_share = milestone.condition == "share"
    milestone.judge((part, whole) if is_share else (int(part == 200), 1), now)


def _submit_code(
    escrow: NaiveEscrow, milestone: NaiveMilestone, result: tuple[int, int]
) -> str | None:
    if milestone.result == result:
        return None
    if milestone.state in {"decided", "disputed", "met"}:
        return "escrow_state"
    assert escrow.last_fact_at is not None, "it is open"
    return "escrow_too_late" if escrow.last_fact_at >= escrow.submit_by else None


def _arbitrate_code(
    simulation: Simulation, escrow: NaiveEscrow, milestone: NaiveMilestone, by: Actor
) -> str | None:
    disputes = [m.disputed_at for m in escrow.milestones if m.disputed_at is not None]
    patience_ended = min(disputes) + escrow.decide_by <= simulation.clock.now()
    if by.name == "payer":
        return "escrow_forbidden"
    if by.name == "arbiter" and escrow.arbiter is None:
        return "escrow_not_found"
    if by.name == "operator" and escrow.arbiter is not None and not patience_ended:
        return "escrow_forbidden"
    return None if milestone.state == "disputed" else "escrow_state"


def _expect_advance(simulation: Simulation, escrow: NaiveEscrow) -> None:
    assert escrow.last_fact_at is not None, "it is open"
    _expect_decisions(simulation, escrow, escrow.advance(escrow.last_fact_at))


def _expect_decisions(
    simulation: Simulation, escrow: NaiveEscrow, decisions: Iterable[tuple[int, bool]]
) -> None:
    signed = escrow.signed
    for quanta, _ in decisions:
        if not quanta:
            continue
        expect_capture(
            simulation, escrow.escrow_id, signed.payee, quanta, is_first=escrow.captures == 0
        )
        escrow.captures += 1
        known = (signed.agent.agent_id, signed.payee.party)
        simulation.model(NaivePayments).known_payees.add(known)


async def _judged(
    simulation: Simulation,
    escrow: NaiveEscrow,
    title: str,
    found: Escrow | None,
    code: str | None,
    expected: str | None,
) -> str:
    simulation.law = Law.ESCROW
    await learn(simulation)
    simulation.hear()
    _require(code == expected, escrow, f"{title}: {code}, naively {expected}")
    if found is not None and escrow.state == "funded":
        states = [(m.state.value, m.decision.quanta if m.decision else 0) for m in found.milestones]
        naive = [(m.state, m.paid) for m in escrow.milestones]
        _require(states == naive, escrow, f"{title}: {states}, naively {naive}")
        held = simulation.auditor.naive.holds[escrow.escrow_id]
        _require((held.state != "open") == escrow.is_over, escrow, f"its hold is {held.state}")
        paid: Sequence[int] = [m.paid for m in escrow.milestones]
        _require(found.captured_quanta == sum(paid), escrow, f"paid {found.captured_quanta}")
    return f"escrow {escrow.number} {title}: {code or 'done'}"


def _require(is_lawful: bool, escrow: NaiveEscrow, message: str) -> None:
    if not is_lawful:
        raise BrokenLawError(Law.ESCROW, f"escrow {escrow.number} ({escrow.escrow_id}): {message}")


OPERATIONS = {
    "open_escrow": (12, open_one),
    "open_escrow_again": (2, open_again),
    "submit": (14, submit),
    "attest": (4, attest),
    "dispute": (3, dispute),
    "arbitrate": (3, arbitrate),
    "cancel_escrow": (2, cancel),
    "settle_escrows": (4, settle),
}
