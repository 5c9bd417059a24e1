"""
Statements of a supplier against real calls: matched, corrected once, paid out when matched.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from tests.postgres.gateway_rig import Behaviour, Rig, nano, open_rig
from tokenworks.foundation.errors import TooLargeError
from tokenworks.foundation.money import USD, Amount, quanta_to_text
from tokenworks.gateway.ended_calls import CallRow
from tokenworks.ledger.errors import PayableOnHoldError
from tokenworks.reconciliation import service
from tokenworks.reconciliation.errors import (
    NothingProposedError,
    PeriodInvalidError,
    StatementInvalidError,
    StatementNotFoundError,
)
from tokenworks.reconciliation.model import Report, Tolerance, Verdict
from tokenworks.reconciliation.service import Import, Reconciliation

HEADER = "reference,amount,currency,call_id,time,model,input_tokens,output_tokens\n"


@pytest.fixture
async def rig(dsn: str, tmp_path: Path) -> AsyncGenerator[Rig]:
    """
    A hub with one business; its books are right when the test is over.
    """
    async with open_rig(dsn, tmp_path) as rig:
        yield rig
        await rig.audit()


async def _served(rig: Rig, count: int) -> list[CallRow]:
    for _ in range(count):
        assert (await rig.ask()).is_success
    await rig.quiet()
    return await rig.calls()


def _row(reference: str, call: CallRow, *, more: int = 0, names_call: bool = True) -> str:
    amount = quanta_to_text(call.payable_quanta + more, scale=USD.scale)
    started = call.attempts[-1].started_at.isoformat()
    call_id = call.call_id if names_call else ""
    tokens = f"{call.input_tokens},{call.output_tokens}"
    return f"{reference},{amount},USD,{call_id},{started},{call.model},{tokens}\n"


async def _import(rig: Rig, *rows: str, **options: object) -> Report:
    wanted = Import(file_name="november.csv", content=(HEADER + "".join(rows)).encode())
    return await rig.hub.reconciliation.import_statement(
        rig.plant.suppliers[0],
        replace(wanted, **options),  # pyright: ignore[reportArgumentType] - as given
        actor="ann",
    )


def _counts(report: Report) -> dict[str, tuple[int, int]]:
    return {total.verdict.value: (total.lines, total.attempts) for total in report.totals}


async def _supplier_balance(rig: Rig, purpose: str = "supplier_payable") -> int:
    return (await rig.account(rig.plant.suppliers[0].party_id, purpose)).available


async def test_statement_is_matched_call_by_call(rig: Rig) -> None:
    """
    Each verdict is found, totals agree with the file, and nothing is booked.
    """
    calls = await _served(rig, 4)
    before = await _supplier_balance(rig)
    unknown = f"x,7,USD,{uuid4()},{calls[0].started_at.isoformat()},,,\n"
    report = await _import(
        rig,
        _row("a", calls[0]),
        _row("b", calls[1], more=5),
        _row("b", calls[1]),
        _row("c", calls[2], more=-7),
        unknown,
        tolerance=Tolerance(quanta=5),
    )
    assert _counts(report) == {
        "matched": (2, 2),
        "amount_differs": (1, 1),
        "missing_here": (1, 0),
        "duplicate": (1, 0),
        "missing_at_supplier": (0, 1),
    }
    assert sum(total.billed_quanta for total in report.totals) == report.statement.total_quanta
    assert sum(total.billed_quanta for total in report.days) == report.statement.total_quanta
    assert sum(t.owed_quanta for t in report.totals) == sum(c.payable_quanta for c in calls)
    assert report.proposal is not None
    assert report.proposal.quanta == -7  # the cheaper of the two lines "b" is the first
    assert not report.proposal.is_posted
    assert await _supplier_balance(rig) == before


async def test_same_file_is_the_same_statement(rig: Rig) -> None:
    """
    Ten imports at once, and one later, find one statement.
    """
    [call] = await _served(rig, 1)
    reports = await asyncio.gather(*(_import(rig, _row("a", call)) for _ in range(10)))
    again = await _import(rig, _row("a", call), tolerance=Tolerance(quanta=99))
    assert len({report.statement.statement_id for report in [*reports, again]}) == 1
    assert sum(not report.replayed for report in reports) == 1
    assert again.replayed
    assert len(await rig.hub.reconciliation.statements(supplier_id=None, before=None, limit=9)) == 1


async def test_line_and_call_are_billed_once_over_all_statements(rig: Rig) -> None:
    """
    A reference, or a call, that an earlier statement had is a duplicate in a later one.
    """
    first, second = await _served(rig, 2)
    await _import(rig, _row("a", first))
    report = await _import(rig, _row("a", second), _row("b", first))
    assert _counts(report) == {"duplicate": (2, 0), "missing_at_supplier": (0, 1)}
    assert report.proposal is None


async def test_line_without_call_id_is_matched_by_what_it_looks_like(rig: Rig) -> None:
    """
    Time, model and tokens tell; two calls that look alike are not guessed.
    """
    [call] = await _served(rig, 1)
    one = await _import(rig, _row("a", call, names_call=False))
    assert _counts(one) == {"matched": (1, 1)}
    alike = (await _served(rig, 2))[1:]
    two = await _import(rig, *(_row(f"l{n}", c, names_call=False) for n, c in enumerate(alike)))
    assert _counts(two) == {"ambiguous": (2, 2)}


async def test_accepted_correction_is_booked_once_at_the_platforms_cost(rig: Rig) -> None:
    """
    The payable moves against the variance; no charge and no other leg does.
    """
    calls = await _served(rig, 2)
    before = await _supplier_balance(rig)
    river = await rig.account(rig.plant.split.power_id or uuid4(), "power_payable")
    report = await _import(rig, _row("a", calls[0], more=900), _row("b", calls[1], more=-100))
    statement_id = report.statement.statement_id
    reconciliation = rig.hub.reconciliation

    booked = await asyncio.gather(
        *(reconciliation.accept(statement_id, actor=f"actor {n}") for n in range(5))
    )

    assert sum(not item.replayed for item in booked) == 1
    assert await _supplier_balance(rig) == before + 800
    assert (await rig.account(rig.plant.split.power_id or uuid4(), "power_payable")) == river
    proposal = (await reconciliation.report(statement_id)).proposal
    assert proposal is not None
    assert proposal.is_posted
    [entry] = await rig.hub.ledger.entries_of(proposal.fact_id)
    assert entry.meta["statement"] == str(statement_id)
    assert entry.meta["actor"] == proposal.accepted_by
    assert [(leg.debit_purpose, leg.credit_purpose, leg.quanta) for leg in entry.legs] == [
        ("supplier_variance", "supplier_payable", 800)
    ]


async def test_accepted_correction_whose_process_died_is_booked_by_the_worker(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    What a person accepted is booked in any case, once, in that person's name.
    """
    [call] = await _served(rig, 1)
    before = await _supplier_balance(rig)
    report = await _import(rig, _row("a", call, more=9))
    statement_id = report.statement.statement_id

    async def die(**_: object) -> None:
        raise ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(rig.hub.corrections, "adjust_payable", die)
        with pytest.raises(ConnectionError):
            await rig.hub.reconciliation.accept(statement_id, actor="ann")
    assert await rig.hub.reconciliation.finish_accepted() == 0, "it may still be under way"
    monkeypatch.setattr(service, "ACCEPTED_PATIENCE", timedelta(0))
    assert await rig.hub.reconciliation.finish_accepted() == 1
    assert await rig.hub.reconciliation.finish_accepted() == 0
    assert await _supplier_balance(rig) == before + 9
    proposal = (await rig.hub.reconciliation.report(statement_id)).proposal
    assert proposal is not None
    assert (proposal.is_posted, proposal.accepted_by) == (True, "ann")


async def test_nothing_is_accepted_where_nothing_differs(rig: Rig) -> None:
    """
    An entry of zero would be none; an unknown statement is none.
    """
    [call] = await _served(rig, 1)
    report = await _import(rig, _row("a", call))
    with pytest.raises(NothingProposedError):
        await rig.hub.reconciliation.accept(report.statement.statement_id, actor="ann")
    with pytest.raises(StatementNotFoundError):
        await rig.hub.reconciliation.accept(uuid4(), actor="ann")


async def test_failed_attempt_that_is_billed_is_a_difference(rig: Rig) -> None:
    """
    A call that another supplier served owes the first one nothing; the bill shows it.
    """
    rig.first.set_behaviour(Behaviour(status=500))
    [call] = await _served(rig, 1)
    assert call.attempt_count == 2
    report = await _import(rig, _row("a", call))
    assert _counts(report) == {"amount_differs": (1, 1)}
    assert report.proposal is not None
    assert report.proposal.quanta == call.payable_quanta


async def test_faulty_file_leaves_nothing(rig: Rig) -> None:
    """
    One bad row, and no row of the file is stored; the mended file is imported whole.
    """
    [call] = await _served(rig, 1)
    with pytest.raises(StatementInvalidError):
        await _import(rig, _row("a", call), "b,none,USD,,,,,\n")
    assert await rig.hub.reconciliation.statements(supplier_id=None, before=None, limit=9) == []
    assert _counts(await _import(rig, _row("a", call))) == {"matched": (1, 1)}


async def test_period_must_be_known_and_over(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    What is still being served cannot be missing; too much at once is refused.
    """
    [call] = await _served(rig, 1)
    now = rig.hub.clock.now()
    with pytest.raises(PeriodInvalidError):
        await _import(rig, "a,1,USD,,,,,\n")
    with pytest.raises(PeriodInvalidError):
        await _import(rig, _row("a", call), until=now + timedelta(hours=1))
    with pytest.raises(PeriodInvalidError):
        await _import(rig, _row("a", call), since=now, until=now)
    monkeypatch.setattr(service, "STATEMENT_ATTEMPTS_MAX", 0)
    with pytest.raises(TooLargeError):
        await _import(rig, _row("a", call))


async def test_only_matched_or_old_payables_are_paid_out(rig: Rig) -> None:
    """
    Unmatched calls wait; matched ones, accepted differences and old ones do not.
    """
    calls = await _served(rig, 3)
    party = rig.plant.suppliers[0].party_id
    legs = [
        sum(
            nano(leg["amount"])
            for name, leg in (call.receipt or {}).items()
            if name.startswith("leg.") and leg["kind"] == "supplier"
        )
        for call in calls
    ]
    reconciliation = rig.hub.reconciliation
    assert (await reconciliation.payable(party)).free_quanta == 0
    report = await _import(rig, _row("a", calls[0]), _row("b", calls[1], more=10))

    payable = await reconciliation.payable(party)
    assert (payable.owed_quanta, payable.on_hold_quanta) == (sum(legs), legs[1] + legs[2])
    await reconciliation.accept(report.statement.statement_id, actor="ann")
    payable = await reconciliation.payable(party)
    assert payable.on_hold_quanta == legs[2]
    assert payable.free_quanta == legs[0] + legs[1] + 10

    with pytest.raises(PayableOnHoldError):
        await _pay(rig, reconciliation, payable.free_quanta + 1, "p-1")
    await _pay(rig, reconciliation, payable.free_quanta, "p-1")
    assert (await reconciliation.payable(party)).free_quanta == 0
    patient = Reconciliation(
        rig.hub.pool,
        ledger=rig.hub.ledger,
        corrections=rig.hub.corrections,
        clock=rig.hub.clock,
        ids=rig.hub.ids,
        asset=USD,
        hold_days=0,
    )
    assert (await patient.payable(party)).free_quanta == legs[2]
    await _pay(rig, patient, legs[2], "p-2")


async def _pay(rig: Rig, reconciliation: Reconciliation, quanta: int, reference: str) -> None:
    await reconciliation.pay(
        rig.plant.suppliers[0].party_id,
        Amount(quanta=quanta, asset=USD),
        rail="bank",
        reference=reference,
        actor="ann",
    )


async def test_differences_are_listed_in_the_files_order(rig: Rig) -> None:
    """
    Lines first, then attempts that no line bills; what matches only when asked for.
    """
    calls = await _served(rig, 3)
    report = await _import(rig, _row("a", calls[1]), _row("b", calls[0], more=1))
    found: dict[bool, list[tuple[str, int | None]]] = {}
    for with_matched in (False, True):
        found[with_matched] = [
            (row.verdict.value, row.line_number)
            async for row in rig.hub.reconciliation.differences(
                report.statement.statement_id, with_matched=with_matched
            )
        ]
    assert found[False] == [("amount_differs", 3), (Verdict.MISSING_AT_SUPPLIER.value, None)]
    assert found[True] == [("matched", 2), *found[False]]


async def test_statements_are_never_changed(rig: Rig) -> None:
    """
    Neither the posting role nor the owner rewrites what a supplier said.
    """
    [call] = await _served(rig, 1)
    await _import(rig, _row("a", call, more=1))
    for table in ("statements", "lines", "proposals"):
        async with await psycopg.AsyncConnection.connect(rig.dsn) as owner:
            with pytest.raises(psycopg.Error, match="append-only"):
                await owner.execute(f"DELETE FROM reconciliation.{table}".encode())
        async with rig.hub.pool.connection() as posting:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await posting.execute(f"DELETE FROM reconciliation.{table}".encode())
