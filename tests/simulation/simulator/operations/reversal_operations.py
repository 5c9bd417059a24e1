"""
What an operator booked is reversed: once, with a reason, in a date that is open.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, timedelta
from random import Random
from uuid import UUID

from tests.simulation.simulator.laws import BrokenLawError, Law
from tests.simulation.simulator.operations.money_operations import (
    BANK,
    FREEZES_ABOVE,
    OWN_FUNDS,
    NaiveMoney,
    Transfer,
    balances,
    expect_sweep,
)
from tests.simulation.simulator.operations.statement_operations import (
    VARIANCE,
    NaiveStatement,
    NaiveStatements,
)
from tests.simulation.simulator.simulation import Simulation
from tests.simulation.simulator.world import USD_ID

REASONS = ("paid twice", "wrong party")


@dataclass
class NaiveReversals:
    """
    By what was reversed: why.
    """

    done: dict[UUID, str] = field(default_factory=dict[UUID, str])


async def reverse(simulation: Simulation, random: Random) -> str:
    """
    Reverse a deposit, a chargeback, a payout or a correction, or try what cannot be reversed.
    """
    await simulation.auditor.learn_accounts()
    reversals = simulation.model(NaiveReversals).done
    told = [t for t in simulation.model(NaiveMoney).told if t.fact is not None]
    corrected = [s for s in simulation.model(NaiveStatements).imported if s.fact is not None]
    calls = [call.call_id for call in simulation.calls if call.sale is not None]
    what = random.choice([*told[-15:], *corrected[-5:], None])
    fact = random.choice([*calls[-1:], simulation.hub.ids.mint()]) if what is None else what.fact
    assert fact is not None, "each of them was booked"
    reason, day = random.choice(REASONS), _date(simulation, random)
    expected = _expected(simulation, what, fact, reason, day, is_call=fact in calls)
    simulation.law = Law.CORRECTION
    party = None
    if expected is None and fact not in reversals and what is not None:
        party = _expect(simulation, what)
    found, code = await simulation.ask(
        simulation.hub.corrections.reverse(
            fact, reason=reason, actor="simulation", accounting_date=day
        )
    )
    title = f"{_title(what)} reversed on {day or 'today'}"
    _require(code == expected, f"{title}: {code}, naively {expected}")
    if found is None:
        return f"{title}: {code}"
    first = reversals.setdefault(fact, reason)
    _require(first == reason, f"{title} was done for another reason")
    await _judge_entry(simulation, fact, reason)
    if party is not None:
        _judge_debt(simulation, party)
    return f"{title}: done"


def _date(simulation: Simulation, random: Random) -> date | None:
    if random.random() < 0.5:
        return None
    return simulation.clock.now().date() + timedelta(days=random.choice((0, -1, -2, -9, 1)))


def _expected(
    simulation: Simulation,
    what: Transfer | NaiveStatement | None,
    fact: UUID,
    reason: str,
    day: date | None,
    *,
    is_call: bool,
) -> str | None:
    known = simulation.model(NaiveReversals).done.get(fact)
    closed = simulation.auditor.naive.closed_through
    if day is not None and day > simulation.clock.now().date():
        return "date_not_over"
    if what is None:
        return "not_reversible" if is_call else "fact_not_found"
    if known is not None:
        return None if known == reason else "already_reversed"
    if day is not None and closed is not None and day <= closed:
        _expect_preparation(simulation, what)
        return "date_closed"
    return None


def _expect_preparation(simulation: Simulation, what: Transfer | NaiveStatement) -> None:
    if isinstance(what, NaiveStatement) and what.difference > 0:
        expect_sweep(simulation, what.supplier.party_id, "supplier_payable")


def _expect(simulation: Simulation, what: Transfer | NaiveStatement) -> UUID | None:
    """
    Expect what turns an entry round; return the buyer whose debt it may change.
    """
    if isinstance(what, NaiveStatement):
        _expect_statement(simulation, what)
        return None
    name = (what.party, what.purpose, USD_ID)
    owed_name = (what.party, "receivable", USD_ID)
    if what.kind == "payout":
        simulation.expect(OWN_FUNDS, name, what.quanta)
        return None
    if what.kind == "deposit":
        given = min(what.quanta, max(0, simulation.auditor.main(name).available))
        simulation.expect(name, OWN_FUNDS, given)
        simulation.expect(owed_name, OWN_FUNDS, what.quanta - given)
        simulation.expect(OWN_FUNDS, BANK, given)
        return what.party
    given = what.quanta - what.debt
    simulation.expect(OWN_FUNDS, name, given)
    simulation.expect(BANK, OWN_FUNDS, given)
    # A debt that was paid meanwhile comes back as money.
    owes = max(0, -balances(simulation, bound_below=None).get(owed_name, 0))
    forgiven = min(what.debt, owes)
    simulation.expect(OWN_FUNDS, owed_name, forgiven)
    simulation.expect(OWN_FUNDS, name, what.debt - forgiven)
    simulation.expect(BANK, OWN_FUNDS, what.debt - forgiven)
    return what.party if what.debt else None


def _expect_statement(simulation: Simulation, what: NaiveStatement) -> None:
    party = what.supplier.party_id
    payable, owed = (party, "supplier_payable", USD_ID), (party, "receivable", USD_ID)
    if what.difference < 0:
        simulation.expect(VARIANCE, payable, what.given)
        simulation.expect(VARIANCE, owed, -what.difference - what.given)
        return
    swept = expect_sweep(simulation, party, "supplier_payable")
    available = simulation.auditor.main(payable).available + swept
    given = min(what.difference, max(0, available))
    simulation.expect(payable, VARIANCE, given)
    simulation.expect(owed, VARIANCE, what.difference - given)


async def _judge_entry(simulation: Simulation, fact: UUID, reason: str) -> None:
    """
    The books say what was reversed, why, and by whom.
    """
    entries = await simulation.hub.ledger.entries_of(fact)
    metas = [entry.meta for entry in entries if entry.ordinal == 1]
    meant = {"kind": "reversal", "reverses": str(fact), "reason": reason, "actor": "simulation"}
    _require(metas == [meant], f"noted {metas}")


def _judge_debt(simulation: Simulation, party: UUID) -> None:
    owed = -balances(simulation, bound_below=None).get((party, "receivable", USD_ID), 0)
    state = simulation.auditor.main((party, "cash", USD_ID)).state
    expected = "frozen" if owed > FREEZES_ABOVE else "active"
    _require(state == expected, f"{owed} is owed and the account is {state}")


def _title(what: Transfer | NaiveStatement | None) -> str:
    if what is None:
        return "something else"
    if isinstance(what, NaiveStatement):
        return f"correction of {what.supplier.name}"
    return what.reference


def _require(is_lawful: bool, message: str) -> None:
    if not is_lawful:
        raise BrokenLawError(Law.CORRECTION, message)


OPERATIONS = {
    "reverse": (5, reverse),
}
