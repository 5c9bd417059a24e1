"""
Suppliers send statements: they are matched, differences are reported, a person accepts what is due.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from uuid import UUID

from tests.simulation.simulator.auditor import PLATFORM
from tests.simulation.simulator.calls import Call
from tests.simulation.simulator.laws import BrokenLawError, Law
from tests.simulation.simulator.operations.money_operations import expect_sweep
from tests.simulation.simulator.simulation import Simulation
from tests.simulation.simulator.world import USD_ID
from tokenworks.reconciliation.service import Import
from tokenworks.supply.model import Supplier

VARIANCE = (PLATFORM, "supplier_variance", USD_ID)
LINES_MAX = 8


@dataclass
class NaiveStatement:
    """
    A statement as it was imported, and what it comes to.
    """

    statement_id: UUID
    supplier: Supplier
    content: bytes
    since: datetime
    until: datetime
    verdicts: Counter[str]
    difference: int
    """What the supplier should get more, or less."""
    is_accepted: bool = False
    fact: UUID | None = None
    given: int = 0
    """Of what is taken back: how much its payable gave."""


@dataclass
class NaiveStatements:
    """
    Every statement, the oldest first.
    """

    imported: list[NaiveStatement] = field(default_factory=list[NaiveStatement])
    references: int = 0


async def import_one(simulation: Simulation, random: Random) -> str:
    """
    Import a supplier's statement: with true lines, wrong amounts, strange and double lines.
    """
    statements = simulation.model(NaiveStatements)
    supplier = simulation.world.suppliers[random.choice(sorted(simulation.world.suppliers))]
    calls = [
        call
        for call in simulation.calls
        if call.sale is not None and call.sale.supplier == supplier.party_id
    ]
    chosen = random.sample(calls, min(len(calls), random.randint(0, LINES_MAX)))
    verdicts: Counter[str] = Counter()
    difference, rows = 0, ["reference,amount,currency,call_id"]
    billed: list[Call] = []
    for call in chosen:
        sale = call.sale
        assert sale is not None, "only what was sold"
        quanta = max(0, sale.owed + random.choice((0, 0, 0, 1, -1, 5_000_000)))
        rows.append(_row(statements, quanta, call.call_id))
        if sale.is_billed:
            verdicts["duplicate"] += 1
            continue
        billed.append(call)
        verdicts["matched" if quanta == sale.owed else "amount_differs"] += 1
        difference += quanta - sale.owed
    if random.random() < 0.5 or not chosen:
        rows.append(_row(statements, 1_000, simulation.hub.ids.mint()))
        verdicts["missing_here"] += 1
    if random.random() < 0.2:
        rows.append(rows[-1])
        verdicts["duplicate"] += 1
    content = ("\n".join(rows) + "\n").encode()
    now = simulation.clock.now()
    simulation.law = Law.STATEMENT
    wanted = _wanted(content, now - timedelta(days=1), now)
    report = await simulation.hub.reconciliation.import_statement(
        supplier, wanted, actor="simulation"
    )
    for call in billed:
        assert call.sale is not None, "only what was sold"
        call.sale.is_billed = True
    found = Counter({total.verdict.value: total.lines for total in report.totals if total.lines})
    _require(found == verdicts, f"found {dict(found)}, naively {dict(verdicts)}")
    proposed = 0 if report.proposal is None else report.proposal.quanta
    _require(proposed == difference, f"{proposed} proposed, naively {difference}")
    statements.imported.append(
        NaiveStatement(
            report.statement.statement_id,
            supplier,
            content,
            now - timedelta(days=1),
            now,
            verdicts,
            difference,
        )
    )
    shown = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
    return f"{supplier.name} billed: {shown}; {difference} proposed"


async def import_again(simulation: Simulation, random: Random) -> str:
    """
    Import a file again: it is known, and nothing is matched a second time.
    """
    known = simulation.model(NaiveStatements).imported
    if not known:
        return "no statements"
    first = random.choice(known)
    report = await simulation.hub.reconciliation.import_statement(
        first.supplier, _wanted(first.content, first.since, first.until), actor="simulation"
    )
    _require(report.replayed, "the same file was imported twice")
    _require(report.statement.statement_id == first.statement_id, "it became another statement")
    return f"{first.supplier.name}'s file is known"


async def accept(simulation: Simulation, random: Random) -> str:
    """
    Accept a proposed correction, or one that was accepted before.
    """
    known = simulation.model(NaiveStatements).imported
    if not known:
        return "no statements"
    waiting = [s for s in known if not s.is_accepted and s.difference]
    statement = random.choice(waiting if waiting and random.random() < 0.6 else known)
    expected = None if statement.difference else "nothing_proposed"
    simulation.law = Law.STATEMENT
    if statement.difference:
        await _expect(simulation, statement)
    posted, code = await simulation.ask(
        simulation.hub.reconciliation.accept(statement.statement_id, actor="simulation")
    )
    _require(code == expected, f"accepted: {code}, naively {expected}")
    if posted is not None:
        statement.is_accepted, statement.fact = True, posted.fact_id
    return f"{statement.supplier.name} corrected by {statement.difference}: {code or 'done'}"


def _row(statements: NaiveStatements, quanta: int, call_id: UUID | None) -> str:
    statements.references += 1
    amount = f"{quanta // 10**9}.{quanta % 10**9:09d}"
    return f"line-{statements.references},{amount},USD,{call_id}"


def _wanted(content: bytes, since: datetime, until: datetime) -> Import:
    return Import(file_name="simulated.csv", content=content, since=since, until=until)


async def _expect(simulation: Simulation, statement: NaiveStatement) -> None:
    await simulation.auditor.learn_accounts()
    party, difference = statement.supplier.party_id, statement.difference
    payable = (party, "supplier_payable", USD_ID)
    if difference > 0:
        if not statement.is_accepted:
            simulation.expect(VARIANCE, payable, difference)
        return
    swept = expect_sweep(simulation, party, "supplier_payable")
    if statement.is_accepted:
        return
    given = min(-difference, max(0, simulation.auditor.main(payable).available + swept))
    statement.given = given
    simulation.expect(payable, VARIANCE, given)
    simulation.expect((party, "receivable", USD_ID), VARIANCE, -difference - given)


def _require(is_lawful: bool, message: str) -> None:
    if not is_lawful:
        raise BrokenLawError(Law.STATEMENT, message)


OPERATIONS = {
    "import_statement": (4, import_one),
    "statement_again": (1, import_again),
    "accept_correction": (4, accept),
}
