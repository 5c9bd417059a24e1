"""
Money comes in, is taken back, and leaves; each payment may be told twice, or told otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from uuid import UUID

from tests.simulation.simulator.auditor import PAYABLES, PLATFORM
from tests.simulation.simulator.laws import BrokenLawError, Law
from tests.simulation.simulator.simulation import Simulation
from tests.simulation.simulator.world import DOLLAR, USD_ID
from tokenworks.foundation.errors import TokenworksError
from tokenworks.foundation.money import USD, Amount
from tokenworks.ledger.model import Posting
from tokenworks.ledger.service import Posted

BANK = (PLATFORM, "safeguarded", USD_ID)
OWN_FUNDS = (PLATFORM, "own_funds", USD_ID)
FREEZES_ABOVE = 10 * DOLLAR
RAIL = "bank"


@dataclass(kw_only=True)
class Transfer:
    """
    Money from or to the outside world that was told to the hub.
    """

    kind: str
    party: UUID
    purpose: str
    quanta: int
    reference: str
    is_done: bool = False
    fact: UUID | None = None
    """What the hub booked it under."""
    debt: int = 0
    """Of a chargeback that is done: what the party could not give."""


@dataclass
class NaiveMoney:
    """
    Every transfer that was told, the oldest first.
    """

    told: list[Transfer] = field(default_factory=list[Transfer])


async def deposit(simulation: Simulation, random: Random) -> str:
    """
    Pay an organisation's money in.
    """
    party = random.choice(simulation.world.organisations).party_id
    quanta = random.choice((1, 999, DOLLAR // 500, DOLLAR // 50, DOLLAR // 20, DOLLAR, 20 * DOLLAR))
    return await _pay(simulation, _new(simulation, "deposit", party, "cash", quanta))


async def chargeback(simulation: Simulation, random: Random) -> str:
    """
    Take money back that the world already took, covered or not.
    """
    party = random.choice(simulation.world.organisations).party_id
    quanta = random.choice((1, DOLLAR // 100, DOLLAR, 15 * DOLLAR))
    return await _pay(simulation, _new(simulation, "chargeback", party, "cash", quanta))


async def payout(simulation: Simulation, random: Random) -> str:
    """
    Pay somebody what is owed, a part of it, or more than that.
    """
    owed = {name: balance for name, balance in balances(simulation).items() if name[1] in PAYABLES}
    if not owed:
        return "nobody is owed"
    party, purpose, _ = random.choice(sorted(owed))
    balance = owed[party, purpose, USD_ID]
    quanta = max(1, random.choice((balance, balance, balance // 3, balance + 1)))
    return await _pay(simulation, _new(simulation, "payout", party, purpose, quanta))


async def tell_again(simulation: Simulation, random: Random) -> str:
    """
    Tell an earlier payment again: the answer was lost.
    """
    if not simulation.model(NaiveMoney).told:
        return "nothing was paid"
    return "again " + await _pay(simulation, random.choice(simulation.model(NaiveMoney).told))


async def tell_otherwise(simulation: Simulation, random: Random) -> str:
    """
    Tell an earlier payment with another amount.
    """
    known = [payment for payment in simulation.model(NaiveMoney).told if payment.is_done]
    if not known:
        return "nothing was paid"
    first = random.choice(known)
    other = Transfer(
        kind=first.kind,
        party=first.party,
        purpose=first.purpose,
        quanta=first.quanta + 1,
        reference=first.reference,
    )
    if first.kind == "payout":
        expect_sweep(simulation, first.party, first.purpose)
    try:
        await _send(simulation, other)
    except TokenworksError as error:
        _require(error.code == "fact_conflict", first, f"told otherwise: {error.code}")
        return f"{first.kind} {first.reference} conflicts"
    raise BrokenLawError(Law.FACT_ONCE, f"{first.kind} {first.reference} was told otherwise: done")


def _new(simulation: Simulation, kind: str, party: UUID, purpose: str, quanta: int) -> Transfer:
    payment = Transfer(
        kind=kind,
        party=party,
        purpose=purpose,
        quanta=quanta,
        reference=f"{kind}-{len(simulation.model(NaiveMoney).told)}",
    )
    simulation.model(NaiveMoney).told.append(payment)
    return payment


async def _send(simulation: Simulation, payment: Transfer) -> Posted:
    ledger = simulation.hub.ledger
    amount = Amount(quanta=payment.quanta, asset=USD)
    if payment.kind == "payout":
        return await ledger.payout(
            party_id=payment.party,
            purpose=payment.purpose,
            amount=amount,
            rail=RAIL,
            reference=payment.reference,
            actor="simulation",
        )
    send = ledger.deposit if payment.kind == "deposit" else ledger.chargeback
    return await send(
        party_id=payment.party,
        amount=amount,
        rail=RAIL,
        reference=payment.reference,
        actor="simulation",
    )


async def _pay(simulation: Simulation, payment: Transfer) -> str:
    """
    Tell the hub of a payment and say what it should have moved.
    """
    await simulation.auditor.learn_accounts()
    expect = {
        "deposit": _expect_deposit,
        "chargeback": _expect_chargeback,
        "payout": _expect_payout,
    }
    code = expect[payment.kind](simulation, payment)
    title = f"{payment.kind} {payment.reference} {simulation.world.label(payment.party)}"
    try:
        posted = await _send(simulation, payment)
        _judge_debt(simulation, payment)
    except TokenworksError as error:
        _require(error.code == code, payment, f"refused as {error.code}, not {code}")
        return f"{title} {payment.quanta} refused {error.code}"
    _require(code is None, payment, f"done, naively {code}")
    simulation.hear()
    # When the first answer was lost, the writer asked again, and that is what was answered.
    first = any(
        isinstance(a.wish, Posting) and a.wish.fact_id == posted.fact_id and a.outcome.code == "ok"
        for a in simulation.answers[:-1]
    )
    is_repeat = payment.is_done or (posted.replayed and first)
    _require(posted.replayed == is_repeat, payment, f"replayed is {posted.replayed}")
    payment.is_done, payment.fact = True, posted.fact_id
    return f"{title} {payment.quanta} {'replayed' if is_repeat else 'done'}"


def _judge_debt(simulation: Simulation, payment: Transfer) -> None:
    """
    Whoever owes more than a threshold is frozen, and nobody else.
    """
    if payment.kind == "payout":
        return
    owed = -balances(simulation, bound_below=None).get((payment.party, "receivable", USD_ID), 0)
    state = simulation.auditor.main((payment.party, "cash", USD_ID)).state
    expected = "frozen" if owed > FREEZES_ABOVE else "active"
    _require(state == expected, payment, f"{owed} is owed and the account is {state}")


def _require(is_lawful: bool, payment: Transfer, message: str) -> None:
    if not is_lawful:
        raise BrokenLawError(Law.FACT_ONCE, f"{payment.kind} {payment.reference}: {message}")


# ---------------------------------------------------------------------- what it should move


def _expect_deposit(simulation: Simulation, payment: Transfer) -> str | None:
    cash = simulation.auditor.main((payment.party, "cash", USD_ID))
    if not payment.is_done and cash.state == "closed":
        return "account_frozen"
    if not payment.is_done:
        simulation.expect(BANK, (payment.party, "cash", USD_ID), payment.quanta)
    expect_set_off(simulation, payment.party, 0 if payment.is_done else payment.quanta)
    return None


def expect_set_off(simulation: Simulation, party: UUID, more: int) -> None:
    """
    What is owed is paid first from what is there, held money aside.
    """
    owed_name, cash_name = (party, "receivable", USD_ID), (party, "cash", USD_ID)
    if owed_name not in balances(simulation, bound_below=None):
        return
    owed = -balances(simulation, bound_below=None)[owed_name]
    cash = simulation.auditor.main(cash_name)
    quanta = min(owed, cash.available + more)
    if quanta <= 0:
        return
    simulation.expect(cash_name, owed_name, quanta)
    simulation.expect(OWN_FUNDS, BANK, quanta)


def _expect_chargeback(simulation: Simulation, payment: Transfer) -> str | None:
    if payment.is_done:
        return None
    cash_name = (payment.party, "cash", USD_ID)
    cash = simulation.auditor.main(cash_name)
    given = min(payment.quanta, max(cash.available, 0))
    simulation.expect(cash_name, OWN_FUNDS, given)
    owed = payment.debt = payment.quanta - given
    simulation.expect((payment.party, "receivable", USD_ID), OWN_FUNDS, owed)
    # The bank is freed by what the client paid; the rest is the platform's loss.
    simulation.expect(OWN_FUNDS, BANK, given)
    return None


def _expect_payout(simulation: Simulation, payment: Transfer) -> str | None:
    name = (payment.party, payment.purpose, USD_ID)
    swept = expect_sweep(simulation, payment.party, payment.purpose)
    if payment.is_done:
        return None
    # Only the main account is looked at: shares are for receiving.
    available = simulation.auditor.main(name).available + swept
    if available < payment.quanta:
        return "insufficient_funds"
    known = balances(simulation, bound_below=None)
    owes = -known.get((payment.party, "receivable", USD_ID), 0)
    # An entry that was posted as it is may have brought a share below zero: that is owed less.
    if max(0, known[name] - max(0, owes)) < payment.quanta <= known[name]:
        return "payable_on_hold"
    simulation.expect(name, OWN_FUNDS, payment.quanta)
    return None


def expect_sweep(simulation: Simulation, party: UUID, purpose: str) -> int:
    """
    What the writers' shares have goes to the main account first, whatever becomes of the payout.
    """
    name = (party, purpose, USD_ID)
    shares = [
        simulation.auditor.naive.accounts[number]
        for number, known in simulation.auditor.names.items()
        if known == name and simulation.auditor.mains[number] != number
    ]
    swept = sum(max(0, share.credits - share.debits) for share in shares)
    simulation.expect(name, name, swept)
    return swept


def balances(
    simulation: Simulation, *, bound_below: int | None = 0
) -> dict[tuple[UUID, str, int], int]:
    """
    Return the posted balance of every account of money, lanes summed.
    """
    found: dict[tuple[UUID, str, int], int] = {}
    for number, name in simulation.auditor.names.items():
        account = simulation.auditor.naive.accounts[number]
        if name[2] == USD_ID:
            found[name] = found.get(name, 0) + account.credits - account.debits
    return {n: b for n, b in found.items() if bound_below is None or b > bound_below}


OPERATIONS = {
    "deposit": (7, deposit),
    "chargeback": (2, chargeback),
    "payout": (4, payout),
    "payment_again": (4, tell_again),
    "payment_otherwise": (2, tell_otherwise),
}
