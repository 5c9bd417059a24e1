"""
Charges of calls are given back: in part, whole, again, and more than there is.
"""

from __future__ import annotations

from random import Random

from tests.simulation.simulator.auditor import PLATFORM
from tests.simulation.simulator.calls import Call, Sale
from tests.simulation.simulator.laws import BrokenLawError, Law
from tests.simulation.simulator.operations.money_operations import BANK, OWN_FUNDS, expect_sweep
from tests.simulation.simulator.simulation import Simulation
from tests.simulation.simulator.world import USD_ID
from tokenworks.foundation.money import USD, Amount
from tokenworks.gateway.refunding import Bearer

REASON = "SIMULATED"


async def refund(simulation: Simulation, random: Random) -> str:
    """
    Refund a part of a call, with a reference of its own or one that was used.
    """
    sold = [call for call in simulation.calls if call.sale is not None and call.sale.paid]
    if not sold:
        return "nothing was sold"
    call = random.choice(sold[-20:])
    sale = call.sale
    assert sale is not None, "it was sold"
    left = sale.paid - sale.refunded
    quanta = max(1, random.choice((left, left // 2, left // 3, left + 1)))
    bearer = random.choice((Bearer.PLATFORM, Bearer.SUPPLIER))
    reference = f"refund-{len(sale.refunds)}"
    if sale.refunds and random.random() < 0.4:
        reference = random.choice(sorted(sale.refunds))
        if random.random() < 0.6:
            quanta, bearer = sale.refunds[reference][0], Bearer(sale.refunds[reference][1])
    simulation.law = Law.REFUND
    expected = _expect(simulation, call, sale, quanta, bearer, reference)
    assert call.call_id is not None, "it was sold"
    is_repeat = reference in sale.refunds
    found, code = await simulation.ask(
        simulation.hub.refunds.refund(
            call.call_id,
            Amount(quanta=quanta, asset=USD),
            reason=REASON,
            borne_by=bearer,
            reference=reference,
            actor="simulation",
        )
    )
    title = f"call {call.number} {reference} {quanta} of {sale.paid}, {bearer} bears it"
    if code != expected:
        raise BrokenLawError(Law.REFUND, f"{title}: {code}, naively {expected}")
    if found is not None:
        sale.refunds[reference] = (quanta, bearer.value)
    return f"{title}: {code or ('replayed' if is_repeat else 'done')}"


def _expect(
    simulation: Simulation, call: Call, sale: Sale, quanta: int, bearer: Bearer, reference: str
) -> str | None:
    known = sale.refunds.get(reference)
    if known is not None and known != (quanta, bearer.value):
        return "refund_conflict"
    if known is None and quanta > sale.paid - sale.refunded:
        return "refund_too_large"
    swept = 0
    if bearer is Bearer.SUPPLIER:
        swept = expect_sweep(simulation, sale.supplier, "supplier_payable")
    if known is not None:
        return None
    cash = (call.scopes[0], "cash", USD_ID)
    if bearer is Bearer.PLATFORM:
        simulation.expect((PLATFORM, "platform_revenue", USD_ID), cash, quanta)
    else:
        payable = (sale.supplier, "supplier_payable", USD_ID)
        given = min(quanta, max(0, simulation.auditor.main(payable).available + swept))
        simulation.expect(payable, cash, given)
        simulation.expect((sale.supplier, "receivable", USD_ID), cash, quanta - given)
    simulation.expect(BANK, OWN_FUNDS, quanta)
    for window, units in sale.units:
        before = units * sale.refunded // sale.paid
        back = units * (sale.refunded + quanta) // sale.paid - before
        simulation.expect((PLATFORM, "limit_spent", window[2]), window, back)
    return None


OPERATIONS = {
    "refund": (6, refund),
}
