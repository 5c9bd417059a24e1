"""
Refunds of real calls: money to its source, units to their own window, never above the charge.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from tests.postgres.gateway_rig import DOLLAR, Rig, open_rig
from tokenworks.foundation.errors import InvalidError
from tokenworks.foundation.money import LIMIT_TOKENS, LIMIT_USD, USD, Amount
from tokenworks.gateway import refunding
from tokenworks.gateway.ended_calls import CallRow
from tokenworks.gateway.errors import (
    CallNotFoundError,
    RefundConflictError,
    RefundTooLargeError,
)
from tokenworks.gateway.refunding import Bearer, Refund, served_by
from tokenworks.ledger.check import check_books


@pytest.fixture
async def rig(dsn: str, tmp_path: Path) -> AsyncGenerator[Rig]:
    """
    A hub with one business; its books are right when the test is over.
    """
    async with open_rig(dsn, tmp_path) as rig:
        yield rig
        assert (await rig.hub.ledger.trial_balance()).is_balanced
        report = await check_books(rig.dsn, clock=rig.hub.clock)
        assert not report.problems, report.to_json()


async def _call(rig: Rig) -> CallRow:
    assert (await rig.ask()).is_success
    await rig.quiet()
    return (await rig.calls())[-1]


async def _refund(rig: Rig, call: CallRow, quanta: int, reference: str, **more: object) -> Refund:
    wanted: dict[str, object] = {"reason": "late", "borne_by": Bearer.PLATFORM, "actor": "ann"}
    return await rig.hub.refunds.refund(
        call.call_id,
        Amount(quanta=quanta, asset=USD),
        reference=reference,
        **(wanted | more),  # pyright: ignore[reportArgumentType] - as given
    )


async def test_refund_goes_back_to_the_money_it_came_from(rig: Rig) -> None:
    """
    The buyer has its money again, with cover; the platform's revenue bears it.
    """
    call = await _call(rig)
    first = await _refund(rig, call, 10, "r-1")
    again = await _refund(rig, call, 10, "r-1")
    rest = await _refund(rig, call, call.charge_quanta - 10, "r-2")
    assert (first.replayed, again.replayed) == (False, True)
    assert first.refund_id == again.refund_id
    assert rest.refunded.quanta == call.charge_quanta
    assert (await rig.cash()).available == rig.deposited
    [entry] = await rig.hub.ledger.entries_of(first.refund_id)
    assert entry.meta == {
        "kind": "refund",
        "call": str(call.call_id),
        "borne_by": "platform",
        "reason": "late",
        "actor": "ann",
    }
    money = [(leg.debit_purpose, leg.credit_purpose, leg.quanta) for leg in entry.legs]
    assert money == [("platform_revenue", "cash", 10), ("safeguarded", "own_funds", 10)]


async def test_refunds_are_at_most_the_charge(rig: Rig) -> None:
    """
    Twenty refunds of a tenth at once: ten are booked, whoever asks first.
    """
    call = await _call(rig)
    tenth = call.charge_quanta // 10

    async def attempt(number: int) -> bool:
        try:
            await _refund(rig, call, tenth, f"r-{number}")
        except RefundTooLargeError:
            return False
        return True

    booked = await asyncio.gather(*(attempt(number) for number in range(20)))
    assert sum(booked) == call.charge_quanta // tenth
    refunded = tenth * sum(booked)
    assert (await rig.cash()).available == rig.deposited - call.charge_quanta + refunded
    with pytest.raises(RefundTooLargeError) as refused:
        await _refund(rig, call, call.charge_quanta, "all")
    left = Amount(quanta=call.charge_quanta - refunded, asset=USD).to_text()
    assert refused.value.details == {"left": left}
    assert (await rig.call()).refunded_quanta == refunded


async def test_units_return_to_the_window_they_came_from(rig: Rig) -> None:
    """
    Of money limits the refunded money, of token limits the same part; nothing twice.
    """
    limits = rig.hub.ledger
    for scope, asset, quanta in (
        (rig.organisation.party_id, LIMIT_USD, 5 * DOLLAR),
        (rig.user.party_id, LIMIT_TOKENS, 100_000),
    ):
        await limits.set_limit(
            scope_id=scope, asset=asset, quanta=quanta, window="day", actor="test"
        )
    call = await _call(rig)
    third = call.charge_quanta // 3

    async def left() -> tuple[int, int]:
        scopes = [rig.organisation.party_id, rig.user.party_id]
        money, tokens = await limits.limits(scopes)
        return money.remaining, tokens.remaining

    assert await left() == (5 * DOLLAR - call.charge_quanta, 100_000 - call.total_tokens)
    for number in range(2):
        await _refund(rig, call, third, f"r-{number}")
    returned = call.total_tokens * 2 * third // call.charge_quanta
    used = (call.charge_quanta - 2 * third, call.total_tokens - returned)
    assert await left() == (5 * DOLLAR - used[0], 100_000 - used[1])
    await _refund(rig, call, call.charge_quanta - 2 * third, "rest")
    assert await left() == (5 * DOLLAR, 100_000)


async def test_supplier_bears_what_it_caused(rig: Rig) -> None:
    """
    Its payable pays, and what is not there any more it owes.
    """
    call = await _call(rig)
    supplier = served_by(call)
    assert supplier == rig.plant.suppliers[0].party_id
    owed = (await rig.account(supplier, "supplier_payable")).available
    done = await _refund(rig, call, call.charge_quanta, "r-1", borne_by=Bearer.SUPPLIER)
    assert done.borne_by is Bearer.SUPPLIER
    assert (await rig.account(supplier, "supplier_payable")).available == 0
    assert (await rig.account(supplier, "receivable")).balance == call.charge_quanta - owed
    assert (await rig.cash()).available == rig.deposited


@pytest.mark.parametrize("is_repeated", [True, False], ids=["repeat", "worker"])
async def test_refund_that_died_after_its_claim_is_finished(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, *, is_repeated: bool
) -> None:
    """
    The claim keeps its part of the charge; a repeat, or the worker, books the same entry.
    """
    call = await _call(rig)

    async def die(*_: object) -> None:
        raise ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(rig.hub.refunds, "_post", die)
        with pytest.raises(ConnectionError):
            await _refund(rig, call, call.charge_quanta, "r-1")
    with pytest.raises(RefundTooLargeError):
        await _refund(rig, call, 1, "r-2")
    if not is_repeated:
        assert await rig.hub.refunds.finish_claimed() == 0, "it may still be under way"
        monkeypatch.setattr(refunding, "CLAIM_PATIENCE", timedelta(0))
        assert await rig.hub.refunds.finish_claimed() == 1
        assert await rig.hub.refunds.finish_claimed() == 0
    done = await _refund(rig, call, call.charge_quanta, "r-1")
    assert done.replayed is not is_repeated
    assert (await rig.cash()).available == rig.deposited


async def test_bad_refunds_are_refused(rig: Rig) -> None:
    """
    Each with its own error; nothing moves.
    """
    call = await _call(rig)
    before = (await rig.cash()).available
    for quanta in (0, -1):
        with pytest.raises(InvalidError):
            await _refund(rig, call, quanta, "r-0")
    with pytest.raises(InvalidError):
        await _refund(rig, call, 1, "r-0", reason=" ")
    with pytest.raises(InvalidError):
        await _refund(rig, call, 1, "x" * 256)
    with pytest.raises(CallNotFoundError):
        await rig.hub.refunds.refund(
            uuid4(),
            Amount(quanta=1, asset=USD),
            reason="late",
            borne_by=Bearer.PLATFORM,
            reference="r",
            actor="ann",
        )
    assert (await rig.cash()).available == before
    await _refund(rig, call, 1, "r-1")
    with pytest.raises(RefundConflictError):
        await _refund(rig, call, 2, "r-1")
    with pytest.raises(RefundConflictError):
        await _refund(rig, call, 1, "r-1", borne_by=Bearer.SUPPLIER)
