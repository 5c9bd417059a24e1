"""
Owners say what agents may spend: mandates are issued, delegated, raised, stopped and revoked.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from random import Random

from tests.simulation.simulator.auditor import Name
from tests.simulation.simulator.laws import BrokenLawError, Law
from tests.simulation.simulator.operations.control_operations import expect_change
from tests.simulation.simulator.operations.naive_mandates import (
    DEPTH_MAX,
    LIMIT_USD_ID,
    NaiveMandate,
    NaiveMandates,
    least,
    named,
    wider_than,
)
from tests.simulation.simulator.simulation import Simulation
from tests.simulation.simulator.world import (
    DOLLAR,
    USD_ID,
    Payee,
    SimulatedAgent,
    SimulatedWallet,
    add_wallet,
)
from tokenworks.agents.mandates.model import (
    CountLimit,
    Mandate,
    MoneyLimit,
    Terms,
    Window,
)
from tokenworks.agents.mandates.signing import sign_by_wallet

WINDOWS = (Window.HOUR, Window.DAY, Window.DAY, Window.WEEK, Window.MONTH, Window.EVER)
CENT = DOLLAR // 100
BUDGETS = (10 * CENT, 2 * DOLLAR, 2 * DOLLAR, 50 * DOLLAR)
MANDATES_MAX = 40


async def issue(simulation: Simulation, random: Random) -> str:
    """
    Let the hub issue a mandate: a root, or one below another.
    """
    mandates = simulation.model(NaiveMandates)
    if len(mandates.issued) >= MANDATES_MAX:
        return "enough mandates"
    bare = [agent for agent in simulation.world.agents if not mandates.of_agent(agent)]
    agent = random.choice(bare or simulation.world.agents)
    parent = random.choice(mandates.issued) if mandates.issued and random.random() < 0.5 else None
    terms, expires_at = _terms(simulation, random, parent)
    reasons = _reasons(simulation, agent, terms, expires_at, parent)
    mandate, code = await simulation.ask(
        simulation.hub.agents.mandates.issue(
            agent.agent_id,
            terms,
            parent=None if parent is None else parent.mandate_id,
            actor="simulation",
            expires_at=expires_at,
        )
    )
    confirmed = next((w.address for w in reversed(agent.wallets) if w.revoked_at is None), None)
    return await _issued(simulation, agent, parent, mandate, code, reasons, confirmed)


async def delegate(simulation: Simulation, random: Random) -> str:
    """
    Let an agent's wallet delegate a mandate: to another agent, or a narrower one to itself.
    """
    mandates = simulation.model(NaiveMandates)
    parents = [m for m in mandates.issued if m.terms.delegations_max]
    if not parents or len(mandates.issued) >= MANDATES_MAX:
        return "nothing to delegate"
    parent = random.choice(parents)
    agent = random.choice(simulation.world.agents)
    wallet = random.choice(parent.agent.wallets)
    terms, expires_at = _terms(simulation, random, parent)
    receiver = next((w.address for w in reversed(agent.wallets) if w.revoked_at is None), None)
    mandate_id = simulation.hub.ids.mint()
    jws = sign_by_wallet(
        wallet.key,
        mandate_id=mandate_id,
        agent_id=agent.agent_id,
        terms=terms,
        issued_at=simulation.clock.now(),
        expires_at=expires_at,
        agent_address=receiver,
        parent_id=parent.mandate_id,
        parent_jws=parent.jws,
    )
    reasons = _reasons(simulation, agent, terms, expires_at, parent)
    if wallet.address != parent.confirmed or wallet.revoked_at is not None:
        reasons.add("mandate_signature")
    mandate, code = await simulation.ask(simulation.hub.agents.mandates.delegate(jws))
    said = await _issued(simulation, agent, parent, mandate, code, reasons, receiver)
    if mandate is not None:
        again, code = await simulation.ask(simulation.hub.agents.mandates.delegate(jws))
        _require(again == mandate, f"the same delegation was answered {code or 'otherwise'}")
    return f"delegated: {said}"


async def raise_limit(simulation: Simulation, random: Random) -> str:
    """
    Raise a budget of a mandate, or try to lower it.
    """
    mandates = simulation.model(NaiveMandates)
    if not mandates.issued:
        return "no mandates"
    mandate = random.choice(mandates.issued)
    window = random.choice([*mandate.budgets, "week"])
    known = mandate.budgets.get(window)
    quanta = random.choice((known or DOLLAR, (known or DOLLAR) * 3 // 2, (known or 9) // 3, DOLLAR))
    above = [
        (other, amount) for upper in mandate.chain()[:-1] for other, amount in upper.budgets.items()
    ]
    bound = least(window, above)
    expected: str | None = None
    if mandate.state == "revoked":
        expected = "mandate_conflict"
    elif known is None:
        expected = "limit_not_found"
    elif quanta < known:
        expected = "limit_not_raised"
    elif quanta > known and bound is not None and quanta > bound:
        expected = "mandate_not_attenuated"
    if expected is None and known is not None:
        limit = simulation.auditor.limits.find(mandate.mandate_id, LIMIT_USD_ID, window)
        assert limit is not None, "a budget is a limit"
        simulation.law = Law.MANDATE
        expect_change(simulation, limit, quanta)
        limit.quanta = mandate.budgets[window] = quanta
    _, code = await simulation.ask(
        simulation.hub.agents.mandates.raise_limit(
            mandate.mandate_id, Window(window), quanta, actor="simulation"
        )
    )
    _require(code == expected, f"raised from {known} to {quanta}: {code}, naively {expected}")
    return f"{_title(simulation, mandate)} per {window} to {quanta}: {code or 'done'}"


async def revoke(simulation: Simulation, random: Random) -> str:
    """
    Revoke a mandate for good, or revoke it again.
    """
    mandates = simulation.model(NaiveMandates)
    if not mandates.issued:
        return "no mandates"
    mandate = random.choice(mandates.issued)
    found = await simulation.hub.agents.mandates.revoke(mandate.mandate_id, actor="simulation")
    mandate.state = "revoked"
    simulation.auditor.scope_states[mandate.mandate_id] = "closed"
    _require(found.state.value == "revoked", f"revoked and {found.state}")
    return f"{_title(simulation, mandate)} is revoked"


async def freeze(simulation: Simulation, random: Random) -> str:
    """
    Freeze the tree below a mandate, or thaw it.
    """
    mandates = simulation.model(NaiveMandates)
    if not mandates.issued:
        return "no mandates"
    frozen = [m for m in mandates.issued if m.state == "frozen"]
    mandate = random.choice(frozen or mandates.issued)
    is_thaw = mandate.state == "frozen"
    change = (
        simulation.hub.agents.mandates.thaw if is_thaw else simulation.hub.agents.mandates.freeze
    )
    _, code = await simulation.ask(change(mandate.mandate_id, actor="simulation"))
    expected = "mandate_conflict" if mandate.state == "revoked" else None
    _require(code == expected, f"frozen or thawed: {code}, naively {expected}")
    if code is None:
        mandate.state = "active" if is_thaw else "frozen"
        simulation.auditor.scope_states[mandate.mandate_id] = mandate.state
    return f"{_title(simulation, mandate)} is {mandate.state}"


async def change_wallet(simulation: Simulation, random: Random) -> str:
    """
    Revoke an agent's wallet and give it a new one.
    """
    agent = random.choice(simulation.world.agents)
    wallet = agent.wallets[-1]
    await simulation.hub.agents.mandates.revoke_wallet(wallet.address)
    wallet.revoked_at = simulation.clock.now()
    simulation.auditor.scope_states[named("wallet", wallet.address)] = "closed"
    await add_wallet(simulation.hub, agent, random)
    return f"{agent.party.name} has a new wallet"


# ---------------------------------------------------------------------- drawing and judging


def _terms(
    simulation: Simulation, random: Random, parent: NaiveMandate | None
) -> tuple[Terms, datetime | None]:
    share = random.choice((1, 2, 3)) if random.random() < 0.85 else 0
    windows = random.sample(sorted(set(WINDOWS)), random.randint(0, 2))
    if parent is not None and parent.terms.budgets and random.random() < 0.6:
        windows = [parent.terms.budgets[0].window]
    upper = parent.terms if parent is not None else Terms()

    def quanta(window: Window) -> int:
        given = [x.quanta for x in upper.budgets if x.window == window]
        if not given or not share:
            return random.choice(BUDGETS)
        return max(1, given[0] // share)

    payees = simulation.world.payees()
    is_narrow = random.random() < 0.2
    allowed = frozenset(p.party for p in random.sample(payees, len(payees) // 2))
    if upper.payees is not None and share:
        allowed = upper.payees
    lives = timedelta(hours=random.choice((48, 900)))
    ends = (simulation.clock.now() + lives).replace(microsecond=0)
    expires_at = ends if random.random() < 0.25 else None
    return (
        Terms(
            amount_max=random.choice((None, None, None, 20 * CENT, upper.amount_max)),
            budgets=tuple(MoneyLimit(window=w, quanta=quanta(w)) for w in windows),
            counts=(CountLimit(window=Window.DAY, payments=random.choice((2, 5))),)
            if random.random() < 0.3
            else (),
            payee_budgets=(MoneyLimit(window=Window.EVER, quanta=random.choice(BUDGETS)),)
            if random.random() < 0.25
            else (),
            payees=allowed if is_narrow else None,
            delegations_max=max(0, upper.delegations_max - 1)
            if parent is not None and share
            else random.choice((0, 1, 3)),
        ),
        expires_at,
    )


def _reasons(
    simulation: Simulation,
    agent: SimulatedAgent,
    terms: Terms,
    expires_at: datetime | None,
    parent: NaiveMandate | None,
) -> set[str]:
    """
    Return everything that is wrong with a mandate that is asked for.
    """
    if parent is None:
        return set()
    reasons = parent.stopped(simulation.clock.now())
    if parent.agent.scopes[0] != agent.scopes[0]:
        reasons.add("agent_of_other_organisation")
    if len(parent.chain()) >= DEPTH_MAX or not parent.terms.delegations_max:
        reasons.add("mandate_too_deep")
    if wider_than(terms, expires_at, parent):
        reasons.add("mandate_not_attenuated")
    return reasons


async def _issued(
    simulation: Simulation,
    agent: SimulatedAgent,
    parent: NaiveMandate | None,
    mandate: Mandate | None,
    code: str | None,
    reasons: set[str],
    confirmed: str | None,
) -> str:
    if mandate is None:
        _require(code in reasons, f"refused as {code}; reasons: {sorted(reasons)}")
        return f"{agent.party.name}: refused {code}"
    _require(not reasons, f"issued in spite of {sorted(reasons)}")
    ends = [m for m in (mandate.expires_at, parent and parent.expires_at) if m is not None]
    found = NaiveMandate(
        mandate_id=mandate.mandate_id,
        agent=agent,
        terms=mandate.terms,
        parent=parent,
        expires_at=min(ends, default=None),
        confirmed=confirmed,
        jws=mandate.jws,
        budgets={x.window.value: x.quanta for x in mandate.terms.budgets},
    )
    simulation.model(NaiveMandates).issued.append(found)
    auditor = simulation.auditor
    auditor.scope_states[found.mandate_id] = "active"
    if found.expires_at is not None:
        auditor.scope_expiries[found.mandate_id] = found.expires_at
    number = len(simulation.model(NaiveMandates).issued)
    simulation.world.labels[found.mandate_id] = f"mandate{number}"
    if limits := found.own_limits():
        auditor.awaited[found.mandate_id] = limits
        await auditor.learn_limits()
    return f"{_title(simulation, found)} below {len(found.chain()) - 1}"


def choose(
    simulation: Simulation, random: Random
) -> tuple[NaiveMandate, SimulatedWallet, Payee] | None:
    """
    Choose who pays whom under which mandate: mostly what is allowed, now and then what is not.
    """
    issued = simulation.model(NaiveMandates).issued
    now, states = simulation.clock.now(), simulation.auditor.scope_states
    good = [
        mandate
        for mandate in issued
        if not mandate.stopped(now)
        and all(states[scope] == "active" for m in mandate.chain() for scope in m.agent.scopes)
    ]
    if not issued:
        return None
    mandate = random.choice(good if good and random.random() < 0.85 else issued)
    payees = simulation.world.payees()
    allowed = [
        payee
        for payee in payees
        if payee.organisation != mandate.agent.scopes[0]
        and "payee_not_allowed" not in mandate.refused(payee.party, 0)
        and states.get(payee.party, "active") == "active"
    ]
    payee = random.choice(allowed if allowed and random.random() < 0.9 else payees)
    wallets = mandate.agent.wallets
    return mandate, wallets[-1] if random.random() < 0.97 else random.choice(wallets), payee


async def publish(
    simulation: Simulation, mandate: NaiveMandate, wallet: SimulatedWallet, payee: Payee
) -> None:
    """
    Tell the auditor along which path a payment has to be held, before it is.
    """
    auditor = simulation.auditor
    path_id, scopes = mandate.path(wallet.address, payee)
    cash: Name = (mandate.agent.scopes[0], "cash", USD_ID)
    if (path_id, 1) not in auditor.naive.paths:
        auditor.publish(path_id, 1, scopes, await auditor.number(cash))
    for upper in mandate.chain():
        scope = named("payee", upper.mandate_id, payee.party)
        if upper.terms.payee_budgets and not auditor.limits.of_scope(scope):
            auditor.awaited[scope] = upper.payee_limits()


def _title(simulation: Simulation, mandate: NaiveMandate) -> str:
    return f"{simulation.world.label(mandate.mandate_id)} of {mandate.agent.party.name}"


def _require(is_lawful: bool, message: str) -> None:
    if not is_lawful:
        raise BrokenLawError(Law.MANDATE, message)


OPERATIONS = {
    "issue_mandate": (9, issue),
    "delegate_mandate": (5, delegate),
    "raise_mandate": (3, raise_limit),
    "revoke_mandate": (1, revoke),
    "freeze_mandate": (2, freeze),
    "change_wallet": (1, change_wallet),
}
