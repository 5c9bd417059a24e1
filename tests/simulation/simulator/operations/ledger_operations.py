"""
Operations that go to the ledger as they are: right ones, wrong ones, and the same ones again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from random import Random

from tests.simulation.simulator.auditor import PAYABLES, PLATFORM
from tests.simulation.simulator.simulation import Simulation
from tests.simulation.simulator.world import DOLLAR, USD_ID
from tokenworks.ledger.model import (
    Fate,
    Outcome,
    Placement,
    Posting,
    PostingKind,
    Reservation,
    Transfer,
)

BATCH_MAX = 6
NOBODY = 10**15
"""An account that there is not."""
LIMIT_USD_ID, LIMIT_TOKENS_ID = 11, 13
ENTRY_PURPOSES = ("cash", "own_funds", "safeguarded", "overrun", "supplier_variance")


async def place(simulation: Simulation, random: Random) -> str:
    """
    Place several holds in one batch.
    """
    return await _place(
        simulation, [_placement(simulation, random) for _ in range(random.randint(1, BATCH_MAX))]
    )


async def extend(simulation: Simulation, random: Random) -> str:
    """
    Extend holds, open or not, or only keep them alive.
    """
    holds = sorted(simulation.auditor.naive.holds.keys() & simulation.direct)
    if not holds:
        return "no holds"
    wishes = [
        Placement(
            hold_id=hold,
            reservations=_reservations(random, has_path=True) if random.random() < 0.7 else (),
            expires_at=simulation.clock.now() + timedelta(seconds=random.choice((5, 900))),
            deadline=_deadline(simulation, random),
            extension=_ordinal(simulation),
        )
        for hold in random.sample(holds, min(len(holds), random.randint(1, 3)))
    ]
    return await _place(simulation, wishes)


async def place_again(simulation: Simulation, random: Random) -> str:
    """
    Send earlier placements again, as they were or with other content.
    """
    if not simulation.placed:
        return "nothing was placed"
    wishes: list[Placement] = []
    for _ in range(random.randint(1, 3)):
        wish = random.choice(simulation.placed)
        if random.random() < 0.4:
            more = (*wish.reservations, Reservation(asset_id=USD_ID, quanta=1))
            wish = replace(wish, reservations=more)
        wishes.append(replace(wish, deadline=_deadline(simulation, random)))
    wishes += wishes[: random.randint(0, 1)]  # the same once more, in the same turn
    return await _place(simulation, wishes)


async def end(simulation: Simulation, random: Random) -> str:
    """
    Capture, void or expire holds, in any order, due or not.
    """
    naive = simulation.auditor.naive
    holds = sorted(naive.holds.keys() & simulation.direct)
    if not holds:
        return "no holds"
    recent = holds[-12:]
    wishes: list[Posting] = []
    for hold in random.sample(recent, min(len(recent), random.randint(1, BATCH_MAX))):
        kind = random.choice(
            (PostingKind.CAPTURE, PostingKind.CAPTURE, PostingKind.VOID, PostingKind.EXPIRE)
        )
        is_capture = kind is PostingKind.CAPTURE
        wishes.append(
            Posting(
                kind=kind,
                fact_id=hold,
                transfers=_capture(simulation, random, hold) if is_capture else (),
                ordinal=_ordinal(simulation) if is_capture else 0,
                closes=random.random() < 0.6,
                deadline=_deadline(simulation, random),
            )
        )
    if random.random() < 0.3:
        # Two ends of one hold at once: the later one waits for the next batch.
        wishes.append(Posting(kind=PostingKind.VOID, fact_id=wishes[0].fact_id))
    return await _post(simulation, wishes)


async def post(simulation: Simulation, random: Random) -> str:
    """
    Post entries: allowed ones, and many that are not.
    """
    wishes = [
        Posting(
            kind=PostingKind.POST,
            fact_id=simulation.hub.ids.mint(),
            transfers=tuple(_entry(simulation, random) for _ in range(random.randint(1, 3))),
            deadline=_deadline(simulation, random),
            accounting_date=_date(simulation, random),
        )
        for _ in range(random.randint(1, BATCH_MAX))
    ]
    return await _post(simulation, wishes)


async def post_again(simulation: Simulation, random: Random) -> str:
    """
    Send earlier postings again, as they were or with other content.
    """
    if not simulation.posted:
        return "nothing was posted"
    wishes: list[Posting] = []
    for _ in range(random.randint(1, 3)):
        wish = random.choice(simulation.posted)
        if random.random() < 0.4:
            wish = replace(wish, meta='{"changed":true}')
        wishes.append(replace(wish, deadline=_deadline(simulation, random)))
    wishes += wishes[: random.randint(0, 1)]  # the same once more, in the same turn
    return await _post(simulation, wishes)


# ---------------------------------------------------------------------- drawing


def _placement(simulation: Simulation, random: Random) -> Placement:
    key = random.choice(simulation.world.keys)
    version = key.version if random.random() < 0.85 else random.randint(1, key.version + 1)
    now = simulation.clock.now()
    fate = random.choice((Fate.VOID, Fate.VOID, Fate.CAPTURE, Fate.WAIT))
    has_path = random.random() < 0.8
    return Placement(
        hold_id=simulation.hub.ids.mint(),
        reservations=_reservations(random, has_path=has_path)
        if has_path
        else _named(simulation, random),
        expires_at=now + timedelta(seconds=random.choice((0, 20, 600))),
        deadline=_deadline(simulation, random),
        path_id=key.key_id if has_path else None,
        path_version=version if has_path else None,
        fate=fate,
        payee_account=_platform(simulation, "overrun") if fate is Fate.CAPTURE else None,
    )


def _reservations(random: Random, *, has_path: bool) -> tuple[Reservation, ...]:
    assets = (USD_ID, LIMIT_USD_ID, LIMIT_TOKENS_ID) if has_path else (USD_ID,)
    return tuple(
        Reservation(asset_id=asset, quanta=_quanta(random))
        for asset in assets
        if random.random() < 0.8
    )


def _named(simulation: Simulation, random: Random) -> tuple[Reservation, ...]:
    organisation = random.choice(simulation.world.organisations)
    account = random.choice((_number(simulation, organisation.party_id, "cash"), NOBODY))
    asset = random.choice((USD_ID, USD_ID, USD_ID, LIMIT_TOKENS_ID))
    return (Reservation(asset_id=asset, quanta=_quanta(random), account_id=account),)


def _quanta(random: Random) -> int:
    return random.choice(
        (0, 1, 50, DOLLAR // 1_000, DOLLAR // 100, DOLLAR // 10, 2 * DOLLAR, -1, 2**62 + 1)
        if random.random() < 0.1
        else (1, 50, DOLLAR // 1_000, DOLLAR // 100, DOLLAR // 10, 2 * DOLLAR)
    )


def _capture(simulation: Simulation, random: Random, hold_id: object) -> tuple[Transfer, ...]:
    naive = simulation.auditor.naive
    hold = next(h for i, h in naive.holds.items() if i == hold_id)
    transfers: list[Transfer] = []
    paid = 0
    for account in hold.held:
        asset = naive.accounts[account].asset
        quanta = max(1, int(hold.held[account] * random.choice((0.3, 0.5, 1, 1, 1.4))))
        if asset == USD_ID:
            paid += quanta
            transfers.append(
                Transfer(
                    debit=account,
                    credit=_platform(simulation, "platform_revenue"),
                    quanta=quanta,
                    fallback=_platform(simulation, "overrun") if random.random() < 0.8 else 0,
                )
            )
        else:
            transfers.append(
                Transfer(
                    debit=account,
                    credit=_platform(simulation, "limit_spent", asset),
                    quanta=quanta,
                    fallback=_platform(simulation, "limit_overrun", asset),
                )
            )
    if paid and random.random() < 0.9:
        transfers.append(
            Transfer(
                debit=_platform(simulation, "own_funds"),
                credit=_platform(simulation, "safeguarded"),
                quanta=paid,
            )
        )
    return tuple(transfers)


def _date(simulation: Simulation, random: Random) -> date | None:
    if random.random() < 0.7:
        return None
    return simulation.clock.now().date() - timedelta(days=random.choice((0, 1, 2, 9)))


def _entry(simulation: Simulation, random: Random) -> Transfer:
    accounts = [
        number
        for number, name in simulation.auditor.names.items()
        if simulation.auditor.mains[number] == number
        and (name[1] in ENTRY_PURPOSES or name[1] in PAYABLES)
    ]
    fallback = random.choice((0, 0, random.choice(accounts)))
    return Transfer(
        debit=random.choice((*accounts, NOBODY)),
        credit=random.choice((*accounts, NOBODY)),
        quanta=_quanta(random),
        fallback=fallback,
    )


def _platform(simulation: Simulation, purpose: str, asset: int = USD_ID) -> int:
    return _number(simulation, PLATFORM, purpose, asset)


def _number(simulation: Simulation, party: object, purpose: str, asset: int = USD_ID) -> int:
    auditor = simulation.auditor
    return next(
        number
        for number, name in auditor.names.items()
        if name == (party, purpose, asset) and auditor.mains[number] == number
    )


def _deadline(simulation: Simulation, random: Random):  # noqa: ANN202 - a datetime
    seconds = -1 if random.random() < 0.05 else 60
    return simulation.clock.now() + timedelta(seconds=seconds)


def _ordinal(simulation: Simulation) -> int:
    return 1 + len(simulation.placed) + len(simulation.posted) + simulation.auditor.operations


# ---------------------------------------------------------------------- sending


async def _place(simulation: Simulation, wishes: Sequence[Placement]) -> str:
    simulation.direct |= {wish.hold_id for wish in wishes}
    outcomes = await asyncio.gather(*(simulation.hub.writer.place(wish) for wish in wishes))
    simulation.placed += [
        wish for wish, outcome in zip(wishes, outcomes, strict=True) if outcome.code == "ok"
    ]
    return _summed(outcomes)


async def _post(simulation: Simulation, wishes: Sequence[Posting]) -> str:
    simulation.direct |= {wish.fact_id for wish in wishes}
    outcomes = await asyncio.gather(*(simulation.hub.writer.post(wish) for wish in wishes))
    simulation.posted += [
        wish for wish, outcome in zip(wishes, outcomes, strict=True) if outcome.code == "ok"
    ]
    return _summed(outcomes)


def _summed(outcomes: Sequence[Outcome]) -> str:
    return " ".join(
        outcome.code + (f"+{outcome.overrun}" if outcome.overrun else "") for outcome in outcomes
    )


OPERATIONS = {
    "place": (8, place),
    "extend": (4, extend),
    "place_again": (4, place_again),
    "end": (8, end),
    "post": (5, post),
    "post_again": (4, post_again),
}
